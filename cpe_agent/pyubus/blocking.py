"""ubus for a script or a command line: each call waits for its answer."""

import select
import time

from .blobmsg import MAX_LENGTH
from .bus import TIMEOUT_DEFAULT
from .connection import Connection
from .status import CONNECTION_FAILED, OK, UbusError

_HELLO_PATIENCE = 5000  # ms


class Poller:
    """The smallest that a Connection can live with."""

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
        if self._poll.poll(timeout):
            for sock, handler in list(self._handlers.values()):
                handler(sock)


class Ubus:
    """A connection whose methods wait. Not for use within handlers and callbacks.

    bus: the Bus, for objects, listeners and subscribers, which are served during wait() and calls.
    """

    def __init__(self, path=None, timeout=TIMEOUT_DEFAULT, max_message=MAX_LENGTH):
        """path: of ubusd's socket. timeout: ms that answers are waited for. max_message: see Bus.

        Raises UbusError(CONNECTION_FAILED).
        """
        self._timeout = timeout
        self._trouble = None
        self._now = _stopwatch()
        self._poller = Poller()
        self._connection = Connection(
            self._poller, self._now, path, self._on_trouble, max_message=max_message
        )
        self.bus = self._connection.bus
        self._connection.open()
        end = self._now() + _HELLO_PATIENCE
        while not self.bus.up and not self._trouble and self._now() < end:
            self._step(end)
        if not self.bus.up:
            self.close()
            raise UbusError(CONNECTION_FAILED, self._trouble)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """End the connection."""
        self._connection.close()

    def call(self, path, method, arguments=None, timeout=None):
        """The dict that a method answers. timeout: ms. Raises UbusError."""
        timeout = self._timeout if timeout is None else timeout
        return self._wait_for(
            lambda done: self.bus.call(path, method, arguments or {}, done, timeout)
        )

    def lookup(self, pattern=None):
        """List of ObjectInfo. pattern: path, with * at the end for any more. Raises UbusError."""
        return self._wait_for(lambda done: self.bus.lookup(pattern, done, self._timeout))

    def send_event(self, event, data=None):
        """Send an event to all who listen. Raises UbusError."""
        self._wait_for(
            lambda done: self.bus.send_event(event, data, lambda status: done(status, None))
        )

    def wait(self, timeout, until=None):
        """Serve what comes for so many ms, or until until() is true. Returns whether it was."""
        end = self._now() + timeout
        while self._now() < end and not (until and until()):
            self._step(end)
        return bool(until and until())

    def _wait_for(self, start):
        answer = []
        start(lambda status, value: answer.append((status, value)))
        while not answer:
            self._step(None)
        status, value = answer[0]
        if status != OK:
            raise UbusError(status)
        return value

    def _step(self, end):
        times = [at for at in (end, self._connection.timer()) if at is not None]
        self._poller.wait(max(0, min(times) - self._now()))
        self._connection.handle_timer(self._now())

    def _on_trouble(self, text):
        self._trouble = text


def _stopwatch():
    """A function that gives ms since now. It must be called once in six days at least."""
    if not hasattr(time, "ticks_ms"):
        return lambda: time.monotonic_ns() // 1000000
    last = [time.ticks_ms(), 0]

    def now():
        ticks = time.ticks_ms()
        last[1] += time.ticks_diff(ticks, last[0])  # ticks wrap around on 32 bits
        last[0] = ticks
        return last[1]

    return now
