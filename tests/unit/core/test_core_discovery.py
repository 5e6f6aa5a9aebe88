"""What DHCP options 86 and 158 tell, and what of it is not believed (RFC 7291)."""

from cpe_agent import discovery
from cpe_agent.pcp import servers, wire

ONE = bytes.fromhex("20010db8000000000000000000000001")
TWO = bytes.fromhex("20010db8000000000000000000000002")
THREE = bytes.fromhex("20010db8000000000000000000000003")
LINK_LOCAL = bytes.fromhex("fe800000000000000000000000000001")
MAPPED = wire.V4_PREFIX + bytes([192, 0, 2, 1])
LOOPBACK = bytes(15) + b"\x01"


def v4(*octets):
    return wire.V4_PREFIX + bytes(octets)


def test_each_instance_of_option_86_is_one_server_with_its_addresses():
    found, reasons = discovery.dhcpv6_servers([ONE + TWO, THREE], 7)
    assert found == [
        servers.Server((ONE, TWO), "dhcpv6", 7),
        servers.Server((THREE,), "dhcpv6", 7),
    ]
    assert reasons == []


def test_hex_digits_say_the_same_as_octets():
    text = "20010DB8000000000000000000000001fe800000000000000000000000000001\n"
    found, reasons = discovery.dhcpv6_servers([text])
    assert found == [servers.Server((ONE, LINK_LOCAL), "dhcpv6", 0)] and reasons == []
    found, reasons = discovery.dhcpv4_servers("04c0000201")
    assert found == [servers.Server((MAPPED,), "dhcpv4", 0)] and reasons == []


def test_an_instance_of_wrong_length_is_left_out_with_a_reason_and_the_others_count():
    for length in (0, 1, 15, 17, 20, 31):
        found, reasons = discovery.dhcpv6_servers([bytes(length), ONE])
        assert [server.addresses for server in found] == [(ONE,)], length
        assert len(reasons) == 1 and "86" in reasons[0] and "16" in reasons[0], reasons


def test_what_is_no_hex_is_left_out_with_a_reason():
    for text in ("xyz", "2", "20010db8 0000", "\u0661" * 32, "0x" + "00" * 15):
        found, reasons = discovery.dhcpv6_servers([text, ONE])
        assert len(found) == 1 and len(reasons) == 1, text
        assert "not in hex" in reasons[0]
        found, reasons = discovery.dhcpv4_servers(text)
        assert found == [] and len(reasons) == 1 and "158" in reasons[0], text


def test_multicast_loopback_and_unspecified_addresses_are_dropped_silently():
    bad = (
        bytes.fromhex("ff020000000000000000000000000001"),
        LOOPBACK,
        bytes(16),
        v4(224, 0, 0, 1),
        v4(255, 255, 255, 255),
        v4(127, 0, 0, 53),
        v4(0, 0, 0, 0),
    )
    for address in bad:
        found, reasons = discovery.dhcpv6_servers([address + ONE, address])
        assert [server.addresses for server in found] == [(ONE,)], address
        assert reasons == []
    found, reasons = discovery.dhcpv4_servers(
        bytes([8, 127, 0, 0, 1, 192, 0, 2, 1, 4, 224, 0, 0, 1])
    )
    assert [server.addresses for server in found] == [(MAPPED,)]
    assert reasons == []


def test_a_mapped_address_in_option_86_is_the_server_s_ipv4_address():
    found, _ = discovery.dhcpv6_servers([MAPPED + ONE])
    assert found[0].addresses == (MAPPED, ONE) and wire.is_v4(found[0].addresses[0])


def test_each_list_of_option_158_is_one_server_with_its_addresses():
    option = bytes([8, 192, 0, 2, 1, 192, 0, 2, 2, 4, 198, 51, 100, 1])
    found, reasons = discovery.dhcpv4_servers(option, 3)
    assert found == [
        servers.Server((MAPPED, v4(192, 0, 2, 2)), "dhcpv4", 3),
        servers.Server((v4(198, 51, 100, 1),), "dhcpv4", 3),
    ]
    assert reasons == []


def test_an_option_158_with_a_wrong_length_is_ignored_as_a_whole():
    good = bytes([4, 192, 0, 2, 1])
    for octets in (b"", b"\0", good + b"\0", good + b"\x05aaaaa", good[:4], good + b"\x08aaaa"):
        found, reasons = discovery.dhcpv4_servers(octets)
        assert found == [], octets
        assert len(reasons) == 1 and "158" in reasons[0], octets


def test_a_flood_of_servers_is_cut_with_a_reason():
    instances = [bytes([0x20]) + bytes([number]) * 15 for number in range(1, 100)]
    found, reasons = discovery.dhcpv6_servers(instances)
    assert [server.addresses for server in found] == [(one,) for one in instances[:8]]
    assert len(reasons) == 1 and "8" in reasons[0]
    assert discovery.dhcpv6_servers(instances[:8])[1] == []
    assert discovery.dhcpv6_servers([b"".join(instances[:8])])[1] == []
    assert discovery.dhcpv4_servers(bytes([4, 192, 0, 2, 1]) * 8)[1] == []
    found, reasons = discovery.dhcpv6_servers([b"".join(instances)])
    assert [server.addresses for server in found] == [tuple(instances[:8])]
    assert len(reasons) == 1
    found, reasons = discovery.dhcpv4_servers(bytes([4, 192, 0, 2, 1]) * 51)
    assert len(found) == 8 and len(reasons) == 1
    found, reasons = discovery.dhcpv4_servers(bytes([252]) + bytes([192, 0, 2, 1]) * 63)
    assert len(found) == 1 and len(found[0].addresses) == 8 and len(reasons) == 1
