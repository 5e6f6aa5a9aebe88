"""What a user may write, and what is said when it cannot be used."""

from cpe_agent import config, portset
from tests.unit.core.bench import SERVER

AFTR = "\toption aftr '2001:db8::2'\n"


def softwire(lines="", aftr=AFTR):
    return config.parse("config softwire 'wan4'\n" + aftr + lines)


def one(name, value):
    return softwire("\toption %s '%s'\n" % (name, value)).softwire


def error(text):
    try:
        config.parse(text)
    except config.ConfigError as found:
        return str(found)
    return None


def option_error(name, value, kind="softwire"):
    if kind == "agent":
        return error(
            "config softwire\n" + AFTR + "config agent\n\toption %s '%s'\n" % (name, value)
        )
    aftr = "" if name == "aftr" else AFTR
    return error("config softwire 'wan4'\n" + aftr + "\toption %s '%s'\n" % (name, value))


def test_the_lwaftr_is_all_that_must_be_given():
    parsed = softwire()
    wire = parsed.softwire
    assert parsed.warnings == [] and wire.name == "wan4"
    assert wire.aftr == wire.server == SERVER
    assert (wire.ports, wire.lifetime, wire.protocol, wire.internal_port) == (65535, 3600, 0, 1)
    assert (wire.enabled, wire.parity, wire.mtu, wire.source) == (True, False, 0, None)
    assert (wire.device, wire.default_route, wire.icmp_recovery) == ("lw4o6", True, True)
    assert parsed.agent.backend == "linux"


def test_a_missing_lwaftr_is_named():
    found = error("config softwire 'wan4'\n")
    assert "aftr" in found and "wan4" in found and "missing" in found


def test_the_pcp_server_may_be_another_one():
    assert one("server", "2001:db8::9").server[15] == 9
    assert one("server", "2001:db8::9").aftr == SERVER
    only_look = "\toption server '192.0.2.1'\nconfig agent\n\toption backend 'none'\n"
    assert softwire(only_look).softwire.server[12:] == b"\xc0\0\2\1"
    found = error("config softwire 'wan4'\n" + AFTR + "\toption server '192.0.2.1'\n")
    assert "wan4" in found and "server must be an IPv6 address" in found
    parsed = softwire("\toption server '2001:db8::9'\n", aftr="").softwire
    assert parsed.server == parsed.aftr and parsed.aftr[15] == 9


# name, values that are fine, values that are not, what the message must say is allowed
CHECKS = (
    ("enabled", "1 0 yes no on off true false", "2 maybe TRUE -1", "1 or 0"),
    ("aftr", "2001:db8::1 fe80::1", "ff02::1 :: ::1 192.0.2.1 router 2001:db8::g 1:2", "2001:db8"),
    ("server", "2001:db8::1 fe80::1", "ff02::1 :: ::1 224.0.0.1 127.0.0.1 0.0.0.0 x", "unicast"),
    ("source", "auto 2001:db8::1", "ff02::1 ::1 192.0.2.1 any", "2001:db8"),
    ("ports", "1 2 4096 65535 max", "0 65536 -1 1.5 many 99999999999999999999 +1", "1 to 65535"),
    ("lifetime", "120 3600 86400", "119 0 86401 1h -120", "120 to 86400"),
    ("protocol", "all tcp udp", "icmp 0 6 TCP", "all, tcp, udp"),
    ("internal_port", "0 1 65535", "65536 -1 x", "0 to 65535"),
    ("parity", "0 1", "odd", "1 or 0"),
    ("device", "lw4o6 wan-4 a", "-x .x a/b toolongforadevice a:b", "15"),
    ("inner_address", "192.0.0.2 10.1.2.3", "0.0.0.0 1.2.3 1.2.3.4.5 256.1.1.1 x", "192.0.0.2"),
    ("mtu", "auto 1280 1460 65535", "1279 0 65536 big", "1280 to 65535"),
    ("metric", "0 4294967295", "-1 4294967296", "0 to 4294967295"),
)


def test_good_values_are_taken():
    for name, good, _, _ in CHECKS:
        for value in good.split():
            aftr = "" if name == "aftr" else AFTR
            text = "config softwire\n%s\toption %s '%s'\n" % (aftr, name, value)
            assert error(text) is None, (name, value, error(text))


def test_bad_values_are_named_with_what_is_allowed():
    for name, _, bad, allowed in CHECKS:
        for value in bad.split():
            found = option_error(name, value)
            assert found, (name, value)
            for part in (name, "'%s'" % value, "allowed", allowed):
                assert part in found, (found, part)


def test_digits_are_ascii_digits():
    # Python's isdigit and int know more digits than a router's user can type.
    for value in ("\u0663\u0660\u0660", "\u00b2", "1\u00b2", "1_000", " 300", "+300"):
        for name in ("lifetime", "ports"):
            found = option_error(name, value)
            assert found and "allowed: 1" in found, (name, value, found)
    for value in ("+1.2.3.4", "1_0.2.3.4", "\u0661.2.3.4", "1. 2.3.4", "-0.1.2.3"):
        for name in ("inner_address", "server"):
            found = option_error(name, value)
            assert found and "allowed: a" in found, (name, value, found)


def test_values_have_their_meaning():
    assert one("ports", "max").ports == 65535 and one("ports", "32").ports == 32
    assert one("protocol", "udp").protocol == 17 and one("protocol", "tcp").protocol == 6
    assert one("mtu", "1460").mtu == 1460 and one("enabled", "0").enabled is False
    assert one("inner_address", "192.0.0.3").inner_address == "192.0.0.3"
    assert one("source", "2001:db8::7").source[15] == 7


def test_devices_cannot_reach_a_shell():
    for value in ("a b", "a;b", "a$b", "a\nb", "\u00e4", "a|b", "a/b", ".."):
        assert option_error("device", value), value


def test_an_unknown_backend_is_named():
    found = option_error("backend", "bsd", "agent")
    assert "backend" in found and "linux" in found


def test_one_softwire_and_no_more():
    assert "exactly one" in error("config agent\n")
    assert "exactly one" in error("")
    assert "exactly one" in error("config softwire a\n" + AFTR + "config softwire b\n" + AFTR)


def test_what_is_not_known_is_told_and_not_fatal():
    parsed = softwire("\toption colour 'red'\nconfig sotfwire 'x'\n\toption aftr 'y'\n")
    assert len(parsed.warnings) == 2
    text = " ".join(parsed.warnings)
    assert "colour" in text and "sotfwire" in text and "wan4" in text


def test_a_list_where_one_value_belongs_is_an_error():
    found = error("config softwire\n\tlist aftr '2001:db8::1'\n\tlist aftr '2001:db8::2'\n")
    assert "aftr" in found and "list" in found and "option aftr" in found


def test_one_port_of_all_protocols_needs_a_protocol():
    assert one("internal_port", "0").internal_port == 0
    found = error("config softwire\n" + AFTR + "\toption internal_port 0\n\toption protocol udp\n")
    assert "internal_port" in found and "protocol" in found


def test_a_broken_file_is_a_config_error_with_its_line():
    found = error("config softwire\n\toption aftr '2001:db8::1\n")
    assert "line 2" in found


def test_an_ipv4_server_does_not_become_the_lwaftr():
    found = error("config softwire\n\toption server 192.0.2.1\n")
    assert found and "aftr" in found
    text = "config softwire\n\toption server 192.0.2.1\nconfig agent\n\toption backend none\n"
    assert config.parse(text).softwire.aftr is None, "no softwire is built, none is needed"


def test_a_set_knows_its_ports():
    ports = portset.PortSet("192.0.2.3", 37056, 32)
    assert portset.last(ports) == 37087
    assert portset.contains(ports, 37056) and portset.contains(ports, 37087)
    assert not portset.contains(ports, 37055) and not portset.contains(ports, 37088)
    assert portset.text(ports) == "192.0.2.3 ports 37056-37087 (32)"


def test_addresses_survive_their_text():
    for text in ("0.0.0.0", "192.0.2.3", "255.255.255.255"):
        assert portset.dotted(portset.octets(text)) == text
    for text in (
        "",
        "1",
        "1.2.3",
        "1.2.3.4.5",
        "1.2.3.256",
        "1.2.3.x",
        "1..2.3",
        "1.2.3.0004",
        "a",
    ):
        try:
            portset.octets(text)
        except ValueError:
            continue
        raise AssertionError(text)


def test_addresses_that_no_softwire_can_use_are_named():
    usable = portset.why_unusable
    for first in (1, 10, 126, 128, 192, 203, 223):
        assert usable(bytes([first, 0, 2, 1]), 1024, 64) is None, first
    for first in (0, 127, 224, 239, 240, 255):
        assert "unicast" in usable(bytes([first, 0, 2, 1]), 1024, 64), first
    good = b"\xc0\0\2\3"
    assert usable(good, 1, 65535) is None and usable(good, 65535, 1) is None
    for first, size in ((0, 1), (0, 32), (65535, 2), (65530, 32), (1, 0), (2, 65535), (65536, 1)):
        assert usable(good, first, size), (first, size)
