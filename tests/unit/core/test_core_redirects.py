"""redirects.py: port forwards that cannot work, and what to do about them. Both runtimes."""

from cpe_agent import plan, portset, redirects, uci

SETS = (
    portset.PortSet("192.0.2.3", 1024, 1024),
    portset.PortSet("192.0.2.3", 4096, 256),
)
PLAN = plan.Plan(
    device="lw4-wan4",
    underlay="wan",
    local="2001:db8::2",
    remote="2001:db8::1",
    mtu=1460,
    address="192.0.2.3",
    inner="192.0.0.2",
    metric=0,
    port_sets=SETS,
    open_sets=SETS,
    reserved=(),
    protocol=0,
    more=(),
    mss=1420,
    host_limit=0,
    flow_timeouts="keep",
    forwards=(),
    nat="",
    mark="",
)
GOOD = {"src": "wan", "src_dport": "1500", "dest": "lan", "dest_ip": "192.168.1.10"}


def problems(**changes):
    """Of one redirect; None takes an option away."""
    options = {key: text for key, text in dict(GOOD, **changes).items() if text is not None}
    return redirects.problems([uci.Section("redirect", "web", options)], "wan", PLAN)


def test_a_forward_inside_of_any_set_is_fine():
    for ports in ("1024", "2047", "1500-1510", "4096:4351"):
        assert problems(src_dport=ports) == [], ports


def test_a_forward_outside_is_told_with_a_port_that_would_do():
    (found,) = problems(src_dport="8080", reflection="0")
    assert found.startswith("the forward 'web' is for port 8080, which is outside")
    assert "1024-2047, 4096-4351" in found
    suggested = int(found.split("use port ")[1].split(",")[0])
    assert problems(src_dport=str(suggested)) == []


def test_reflection_outside_is_told_since_it_takes_a_neighbours_port():
    (found,) = problems(src_dport="3000")
    assert "a neighbour" in found


def test_a_range_that_is_partly_outside_is_told():
    (found,) = problems(src_dport="2000-2099")
    assert "is for ports 2000-2099, of which only 48 are in the port sets" in found


def test_all_ports_with_reflection_hide_the_neighbours():
    (found,) = problems(src_dport=None)
    assert "set option reflection '0'" in found
    assert problems(src_dport=None, reflection="0") == []


def test_a_forward_to_the_router_needs_an_address_that_is_its_own():
    (found,) = problems(dest_ip=None)
    assert "set option dest_ip '192.0.0.2'" in found


def test_an_address_of_yesterday_is_told():
    (found,) = problems(src_dip="192.0.2.99")
    assert "the address is 192.0.2.3 now" in found
    assert problems(src_dip="192.0.2.3") == []


def test_what_does_not_concern_the_softwire_is_left_alone():
    for change in (
        {"src": "guest"},
        {"enabled": "0"},
        {"family": "ipv6"},
        {"target": "SNAT"},
    ):
        assert problems(src_dport="8080", **change) == [], change


def test_what_fw4_does_not_take_itself_is_left_to_it():
    for text in ("http", "0", "70000", "9-8", "!80", ["80", "81"], "-", "1-2-3"):
        assert problems(src_dport=text) == [], text


def test_an_anonymous_section_has_a_title_too():
    sections = [uci.Section("redirect", None, dict(GOOD, src_dport="80", reflection="0"))]
    (found,) = redirects.problems(sections, "wan", PLAN)
    assert found.startswith("a forward (config redirect) is for port 80")


def test_the_zone_is_found_as_fw4_finds_it():
    zones = [
        uci.Section("zone", None, {"name": "lan", "network": ["lan"]}),
        uci.Section("zone", None, {"name": "off", "network": "wan4", "enabled": "0"}),
        uci.Section("zone", None, {"name": "wan", "network": "wan wan6 wan4"}),
        uci.Section("zone", None, {"name": "dmz", "device": ["lw4-wan4"]}),
    ]
    assert redirects.zone_of(zones, "lw4-wan4", "wan4") == "wan"
    assert redirects.zone_of(zones, "lw4-wan4", "other") == "dmz"
    assert redirects.zone_of(zones, "lw4-x", "x", "lan") == "lan"
    assert redirects.zone_of(zones, "lw4-x", "x") is None


def ports(*texts):
    options = [dict(GOOD, src_dport=text) for text in texts]
    sections = [uci.Section("redirect", "web", one) for one in options]
    return redirects.ports(sections, "wan", SETS)


def test_the_ports_of_the_users_forwards_are_known():
    assert ports("1500", "4096:4097", "80", "bad") == (1500, 4096, 4097)


def test_forwards_of_most_of_the_ports_leave_them_to_outbound_connections():
    assert ports("1024-2047", "1-65535", "1500-1501") == (1500, 1501)
