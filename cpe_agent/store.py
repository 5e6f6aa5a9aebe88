"""State that survives a power cut: the nonce, and the port set to suggest.

The nonce must survive: a server that still holds the mapping refuses any other nonce for the rest
of its life (RFC 6887 11.3), which would lock a rebooted router out of its own address. Flash wears
out, so a file is written only when its content changes.

A file is replaced in one step: a temporary file is written and synced, then renamed, then synced
again, so that the new name is on the medium too. Whatever the moment of a power cut, the next start
finds the old content or the new one.
"""

import binascii
import json
import os
from collections import namedtuple

from cpe_agent import portset
from cpe_agent.portset import PortSet

_MAGIC = "cpe-agent-state 1 "

# nonce: 12 octets. server: 16 octets. protocol, internal_port: with the nonce, the match key.
# port_set: PortSet held last, or None. first_internal: of that set, or None.
State = namedtuple(
    "State", ("nonce", "server", "protocol", "internal_port", "port_set", "first_internal")
)


class StoreError(OSError):
    """The file cannot be written; the text says which and why. The old content is still there."""


class Damaged(ValueError):
    """The text is not a state that this version wrote."""


def encode(state):
    """State as the text of its file."""
    fields = {
        "nonce": binascii.hexlify(state.nonce).decode(),
        "server": binascii.hexlify(state.server).decode(),
        "protocol": state.protocol,
        "internal_port": state.internal_port,
    }
    if state.port_set:
        fields["address"] = state.port_set.address
        fields["first_port"] = state.port_set.first
        fields["size"] = state.port_set.size
        fields["first_internal"] = state.first_internal
    # MicroPython's dicts have no order: sorted by hand, equal states have equal files.
    parts = ['"%s": %s' % (name, json.dumps(fields[name])) for name in sorted(fields)]
    body = "{" + ", ".join(parts) + "}\n"
    return "%s%08x\n%s" % (_MAGIC, binascii.crc32(body.encode()), body)


def decode(text):
    """State from the text of a file. Raises Damaged."""
    head, _, body = text.partition("\n")
    if not head.startswith(_MAGIC):
        raise Damaged("it is not a state file of this version")
    if head[len(_MAGIC) :] != "%08x" % binascii.crc32(body.encode()):
        raise Damaged("its checksum is wrong")
    try:
        return _read(json.loads(body))
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        # RuntimeError: brackets nested too deep for CPython.
        raise Damaged("its content is wrong: %s" % error) from None


def _read(fields):
    nonce = binascii.unhexlify(fields["nonce"])
    server = binascii.unhexlify(fields["server"])
    numbers = [fields["protocol"], fields["internal_port"]]
    port_set = None
    first_internal = fields.get("first_internal")
    if "address" in fields:
        port_set = PortSet(fields["address"], fields["first_port"], fields["size"])
        numbers += [port_set.first, port_set.size, first_internal]
        address = portset.octets(port_set.address)
        reason = portset.why_unusable(address, port_set.first, port_set.size)
        if reason:
            raise ValueError(reason)
    if len(nonce) != 12 or len(server) != 16:
        raise ValueError("wrong length of nonce or server")
    if not all(isinstance(number, int) and 0 <= number <= 65535 for number in numbers):
        raise ValueError("a number is out of range")
    return State(
        nonce, server, fields["protocol"], fields["internal_port"], port_set, first_internal
    )


class File:
    """One small text file that is replaced whole, and only when it changes."""

    def __init__(self, path, largest=4096):
        """largest: octets; a file that is longer is none of ours."""
        self.path = path
        self._largest = largest
        self.writes = 0
        self._content = None  # what is known to be on the medium

    def read(self):
        """The text, or None when there is no file, or none that can be text of ours."""
        try:
            with open(self.path, "rb") as file:
                data = file.read(self._largest + 1)
        except OSError:
            return None
        if len(data) > self._largest:
            return ""
        try:
            self._content = data.decode()
        except ValueError:
            return ""
        return self._content

    def write(self, text):
        """Make text the content; True if that took a write. Raises StoreError."""
        if text == self._content:
            return False
        try:
            self._replace(text)
        except OSError as error:
            raise StoreError("cannot write %s: %s" % (self.path, error)) from None
        self._content = text
        self.writes += 1
        return True

    def _replace(self, text):
        _private_files()
        temporary = self.path + ".new"
        with open(temporary, "wb") as file:
            file.write(text.encode())
            _sync(file)
        os.rename(temporary, self.path)
        with open(self.path, "r+b") as file:
            _sync(file)

    def set_aside(self):
        """Keep a damaged file for a person to look at, out of the way. Returns its new name."""
        aside = self.path + ".bad"
        self._content = None
        try:
            os.rename(self.path, aside)
        except OSError:
            pass  # it stays where it is, and is replaced by the next write
        return aside

    def remove(self):
        """Leave no trace."""
        self._content = None
        for path in (self.path, self.path + ".new", self.path + ".bad"):
            try:
                os.unlink(path)
            except OSError:
                pass  # it was not there


def _sync(file):
    """Wait until the file is on the medium. MicroPython's flush() does that by itself."""
    file.flush()
    if hasattr(os, "fsync"):
        os.fsync(file.fileno())


def _private_files():
    """What this process creates from now on is for root alone: the nonce is what keeps strangers
    from our mapping (RFC 6887 18.1)."""
    if hasattr(os, "umask"):
        os.umask(0o077)
        return
    import ffi  # MicroPython has no umask, and a child process for chmod would cost 20 ms

    ffi.open(None).func("I", "umask", "I")(0o077)


def make_directory(path):
    """Create a directory that only root can enter, and those above it. Raises StoreError."""
    try:
        os.stat(path)
        return
    except OSError:
        pass
    _private_files()
    try:
        made = ""
        for part in path.split("/")[1:]:
            made += "/" + part
            _make_if_missing(made)
    except OSError as error:
        raise StoreError("cannot create %s: %s" % (path, error)) from None


def _make_if_missing(path):
    try:
        os.mkdir(path)
    except OSError:
        os.stat(path)  # raises if it could not be made
