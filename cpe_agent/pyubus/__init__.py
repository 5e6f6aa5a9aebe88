"""ubus, OpenWrt's bus, in pure Python: for MicroPython 1.24 or later and CPython 3.9 or later.

It speaks the protocol over ubusd's unix socket itself; neither libubus nor the ubus command is
needed. docs/pyubus.md shows its use. Connection is for a program with a poll loop of its own,
blocking.Ubus for scripts. Nothing in this folder needs anything outside of it.
"""

from .blobmsg import (
    ARRAY,
    BOOL,
    DOUBLE,
    INT8,
    INT16,
    INT32,
    INT64,
    STRING,
    TABLE,
    UNSPEC,
    Typed,
)
from .bus import Bus, ObjectInfo
from .connection import Connection
from .nodes import DEFERRED, Method, Request
from .status import (
    CONNECTION_FAILED,
    INVALID_ARGUMENT,
    INVALID_COMMAND,
    METHOD_NOT_FOUND,
    NO_DATA,
    NO_MEMORY,
    NOT_FOUND,
    NOT_SUPPORTED,
    OK,
    PARSE_ERROR,
    PERMISSION_DENIED,
    SYSTEM_ERROR,
    TIMEOUT,
    UNKNOWN_ERROR,
    UbusError,
    words,
)

__all__ = [
    "ARRAY",
    "BOOL",
    "CONNECTION_FAILED",
    "DEFERRED",
    "DOUBLE",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "INVALID_ARGUMENT",
    "INVALID_COMMAND",
    "METHOD_NOT_FOUND",
    "NOT_FOUND",
    "NOT_SUPPORTED",
    "NO_DATA",
    "NO_MEMORY",
    "OK",
    "PARSE_ERROR",
    "PERMISSION_DENIED",
    "STRING",
    "SYSTEM_ERROR",
    "TABLE",
    "TIMEOUT",
    "UNKNOWN_ERROR",
    "UNSPEC",
    "Bus",
    "Connection",
    "Method",
    "ObjectInfo",
    "Request",
    "Typed",
    "UbusError",
    "words",
]
