"""Fuzz target: octets of the network into the readers of PCP, DHCP and DNS, and values out and in.

The first octet of an input chooses the case. Runs on MicroPython as well, so it needs nothing but
cpe_agent.
"""

import struct

from cpe_agent import discovery, dns
from cpe_agent.pcp import servers, wire

_FIELDS = ">BIIB12sBHH16s16s"


def _rebuilt(options):
    return b"".join(wire.option(code, data) for code, data in options)


def _response(octets):
    try:
        parsed = wire.parse_response(octets)
    except wire.WireError as error:
        assert str(error)
        return
    assert octets[1] & wire.RESPONSE_BIT and parsed.opcode == octets[1] & 0x7F
    assert parsed.result == octets[3]
    if parsed.result == wire.UNSUPP_VERSION:
        assert parsed.map is None and parsed.options == []
        return
    assert 24 <= len(octets) <= 1100 and len(octets) % 4 == 0 and octets[0] == 2
    assert parsed.lifetime == int.from_bytes(octets[4:8], "big")
    assert parsed.epoch == int.from_bytes(octets[8:12], "big")
    if parsed.result:
        assert parsed.options == []
    if parsed.opcode == wire.OP_MAP:
        again = wire.map_response(
            parsed.result, parsed.lifetime, parsed.epoch, parsed.map, _rebuilt(parsed.options)
        )
        if len(again) <= wire.MAX_LENGTH:
            assert wire.parse_response(again) == parsed


def _request(octets):
    try:
        parsed = wire.parse_request(octets)
    except wire.WireError as error:
        assert str(error)
        return
    assert 24 <= len(octets) <= 1100 and len(octets) % 4 == 0
    assert parsed.opcode == octets[1] and parsed.client_ip == octets[8:24]
    if parsed.opcode == wire.OP_MAP:
        again = wire.map_request(
            parsed.client_ip, parsed.lifetime, parsed.map, _rebuilt(parsed.options)
        )
        if len(again) <= wire.MAX_LENGTH:
            assert wire.parse_request(again) == parsed


def _options(octets):
    offset = octets[0] if octets else 0
    try:
        options = wire.parse_options(octets, offset)
    except wire.OptionError as error:
        assert str(error)
        return
    again = _rebuilt(options)
    assert wire.parse_options(again, 0) == options
    if offset < len(octets):
        # Padding that is missing at the very end is all that may be added.
        assert 0 <= len(again) - (len(octets) - offset) <= 3
    else:
        assert options == []


def _port_set(octets):
    try:
        parsed = wire.parse_port_set(octets)
    except wire.OptionError as error:
        assert str(error) and (len(octets) != 5 or octets[:2] == b"\0\0")
        return
    assert len(octets) == 5 and parsed.size == int.from_bytes(octets[:2], "big") > 0
    built = wire.port_set_option(parsed.size, parsed.first_internal, parsed.parity)
    ((code, data),) = wire.parse_options(built, 0)
    assert code == wire.OPT_PORT_SET and wire.parse_port_set(data) == parsed


def _values(octets):
    """Fields from the input, built into messages, and parsed back."""
    size = struct.calcsize(_FIELDS)
    if len(octets) < size:
        return
    result, lifetime, epoch, code, nonce, protocol, inside, outside, address, source = (
        struct.unpack_from(_FIELDS, octets)
    )
    if result == wire.UNSUPP_VERSION:
        return
    options = [(code, octets[size : size + 900])]
    data = wire.MapData(nonce, protocol, inside, outside, address)
    built = wire.map_response(result, lifetime, epoch, data, _rebuilt(options))
    expected = wire.Response(
        2, wire.OP_MAP, result, lifetime, epoch, data, [] if result else options
    )
    assert wire.parse_response(built) == expected
    built = wire.map_request(source, lifetime, data, _rebuilt(options))
    assert wire.parse_request(built) == wire.Request(wire.OP_MAP, lifetime, source, data, options)


def _filter_and_third_party(octets):
    if len(octets) < 35:
        return
    address, other = octets[:16], octets[16:32]
    prefix_length, port = octets[32], int.from_bytes(octets[33:35], "big")
    built = wire.third_party_option(address) + wire.filter_option(prefix_length, port, other)
    (one, two) = wire.parse_options(built + wire.prefer_failure_option(), 0)[:2]
    assert one == (wire.OPT_THIRD_PARTY, address)
    assert two == (wire.OPT_FILTER, struct.pack(">BBH", 0, prefix_length, port) + other)


def _dhcpv6(octets):
    """The first octet cuts the rest into instances."""
    cut = octets[0] if octets else 0
    rest = octets[1:]
    _check_servers(*discovery.dhcpv6_servers([rest[:cut], rest[cut:], rest]))


def _dhcpv4(octets):
    _check_servers(*discovery.dhcpv4_servers(octets))


def _check_servers(found, reasons):
    assert len(found) <= servers.MAX_SERVERS and all(reasons)
    for server in found:
        assert 1 <= len(server.addresses) <= servers.MAX_ADDRESSES
        for address in server.addresses:
            assert len(address) == 16 and servers.is_unicast(address)


def _dns(octets):
    """The question is copied where it must be, or hardly any input would get past it."""
    kind = dns.AAAA if octets[:1] > b"\x7f" else dns.A
    question = dns.query("pcp.example", kind, 7)
    _answer(octets[1:], kind)
    _answer(question[:2] + octets[1:11] + question[12:] + octets[11:], kind)


def _answer(data, kind):
    try:
        answer = dns.parse(data, "pcp.example", kind, 7)
    except (dns.Foreign, dns.Failure) as error:
        assert str(error)
        return
    assert 0 <= answer.ttl <= dns.MAX_TTL
    for address in answer.addresses:
        assert len(address) == 16 and wire.is_v4(address) == (kind == dns.A)


_CASES = (
    _response,
    _request,
    _options,
    _port_set,
    _values,
    _filter_and_third_party,
    _dhcpv6,
    _dhcpv4,
    _dns,
)


def run(data):
    """One input. Raises AssertionError for a broken law, whatever else for a fault of a reader."""
    if data:
        _CASES[data[0] % len(_CASES)](data[1:])
