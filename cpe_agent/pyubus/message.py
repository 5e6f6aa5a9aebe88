"""Messages of ubus (ubusmsg.h): a header of eight octets and one blob of attributes."""

import struct
from collections import namedtuple

from . import blobmsg
from .status import INVALID_ARGUMENT, PARSE_ERROR, UbusError

# Types.
HELLO = 0
STATUS = 1
DATA = 2
LOOKUP = 4
INVOKE = 5
ADD_OBJECT = 6
REMOVE_OBJECT = 7
SUBSCRIBE = 8
UNSUBSCRIBE = 9
NOTIFY = 10

# Attributes.
ATTR_STATUS = 1
ATTR_OBJPATH = 2
ATTR_OBJID = 3
ATTR_METHOD = 4
ATTR_SIGNATURE = 6
ATTR_DATA = 7
ATTR_TARGET = 8
ATTR_ACTIVE = 9
ATTR_NO_REPLY = 10
ATTR_USER = 12
ATTR_GROUP = 13

_WIDTHS = {ATTR_STATUS: 4, ATTR_OBJID: 4, ATTR_TARGET: 4, ATTR_ACTIVE: 1, ATTR_NO_REPLY: 1}
_STRINGS = (ATTR_OBJPATH, ATTR_METHOD, ATTR_USER, ATTR_GROUP)
_NESTED = (ATTR_SIGNATURE, ATTR_DATA)
_HEADER = 12  # octets, with the first four of the blob

Message = namedtuple("Message", ("type", "seq", "peer", "body"))


def pack(kind, seq, peer, values):
    """Octets of a message. seq: 16 bits. peer: 32 bits. values: pairs of attribute and value.

    Raises UbusError(INVALID_ARGUMENT) if it is longer than ubusd takes, or has a NUL in a string.
    """
    parts = []
    for number, value in values:
        if number in _WIDTHS:
            value = value.to_bytes(_WIDTHS[number], "big")
        elif number in _STRINGS:
            value = blobmsg.string(value)
        parts.append(blobmsg.attribute(number, value))
    body = b"".join(parts)
    if len(body) + 4 > blobmsg.MAX_LENGTH:
        raise UbusError(INVALID_ARGUMENT, "a message of %d octets" % len(body))
    return struct.pack(">BBHII", 0, kind, seq, peer, len(body) + 4) + body


def attributes(body):
    """{number: int, str, or bytes of what is nested} of a message's body.

    What is unknown or of the wrong size is left out, as libubus does. Raises UbusError(PARSE_ERROR)
    for lengths that do not fit.
    """
    found = {}
    for number, start, end in blobmsg.attributes(body):
        value = body[start:end]
        if number in _WIDTHS and len(value) == _WIDTHS[number]:
            found[number] = int.from_bytes(value, "big")
        elif number in _STRINGS and value and not value[-1]:
            found[number] = blobmsg.text(value)
        elif number in _NESTED:
            found[number] = value
    return found


class Framer:
    """Cuts a stream into messages, and holds no more than one message and what was just fed."""

    def __init__(self, largest):
        """largest: octets. The body of a longer message is dropped and given as None."""
        self._largest = largest
        self._buffer = bytearray()
        self._at = 0  # where the next message starts
        self._skip = 0  # octets still to come of a message that is dropped

    def feed(self, data):
        """Take octets of the stream."""
        skipped = min(self._skip, len(data))
        self._skip -= skipped
        self._buffer = self._buffer[self._at :]
        self._buffer += data[skipped:]
        self._at = 0

    def next(self):
        """The next Message, or None until more is fed.

        Raises UbusError(PARSE_ERROR) when the stream cannot be ubus; it has no way on then.
        """
        here = len(self._buffer) - self._at
        if here < _HEADER:
            return None
        version, kind, seq, peer, word = struct.unpack_from(">BBHII", self._buffer, self._at)
        length = word & 0xFFFFFF
        if version or not 4 <= length <= blobmsg.MAX_LENGTH:
            detail = "a message of version %d and %d octets" % (version, length)
            raise UbusError(PARSE_ERROR, detail)
        length += _HEADER - 4
        if length - _HEADER > self._largest:
            self._skip = max(0, length - here)
            self._at += min(length, here)
            return Message(kind, seq, peer, None)
        if here < length:
            return None
        body = bytes(self._buffer[self._at + _HEADER : self._at + length])
        self._at += length
        return Message(kind, seq, peer, body)
