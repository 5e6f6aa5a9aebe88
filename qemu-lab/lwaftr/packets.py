"""IPv4 and ICMP octets as the data plane needs them.

No state and no decisions: reading an IPv4 packet, and building ICMP errors.
"""

import struct
from collections import namedtuple

ICMP = 1
TCP = 6
UDP = 17
ICMPV6 = 58
IPV4_IN_IPV6 = 4
# DCCP, SCTP and UDP-Lite have their ports where TCP and UDP have them.
PORT_PROTOCOLS = frozenset((TCP, UDP, 33, 132, 136))

ECHO_REPLY = 0
ECHO_REQUEST = 8
# Messages that quote a packet (RFC 792): unreachable, quench, redirect, time, parameter.
ERROR_TYPES = frozenset((3, 4, 5, 11, 12))

MIN_MTU6 = 1280
_IP4 = ">BBHHHBBH4s4s"

# octets: without what follows the packet. src, dst: integers. first, more: position among
# fragments. payload: offset of it. id: IPv4 identification.
Packet = namedtuple(
    "Packet", ("octets", "src", "dst", "protocol", "ttl", "tos", "first", "more", "payload", "id")
)
# What an ICMP error quotes: source and destination with their ports, None if cut off.
Quoted = namedtuple("Quoted", ("src", "dst", "protocol", "sport", "dport"))


def checksum(octets):
    """Internet checksum (RFC 1071)."""
    if len(octets) % 2:
        octets = bytes(octets) + b"\0"
    total = sum(struct.unpack(">%dH" % (len(octets) // 2), octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def parse(octets):
    """An IPv4 packet as Packet, or None if it is none (length, header, checksum)."""
    if len(octets) < 20:
        return None
    first, tos, total, ident, fragment, ttl, protocol, _, src, dst = struct.unpack_from(
        _IP4, octets
    )
    header = (first & 15) * 4
    if first >> 4 != 4 or header < 20 or not header <= total <= len(octets):
        return None
    if checksum(octets[:header]):
        return None
    return Packet(
        bytes(octets[:total]),
        int.from_bytes(src, "big"),
        int.from_bytes(dst, "big"),
        protocol,
        ttl,
        tos,
        fragment & 0x1FFF == 0,
        bool(fragment & 0x2000),
        header,
        ident,
    )


def ports(packet):
    """(source, destination) port of a first fragment with ports, or None if cut off."""
    if len(packet.octets) < packet.payload + 4:
        return None
    return struct.unpack_from(">HH", packet.octets, packet.payload)


def icmp_type(packet):
    """ICMP type of a first fragment, or None if it is cut off (8 octets are needed)."""
    if len(packet.octets) < packet.payload + 8:
        return None
    return packet.octets[packet.payload]


def icmp_id(packet):
    """Identifier of an ICMP query."""
    return struct.unpack_from(">H", packet.octets, packet.payload + 4)[0]


def quoted(packet):
    """What an ICMP error quotes, as Quoted, or None if that tells no ports.

    The quoted header's checksum is not checked: routers quote it as they had it, changed.
    """
    start = packet.payload + 8
    octets = packet.octets[start:]
    if len(octets) < 28 or octets[0] >> 4 != 4:
        return None
    header = (octets[0] & 15) * 4
    fragment = struct.unpack_from(">H", octets, 6)[0]
    if header < 20 or len(octets) < header + 8 or fragment & 0x1FFF:
        return None
    protocol = octets[9]
    src = int.from_bytes(octets[12:16], "big")
    dst = int.from_bytes(octets[16:20], "big")
    if protocol in PORT_PROTOCOLS:
        sport, dport = struct.unpack_from(">HH", octets, header)
    elif protocol == ICMP and octets[header] in (ECHO_REPLY, ECHO_REQUEST):
        sport = dport = struct.unpack_from(">H", octets, header + 4)[0]
    else:
        return None
    return Quoted(src, dst, protocol, sport, dport)


def decrement_ttl(packet):
    """The packet's octets with a TTL one less; TTL is 2 or more."""
    octets = bytearray(packet.octets)
    octets[8] -= 1
    octets[10:12] = b"\0\0"
    octets[10:12] = checksum(octets[: packet.payload]).to_bytes(2, "big")
    return bytes(octets)


def ipv4(src, dst, protocol, payload, ttl=64, tos=0, ident=0, fragment=0):
    """An IPv4 packet; addresses are integers, fragment the flags and offset field."""
    header = bytearray(
        struct.pack(
            _IP4,
            0x45,
            tos,
            20 + len(payload),
            ident,
            fragment,
            ttl,
            protocol,
            0,
            src.to_bytes(4, "big"),
            dst.to_bytes(4, "big"),
        )
    )
    header[10:12] = checksum(header).to_bytes(2, "big")
    return bytes(header) + payload


def icmp4_error(src, packet, kind, code):
    """An ICMPv4 error from src (an integer) about a packet, with its header and 8 octets."""
    quote = packet.octets[: packet.payload + 8]
    message = bytearray(struct.pack(">BBHI", kind, code, 0, 0) + quote)
    message[2:4] = checksum(message).to_bytes(2, "big")
    return ipv4(src, packet.src, ICMP, bytes(message))


def icmp6_unreachable(code, source, offender, octets, traffic_class=0, hop_limit=64):
    """ICMPv6 type 1 about an IPv4-in-IPv6 packet; the message without an IPv6 header.

    source: our address, which the packet was sent to; offender: who sent it; both 16 octets.
    octets: the inner packet. The outer header is rebuilt. The whole stays within 1280 octets
    with its IPv6 header (RFC 4443 2.4).
    """
    first = 6 << 28 | traffic_class << 20
    outer = struct.pack(">IHBB", first, len(octets), IPV4_IN_IPV6, hop_limit) + offender + source
    quote = (outer + octets)[: MIN_MTU6 - 40 - 8]
    message = bytearray(struct.pack(">BBHI", 1, code, 0, 0) + quote)
    pseudo = source + offender + struct.pack(">II", len(message), ICMPV6)
    message[2:4] = checksum(pseudo + message).to_bytes(2, "big")
    return bytes(message)
