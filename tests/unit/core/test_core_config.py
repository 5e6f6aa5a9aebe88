"""What a user may write, and what is said when it cannot be used."""

from cpe_agent import config, portset
from cpe_agent.pcp import servers, wire
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
    assert wire.aftr == SERVER and wire.server == ((servers.AFTR, SERVER),)
    assert parsed.mappings == ()
    assert (wire.ports, wire.lifetime, wire.protocol, wire.internal_port) == (65535, 3600, 0, 1)
    assert (wire.enabled, wire.parity, wire.mtu, wire.source) == (True, False, 0, None)
    assert (wire.device, wire.default_route, wire.icmp_recovery) == ("lw4o6", True, True)
    assert parsed.agent.backend == "linux"


def test_a_missing_lwaftr_is_named():
    found = error("config softwire 'wan4'\n")
    assert "aftr" in found and "wan4" in found and "missing" in found


def test_the_pcp_server_may_be_another_one():
    found = one("server", "2001:db8::9")
    assert found.aftr == SERVER
    assert [(origin, where[15]) for origin, where in found.server] == [("config", 9), ("aftr", 2)]
    only_look = "\toption server '192.0.2.1'\nconfig agent\n\toption backend 'none'\n"
    assert softwire(only_look).softwire.server[0][1][12:] == b"\xc0\0\2\1"
    found = error("config softwire 'wan4'\n" + AFTR + "\toption server '192.0.2.1'\n")
    assert "wan4" in found and "server must be an IPv6 address" in found
    parsed = softwire("\toption server '2001:db8::9'\n", aftr="").softwire
    assert parsed.server[0][1] == parsed.aftr and parsed.aftr[15] == 9


def test_servers_may_be_several_and_may_have_names():
    text = "\tlist server 'pcp.example.net'\n\tlist server '2001:db8::9'\n"
    found = softwire(text).softwire.server
    assert [origin for origin, _ in found] == ["config", "config", "aftr"]
    assert found[0][1] == "pcp.example.net" and found[1][1][15] == 9
    assert "aftr is missing" in error("config softwire\n" + "\toption server 'pcp.example.net'\n")
    many = "".join(["\tlist server '2001:db8::%d'\n" % number for number in range(1, 10)])
    assert "9 times server; allowed: 8" in error("config softwire\n" + AFTR + many)


# name, values that are fine, values that are not, what the message must say is allowed
CHECKS = (
    ("enabled", "1 0 yes no on off true false", "2 maybe TRUE -1", "1 or 0"),
    ("aftr", "2001:db8::1 fe80::1", "ff02::1 :: ::1 192.0.2.1 router 2001:db8::g 1:2", "2001:db8"),
    (
        "server",
        "2001:db8::1 fe80::1",
        "ff02::1 :: ::1 224.0.0.1 127.0.0.1 0.0.0.0 -x",
        "unicast",
    ),
    ("source", "auto 2001:db8::1", "ff02::1 ::1 192.0.2.1 any", "2001:db8"),
    ("ports", "2 4096 65535 max", "0 65536 -1 1.5 many 99999999999999999999 +1", "1 to 65535"),
    ("lifetime", "120 3600 86400", "119 0 86401 1h -120", "120 to 86400"),
    ("protocol", "all tcp udp", "icmp 0 6 TCP", "all, tcp, udp"),
    ("internal_port", "0 1 65534", "65536 -1 x", "0 to 65535"),
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


def test_one_port_of_all_protocols_is_no_softwire():
    found = error("config softwire\n" + AFTR + "\toption ports '1'\n")
    assert "softwire" in found and "all protocols need a set" in found
    assert error("config softwire\n" + AFTR + "\toption ports 1\n\toption protocol udp\n") is None


# Mappings


def mappings(*options):
    """Mappings of a config without a softwire; options: of each, in lines."""
    sections = ["config mapping 'm%d'\n%s" % one for one in enumerate(options)]
    return config.parse("".join(sections)).mappings


def mapping(**options):
    [found] = mappings(lines_of(options))
    return found


def lines_of(options):
    return "".join(["\toption %s '%s'\n" % (name, options[name]) for name in options])


def mapping_error(*several):
    sections = ["config mapping 'm%d'\n%s" % one for one in enumerate(map(lines_of, several))]
    return error("".join(sections))


def test_a_mapping_needs_an_internal_port_alone():
    found = mapping(internal_port=8080)
    assert (found.name, found.protocol, found.internal_port, found.ports) == ("m0", 6, 8080, 1)
    assert (found.enabled, found.default_router, found.server) == (True, True, ())
    assert (found.external_port, found.external_address, found.internal_address) == (0, None, None)
    assert config.parse("config mapping a\n\toption internal_port 1\n").softwire is None
    missing = mapping_error({})
    assert "m0" in missing and "internal_port is missing" in missing


def test_a_mapping_is_asked_for_as_it_is_written():
    found = mapping(
        internal_port=500,
        ports=4,
        protocol="udp",
        internal_address="192.168.1.7",
        lifetime=7200,
        parity=1,
    )
    wish = config.mapping_wish(found)
    assert (wish.protocol, wish.internal_port, wish.size, wish.lifetime) == (17, 500, 4, 7200)
    assert wish.parity and wish.family == 4 and not wish.prefer_failure
    assert wish.third_party == wire.V4_PREFIX + b"\xc0\xa8\1\7"
    fixed = mapping(internal_port=5, external_port=80, prefer_failure=1)
    assert config.mapping_wish(fixed).prefer_failure


def test_filters_are_prefixes_with_or_without_a_port():
    texts = ("198.51.100.0/24", "192.0.2.7 443", "2001:db8::/32", "2001:db8::1 80", "0.0.0.0/0")
    lines = "\toption internal_port 5\n"
    lines += "".join(["\tlist filter '%s'\n" % text for text in texts])
    [found] = mappings(lines)
    assert [one[:2] for one in found.filter] == [(120, 0), (128, 443), (32, 0), (128, 80), (96, 0)]
    assert found.filter[0][2] == wire.V4_PREFIX + b"\xc6\x33\x64\0"
    for text in ("::/0", "x", "192.0.2.1/33", "192.0.2.1 0", "192.0.2.1 x", "2001:db8::/129", "/8"):
        found = mapping_error({"internal_port": 5, "filter": text})
        assert found and "filter '%s'" % text in found and "allowed: a prefix" in found, text
    many = lines + "\tlist filter '192.0.2.9'\n" * 4
    assert "9 times filter; allowed: 8" in error("config mapping a\n" + many)


MAPPING_CHECKS = (
    ("internal_port", "1 65535", "0 65536 x any", "1 to 65535"),
    ("internal_address", "any 192.168.1.2 2001:db8::1", "127.0.0.1 ff02::1 ::1 host", "unicast"),
    ("ports", "1 2 max", "0 65536 -1", "1 to 65535"),
    ("external_port", "any 1 65535", "0 65536 x", "1 to 65535"),
    ("external_address", "any 192.0.2.1", "0.0.0.0 x", "unicast"),
    ("family", "4 6", "5 46 x", "4, 6"),
    ("lifetime", "120 86400", "119 86401", "120 to 86400"),
    ("protocol", "tcp udp", "icmp 6", "all, tcp, udp"),
    ("prefer_failure", "0", "x", "1 or 0"),
    ("default_router", "0 1", "x", "1 or 0"),
    ("source", "auto 192.0.2.1 2001:db8::1", "any ::1", "unicast"),
    ("server", "192.0.2.1 pcp.example.net fe80::1", "::1 a..b", "host name"),
)


def test_options_of_mappings_are_checked():
    for name, good, bad, allowed in MAPPING_CHECKS:
        for value in good.split():
            options = {"internal_port": "5", name: value}
            assert mapping_error(options) is None, (name, value, mapping_error(options))
        for value in bad.split():
            found = mapping_error({"internal_port": "5", name: value})
            assert found, (name, value)
            for part in ("mapping 'm0'", name, "'%s'" % value, allowed):
                assert part in found, (found, part)


def test_what_no_server_could_grant_is_said():
    def wrong(**options):
        return mapping_error(dict(options, internal_port=5))

    found = wrong(ports=2, prefer_failure=1, external_port=80)
    assert "m0" in found and "PREFER_FAILURE is for single ports" in found
    assert "needs option external_port" in wrong(prefer_failure=1)
    assert "all protocols need a set" in wrong(protocol="all")
    assert "external_address needs family" in wrong(external_address="2001:db8::1")
    assert wrong(external_address="2001:db8::1", family=6) is None


def test_mappings_must_not_want_the_same_internal_ports():
    """RFC 7753 6.3."""
    a = {"internal_port": 100, "ports": 10}
    found = mapping_error(a, {"internal_port": 109})
    assert "m1" in found and "109-109" in found and "100-109" in found
    assert mapping_error(a, {"internal_port": 110}) is None
    assert mapping_error(a, {"internal_port": 109, "protocol": "udp"}) is None
    assert mapping_error(a, {"internal_port": 109, "internal_address": "192.168.1.2"}) is None
    assert mapping_error(a, {"internal_port": 109, "server": "192.0.2.1"}) is None
    assert mapping_error(a, {"internal_port": 109, "enabled": 0}) is None
    assert "109" in mapping_error(a, {"internal_port": 109, "ports": 2, "protocol": "all"})


def test_mappings_have_names_of_their_own_and_are_not_too_many():
    two = "config mapping\n\toption internal_port 5\nconfig mapping\n\toption internal_port 6\n"
    assert [one.name for one in config.parse(two).mappings] == ["6_5", "6_6"]
    port = "\toption internal_port %d\n"
    clash = "config mapping 6_5\n" + port % 7 + "config mapping\n" + port % 5
    assert "is there twice" in error(clash)
    assert "32 letters" in error("config mapping %s\n" % ("a" * 33) + port % 5)
    many = "".join(["config mapping\n" + port % number for number in range(1, 18)])
    assert "17 mappings; allowed: 16" in error(many)


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
