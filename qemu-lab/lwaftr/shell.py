"""The lab's sockets: PCP over UDP, 4in6 by raw sockets, IPv4 by a TUN device, control.

Thin on purpose: one loop, no decisions. No kernel tunnel is needed: a raw socket of protocol 4
gets the inner packets with their IPv6 source, after the kernel has reassembled them.
"""

import contextlib
import fcntl
import json
import os
import selectors
import socket
import struct
import sys
import time

from cpe_agent.pcp import wire

from . import words
from .config import packed
from .lab import Lab
from .softwire import Icmp6, ToInternet, ToSoftwire

_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_IFF_UP = 0x0001
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_SIOCSIFMTU = 0x8922
_ICMP6_FILTER = 1
_IPPROTO_IPIP = 4
_PACKET_MAX = 65575
# Longer ones than 1100 octets are answered as malformed, however long they are.
_PCP_MAX = 2048
_BATCH = 64
_REQUEST_MAX = 65536
_LINK_LOCAL = (b"\xfe\x80", b"\xff\x02")


def clock_ms():
    """Milliseconds of a clock that never runs backwards."""
    return time.monotonic_ns() // 1000000


class ShellError(Exception):
    """A socket or device could not be opened; the text says which and why."""


def _attempt(what, action):
    try:
        return action()
    except OSError as error:
        raise ShellError("%s: %s" % (what, error.strerror or error)) from None


def _interface_index(name):
    return socket.if_nametoindex(name) if name else 0


def open_tun(name, mtu):
    """A TUN device's file descriptor; the device is up with that MTU. Raises OSError.

    A device that is there already is attached to, with its routes.
    """
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    try:
        padded = name.encode().ljust(16, b"\0")
        fcntl.ioctl(descriptor, _TUNSETIFF, padded + struct.pack("H22x", _IFF_TUN | _IFF_NO_PI))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, _SIOCSIFMTU, padded + struct.pack("i20x", mtu))
            request = fcntl.ioctl(control, _SIOCGIFFLAGS, padded + bytes(24))
            flags = struct.unpack_from("H", request, 16)[0] | _IFF_UP
            fcntl.ioctl(control, _SIOCSIFFLAGS, padded + struct.pack("H22x", flags))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


class _ControlClient:
    """One connection to the control socket: lines of JSON in, lines of JSON out."""

    def __init__(self, connection):
        self.connection = connection
        self.received = b""
        self.pending = b""


class Shell:
    """A running lab. config: config.Config. Raises ShellError if something cannot be opened."""

    def __init__(self, config):
        self.config = config
        multicast = bool(config.server.access_interface)
        self.lab = Lab(config, os.urandom, clock_ms(), multicast)
        self._stopped = False
        self._selector = selectors.DefaultSelector()
        self._closing = contextlib.ExitStack()
        self._scope = 0
        self._tun = self._softwire = self._icmp6 = None
        self._port = 0
        # By family: True for IPv4.
        self._pcp, self._other = {}, {}
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self):
        server = self.config.server
        name = server.access_interface
        self._scope = _attempt("interface " + name, lambda: _interface_index(name))
        self._port = server.port
        for address in filter(None, (server.address, server.address4)):
            self._open_pcp(address)
        if not server.pcp_only:
            self._open_data_plane()
        if server.control:
            self._open_control(server.control)

    def _open_pcp(self, address):
        """The sockets of one family: of the server's port, and of another (faults.other_port)."""
        opened = self._udp(address, self._port)
        # A port that the system chose is the same for both families.
        self._port = opened.getsockname()[1]
        is4 = ":" not in address
        self._pcp[is4] = opened
        self._other[is4] = self._udp(address, 0)
        self._watch(opened, lambda: self._read_pcp(opened))

    def _open_data_plane(self):
        server = self.config.server
        self._softwire = self._raw(_IPPROTO_IPIP)
        self._softwire.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        self._icmp6 = self._raw(socket.IPPROTO_ICMPV6)
        self._icmp6.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, b"\xff" * 32)
        self._tun = _attempt("tun " + server.tun, lambda: open_tun(server.tun, server.tun_mtu))
        self._closing.callback(os.close, self._tun)
        self._watch(self._softwire, self._read_softwire)
        self._watch(self._tun, self._read_tun)

    def _open_control(self, path):
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._closing.callback(listener.close)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        _attempt("control " + path, lambda: listener.bind(path))
        self._closing.callback(self._unlink, path)
        os.chmod(path, 0o600)
        listener.listen(8)
        listener.setblocking(False)
        self._watch(listener, lambda: self._accept(listener))

    @staticmethod
    def _unlink(path):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def _udp(self, address, port):
        """A UDP socket on one of the server's addresses, so that answers leave from it."""
        is6 = ":" in address
        opened = socket.socket(socket.AF_INET6 if is6 else socket.AF_INET, socket.SOCK_DGRAM)
        self._closing.callback(opened.close)
        opened.setblocking(False)
        target = (address, port)
        if is6:
            target += (0, self._scope_of(packed(address)))
        if self._scope and is6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, self._scope)
        elif self._scope:
            request = struct.pack("@4s4si", bytes(4), bytes(4), self._scope)
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
        _attempt("UDP [%s]:%d" % (address, port), lambda: opened.bind(target))
        return opened

    def _raw(self, protocol):
        address = self.config.server.address
        what = "raw socket of protocol %d" % protocol
        opened = _attempt(what, lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, protocol))
        self._closing.callback(opened.close)
        opened.setblocking(False)
        _attempt("%s on %s" % (what, address), lambda: opened.bind((address, 0)))
        return opened

    def _watch(self, file, callback):
        self._selector.register(file, selectors.EVENT_READ, callback)

    def pcp_port(self):
        """UDP port of the PCP server."""
        return self._port

    def stop(self):
        """End run() at its next turn; may be called by a signal handler."""
        self._stopped = True

    def close(self):
        """Close everything."""
        self._closing.close()
        self._selector.close()

    def run(self):
        """The loop, until stop()."""
        self.lab.start(clock_ms())
        while not self._stopped:
            for key, _ in self._selector.select(self._timeout()):
                key.data()
            self._send_pcp(self.lab.handle_timer(clock_ms()))

    def _timeout(self):
        due = self.lab.get_timer()
        # Signals are looked at twice a second.
        return 0.5 if due is None else min(0.5, max(0, due - clock_ms()) / 1000)

    # PCP

    def _read_pcp(self, opened):
        for _ in range(_BATCH):
            try:
                data, peer = opened.recvfrom(_PCP_MAX)
            except OSError:
                # Nothing more, or an ICMP error about an answer.
                return
            source = packed(peer[0].split("%")[0])
            self._say(words.received, data, source, peer[1])
            self._send_pcp(self.lab.receive(clock_ms(), data, source, peer[1]))

    def _send_pcp(self, sends):
        for send in sends:
            opened = (self._other if send.other_port else self._pcp).get(wire.is_v4(send.address))
            self._say(words.sent, send.data, send.address, send.port)
            try:
                opened.sendto(send.data, self._target(send.address, send.port))
            except OSError:
                self.lab.send_errors += 1

    def _say(self, say, *datagram):
        if self.config.server.log:
            print(say(*datagram), file=sys.stderr, flush=True)

    def _target(self, address, port):
        if wire.is_v4(address):
            return socket.inet_ntop(socket.AF_INET, address[12:]), port
        return socket.inet_ntop(socket.AF_INET6, address), port, 0, self._scope_of(address)

    def _scope_of(self, address):
        return self._scope if address[:2] in _LINK_LOCAL else 0

    # Packets

    def _read_softwire(self):
        for _ in range(_BATCH):
            try:
                data, control, _, peer = self._softwire.recvmsg(_PACKET_MAX, 64)
            except OSError:
                return
            source = socket.inet_pton(socket.AF_INET6, peer[0].split("%")[0])
            actions = self.lab.plane.from_softwire(
                clock_ms(), source, data, _traffic_class(control)
            )
            self._act(actions)

    def _read_tun(self):
        for _ in range(_BATCH):
            try:
                data = os.read(self._tun, _PACKET_MAX)
            except OSError:
                return
            if data[:1] and data[0] >> 4 == 4:
                # The kernel also sends IPv6 of its own into the device.
                self._act(self.lab.plane.from_internet(clock_ms(), data))

    def _act(self, actions):
        for action in actions:
            try:
                if isinstance(action, ToInternet):
                    os.write(self._tun, action.packet)
                elif isinstance(action, ToSoftwire):
                    self._encapsulate(action)
                elif isinstance(action, Icmp6):
                    self._icmp6.sendto(action.message, self._target(action.client, 0))
            except OSError:
                self.lab.send_errors += 1

    def _encapsulate(self, action):
        traffic_class = struct.pack("i", action.traffic_class)
        control = [(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, traffic_class)]
        self._softwire.sendmsg([action.packet], control, 0, self._target(action.client, 0))

    # Control

    def _accept(self, listener):
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            connection.setblocking(False)
            client = _ControlClient(connection)
            self._watch(connection, lambda: self._serve(client))

    def _serve(self, client):
        try:
            if client.pending:
                self._flush(client)
                return
            data = client.connection.recv(65536)
            client.received += data
            if not data or len(client.received) > _REQUEST_MAX:
                self._hang_up(client)
                return
            *lines, client.received = client.received.split(b"\n")
            for line in lines:
                client.pending += self._answer(line)
            self._flush(client)
        except BlockingIOError:
            pass
        except OSError:
            self._hang_up(client)

    def _answer(self, line):
        try:
            request = json.loads(line)
        except ValueError as error:
            answer = {"ok": False, "error": "not JSON: %s" % error}
        else:
            answer = self.lab.command(clock_ms(), request)
        return json.dumps(answer).encode() + b"\n"

    def _flush(self, client):
        """Send what fits; read on only when everything has left."""
        try:
            sent = client.connection.send(client.pending)
            client.pending = client.pending[sent:]
        except BlockingIOError:
            pass
        events = selectors.EVENT_WRITE if client.pending else selectors.EVENT_READ
        self._selector.modify(client.connection, events, lambda: self._serve(client))

    def _hang_up(self, client):
        self._selector.unregister(client.connection)
        client.connection.close()


def _traffic_class(control):
    for level, kind, data in control:
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_TCLASS:
            return struct.unpack("i", data[:4])[0] & 0xFF
    return 0
