"""blob and blobmsg: how ubus writes values (libubox blob.h and blobmsg.h).

A blob attribute is 32 bits in network order (1 bit: it has a name; 7 bits: what it is; 24 bits:
length, these four octets included, padding not), the payload, and zeros up to the next multiple
of four. A blobmsg field is such an attribute whose payload starts with a name.

| Python          | blobmsg                  | comes back as                              |
|-----------------|--------------------------|--------------------------------------------|
| None            | UNSPEC without payload   | None                                       |
| bytes           | UNSPEC                   | bytes (None if empty)                      |
| bool            | INT8                     | bool for 0 and 1, else int                 |
| int             | INT32, if wider INT64    | int with sign, as `ubus call` prints it    |
| float           | DOUBLE                   | float                                      |
| str             | STRING                   | str; U+FFFD for what is not UTF-8          |
| list, tuple     | ARRAY                    | list                                       |
| dict            | TABLE                    | dict; OrderedDict on MicroPython           |
| Typed(kind, x)  | as it says               |                                            |
"""

import struct
import sys
from collections import OrderedDict, namedtuple

from .status import INVALID_ARGUMENT, PARSE_ERROR, UbusError

UNSPEC = 0
ARRAY = 1
TABLE = 2
STRING = 3
INT64 = 4
INT32 = 5
INT16 = 6
INT8 = 7
DOUBLE = 8
BOOL = INT8

MAX_LENGTH = 1 << 20  # octets of a message (UBUS_MAX_MSGLEN of libubus.h)
MAX_DEPTH = 24  # tables and arrays in each other; MicroPython's stack has to bear it
MAX_VALUES = 8192  # in one message; ordered tables on MicroPython are searched from end to end

Typed = namedtuple("Typed", ("kind", "value"))

_NAMED = 0x80
_WIDTHS = {INT64: 8, INT32: 4, INT16: 2, INT8: 1}
# What a caller who writes JSON cannot tell apart from the type that was declared.
_WIDENED = {INT64: (INT32, INT16), DOUBLE: (INT32, INT64)}
_STRUCT_ERROR = getattr(struct, "error", ValueError)  # MicroPython has none of its own
_TABLE_TYPE = OrderedDict if sys.implementation.name == "micropython" else dict


# Writing


def attribute(number, payload):
    """One blob attribute: octets with a number of 0 to 127 (+ 128 if named), padded."""
    length = len(payload) + 4
    return struct.pack(">I", number << 24 | length) + payload + bytes(-length & 3)


def encode(table):
    """The fields of a dict, as UBUS_ATTR_DATA holds them.

    Raises UbusError(INVALID_ARGUMENT) for a value that ubus cannot say: another type, a number out
    of range, a NUL in a string, a key that is no string, nested or long beyond measure.
    """
    if not isinstance(table, dict):
        raise _unsayable("%s instead of a dict" % type(table))
    return _fields(table.items(), 0)


def field(kind, name, payload):
    """One blobmsg field. Raises UbusError(INVALID_ARGUMENT) for a name that cannot be."""
    name = _octets(name)
    if len(name) > 0xFFFF:
        raise _unsayable("a name of %d octets" % len(name))
    header = struct.pack(">H", len(name)) + name + b"\0"
    return attribute(kind | _NAMED, header + bytes(-len(header) & 3) + payload)


def string(value):
    """Octets of a C string. Raises UbusError(INVALID_ARGUMENT)."""
    return _octets(value) + b"\0"


def _fields(items, depth):
    if depth > MAX_DEPTH:
        raise _unsayable("tables more than %d deep" % MAX_DEPTH)
    parts = []
    length = 0
    for name, value in items:
        if isinstance(value, Typed):
            kind, value = value
        else:
            kind = _kind(value)
        parts.append(field(kind, name, _payload(kind, value, depth)))
        length += len(parts[-1])
        if length > MAX_LENGTH:
            raise _unsayable("more than %d octets" % MAX_LENGTH)
    return b"".join(parts)


def _kind(value):
    if value is None or isinstance(value, bytes):
        return UNSPEC
    if isinstance(value, bool):
        return INT8
    if isinstance(value, int):
        return INT32 if -0x80000000 <= value <= 0x7FFFFFFF else INT64
    for python, kind in ((str, STRING), (dict, TABLE), (list, ARRAY), (tuple, ARRAY)):
        if isinstance(value, python):
            return kind
    if isinstance(value, float):
        return DOUBLE
    raise _unsayable("a value of %s" % type(value))


def _payload(kind, value, depth):
    try:
        if kind in _WIDTHS:
            return _integer(_WIDTHS[kind], value)
        if kind == STRING:
            return string(value)
        if kind == TABLE:
            return _fields(value.items(), depth + 1)
        if kind == ARRAY:
            return _fields([("", one) for one in value], depth + 1)
        if kind == DOUBLE:
            return struct.pack(">d", value)
        if kind == UNSPEC:
            return b"" if value is None else bytes(value)
    except (AttributeError, TypeError, ValueError, OverflowError, _STRUCT_ERROR):
        pass
    raise _unsayable("a value of %s as type %s" % (type(value), kind))


def _integer(width, value):
    bits = 8 * width
    if not isinstance(value, (int, bool)):  # a bool is no int on MicroPython
        raise _unsayable("a value of %s as an integer" % type(value))
    # Both the signed and the unsigned are usual: ubus leaves that to its readers.
    if not -(1 << bits - 1) <= value < 1 << bits:
        raise _unsayable("%d in %d bits" % (value, bits))
    return (int(value) & (1 << bits) - 1).to_bytes(width, "big")


def _octets(text):
    try:
        octets = text.encode()
    except (AttributeError, ValueError):
        raise _unsayable("a string or name of %s" % type(text)) from None
    if b"\0" in octets:
        raise _unsayable("NUL in a string")
    return octets


def _unsayable(detail):
    return UbusError(INVALID_ARGUMENT, detail)


# Reading


def attributes(data, at=0, end=None):
    """(number with 128 for named, start, end of the payload) of each blob attribute in data.

    Fewer than four octets at the end are left over, as libubox does. Raises UbusError(PARSE_ERROR)
    for a length that does not fit.
    """
    end = len(data) if end is None else end
    while end - at >= 4:
        word = struct.unpack_from(">I", data, at)[0]
        length = word & 0xFFFFFF
        if length < 4 or length + 3 & ~3 > end - at:
            raise _unreadable("an attribute of length %d where %d are left" % (length, end - at))
        yield word >> 24, at + 4, at + length
        at += length + 3 & ~3


def decode(data):
    """Table of the fields in data; of fields with the same name, the first (as blobmsg_parse).

    Raises UbusError(PARSE_ERROR) for what is no blobmsg, has more than MAX_VALUES values or is
    nested more than MAX_DEPTH deep.
    """
    return _table(data, 0, len(data), [MAX_VALUES], 0)


def decode_arguments(data, declared):
    """Table of the arguments of a call. declared: {name: type, or None for any}.

    Raises UbusError(INVALID_ARGUMENT) for an argument that is not declared or of another type.
    INT16 and INT32 are taken for INT64, and INT32 and INT64 for DOUBLE. "ubus_rpc_session", which
    uhttpd adds to every call that comes by HTTP, is dropped unless declared.
    """
    table = decode(data)
    for number, start, end in attributes(data):
        kind = number & ~_NAMED
        name = _named(data, number, start, end)[0]
        if name not in declared:
            if name is not None and name != "ubus_rpc_session":
                raise _unsayable("argument '%s' is unknown" % name)
            table.pop(name, None)
            continue
        wanted = declared[name]
        if wanted not in (None, kind):
            if kind not in _WIDENED.get(wanted, ()):
                raise _unsayable("argument '%s' has the wrong type" % name)
            if wanted == DOUBLE:
                table[name] = float(table[name])
    return table


def text(data):
    """str of the octets of a C string, up to its NUL."""
    data = data.split(b"\0", 1)[0]
    try:
        return data.decode()
    except ValueError:
        return "".join([chr(octet) if octet < 128 else "\ufffd" for octet in data])


def _table(data, at, end, left, depth):
    table = _TABLE_TYPE()
    for number, start, stop in attributes(data, at, end):
        name, start = _named(data, number, start, stop)
        value = _value(number & ~_NAMED, data, start, stop, left, depth)
        if name is not None and name not in table:
            table[name] = value
    return table


def _array(data, at, end, left, depth):
    values = []
    for number, start, stop in attributes(data, at, end):
        start = _named(data, number, start, stop)[1]
        values.append(_value(number & ~_NAMED, data, start, stop, left, depth))
    return values


def _named(data, number, start, end):
    """(name or None, where the value starts) of a field."""
    if not number & _NAMED:
        return None, start
    length = struct.unpack_from(">H", data, start)[0] if end - start >= 2 else end
    value = start + (length + 3 + 3 & ~3)
    if value > end or data[start + 2 + length]:
        raise _unreadable("a name that does not end")
    return text(data[start + 2 : start + 2 + length]), value


def _value(kind, data, start, end, left, depth):
    left[0] -= 1
    if left[0] < 0 or depth > MAX_DEPTH:
        raise _unreadable("too many values, or too deep")
    length = end - start
    if kind in _WIDTHS and length == _WIDTHS[kind]:
        value = int.from_bytes(data[start:end], "big")
        if kind == INT8 and value < 2:
            return value == 1
        return value - (1 << 8 * length) if value >> 8 * length - 1 else value
    if kind == STRING and length and not data[end - 1]:
        return text(data[start:end])
    if kind == TABLE:
        return _table(data, start, end, left, depth + 1)
    if kind == ARRAY:
        return _array(data, start, end, left, depth + 1)
    if kind == DOUBLE and length >= 8:
        return struct.unpack_from(">d", data, start)[0]
    if kind == UNSPEC:
        return data[start:end] if length else None
    raise _unreadable("type %d with %d octets" % (kind, length))


def _unreadable(detail):
    return UbusError(PARSE_ERROR, detail)
