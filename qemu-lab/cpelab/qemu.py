"""labgrid's QEMU driver, with what a test lab needs on top of it.

labgrid fits: measured under TCG, one command takes 60 ms by its ShellDriver, and the same two
drivers are what OpenWrt's own test suite uses, so an OpenWrt image needs no second way. Added
here: a transcript of the console, an error instead of an endless wait when QEMU does not start,
and a power cut by killing QEMU. labgrid's step log is one global stack, so guests are driven
from one thread; they boot in parallel all the same.
"""

import contextlib
import select
import socket
import subprocess
import time

import attr
from labgrid.driver import QEMUDriver
from labgrid.factory import target_factory
from pexpect import TIMEOUT

SILENCE = 5  # seconds after which a guest gets a character that its terminal ignores
XON = b"\x11"
START_TIMEOUT = 20  # seconds until QEMU has opened its console; it takes well under one


@target_factory.reg_driver
@attr.s(eq=False)
class LabQEMUDriver(QEMUDriver):
    """A QEMUDriver that keeps what the console said in the file `transcript`."""

    transcript = attr.ib(default="/dev/null", validator=attr.validators.instance_of(str))

    def on(self):
        self._socket.settimeout(START_TIMEOUT)
        try:
            super().on()
        except socket.timeout:
            self.kill()
            raise OSError("QEMU did not start") from None

    def kill(self):
        """End QEMU at once, as a power cut does: the guest writes nothing more."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
        self._child = None
        self.status = 0
        self.forget()
        if self._clientsocket is not None:
            self._clientsocket.close()
            self._clientsocket = None

    def off(self):
        """Stop QEMU; one that is already gone, or goes with an error, is no trouble here."""
        if self.alive():
            self._child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.communicate(timeout=5)
        self.kill()

    def alive(self):
        return self._child is not None and self._child.poll() is None

    def forget(self):
        """Drop console output that was read but not used, such as an old prompt."""
        self._expect.buffer = b""
        self._expect.before = b""

    def drain(self):
        """Move what the console said so far to the transcript; forget it for expect()."""
        while self._clientsocket and select.select([self._clientsocket], [], [], 0)[0]:
            try:
                self._read()
            except OSError:
                break
        self.forget()

    def says_something(self, timeout):
        """Does the console speak within `timeout` seconds? What it says stays to be read."""
        return bool(select.select([self._clientsocket], [], [], timeout)[0])

    def _read(self, size=1, timeout=10, max_size=None):
        data = self._patient_read(size, timeout, max_size)
        with open(self.transcript, "ab") as out:
            out.write(data)
        if not data:
            raise OSError("QEMU closed the console")
        return data

    def _patient_read(self, size, timeout, max_size):
        """Read; wake a guest that is silent. One in some thousand commands was seen to say nothing
        more for half a minute: an interrupt of the console is lost, and any input makes another."""
        end = time.monotonic() + timeout
        while True:
            left = max(0, end - time.monotonic())
            try:
                return super()._read(size, min(left, SILENCE), max_size)
            except TIMEOUT:
                if left <= SILENCE:
                    raise
                self._clientsocket.send(XON)
