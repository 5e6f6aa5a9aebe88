"""forwards.py: which port of the sets a forward has. Both runtimes."""

from cpe_agent import config, forwards, portset
from cpe_agent.pcp import wire

FIRST = portset.PortSet("192.0.2.3", 1024, 1024)
MORE = portset.PortSet("192.0.2.3", 8192, 256)
MOVED = portset.PortSet("192.0.2.3", 40960, 1024)
SOFTWIRE = "config softwire\n option aftr '2001:db8::2'\n"


def section(name, **options):
    lines = ["config forward '%s'" % name]
    options = dict({"dest_ip": "192.168.1.10", "dest_port": "27015"}, **options)
    lines += [" option %s '%s'" % (key, options[key]) for key in sorted(options) if options[key]]
    return "\n".join(lines) + "\n"


def place(*sections, sets=(FIRST,), protocol=wire.PROTO_ALL, taken=()):
    wanted = config.parse(SOFTWIRE + "".join(sections)).forwards
    return forwards.place(wanted, sets, "192.0.0.2", protocol, taken)


def ports(*sections, **others):
    return [one.port for one in place(*sections, **others)]


def test_the_choice_is_the_same_everywhere_and_for_ever():
    """After a reboot, an update, on another runtime: friends know the port."""
    assert ports(section("game")) == [2035]
    assert ports(section("web", dest_port="80")) == [2030]
    assert ports(section("game"), sets=(MOVED,)) == [41971]


def test_the_port_that_the_server_listens_on_is_preferred():
    assert ports(section("game", dest_port="1500")) == [1500]
    assert ports(section("game", dest_port="1500"), taken=(1500,)) == [2035]
    # Of the first set alone: the others come and go.
    assert ports(section("game", dest_port="8200"), sets=(FIRST, MORE)) == [2035]


def test_many_forwards_have_ports_of_their_own_and_keep_them_when_more_come():
    many = [section("a%d" % number) for number in range(config.MAX_FORWARDS)]
    found = ports(*many)
    assert len(set(found)) == len(many)
    for number in (1, 7, 20):
        assert ports(*many[:number]) == found[:number]


def test_they_lie_at_the_sets_end():
    """Where a hole leaves the range whole in which outbound NAT looks for ports."""
    many = [section("a%d" % number) for number in range(config.MAX_FORWARDS)]
    assert min(ports(*many)) >= portset.last(FIRST) - 63


def test_a_number_comes_before_auto():
    auto, fixed = section("game"), section("web", external_port="2035")
    assert ports(fixed) == [2035]
    assert sorted(set(ports(auto, fixed))) == sorted(ports(auto, fixed))
    assert ports(auto, fixed)[1] == 2035


def test_a_number_outside_is_told_with_one_that_would_do():
    (found,) = place(section("game", external_port="8080"), sets=(FIRST, MORE))
    assert found.port is None
    assert found.problem.startswith(
        "port 8080 is outside of the port sets 1024-2047, 8192-8447; set option external_port"
    )
    suggested = found.problem.split("to ")[-1].split(",")[0]
    assert ports(section("game", external_port=suggested)) == [int(suggested)]


def test_a_number_of_an_additional_set_will_do():
    assert ports(section("game", external_port="8200"), sets=(FIRST, MORE)) == [8200]


def test_never_two_on_one_port():
    first, second = section("game", external_port="1500"), section("web", external_port="1500")
    placed = place(first, second)
    assert [one.port for one in placed] == [1500, None]
    assert "port 1500 is that of forward 'game'" in placed[1].problem
    (found,) = place(first, taken=(1500,))
    assert found.port is None and "is that of a 'config redirect'" in found.problem


def test_outbound_connections_keep_half_of_the_ports():
    small = portset.PortSet("192.0.2.3", 3000, 5)
    placed = place(section("a"), section("b"), section("c"), sets=(small,))
    assert [one.port is None for one in placed] == [False, False, True]
    assert "too small" in placed[2].problem
    lonely = place(section("a"), sets=(portset.PortSet("192.0.2.3", 3000, 1),))
    assert lonely[0].port is None


def test_a_set_for_one_protocol_forwards_no_other():
    both, other = section("a"), section("b", proto="udp")
    placed = place(both, other, protocol=wire.PROTO_TCP)
    assert placed[0].proto == ("tcp",) and placed[0].port
    assert placed[1].port is None and "not for udp" in placed[1].problem


def test_a_disabled_one_has_no_port():
    assert place(section("game", enabled="0")) == ()


def test_without_a_host_it_leads_to_the_router_itself():
    (found,) = place(section("ssh", dest_ip=None, dest_port="22"))
    assert (found.dest_ip, found.dest_port) == ("192.0.0.2", 22)


def test_the_ports_of_all_of_them_are_reserved():
    placed = place(section("a", external_port="1500"), section("b", external_port="9"))
    assert forwards.reserved(placed, (1600,)) == (1500, 1600)


def parse_error(*sections):
    try:
        config.parse(SOFTWIRE + "".join(sections))
    except config.ConfigError as error:
        return str(error)
    return None


def test_what_is_left_out_has_a_sense():
    (one,) = config.parse(SOFTWIRE + "config forward\n option dest_port '80'\n").forwards
    assert one == config.Forward("port_80", True, ("tcp", "udp"), None, 80, 0)
    lines = "config forward 'x'\n option external_port '1500'\n list proto 'udp'\n"
    (one,) = config.parse(SOFTWIRE + lines).forwards
    assert one == config.Forward("x", True, ("udp",), None, 1500, 1500)


def test_wrong_sections_are_named():
    for options, said in (
        ({"dest_port": None}, "forward 'game': option dest_port is missing"),
        ({"dest_port": "0"}, "option dest_port '0' cannot be used; allowed: 1 to 65535"),
        ({"external_port": "any"}, "allowed: 1 to 65535 or 'auto'"),
        ({"dest_ip": "game.lan"}, "option dest_ip 'game.lan' cannot be used"),
        ({"dest_ip": "2001:db8::1"}, "allowed: an IPv4 address"),
        ({"proto": "icmp"}, "allowed: tcp, udp"),
    ):
        assert said in parse_error(section("game", **options)), options


def test_too_many_and_without_a_softwire():
    many = [section("a%d" % number) for number in range(config.MAX_FORWARDS + 1)]
    assert "33 forwards; allowed: 32" in parse_error(*many)
    anonymous = "config forward\n option dest_port '80'\n"
    assert "forward 'port_80' is there twice" in parse_error(anonymous, anonymous)
    mapping = "config mapping 'm'\n option internal_port '80'\n"
    try:
        config.parse(mapping + section("game"))
    except config.ConfigError as error:
        assert "needs a 'config softwire'" in str(error)
    else:
        raise AssertionError("a forward of no softwire")
