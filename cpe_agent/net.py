"""Sockets, the same on both runtimes.

MicroPython takes and gives raw sockaddr bytes, has no getsockname and few constants; CPython wants
tuples. Nothing outside this module needs to know. Addresses are 16 octets, IPv4 as ::ffff:a.b.c.d.
"""

import select
import socket
import struct
import sys

from cpe_agent.pcp import wire

NATIVE = "<" if sys.byteorder == "little" else ">"
EAGAIN = 11
ECONNREFUSED = 111
MICROPYTHON = sys.implementation.name == "micropython"

# A script of the user's that hangs would hold them: one who calls a dead agent would wait for it.
_CLOSE_ON_EXEC = 0x80000  # SOCK_CLOEXEC
_SIGPIPE = 13
_SIG_IGN = 1
_AF_UNIX = 1
_AF_NETLINK = 16
_SO_BINDTODEVICE = 25
_IPPROTO_IP = 0
_IP_ADD_MEMBERSHIP = 35
_IPPROTO_IPV6 = 41
_IPPROTO_ICMPV6 = 58
_IPV6_JOIN_GROUP = 20
_IPV6_V6ONLY = 26
_ICMP6_FILTER = 1
_ALL_NODES = b"\xff\x02" + b"\0" * 13 + b"\x01"
_ALL_HOSTS = b"\xe0\0\0\1"
_LARGEST = 2048  # octets; every PCP datagram and any quoted packet that we look at


def _sockaddr(address, port, scope=0):
    """(family, address as this runtime's socket calls want it)."""
    if wire.is_v4(address):
        if MICROPYTHON:
            packed = struct.pack(NATIVE + "H", socket.AF_INET) + struct.pack(">H", port)
            return socket.AF_INET, packed + address[12:] + b"\0" * 8
        return socket.AF_INET, (socket.inet_ntop(socket.AF_INET, address[12:]), port)
    if MICROPYTHON:
        packed = struct.pack(NATIVE + "H", socket.AF_INET6) + struct.pack(">HI", port, 0)
        return socket.AF_INET6, packed + address + struct.pack(NATIVE + "I", scope)
    return socket.AF_INET6, (socket.inet_ntop(socket.AF_INET6, address), port, 0, scope)


def _unpack(sockaddr):
    """(16 octets, port) of what recvfrom gave."""
    if not MICROPYTHON:
        host, port = sockaddr[:2]
        if ":" in host:
            return socket.inet_pton(socket.AF_INET6, host.split("%")[0]), port
        return wire.V4_PREFIX + socket.inet_pton(socket.AF_INET, host), port
    family = struct.unpack_from(NATIVE + "H", sockaddr)[0]
    port = struct.unpack_from(">H", sockaddr, 2)[0]
    if family == socket.AF_INET6:
        return bytes(sockaddr[8:24]), port
    return wire.V4_PREFIX + bytes(sockaddr[4:8]), port


def is_link_local(address):
    """True for an address of fe80::/10, which means nothing without its interface."""
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80


def is_unique_local(address):
    """True for an address of fc00::/7, which the Internet does not know (RFC 4193)."""
    return address[0] & 0xFE == 0xFC


def ignore_broken_pipes():
    """Writing to who has gone is an error, not the end: CPython's way, for MicroPython too."""
    if MICROPYTHON:
        import ffi

        ffi.open(None).func("p", "signal", "ip")(_SIGPIPE, _SIG_IGN)


def request_socket(source, server, port=wire.SERVER_PORT, scope=0, device=None):
    """UDP socket from the source to the server's port, at a random port of our own (RFC 6887 8.1).

    scope: interface index, for link-local addresses. device: name of the only interface that may be
    used, or None. Connected: the kernel drops other peers, and
    reports ICMP errors. It stays open for the life of the mapping, since Mapping Updates come to
    its port (RFC 6887 14.2). Raises OSError.
    """
    family, local = _sockaddr(source, 0, scope if is_link_local(source) else 0)
    sock = socket.socket(family, socket.SOCK_DGRAM | _CLOSE_ON_EXEC)
    try:
        if device:
            sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, device.encode() + b"\0")
        sock.bind(local)
        sock.connect(_sockaddr(server, port, scope if is_link_local(server) else 0)[1])
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def announce_socket(server, interface):
    """UDP socket for a server's announcements on one interface index: to [ff02::1]:5350, or to
    224.0.0.1:5350 for a server with an IPv4 address (RFC 6887 14.1.3).

    Other PCP clients on this host may listen too. Raises OSError.
    """
    v4 = wire.is_v4(server)
    family, local = _sockaddr(wire.ANY_V4 if v4 else wire.ANY_V6, wire.CLIENT_PORT)
    sock = socket.socket(family, socket.SOCK_DGRAM | _CLOSE_ON_EXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if not v4:
            sock.setsockopt(_IPPROTO_IPV6, _IPV6_V6ONLY, 1)
        sock.bind(local)
        if v4:
            group = _ALL_HOSTS + b"\0" * 4 + struct.pack(NATIVE + "I", interface)
            sock.setsockopt(_IPPROTO_IP, _IP_ADD_MEMBERSHIP, group)
        else:
            group = _ALL_NODES + struct.pack(NATIVE + "I", interface)
            sock.setsockopt(_IPPROTO_IPV6, _IPV6_JOIN_GROUP, group)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def unreachable_socket():
    """Raw socket that hears ICMPv6 type 1 (destination unreachable) alone. Raises OSError."""
    sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW | _CLOSE_ON_EXEC, _IPPROTO_ICMPV6)
    # A set bit blocks the type of that number (RFC 3542 3.2).
    blocked = struct.pack(NATIVE + "8I", 0xFFFFFFFF & ~(1 << 1), *([0xFFFFFFFF] * 7))
    sock.setsockopt(_IPPROTO_ICMPV6, _ICMP6_FILTER, blocked)
    sock.setblocking(False)
    return sock


def receive(sock):
    """(data, address, port) of one waiting datagram, or None when none waits. Raises OSError."""
    try:
        data, sockaddr = sock.recvfrom(_LARGEST)
    except OSError as error:
        if error.args[0] == EAGAIN:
            return None
        raise
    address, port = _unpack(sockaddr)
    return data, address, port


def unix_address(path):
    """Address of a unix socket for bind and connect."""
    if MICROPYTHON:
        return struct.pack(NATIVE + "H", _AF_UNIX) + path.encode() + b"\0"
    return path


def unix_socket():
    """A stream socket of the unix family."""
    return socket.socket(_AF_UNIX, socket.SOCK_STREAM | _CLOSE_ON_EXEC)


def netlink_socket(protocol, groups=0):
    """Netlink socket to the kernel. groups: bits of the multicast groups to hear."""
    sock = socket.socket(_AF_NETLINK, socket.SOCK_RAW | _CLOSE_ON_EXEC, protocol)
    if MICROPYTHON:
        sock.bind(struct.pack(NATIVE + "HHII", _AF_NETLINK, 0, 0, groups))
        sock.connect(struct.pack(NATIVE + "HHII", _AF_NETLINK, 0, 0, 0))
    else:
        sock.bind((0, groups))
        sock.connect((0, 0))
    return sock


class Poller:
    """Calls a function for each socket that has something to read."""

    def __init__(self):
        self._poll = select.poll()
        self._handlers = {}

    def add(self, sock, handler):
        """handler(sock) is called when sock can be read."""
        self._handlers[sock.fileno()] = (sock, handler)
        self._poll.register(sock, select.POLLIN)

    def remove(self, sock):
        """Forget and close a socket."""
        self._handlers.pop(sock.fileno())
        self._poll.unregister(sock)
        sock.close()

    def wait(self, timeout):
        """Wait up to timeout ms, then call the handlers of what came."""
        for ready in self._poll.poll(timeout):
            number = ready[0] if isinstance(ready[0], int) else ready[0].fileno()
            entry = self._handlers.get(number)
            if entry:  # an earlier handler may have closed it
                entry[1](entry[0])
