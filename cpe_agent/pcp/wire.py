"""PCP messages as bytes: RFC 6887 sections 7 to 14, RFC 7753 section 4.

What lives here: every offset, code and length of the protocol, and nothing that decides. Client and
lab server both use it; the worked bytes in the tests, and tshark, keep it honest.

Addresses are 16 octets, IPv4 as ::ffff:a.b.c.d (RFC 6887 5). Lifetimes and epochs are seconds.
"""

import struct
from collections import namedtuple

VERSION = 2
SERVER_PORT = 5351  # RFC 6887 19.1
CLIENT_PORT = 5350  # multicast announcements, RFC 6887 14.1.3
MAX_LENGTH = 1100  # RFC 6887 7
HEADER_LENGTH = 24
MAP_LENGTH = 36

OP_ANNOUNCE = 0
OP_MAP = 1
OP_PEER = 2
RESPONSE_BIT = 0x80

OPT_THIRD_PARTY = 1
OPT_PREFER_FAILURE = 2
OPT_FILTER = 3
OPT_PORT_SET = 130  # RFC 7753 9; the draft left the number open
OPTIONAL_BIT = 0x80  # a server may ignore options whose code has this bit (RFC 6887 7.3)

PORT_SET_LENGTH = 5
MAX_FILTERS = 8  # of one mapping; a server need support but one (RFC 6887 13.3)
MAX_PORTS = 0xFFFF  # "as many as you will give" (RFC 7753 4.1)

PROTO_ALL = 0
PROTO_TCP = 6
PROTO_UDP = 17

# Result codes, RFC 6887 7.4.
SUCCESS = 0
UNSUPP_VERSION = 1
NOT_AUTHORIZED = 2
MALFORMED_REQUEST = 3
UNSUPP_OPCODE = 4
UNSUPP_OPTION = 5
MALFORMED_OPTION = 6
NETWORK_FAILURE = 7
NO_RESOURCES = 8
UNSUPP_PROTOCOL = 9
USER_EX_QUOTA = 10
CANNOT_PROVIDE_EXTERNAL = 11
ADDRESS_MISMATCH = 12
EXCESSIVE_REMOTE_PEERS = 13

RESULT_NAMES = (
    "SUCCESS",
    "UNSUPP_VERSION",
    "NOT_AUTHORIZED",
    "MALFORMED_REQUEST",
    "UNSUPP_OPCODE",
    "UNSUPP_OPTION",
    "MALFORMED_OPTION",
    "NETWORK_FAILURE",
    "NO_RESOURCES",
    "UNSUPP_PROTOCOL",
    "USER_EX_QUOTA",
    "CANNOT_PROVIDE_EXTERNAL",
    "ADDRESS_MISMATCH",
    "EXCESSIVE_REMOTE_PEERS",
)

V4_PREFIX = b"\0" * 10 + b"\xff\xff"
ANY_V4 = V4_PREFIX + b"\0" * 4  # "no preference, but IPv4" (RFC 6887 10)
ANY_V6 = b"\0" * 16

_REQUEST_HEADER = ">BBHI16s"
_RESPONSE_HEADER = ">BBBBII12s"
_MAP = ">12sB3xHH16s"
_OPTION = ">BxH"
_PORT_SET = ">HHB"
_FILTER = ">xBH16s"

# nonce: 12 octets. external_port/ip: suggested in a request, assigned in a response.
MapData = namedtuple(
    "MapData", ("nonce", "protocol", "internal_port", "external_port", "external_ip")
)
# size: 1 to 65535 ports. first_internal: first internal port. parity: the P bit.
PortSetOption = namedtuple("PortSetOption", ("size", "first_internal", "parity"))
Request = namedtuple("Request", ("opcode", "lifetime", "client_ip", "map", "options"))
Response = namedtuple(
    "Response", ("version", "opcode", "result", "lifetime", "epoch", "map", "options")
)


class WireError(ValueError):
    """The octets are not a PCP message that this side can use. The text says why."""


class OptionError(WireError):
    """The header is sound, but an option is not (a server answers MALFORMED_OPTION)."""


def result_name(code):
    """Name of a result code; unassigned ones as RESULT_<n>."""
    return RESULT_NAMES[code] if code < len(RESULT_NAMES) else "RESULT_%d" % code


def is_v4(address):
    """True for an IPv4-mapped address. All 96 leading bits count (RFC 6887 5)."""
    return address[:12] == V4_PREFIX


# Building


def option(code, data=b""):
    """One option, padded to four octets (RFC 6887 7.3); the length field counts data only."""
    return struct.pack(_OPTION, code, len(data)) + data + b"\0" * (-len(data) % 4)


def port_set_option(size, first_internal, parity=False):
    """PORT_SET (RFC 7753 4). Raises ValueError for a size that is not 1 to 65535."""
    if not 1 <= size <= MAX_PORTS:
        raise ValueError("port set size %d is not 1 to 65535" % size)
    return option(OPT_PORT_SET, struct.pack(_PORT_SET, size, first_internal, 1 if parity else 0))


def third_party_option(internal_ip):
    """THIRD_PARTY: the mapping is for that host, 16 octets (RFC 6887 13.1)."""
    return option(OPT_THIRD_PARTY, internal_ip)


def prefer_failure_option():
    """PREFER_FAILURE: the suggested address and port, or nothing (RFC 6887 13.2)."""
    return option(OPT_PREFER_FAILURE)


def filter_option(prefix_length, port, peer_ip):
    """FILTER: packets from that peer alone (RFC 6887 13.3).

    prefix_length: of the 128 bits, so 96 and more for IPv4; 0 removes all filters of the mapping.
    port: of the peer, 0 for all. peer_ip: 16 octets.
    """
    return option(OPT_FILTER, struct.pack(_FILTER, prefix_length, port, peer_ip))


def request(opcode, lifetime, client_ip, body=b""):
    """A request header with its body; client_ip is the datagram's own source (RFC 6887 8.1)."""
    return struct.pack(_REQUEST_HEADER, VERSION, opcode, 0, lifetime, client_ip) + body


def map_request(client_ip, lifetime, data, options=b""):
    """MAP request; lifetime 0 deletes (RFC 6887 11.1, 15.1). options are built octets."""
    return request(OP_MAP, lifetime, client_ip, struct.pack(_MAP, *data) + options)


def announce_request(client_ip):
    """Unicast ANNOUNCE: asks for the epoch, changes nothing (RFC 6887 14.1.2)."""
    return request(OP_ANNOUNCE, 0, client_ip)


def response(opcode, result, lifetime, epoch, body=b"", reserved=b"\0" * 12):
    """A response header with its body (RFC 6887 7.2)."""
    header = struct.pack(
        _RESPONSE_HEADER, VERSION, opcode | RESPONSE_BIT, 0, result, lifetime, epoch, reserved
    )
    return header + body


def map_response(result, lifetime, epoch, data, options=b""):
    """MAP response; data carries the assigned external address and first port."""
    return response(OP_MAP, result, lifetime, epoch, struct.pack(_MAP, *data) + options)


# Parsing


def parse_options(data, offset):
    """Options from offset to the end as a list of (code, octets), in order of appearance.

    Raises OptionError when one does not fit. Each step is 4 octets or more, so it ends.
    """
    found = []
    while offset < len(data):
        if offset + 4 > len(data):
            raise OptionError("option header cut off at octet %d" % offset)
        code, length = struct.unpack_from(_OPTION, data, offset)
        offset += 4
        if offset + length > len(data):
            raise OptionError("option %d is longer than the datagram" % code)
        found.append((code, bytes(data[offset : offset + length])))
        offset += (length + 3) & ~3
    return found


def find_option(options, code):
    """Octets of the first option with that code, or None."""
    for found, octets in options:
        if found == code:
            return octets
    return None


def parse_port_set(octets):
    """PORT_SET data as PortSetOption. Reserved bits are ignored (RFC 7753 4).

    Raises OptionError for a wrong length or size 0.
    """
    if len(octets) != PORT_SET_LENGTH:
        raise OptionError("PORT_SET is %d octets, not %d" % (len(octets), PORT_SET_LENGTH))
    size, first_internal, flags = struct.unpack(_PORT_SET, octets)
    if size == 0:
        raise OptionError("PORT_SET of size 0")
    return PortSetOption(size, first_internal, bool(flags & 1))


def _parse_map(data):
    if len(data) < HEADER_LENGTH + MAP_LENGTH:
        raise WireError("MAP message of %d octets" % len(data))
    return MapData(*struct.unpack_from(_MAP, data, HEADER_LENGTH))


def _options_offset(opcode):
    if opcode == OP_MAP:
        return HEADER_LENGTH + MAP_LENGTH
    return HEADER_LENGTH


def _check_frame(data):
    if len(data) < HEADER_LENGTH or len(data) > MAX_LENGTH or len(data) % 4:
        raise WireError(
            "%d octets: not %d to %d, or not a multiple of 4"
            % (len(data), HEADER_LENGTH, MAX_LENGTH)
        )


def parse_response(data):
    """A datagram as Response, by the order of RFC 6887 8.3.

    UNSUPP_VERSION comes out before lengths are checked, since its sender need not know this
    version; its lifetime is 0 if the datagram is too short to hold one. Raises WireError for
    the rest.
    """
    if len(data) < 4:
        raise WireError("%d octets" % len(data))
    version, opcode, _, result = struct.unpack_from(">BBBB", data)
    if not opcode & RESPONSE_BIT:
        raise WireError("a request, not a response")
    opcode &= ~RESPONSE_BIT
    if result == UNSUPP_VERSION:
        lifetime = struct.unpack_from(">I", data, 4)[0] if len(data) >= 8 else 0
        return Response(version, opcode, result, lifetime, None, None, [])
    if version != VERSION:
        raise WireError("version %d" % version)
    _check_frame(data)
    lifetime, epoch = struct.unpack_from(">II", data, 4)
    body = _parse_map(data) if opcode == OP_MAP else None
    # An error echoes the request's options (RFC 6887 7.3): they are no grant, so they are not read.
    options = [] if result else parse_options(data, _options_offset(opcode))
    return Response(version, opcode, result, lifetime, epoch, body, options)


def is_nat_pmp_refusal(data):
    """True for what a NAT-PMP server says to a PCP request: version 0, opcode 0 without the
    response bit, "unsupported version" (RFC 6886 3.5). No PCP message, but worth a hint."""
    return len(data) == 8 and data[:4] == b"\0\0\0\x01"


def parse_request(data):
    """A datagram as Request; for servers. The caller has checked version and opcode.

    Raises WireError (MALFORMED_REQUEST) or OptionError (MALFORMED_OPTION).
    """
    _check_frame(data)
    _, opcode, _, lifetime, client_ip = struct.unpack_from(_REQUEST_HEADER, data)
    body = _parse_map(data) if opcode == OP_MAP else None
    return Request(opcode, lifetime, client_ip, body, parse_options(data, _options_offset(opcode)))
