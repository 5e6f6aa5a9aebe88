"""Runs in the lab's guest isp: what a home sends, and what is sent to it, good and bad, on and on.

  flood   frames of the LAN, written octet by octet: no host's own rules stand between. Most of them
          go to nobody (see test_soak.py), so that each costs the lwAFTR one packet.
  talk    a LAN host's real connections: TCP, UDP, echo
  knock   from the Internet to ports of the shared address: forwarded, free, and in nobody's set

Prints one line of JSON when it is ended by SIGTERM: {name: count}.
"""

import argparse
import contextlib
import json
import os
import random
import select
import signal
import socket
import struct
import time

ICMP, IPIP, TCP, UDP, DCCP, IPV6, GRE, ESP, AH, OSPF, SCTP, UDPLITE = (
    *(1, 4, 6, 17, 33, 41),
    *(47, 50, 51, 89, 132, 136),
)
WITHOUT_A_NAT = (2, IPIP, DCCP, IPV6, GRE, ESP, AH, OSPF, SCTP, UDPLITE, 253)
INTERNET = "198.51.100.1"
NOBODY = ["203.0.113.%d" % number for number in range(64, 96)]
HOSTS = ["192.168.1.%d" % number for number in range(10, 60)]
STRANGERS = ("10.9.9.9", "198.51.100.1", "192.0.2.77", "127.0.0.1", "0.0.0.0", "224.0.0.1")
FIN, SYN, RST, ACK = 1, 2, 4, 16
ODD_FLAGS = (0, FIN, RST, SYN | FIN, SYN | RST, FIN | 8 | 32, 63, 255)
MORE = 0x2000
DELIVERED = "/sys/class/net/lw0/statistics/rx_packets"  # packets that the lwAFTR has passed on
WINDOW = 150  # packets on their way; its socket has room for more
HANDFUL = 25
FORWARDED = 5  # ports whose lowest six bits are this lead to the LAN's server
PATIENCE = 0.2  # s without anything being delivered: what is missing was dropped


def checksum(octets):
    if len(octets) % 2:
        octets += b"\0"
    total = sum(struct.unpack("!%dH" % (len(octets) // 2), octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packet(source, place, protocol, payload, ttl=64, ident=0, fragment=0, options=b""):
    head = struct.pack(
        "!BBHHHBBH",
        0x45 + len(options) // 4,
        0,
        20 + len(options) + len(payload),
        ident,
        fragment,
        ttl,
        protocol,
        0,
    )
    head += socket.inet_aton(source) + socket.inet_aton(place) + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def udp(port, to, size=26):
    return struct.pack("!HHHH", port, to, 8 + size, 0) + bytes(size)


def tcp(source, place, port, to, flags, size=0):
    segment = struct.pack("!HHIIBBHHH", port, to, 1, 1, 0x50, flags, 60000, 0, 0) + bytes(size)
    pseudo = socket.inet_aton(source) + socket.inet_aton(place)
    total = checksum(pseudo + struct.pack("!HH", TCP, len(segment)) + segment)
    return segment[:16] + struct.pack("!H", total) + segment[18:]


def icmp(kind, code, rest, data=b""):
    message = struct.pack("!BBHI", kind, code, 0, rest) + data
    return message[:2] + struct.pack("!H", checksum(message)) + message[4:]


def in_fragments(whole, size):
    """A packet's fragments, of so many octets of payload (a multiple of 8)."""
    payload, found = whole[20:], []
    for at in range(0, len(payload), size):
        more = MORE if at + size < len(payload) else 0
        source, place = (socket.inet_ntoa(whole[at : at + 4]) for at in (12, 16))
        ident = int.from_bytes(whole[4:6], "big")
        part = payload[at : at + size]
        found.append(packet(source, place, whole[9], part, 64, ident, more | at // 8))
    return found


class Mixture:
    """What a LAN says, as lists of packets: those of one list leave together."""

    def __init__(self, chance, shared):
        """shared: the shared address, for those who pretend to have it."""
        self.chance = chance
        self.shared = shared
        self.counts = {}

    def make(self, count):
        kinds = {
            "UDP": (self.udp, 50),
            "UDP, large": (self.large, 4),
            "UDP in fragments": (self.fragments, 4),
            "TCP": (self.tcp, 14),
            "TCP, odd flags": (self.odd_tcp, 5),
            "echo": (self.echo, 6),
            "ICMP, odd": (self.odd_icmp, 3),
            "traceroute": (self.trace, 4),
            "protocols without a NAT": (self.other, 4),
            "false sources": (self.stranger, 4),
            "malformed": (self.malformed, 2),
        }
        names = self.chance.choices(list(kinds), [kind[1] for kind in kinds.values()], k=count)
        return [(name, kinds[name][0]()) for name in names]

    def ends(self, most=150):
        """(address, port, place, port) of a flow; few enough for the router's table of flows."""
        number = self.chance.randrange(most)
        port = 2000 + number * 7919 % 60000
        return HOSTS[number % len(HOSTS)], port, self.chance.choice(NOBODY[:4]), 53 + number % 3

    def udp(self):
        source, port, place, to = self.ends()
        return [packet(source, place, UDP, udp(port, to, self.chance.choice((0, 1, 26, 200))))]

    def large(self):
        """Up to what Ethernet takes; the softwire takes 40 octets less."""
        source, port, place, to = self.ends()
        return [packet(source, place, UDP, udp(port, to, self.chance.choice((1400, 1432, 1472))))]

    def fragments(self):
        source, port, place, to = self.ends()
        ident = self.chance.randrange(1, 65536)
        octets, size = self.chance.choice(((32, 8), (600, 256), (2000, 1000), (4000, 1480)))
        whole = packet(source, place, UDP, udp(port, to, octets), 64, ident)
        parts = in_fragments(whole, size)
        if self.chance.randrange(2):
            parts.reverse()
        return parts

    def tcp(self):
        source, port, place, to = self.ends()
        flags = self.chance.choice((SYN, SYN, ACK, ACK | 8))
        return [packet(source, place, TCP, tcp(source, place, port, to, flags, flags & 8))]

    def odd_tcp(self):
        source, port, place, to = self.ends()
        segment = tcp(source, place, port, to, self.chance.choice(ODD_FLAGS))
        how = self.chance.randrange(4)
        if how == 0:
            segment = segment[:16] + b"\xab\xcd" + segment[18:]  # a wrong checksum
        elif how == 1:
            segment = segment[: self.chance.choice((1, 3, 8, 13))]
        return [packet(source, place, TCP, segment)]

    def echo(self):
        number = self.chance.randrange(100)
        source, ident = HOSTS[number % len(HOSTS)], number * 651
        place = self.chance.choice((*NOBODY[:4], INTERNET))
        return [packet(source, place, ICMP, icmp(8, 0, ident << 16 | 1, bytes(32)))]

    def odd_icmp(self):
        """Errors about nothing, answers to nobody, and questions that no NAT knows."""
        source, port, place, to = self.ends()
        quoted = self.chance.choice(
            (
                packet(place, self.shared, UDP, udp(to, port)),
                packet(place, source, UDP, udp(to, port)),
                packet(place, self.shared, TCP, tcp(place, source, to, port, SYN))[:28],
                b"\x45\0",
            )
        )
        kind = self.chance.choice((0, 3, 3, 3, 4, 5, 9, 11, 12, 13, 15, 17, 40))
        return [packet(source, place, ICMP, icmp(kind, self.chance.randrange(4), 0, quoted))]

    def trace(self):
        source, port, place, _ = self.ends(40)
        ttl = self.chance.randrange(1, 4)
        return [packet(source, place, UDP, udp(port, 33434 + ttl), ttl)]

    def other(self):
        protocol = self.chance.choice(WITHOUT_A_NAT)
        source, port, place, to = self.ends()
        return [packet(source, place, protocol, struct.pack("!HHI", port, to, 0) + bytes(24))]

    def stranger(self):
        _, port, place, to = self.ends(20)
        source = self.chance.choice((self.shared, self.shared, *STRANGERS))
        if self.chance.randrange(2):
            return [packet(source, place, UDP, udp(self.chance.choice((port, 80)), to))]
        flags = self.chance.choice((SYN, RST))
        return [packet(source, place, TCP, tcp(source, place, 80, to, flags))]

    def malformed(self):
        source, port, place, to = self.ends()
        whole = packet(source, place, UDP, udp(port, to, 600), 64, self.chance.randrange(65536))
        return self.chance.choice(
            (
                in_fragments(whole, 200)[1:],  # the first one is missing
                in_fragments(whole, 200)[:1],  # the others are
                [packet(source, place, UDP, udp(0, to))],
                [packet(source, place, UDP, udp(port, 0))],
                [packet(source, place, UDP, udp(port, to)[:4])],
                [packet(source, place, UDP, udp(port, to), options=b"\x07\x07\x04" + bytes(5))],
                [packet(source, place, UDP, udp(port, to), options=b"\x44\x08\x05" + bytes(5))],
                [packet(source, "224.0.0.251", UDP, udp(5353, 5353))],
                [packet(source, "255.255.255.255", UDP, udp(68, 67))],
                [packet(source, self.shared, UDP, udp(port, port))],
            )
        )


class Ending:
    """True until SIGTERM."""

    def __init__(self):
        self._going = True
        signal.signal(signal.SIGTERM, self._end)

    def _end(self, *_):
        self._going = False

    def __bool__(self):
        return self._going


def run_flood(args):
    """Never more packets on their way than the lwAFTR has room for: one that is dropped before it
    is counted shows nothing."""
    going, counts = Ending(), {}
    delivered = os.open(DELIVERED, os.O_RDONLY)  # of this namespace, whichever we are in later
    os.setns(os.open("/run/netns/lan", os.O_RDONLY), os.CLONE_NEWNET)
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sock.bind(("eth1", 0))
    ethernet = bytes.fromhex(args.mac.replace(":", "")) + sock.getsockname()[4] + b"\x08\x00"
    mixture = Mixture(random.Random(args.seed), args.shared).make(args.distinct)
    mixture = [(name, [ethernet + one for one in packets]) for name, packets in mixture]
    window = Window(delivered)
    while going:
        for at in range(0, len(mixture), HANDFUL):
            window.wait(going)
            for name, frames in mixture[at : at + HANDFUL]:
                counts[name] = counts.get(name, 0) + len(frames)
                for frame in frames:
                    sock.send(frame)
                window.sent += len(frames)
            if not going:
                break
    print(json.dumps(counts), flush=True)


class Window:
    """How much may be on its way."""

    def __init__(self, delivered):
        self._file = delivered
        self._base = self._count()
        self.sent = 0

    def _count(self):
        return int(os.pread(self._file, 32, 0))

    def wait(self, going):
        """Until there is room."""
        last, since = None, time.monotonic()
        while going:
            count = self._count()
            if self.sent - (count - self._base) < WINDOW:
                # What others sent is no room of ours.
                self._base = max(self._base, count - self.sent)
                return
            if count != last:
                last, since = count, time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                self._base, self.sent = count, 0
                return
            time.sleep(0.002)


def run_talk(args):
    """One exchange after the other, each by a socket of its own."""
    going, counts = Ending(), dict.fromkeys(("TCP", "UDP", "echo", "unanswered"), 0)
    kinds = {"TCP": talk_tcp, "UDP": talk_udp, "echo": talk_echo}
    while going:
        for name, talk in kinds.items():
            try:
                counts[name if talk(args.timeout) else "unanswered"] += 1
            except OSError:
                counts["unanswered"] += 1
        time.sleep(args.pause)
    print(json.dumps(counts), flush=True)


def talk_tcp(timeout):
    with socket.create_connection((INTERNET, 7), timeout) as conn:
        stream = conn.makefile("rb")
        stream.readline()
        data = os.urandom(20000)
        conn.sendall(data)
        return stream.read(len(data)) == data


def talk_udp(timeout):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout)
        sock.sendto(b"hello", (INTERNET, 7))
        return bool(sock.recv(4096))


def talk_echo(timeout):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as sock:
        sock.settimeout(timeout)
        sock.sendto(struct.pack("!BBHI", 8, 0, 0, 1), (INTERNET, 0))
        return bool(sock.recv(4096))


def run_knock(args):
    """Datagrams, connections, echo requests and other protocols, to any port."""
    going, counts, chance = Ending(), {"knocks": 0, "answers": 0}, random.Random(args.seed)
    with contextlib.ExitStack() as stack:
        raws = [
            stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol))
            for protocol in (TCP, ICMP, GRE)
        ]
        friend = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        while going:
            port = chance.choice((chance.randrange(1, 65536), chance.randrange(1024, 2048)))
            with contextlib.suppress(OSError):  # an ICMP error for an earlier one
                friend.sendto(b"knock", (args.shared, port))
            flags = chance.choice((SYN, ACK, RST, FIN))
            segment = tcp(INTERNET, args.shared, chance.randrange(1, 65536), port, flags)
            quoted = packet(args.shared, INTERNET, UDP, udp(port, 53))
            error = icmp(chance.choice((3, 4, 11, 12)), 0, 0, quoted)
            echo = icmp(8, 0, port << 16 | 1, bytes(16))
            for raw, message in zip(raws, (segment, chance.choice((error, echo)), bytes(24))):
                raw.sendto(message, (args.shared, 0))
            counts["knocks"] += 4
            for first in args.sets:  # one of them is the router's
                with contextlib.suppress(OSError):
                    forwarded = first + chance.randrange(16) * 64 + FORWARDED
                    friend.sendto(b"hello", (args.shared, forwarded))
            while select.select([friend], [], [], args.pause)[0]:
                with contextlib.suppress(OSError):
                    counts["answers"] += bool(friend.recv(4096))
    print(json.dumps(counts), flush=True)


def main():
    top = argparse.ArgumentParser(description=__doc__)
    top.add_argument("command", choices=("flood", "talk", "knock"))
    top.add_argument("--mac", help="of the router on the LAN")
    top.add_argument("--shared", default="192.0.2.3")
    top.add_argument("--sets", type=int, nargs="*", default=[])
    top.add_argument("--seed", type=int, default=1)
    top.add_argument("--distinct", type=int, default=5000)
    top.add_argument("--pause", type=float, default=0.1)
    top.add_argument("--timeout", type=float, default=2.0)
    args = top.parse_args()
    {"flood": run_flood, "talk": run_talk, "knock": run_knock}[args.command](args)


if __name__ == "__main__":
    main()
