"""The unix socket by which the CLI speaks to the running agent: one JSON line each way."""

import json
import os
import time

from cpe_agent import net

_LARGEST = 4096  # octets of a request
LONGEST_PATH = 107  # octets; what a unix socket's address has room for
_NO_SIGNAL = 0x4000  # MSG_NOSIGNAL: MicroPython would die of a client that hangs up
_PATIENCE = 0.3  # s; a client that dawdles must not hold up the line
_STEP = 0.1  # s; between tries to get into the queue
_STEPS = 50
_EPIPE = 32
_TRIES = 5


class NotRunning(Exception):
    """No agent answers at the socket."""


class NoSocket(OSError):
    """The socket cannot be made; the text says which and why."""


class Server:
    """Answers requests, one connection at a time; only root can reach the socket's folder."""

    def __init__(self, path, answer):
        """answer(request) takes a dict and gives a dict. Raises NoSocket."""
        try:
            os.unlink(path)  # left by an agent that was killed
        except OSError:
            pass
        self.socket = net.unix_socket()
        try:
            self.socket.bind(net.unix_address(path))
            self.socket.listen(4)
        except OSError as error:
            raise NoSocket("cannot listen at %s: %s" % (path, error)) from None
        self._answer = answer

    def serve(self, sock):
        """Handle one waiting connection. Whatever the client does, this returns."""
        try:
            connection = sock.accept()[0]
        except OSError:
            return
        try:
            connection.settimeout(_PATIENCE)
            reply = self._reply(connection.recv(_LARGEST))
            connection.send(json.dumps(reply).encode() + b"\n", _NO_SIGNAL)
        except OSError:
            pass  # the client went away; nothing of ours depends on it
        finally:
            connection.close()

    def _reply(self, data):
        try:
            request = json.loads(data.decode())
        except (ValueError, RuntimeError):  # RuntimeError: nested too deep for CPython
            request = None
        if not isinstance(request, dict) or not isinstance(request.get("command"), str):
            return {"error": "a request is a JSON object with a command"}
        return self._answer(request)


def ask(path, command, arguments=None):
    """The agent's answer to a command as a dict. arguments: dict. Raises NotRunning."""
    request = dict(arguments or {})
    request["command"] = command
    data = json.dumps(request).encode() + b"\n"
    try:
        sock = _say(net.unix_address(path), data)
        try:
            sock.settimeout(10)
            return json.loads(_read_all(sock).decode())
        finally:
            sock.close()
    except (OSError, ValueError) as error:
        raise NotRunning("no agent answers at %s (%s)" % (path, error)) from None


def _say(address, data):
    """A connection on which the request has been sent. Raises OSError."""
    for _ in range(_TRIES):
        sock = net.unix_socket()
        try:
            _connect(sock, address)
            sock.send(data, _NO_SIGNAL)
            return sock
        except OSError as error:
            sock.close()
            if error.args[0] != _EPIPE:
                raise
            # We dawdled: on a busy machine, the agent has given up on us before it read a word.
    raise OSError("it does not wait for us")


def _read_all(sock):
    parts = []
    while True:
        data = sock.recv(65536)
        if not data:
            return b"".join(parts)
        parts.append(data)


def _connect(sock, address):
    """A queue that is full for the moment does not mean that nobody is there. Raises OSError."""
    sock.settimeout(_STEP)
    for _ in range(_STEPS):
        try:
            sock.connect(address)
            return
        except OSError as error:
            if error.args[0] != net.EAGAIN:
                raise
        time.sleep(_STEP)
    raise OSError("it is too busy")
