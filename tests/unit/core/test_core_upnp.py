"""upnp.py: which ports miniupnpd may give. Both runtimes."""

from cpe_agent import portset, uci, upnp

FIRST = portset.PortSet("192.0.2.3", 1024, 1024)
MORE = portset.PortSet("192.0.2.3", 8192, 256)
SERVICE = uci.Section("upnpd", "config", {"enabled": "1"})


def test_all_but_the_sets_is_denied():
    assert upnp.denied((FIRST,), ()) == [(0, 1023), (2048, 65535)]
    assert upnp.denied((MORE, FIRST), ()) == [(0, 1023), (2048, 8191), (8448, 65535)]


def test_ports_that_somebody_has_are_denied():
    ranges = upnp.denied((FIRST,), (1024, 1500, 1501, 2047, 9000))
    assert ranges == [(0, 1024), (1500, 1501), (2047, 65535)]


def test_the_edges_of_all_ports():
    assert upnp.denied((portset.PortSet("192.0.2.3", 1, 65535),), ()) == [(0, 0)]
    assert upnp.denied((portset.PortSet("192.0.2.3", 65535, 1),), ()) == [(0, 65534)]
    lone = portset.PortSet("192.0.2.3", 5000, 1)
    assert upnp.denied((lone,), (5000,)) == [(0, 65535)]


def test_neighbouring_sets_are_one_range():
    next_one = portset.PortSet("192.0.2.3", 2048, 16)
    assert upnp.denied((FIRST, next_one), ()) == [(0, 1023), (2064, 65535)]


def test_the_state_file_keeps_what_others_wrote_and_nothing_of_ours():
    others = "upnpd.mine='perm_rule'\nupnpd.mine.action='allow'\n"
    text = upnp.state(others, [(0, 1023), (2048, 65535)])
    assert text.startswith(others)
    assert "upnpd.cpe_agent_1.ext_ports='2048-65535'" in text
    assert upnp.state(text, [(0, 1023), (2048, 65535)]) == text
    assert "cpe_agent_1" not in upnp.state(text, [(0, 65535)])
    assert upnp.state(text, []) == others


def test_the_shared_address_is_told_and_no_server_is_asked_for_it():
    text = upnp.state("", [], "5.0.0.1")
    assert "upnpd.config.external_ip='5.0.0.1'\n" in text
    assert "upnpd.config.use_stun='0'\n" in text
    moved = upnp.state(text, [], "5.0.0.9")
    assert "5.0.0.1" not in moved and "5.0.0.9" in moved
    assert upnp.state(text, []) == ""


def test_an_address_that_it_would_not_start_with_is_told_to_people():
    for address in ("192.0.0.2", "10.1.2.3", "100.64.0.1", "172.31.0.1", "192.168.1.1"):
        assert upnp.state("", [], address) == "", address
        (found,) = upnp.problems([SERVICE], address)
        assert "gives no ports of %s" % address in found
    for address in ("5.0.0.1", "100.128.0.1", "172.15.0.1", "192.1.2.3", "192.0.3.2"):
        assert upnp.problems([SERVICE], address) == [], address


def test_our_rules_are_the_first():
    lines = upnp.state("", [(0, 1023), (2048, 65535)]).split("\n")
    assert [line for line in lines if line.startswith("^")] == [
        "^upnpd.cpe_agent_0='0'",
        "^upnpd.cpe_agent_1='1'",
    ]


def test_it_is_left_alone_where_it_serves_others():
    assert upnp.is_on([SERVICE], "wan4")
    for options, on in (
        ({"external_iface": "wan4"}, True),
        ({"external_iface": "wan"}, False),
        ({"enabled": "0"}, False),
        ({"config_file": "/etc/miniupnpd.conf"}, False),
    ):
        section = uci.Section("upnpd", "config", dict({"enabled": "1"}, **options))
        assert upnp.is_on([section], "wan4") == on, options
        assert upnp.may_serve([section], "wan4") == (on or "enabled" in options), options
    assert not upnp.is_on([], "wan4")
    assert upnp.may_serve([], "wan4"), "it may be installed later"


def test_presets_that_come_before_our_rules_are_told():
    network = uci.Section("internal_network", None, {"interface": "lan"})
    (found,) = upnp.problems([SERVICE, network], "5.0.0.1")
    assert "acl_custom_first '1'" in found
    network.options["acl_custom_first"] = "1"
    assert upnp.problems([SERVICE, network], "5.0.0.1") == []
