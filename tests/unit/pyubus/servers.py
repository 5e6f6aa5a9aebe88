"""The two ubusd's of the tests, and a client that says what pyubus would not."""

import os
import pathlib
import shutil
import socket
import struct
import subprocess
import sys
import time

import pytest

from tests.unit.pyubus import standin

UBUSD = os.environ.get("UBUSD") or shutil.which("ubusd")
UBUS = os.environ.get("UBUS") or shutil.which("ubus")
ROOT = os.geteuid() == 0

GENUINE = pytest.param(
    "ubusd",
    marks=pytest.mark.skipif(not UBUSD, reason="no ubusd on PATH, and UBUSD does not name one"),
)


class Server:
    """A ubusd that can be stopped and started."""

    def __init__(self, kind, folder):
        self.kind = kind
        self.path = str(folder / "ubus.sock")
        self.process = None

    def _command(self):
        if self.kind == "standin":
            return [sys.executable, str(pathlib.Path(standin.__file__)), "-s", self.path]
        # Whoever is not root at a genuine ubusd may do nothing: there are no ACL files.
        prefix = [] if ROOT else ["unshare", "--user", "--map-root-user"]
        return [*prefix, UBUSD, "-A", os.path.dirname(self.path), "-s", self.path]

    def user(self):
        """User and group as which the server sees us."""
        if self.kind == "ubusd" or ROOT:
            return "root root"
        done = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True)
        group = subprocess.run(["id", "-gn"], capture_output=True, text=True, check=True)
        return "%s %s" % (done.stdout.strip(), group.stdout.strip())

    def start(self):
        self.process = subprocess.Popen(self._command(), stderr=subprocess.DEVNULL)
        while True:
            try:
                Stranger(self.path).close()
                return
            except OSError:
                assert self.process.poll() is None, "%s does not run" % self._command()
                time.sleep(0.01)

    def stop(self):
        self.process.kill()
        self.process.wait()


class Stranger:
    """A client that sends what it likes, written without pyubus."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.connect(path)
        except OSError:
            self.sock.close()
            raise
        self.seq = 0
        self.read()

    def close(self):
        self.sock.close()

    def read(self):
        """(type, peer, body) of the next message."""
        _, kind, _, peer, word = struct.unpack(">BBHII", self._exactly(12))
        return kind, peer, self._exactly((word & 0xFFFFFF) - 4)

    def _exactly(self, count):
        data = b""
        while len(data) < count:
            more = self.sock.recv(count - len(data))
            if not more:
                raise ConnectionError("closed")
            data += more
        return data

    def ask(self, kind, peer, body, fds=()):
        """(status, attributes of the last data) that come for a message."""
        self.send(kind, peer, body, fds)
        return self.answer()

    def send(self, kind, peer, body, fds=()):
        """Send a message, with file descriptors."""
        self.seq += 1
        octets = struct.pack(">BBHII", 0, kind, self.seq, peer, 4 + len(body)) + body
        if fds:
            sent = socket.send_fds(self.sock, [octets], fds)
            octets = octets[sent:]
        self.sock.sendall(octets)

    def answer(self):
        """(status, attributes of the last data) of what was sent last."""
        data = {}
        while True:
            kind, _, body = self.read()
            found = standin.parse(body)
            if kind == standin.STATUS:
                return found[standin.A_STATUS], data
            if kind == standin.DATA:
                data = found

    def call(self, path, method, data=b"", fds=()):
        """Call a method; answer() tells what came of it."""
        status, found = self.ask(standin.LOOKUP, 0, standin.cstring(standin.A_OBJPATH, path))
        assert status == standin.OK
        target = found[standin.A_OBJID]
        body = standin.u32(standin.A_OBJID, target) + standin.cstring(standin.A_METHOD, method)
        body += standin.blob(standin.A_DATA, data)
        self.send(standin.INVOKE, target, body, fds)
