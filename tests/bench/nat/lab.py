"""lan - router - server in namespaces, with frames that are written and read octet by octet.

No socket, port or neighbour of an end system limits what is sent, and what is measured is the
router: a frame that is sent is routed by the time the call is back, in the sender's own time.
"""

import contextlib
import ctypes
import itertools
import os
import socket
import struct
import time
from collections import namedtuple

from tests.bench.nat import ways
from tests.support import netns

UDP, TCP, ICMP = 17, 6, 1
PLACES = ["198.51.100.%d" % number for number in range(1, 201)]
PORT = 443  # of all places
HANDFUL = 64  # frames that are given to the kernel by one call

_MAC = "02:00:00:00:00:01"
_ETHERNET = bytes.fromhex(_MAC.replace(":", "")) * 2 + b"\x08\x00"
_SERVER = """\
flush ruleset
table ip server {
 counter got { }
 chain arrived {
  type filter hook prerouting priority raw
  meta l4proto { tcp, udp } counter name got drop
  %s
 }
}
"""
_PACKET_OUTGOING = 4
_CTNETLINK_FLUSH = struct.pack("=IHHIIBBH", 20, 0x0102, 5, 1, 0, 0, 0, 0)  # NLM_F_REQUEST, _ACK
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

# tag: the IP identification that the sender chose. source: (address, port or echo identifier).
Seen = namedtuple("Seen", ("tag", "destination", "source"))


def _sum(octets):
    total = sum(struct.unpack("!%dH" % (len(octets) // 2), octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def endpoint(number):
    """(address, port) of one of many internal endpoints, no two alike, in no order."""
    return "192.168.%d.%d" % (number % 8, number * 7 % 200 + 10), 20000 + number * 7919 % 40000


def frame(protocol, source, place, tag=0, port=PORT):
    """A UDP datagram, a TCP SYN or an echo request, with an Ethernet header.

    source: (address, port or echo identifier). place, port: where it goes to.
    """
    ends = socket.inet_aton(source[0]) + socket.inet_aton(place)
    if protocol == UDP:
        rest = struct.pack("!HHHH18x", source[1], port, 26, 0)
    elif protocol == TCP:
        rest = struct.pack("!HHIIBBHHH", source[1], port, tag, 0, 0x50, 2, 60000, 0, 0)
        checksum = _sum(ends + struct.pack("!HH", TCP, len(rest)) + rest)
        rest = rest[:16] + struct.pack("!H", checksum) + rest[18:]
    else:
        rest = struct.pack("!BBHHH", 8, 0, 0, source[1], tag)
        rest = rest[:2] + struct.pack("!H", _sum(rest)) + rest[4:]
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(rest), tag, 0, 64, protocol, 0) + ends
    return _ETHERNET + head[:10] + struct.pack("!H", _sum(head)) + head[12:] + rest


class Burst:
    """Frames in memory as sendmmsg(2) wants them, so that sending costs next to nothing."""

    def __init__(self, frames):
        frames = list(frames)
        self.count = len(frames)
        self._octets = ctypes.create_string_buffer(b"".join(frames))
        vectors, at = [], ctypes.addressof(self._octets)
        for one in frames:
            vectors.append(struct.pack("=QQ", at, len(one)))
            at += len(one)
        self._vectors = ctypes.create_string_buffer(b"".join(vectors))
        at = ctypes.addressof(self._vectors)
        self._messages = ctypes.create_string_buffer(
            b"".join(_message(at + 16 * number) for number in range(self.count))
        )

    def send(self, sock, times=1):
        """Send all, so many times. Returns s of CPU: of this process, who routes them, too."""
        start = ctypes.addressof(self._messages)
        began = time.process_time()
        for _ in itertools.repeat(None, times):
            for at in range(0, self.count, HANDFUL):
                want = min(HANDFUL, self.count - at)
                if _libc.sendmmsg(sock.fileno(), ctypes.c_void_p(start + 64 * at), want, 0) != want:
                    raise OSError(ctypes.get_errno(), "sendmmsg")
        return time.process_time() - began


def _message(vector):
    """A struct mmsghdr of 64 bits with one vector."""
    return struct.pack("=QIxxxxQQQQixxxxIxxxx", 0, 0, vector, 1, 0, 0, 0, 0)


class Lab:
    """The three namespaces, as a context manager."""

    def __enter__(self):
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY)
        self._network = netns.Network()
        self._network.__enter__()
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self._network.__exit__()
        os.close(self._home)

    def _build(self):
        self.lan, self.router, self.server = map(
            self._network.namespace, ("lan", "router", "server")
        )
        self._network.link(self.lan, "eth0", self.router, "br-lan")
        self._network.link(self.router, ways.DEVICE, self.server, "eth0")
        for namespace, devices in (
            (self.lan, ["eth0"]),
            (self.router, ["br-lan", ways.DEVICE]),
            (self.server, ["eth0"]),
        ):
            namespace.run(["sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0"])
            for device in devices:
                namespace.run(["sysctl", "-qw", "net.ipv4.conf.%s.rp_filter=0" % device])
                # As a tunnel: no neighbour discovery.
                namespace.run(["ip", "link", "set", device, "address", _MAC, "arp", "off"])
        run = self.router.run
        run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
        for timer in ("udp_timeout", "udp_timeout_stream", "icmp_timeout"):
            run(["sysctl", "-qw", "net.netfilter.nf_conntrack_%s=600" % timer])
        run(["ip", "addr", "add", ways.ADDRESS + "/32", "dev", ways.DEVICE])
        run(["ip", "route", "add", "198.51.100.0/24", "dev", ways.DEVICE])
        run(["ip", "route", "add", "192.168.0.0/16", "dev", "br-lan"])
        self.server.run(["ip", "route", "add", "local", "198.51.100.0/24", "dev", "lo"])
        self.server.run(["ip", "route", "add", ways.ADDRESS, "dev", "eth0"])

    def set_up(self, text, port_sets):
        """Rules anew, and no flows. port_sets: what the server lets in of pings, as an lwAFTR
        would; None for all."""
        self.forget_flows()
        self.router.run(["nft", "-f", "-"], input="flush ruleset\n" + text)
        self.forget_flows()
        pings = ""
        if port_sets:
            ranges = ", ".join("%d-%d" % (one.first, one.first + one.size - 1) for one in port_sets)
            pings = "icmp type echo-request icmp id != { %s } drop" % ranges
        self.server.run(["nft", "-f", "-"], input=_SERVER % pings)

    def forget_flows(self):
        """Empty the router's connection tracking."""
        with self._inside(self.router), socket.socket(socket.AF_NETLINK, 3, 12) as sock:
            sock.send(_CTNETLINK_FLUSH)
            sock.recv(4096)

    def arrived(self):
        """Datagrams and segments that the server has got since the last call."""
        text = self.server.run(["nft", "reset", "counters"]).stdout
        return int(text.split("packets ")[1].split()[0])

    def sender(self):
        """A socket whose frames leave the LAN's host."""
        return self._packet_socket(self.lan, 0)

    def at_server(self):
        """A socket that sees what comes to the server."""
        return self._packet_socket(self.server, 0x0800)

    def at_lan(self):
        """A socket that sees what comes to the LAN's host."""
        return self._packet_socket(self.lan, 0x0800)

    def _packet_socket(self, namespace, protocol):
        with self._inside(namespace):
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
            sock.bind(("eth0", protocol))
        sock.setsockopt(263, 20, 1)  # SOL_PACKET, PACKET_QDISC_BYPASS
        sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 25)  # SO_RCVBUFFORCE
        sock.settimeout(0)
        return sock

    @contextlib.contextmanager
    def _inside(self, namespace):
        with open("/proc/%d/ns/net" % namespace.pid) as there:
            _enter(there.fileno())
        try:
            yield
        finally:
            _enter(self._home)


def _enter(descriptor):
    if _libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def seen(sock, wait=0.0):
    """Everything that has come to a socket of at_server() or at_lan(), as Seen.

    wait: s for the first, where nothing is there yet.
    """
    found = []
    sock.settimeout(wait)
    with contextlib.suppress(BlockingIOError, TimeoutError):
        while True:
            octets, address = sock.recvfrom(128)
            sock.settimeout(0)
            if address[2] != _PACKET_OUTGOING:
                found.append(_parse(octets))
    return found


def _parse(octets):
    at = 38 if octets[23] == ICMP else 34
    source = socket.inet_ntoa(octets[26:30]), int.from_bytes(octets[at : at + 2], "big")
    return Seen(
        int.from_bytes(octets[18:20], "big"),
        socket.inet_ntoa(octets[30:34]),
        source,
    )
