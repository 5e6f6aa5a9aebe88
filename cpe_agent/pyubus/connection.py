"""The socket around a Bus: for a program that has its own poll loop."""

import socket
import struct
import sys

from .bus import Bus

PATHS = ("/var/run/ubus/ubus.sock", "/var/run/ubus.sock")  # OpenWrt's, the second before 21.02

_MICROPYTHON = sys.implementation.name == "micropython"
_EINTR = 4
_EAGAIN = 11
_AF_UNIX = 1
_CLOSE_ON_EXEC = 0x80000  # SOCK_CLOEXEC; a child that holds the socket would hold our objects
_NO_SIGNAL = 0x4000  # MSG_NOSIGNAL: MicroPython would die of an ubusd that has gone
_CHUNK = 8192  # octets read at once
_STUFFED = 20  # ms; until output that ubusd did not take is tried again
_FIRST_WAIT = 250  # ms; from a lost connection to the next try, doubled each time
_LONGEST_WAIT = 5000  # ms


class Connection:
    """Keeps a bus connected. Nothing here blocks, and nothing raises for what ubusd does.

    bus: the Bus, on which all else is done.
    """

    def __init__(self, poller, now, path=None, trouble=None, on_up=None, **limits):
        """poller: has add(sock, handler), whose handler(sock) is called when sock can be read, and
        remove(sock), which closes it too. now(): ms, never backwards. path: of ubusd's socket, by
        default where OpenWrt has it. trouble, on_up, limits: see Bus."""
        self.bus = Bus(now, trouble, on_up, **limits)
        self._poller = poller
        self._now = now
        self._paths = PATHS if path is None else (path,)
        self._sock = None
        self._connect_at = None
        self._wait = _FIRST_WAIT
        self._up_since = None
        self._told = None  # the trouble that was told last
        self._stuffed_until = None

    def open(self):
        """Connect for the first time. Without an ubusd, it is tried again by the timer."""
        self._connect()

    def close(self):
        """Go away: ubusd forgets our objects; what was asked fails with CONNECTION_FAILED."""
        self._connect_at = None
        self._drop()

    def fileno(self):
        """File descriptor of the socket, or None while there is none."""
        return self._sock.fileno() if self._sock else None

    def timer(self):
        """ms when handle_timer is due, or None."""
        times = [self._connect_at, self.bus.timer()]
        if self.bus.output() or self.bus.broken:
            times.append(self._now() if self._stuffed_until is None else self._stuffed_until)
        times = [at for at in times if at is not None]
        return min(times) if times else None

    def handle_timer(self, now):
        """Send what waits, end what has waited too long, connect again. Early calls do no harm."""
        if self._connect_at is not None and now >= self._connect_at:
            self._connect()
        self.bus.handle_timer(now)
        if self._stuffed_until is None or now >= self._stuffed_until:
            self._flush()

    def on_readable(self, sock):
        """Read what has come, and answer it."""
        if sock is not self._sock:
            return  # of a connection that an earlier handler in this round has given up
        try:
            # Without a buffer for them, the kernel closes file descriptors that are passed to us.
            data = sock.recv(_CHUNK)
        except OSError as error:
            if error.args[0] not in (_EAGAIN, _EINTR):
                self._lose(str(error))
            return
        if not data:
            self._lose("ubusd closed the connection")
            return
        try:
            self.bus.receive(data)
        except MemoryError:
            self.bus.broken = "no memory for a message"
        if self.bus.up and self._up_since is None:
            self._up_since = self._now()
            self._told = None
        self._flush()

    def _flush(self):
        self._stuffed_until = None
        while self.bus.output() and not self.bus.broken:
            try:
                self.bus.sent(self._sock.send(self.bus.output(), _NO_SIGNAL))
            except OSError as error:
                if error.args[0] not in (_EAGAIN, _EINTR):
                    self.bus.broken = str(error)
                    break
                self._stuffed_until = self._now() + _STUFFED
                return
        if self.bus.broken:
            self._lose(self.bus.broken)

    def _connect(self):
        self._connect_at = None
        for path in self._paths:
            try:
                self._sock = _connected(path)
            except OSError as error:
                reason = "no ubusd at %s: %s" % (path, error)
                continue
            self._poller.add(self._sock, self.on_readable)
            self.bus.connected()
            return
        self._lose(reason)

    def _drop(self):
        sock, self._sock = self._sock, None
        self._up_since = None
        self._stuffed_until = None
        if sock:
            self._poller.remove(sock)
        self.bus.lost()

    def _lose(self, reason):
        # One that held only for a moment does not start the waiting over.
        if self._up_since is not None and self._now() - self._up_since >= _LONGEST_WAIT:
            self._wait = _FIRST_WAIT
        self._connect_at = self._now() + self._wait
        self._wait = min(2 * self._wait, _LONGEST_WAIT)
        if reason != self._told:
            self._told = reason
            self.bus.trouble(reason)
        self._drop()


def _connected(path):
    """A socket that does not block, connected. Raises OSError."""
    sock = socket.socket(_AF_UNIX, socket.SOCK_STREAM | _CLOSE_ON_EXEC)
    try:
        sock.setblocking(False)
        sock.connect(unix_address(path))
    except OSError:
        sock.close()
        raise
    return sock


def unix_address(path):
    """Address of a unix socket for connect: MicroPython wants it as the kernel does."""
    if _MICROPYTHON:
        return struct.pack("<H" if sys.byteorder == "little" else ">H", _AF_UNIX) + path.encode()
    return path
