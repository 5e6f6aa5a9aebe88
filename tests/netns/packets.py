"""Packets that no ordinary program sends, and programs that live on ICMP, for inside.py."""

import contextlib
import select
import socket
import struct
import threading
import time

IP_MTU, IP_MTU_DISCOVER, DONT_FRAGMENT = 14, 10, 2  # linux/in.h; not in every Python
ECHO_REQUEST, ECHO_REPLY = 8, 0
TCP, UDP, ICMP, SCTP = 6, 17, 1, 132
MORE, UNDIVIDED = 0x2000, 0x4000
_KINDS = {"udp": socket.SOCK_DGRAM, "tcp": socket.SOCK_STREAM}


def packet(source, destination, protocol, body, identifier=0, offset=0, flag=0):
    """An IPv4 packet as hexadecimal digits, for send_packets(). offset: of a fragment, in octets.
    flag: MORE or UNDIVIDED."""
    flags = offset // 8 | flag
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), identifier, flags, 64, protocol, 0)
    head += socket.inet_aton(source) + socket.inet_aton(destination)
    return (head[:10] + struct.pack(">H", checksum(head)) + head[12:] + body).hex()


def with_option(text):
    """A packet as packet() gives it, with an IP option (Router Alert, RFC 2113) in its header."""
    data = bytes.fromhex(text)
    head = (
        b"\x46" + data[1:2] + struct.pack(">H", len(data) + 4) + data[4:10] + b"\0\0" + data[12:20]
    )
    head += b"\x94\x04\0\0"
    return (head[:10] + struct.pack(">H", checksum(head)) + head[12:] + data[20:]).hex()


def fragments(source, destination, protocol, body, size):
    """A packet in fragments of so many octets, in order; each as packet() gives it."""
    return [
        packet(source, destination, protocol, part, 7, at, MORE if at + size < len(body) else 0)
        for at, part in ((at, body[at : at + size]) for at in range(0, len(body), size))
    ]


def datagram(port, to, data):
    """A UDP datagram, without a checksum."""
    return struct.pack(">HHHH", port, to, 8 + len(data), 0) + data


def echo(kind, identifier):
    """An ICMP echo request or reply."""
    return summed(struct.pack(">BBHHH", kind, 0, 0, identifier, 1))


def error(kind, code, about):
    """An ICMP error about a packet as packet() gives it."""
    return summed(struct.pack(">BBHI", kind, code, 0, 0) + bytes.fromhex(about))


def summed(body):
    """An ICMP message with its checksum, whatever was there."""
    body = body[:2] + bytes(2) + body[4:]
    return body[:2] + struct.pack(">H", checksum(body)) + body[4:]


def checksum(data):
    """The Internet's (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(">%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def sctp_init(source_port, port):
    """The first packet of an association (RFC 9260 3.3.2), with its CRC32c."""
    chunk = struct.pack(">BBHIIHHI", 1, 0, 20, 0x1234, 65535, 1, 1, 0x5678)
    head = struct.pack(">HHI", source_port, port, 0)
    checksum = struct.pack("<I", _crc32c(head + bytes(4) + chunk))
    return head + checksum + chunk


def _crc32c(data):
    crc = 0xFFFFFFFF
    for octet in data:
        crc ^= octet
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return ~crc & 0xFFFFFFFF


# Calls


def send_packets(packets):
    """Send whole IPv4 packets as they are, in that order."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for text in packets:
            data = bytes.fromhex(text)
            raw.sendto(data, (socket.inet_ntoa(data[16:20]), 0))


def trace(kind, address, port, hops, patience):
    """Who answers to a probe with a TTL of 1, 2 and so on, as traceroute asks by "udp", "icmp" or
    "tcp"; None for a hop that is silent. Only answers about that very probe count."""
    ask = _ask_by_echo if kind == "icmp" else _ask_by_port
    found = []
    for ttl in range(1, hops + 1):
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, ICMP) as heard:
            found.append(ask(heard, kind, (address, port), ttl, time.monotonic() + patience))
    return found


def _ask_by_echo(heard, _, place, ttl, until):
    heard.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
    heard.sendto(echo(ECHO_REQUEST, 4000 + ttl), place)
    return _answerer(heard, heard, ICMP, struct.pack(">H", 4000 + ttl), until)


def _ask_by_port(heard, kind, place, ttl, until):
    with socket.socket(socket.AF_INET, _KINDS[kind]) as probe:
        probe.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        probe.setblocking(False)
        probe.bind(("", 0))
        own = struct.pack(">H", probe.getsockname()[1])
        if kind == "udp":
            probe.sendto(b"?", place)
            return _answerer(heard, heard, UDP, own, until)
        probe.connect_ex(place)
        return _answerer(heard, probe, TCP, own, until)


def _answerer(heard, probe, protocol, own, until):
    """Who answered: by ICMP about our probe, or the place itself."""
    readers, writers = [heard], [] if probe is heard else [probe]
    while (left := until - time.monotonic()) > 0:
        readable, writable, _ = select.select(readers, writers, [], left)
        for data, peer in [heard.recvfrom(2000)] if readable else []:
            if _is_about(data[20:], protocol, own):
                return peer[0]
        if writable:
            with contextlib.suppress(OSError):
                return probe.getpeername()[0]
            writers = []  # an ICMP error about it, which is in the other socket
    return None


def _is_about(body, protocol, own):
    if body[0] in (ECHO_REQUEST, ECHO_REPLY):
        return body[0] == ECHO_REPLY and protocol == ICMP and body[4:6] == own
    quoted = body[8:]
    at = 24 if protocol == ICMP else 20  # an echo's identifier, or the source port
    return quoted[9] == protocol and quoted[at : at + 2] == own


def path_mtu(address, port, patience):
    """Sizes of IPv4 packets that may not be fragmented, as a UDP socket learns of them, the last
    one of which was answered: path MTU discovery (RFC 1191)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, DONT_FRAGMENT)
        client.settimeout(patience)
        client.connect((address, port))
        sizes = []
        while len(sizes) < 5:
            sizes.append(client.getsockopt(socket.IPPROTO_IP, IP_MTU))
            with contextlib.suppress(OSError):
                client.send(bytes(sizes[-1] - 28))
                client.recv(65535)
                return sizes
        return []


def count_octets(port):
    """A TCP server that tells how many octets it was sent."""
    listener = socket.create_server(("0.0.0.0", port))
    threading.Thread(target=_count, args=(listener,), daemon=True).start()


def _count(listener):
    while True:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            total = 0
            while data := connection.recv(65536):
                total += len(data)
            connection.sendall(b"%d" % total)


def upload(address, port, octets, patience):
    """How many octets of so many that server of count_octets() got, or the name of the error."""
    try:
        with socket.create_connection((address, port), patience) as connection:
            connection.sendall(bytes(octets))
            connection.shutdown(socket.SHUT_WR)
            return int(connection.recv(99))
    except OSError as error:
        return type(error).__name__


CALLS = [send_packets, trace, path_mtu, count_octets, upload]
