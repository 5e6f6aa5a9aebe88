"""State that survives a power cut: nonces, and the port sets to suggest.

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

from cpe_agent import address, portset
from cpe_agent.portset import PortSet

_MAGIC = "cpe-agent-state "
_VERSION = 2
_S_IFMT, _S_IFDIR = 0o170000, 0o040000
SOFTWIRE = "softwire"  # the softwire's name; other mappings' have a space in them

# nonce: 12 octets. server: 16 octets. protocol, internal_port: with the nonce, the match key.
# port_set: PortSet held last, or None. first_internal: of that set, or None.
State = namedtuple(
    "State", ("nonce", "server", "protocol", "internal_port", "port_set", "first_internal")
)


class StoreError(OSError):
    """The file cannot be written; the text says which and why. The old content is still there."""


class Damaged(ValueError):
    """The text is no state that this version can read; it says why."""


def encode(entries):
    """(name, State) pairs as the text of their file. Equal entries have equal texts."""
    lines = [json.dumps(_fields(name, state)) for name, state in entries]
    return _seal(_VERSION, "[" + ",\n".join(lines) + "]\n")


def decode(text):
    """(name, State) pairs from the text of a file, of this version or of 1. Raises Damaged."""
    version, body = _unseal(text)
    try:
        content = json.loads(body)
        if version == 1:
            return [(SOFTWIRE, _read_version_1(content))]
        if not isinstance(content, list):
            raise ValueError("it is no list")
        return [_read(fields) for fields in content]
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        # RuntimeError: brackets nested too deep for CPython.
        raise Damaged("its content is wrong: %s" % error) from None


def _seal(version, body):
    return "%s%d %08x\n%s" % (_MAGIC, version, binascii.crc32(body.encode()), body)


def _unseal(text):
    """(version, body) of a whole file."""
    head, _, body = text.partition("\n")
    if not head.startswith(_MAGIC):
        raise Damaged("it is no state file of cpe-agent")
    version, _, checksum = head[len(_MAGIC) :].partition(" ")
    if checksum != "%08x" % binascii.crc32(body.encode()):
        raise Damaged("its checksum is wrong")
    if version not in ("1", str(_VERSION)):
        raise Damaged("it is of version %s, which a newer cpe-agent has written" % version)
    return int(version), body


def _fields(name, state):
    fields = [name, _hex(state.server), state.protocol, state.internal_port, _hex(state.nonce)]
    if state.port_set:
        fields += list(state.port_set) + [state.first_internal]
    return fields


def _hex(octets):
    return binascii.hexlify(octets).decode()


def _read(fields):
    name, server, protocol, internal_port, nonce = fields[:5]
    port_set = first_internal = None
    if len(fields) > 5:
        where, first, size, first_internal = fields[5:]
        port_set = PortSet(where, first, size)
    state = State(
        binascii.unhexlify(nonce),
        binascii.unhexlify(server),
        protocol,
        internal_port,
        port_set,
        first_internal,
    )
    if not isinstance(name, str):
        raise ValueError("a name is no text")
    return name, _checked(state)


def _read_version_1(fields):
    port_set = None
    if "address" in fields:
        port_set = PortSet(fields["address"], fields["first_port"], fields["size"])
    return _checked(
        State(
            binascii.unhexlify(fields["nonce"]),
            binascii.unhexlify(fields["server"]),
            fields["protocol"],
            fields["internal_port"],
            port_set,
            fields.get("first_internal"),
        )
    )


def _checked(state):
    """The state, if all in it can be. Raises ValueError and its like."""
    numbers = [state.protocol, state.internal_port]
    if state.port_set:
        where, first, size = state.port_set
        numbers += [first, size, state.first_internal]
        reason = portset.why_unusable(address.octets(where), first, size)
        if reason:
            raise ValueError(reason)
    elif state.first_internal is not None:
        raise ValueError("an internal port without a set")
    if len(state.nonce) != 12 or len(state.server) != 16:
        raise ValueError("wrong length of nonce or server")
    if not all(isinstance(number, int) and 0 <= number <= 65535 for number in numbers):
        raise ValueError("a number is out of range")
    return state


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
        mode = os.stat(path)[0]
    except OSError:
        _make(path)
        return
    if mode & _S_IFMT != _S_IFDIR:
        raise StoreError("cannot create %s: a file of that name is in the way" % path)


def _make(path):
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
