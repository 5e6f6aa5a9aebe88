"""PCP datagrams in words, for people who watch the server.

Nonces are left out: whoever knows one may change its mapping (RFC 7753 7).
"""

from cpe_agent.pcp import wire

from .bindings import protocol_name
from .config import printable

_OPCODES = {wire.OP_ANNOUNCE: "ANNOUNCE", wire.OP_MAP: "MAP", wire.OP_PEER: "PEER"}
_OPTIONS = {
    wire.OPT_THIRD_PARTY: "THIRD_PARTY",
    wire.OPT_PREFER_FAILURE: "PREFER_FAILURE",
    wire.OPT_FILTER: "FILTER",
    128: "DESCRIPTION",
    wire.OPT_PORT_SET: "PORT_SET",
}


def received(data, address, port):
    """A line about a datagram to the server; address: 16 octets of its source."""
    return "from %s: %s" % (_place(address, port), _request(data))


def sent(data, address, port):
    """A line about a datagram of the server; address: 16 octets of its destination."""
    try:
        words = _response(data)
    except wire.WireError:
        words = "%d garbled octets" % len(data)
    return "  to %s: %s" % (_place(address, port), words)


def _place(address, port):
    text = printable(address)
    return "[%s]:%d" % (text, port) if ":" in text else "%s:%d" % (text, port)


def _request(data):
    if len(data) < 2 or data[1] & wire.RESPONSE_BIT:
        return "%d octets that are no PCP request" % len(data)
    if data[0] != wire.VERSION:
        return "a request of version %d" % data[0]
    opcode = _OPCODES.get(data[1], "opcode %d" % data[1])
    if data[1] not in (wire.OP_ANNOUNCE, wire.OP_MAP):
        return opcode
    try:
        request = wire.parse_request(data)
    except wire.WireError as error:
        return "%s, malformed: %s" % (opcode, error)
    if request.map is None:
        return opcode
    what = "delete" if request.lifetime == 0 else "for %d s" % request.lifetime
    words = [opcode, what, _protocol(request.map.protocol)]
    words.append("internal port %d" % request.map.internal_port)
    if request.map.external_port or request.map.external_ip not in (wire.ANY_V4, wire.ANY_V6):
        place = _place(request.map.external_ip, request.map.external_port)
        words.append("suggests " + place)
    return ", ".join(words + _options(request.options))


def _response(data):
    response = wire.parse_response(data)
    words = [_OPCODES.get(response.opcode, "opcode %d" % response.opcode)]
    words.append(wire.result_name(response.result))
    if response.map is not None and response.result == wire.SUCCESS:
        words.append(_grant(response))
    if response.opcode != wire.OP_ANNOUNCE or response.result:
        words.append("for %d s" % response.lifetime)
    if response.epoch is not None:
        words.append("epoch %d" % response.epoch)
    return ", ".join(words)


def _grant(response):
    first = response.map.external_port
    internal, size = response.map.internal_port, 1
    octets = wire.find_option(response.options, wire.OPT_PORT_SET)
    if octets is not None:
        size, internal, _ = wire.parse_port_set(octets)
    place = _place(response.map.external_ip, first)
    if size > 1:
        place += "-%d" % (first + size - 1)
    return "%s %s from internal port %d" % (_protocol(response.map.protocol), place, internal)


def _protocol(number):
    return "all protocols" if number == wire.PROTO_ALL else protocol_name(number)


def _options(options):
    words = []
    for code, octets in options:
        name = _OPTIONS.get(code, "option %d" % code)
        if code == wire.OPT_PORT_SET and len(octets) == wire.PORT_SET_LENGTH:
            name += " of %d" % int.from_bytes(octets[:2], "big")
        words.append(name)
    return words
