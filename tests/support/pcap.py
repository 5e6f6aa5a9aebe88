"""Writes pcap files of UDP over IPv6, so that other people's dissectors can read our datagrams."""

import struct

_ETHERNET = 1  # link type
_NEXT_UDP = 17


def _checksum(octets):
    if len(octets) % 2:
        octets += b"\0"
    total = sum(struct.unpack(">%dH" % (len(octets) // 2), octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF or 0xFFFF


def frame(source, source_port, destination, destination_port, payload):
    """An Ethernet frame with one datagram; addresses are 16 octets."""
    length = 8 + len(payload)
    udp = struct.pack(">HHHH", source_port, destination_port, length, 0) + payload
    pseudo = source + destination + struct.pack(">IxxxB", length, _NEXT_UDP)
    udp = udp[:6] + struct.pack(">H", _checksum(pseudo + udp)) + payload
    ip = struct.pack(">IHBB", 6 << 28, length, _NEXT_UDP, 64) + source + destination
    return bytes.fromhex("020000000001020000000002") + b"\x86\xdd" + ip + udp


def write(path, frames):
    """A pcap file; frames is a list of (seconds, octets)."""
    with open(path, "wb") as out:
        out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, _ETHERNET))
        for seconds, octets in frames:
            whole = int(seconds)
            micro = int((seconds - whole) * 1000000)
            out.write(struct.pack("<IIII", whole, micro, len(octets), len(octets)) + octets)
