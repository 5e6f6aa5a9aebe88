"""Runs on the router, by MicroPython: what its own programs send, and what they should not.

Prints how many packets it has sent so far, a line each time.
"""

import random
import socket
import struct
import time

SHARED, OTHER, INNER = b"\xc0\x00\x02\x03", b"\xc0\x00\x02\x4d", b"\xc0\x00\x00\x02"
SOCK_RAW, IPPROTO_RAW = 3, 255
PLACES = ("203.0.113.64", "203.0.113.65", "198.51.100.1")
PORTS = (1, 80, 1023, 1024, 2047, 2048, 20480, 40959, 65535)  # in the set or not
PAUSE = 0.2  # s


def target(place, port):
    return socket.getaddrinfo(place, port)[0][-1]


def packet(source, place, protocol, payload):
    """An IPv4 packet; the kernel sets the checksum."""
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0)
    return head + source + bytes([int(part) for part in place.split(".")]) + payload


def say(raw, place):
    """A datagram from a port of the system's, and packets with sources that nobody allowed."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sent = 0
    try:
        sock.sendto(b"router", target(place, 53))
        sent += 1
    except OSError:
        pass  # the line is down at times
    sock.close()
    port = random.choice(PORTS)
    udp = struct.pack("!HHHH", port, 53, 16, 0) + bytes(8)
    syn = struct.pack("!HHIIBBHHH", port, 80, 1, 0, 0x50, random.choice((2, 4, 0)), 100, 0, 0)
    for source in (SHARED, OTHER, INNER):
        for protocol, payload in ((17, udp), (6, syn), (47, bytes(20)), (132, udp + bytes(8))):
            try:
                raw.sendto(packet(source, place, protocol, payload), target(place, 0))
                sent += 1
            except OSError:
                pass
    return sent


def main():
    raw = socket.socket(socket.AF_INET, SOCK_RAW, IPPROTO_RAW)
    sent = 0
    while True:
        for place in PLACES:
            sent += say(raw, place)
        print(sent)
        time.sleep(PAUSE)


main()
