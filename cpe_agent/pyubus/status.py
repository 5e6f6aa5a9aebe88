"""Status codes of ubus (enum ubus_msg_status of ubusmsg.h), their words, and the one exception."""

OK = 0
INVALID_COMMAND = 1
INVALID_ARGUMENT = 2
METHOD_NOT_FOUND = 3
NOT_FOUND = 4
NO_DATA = 5
PERMISSION_DENIED = 6
TIMEOUT = 7
NOT_SUPPORTED = 8
UNKNOWN_ERROR = 9
CONNECTION_FAILED = 10
NO_MEMORY = 11
PARSE_ERROR = 12
SYSTEM_ERROR = 13

_WORDS = (
    "Success",
    "Invalid command",
    "Invalid argument",
    "Method not found",
    "Not found",
    "No response",
    "Permission denied",
    "Request timed out",
    "Operation not supported",
    "Unknown error",
    "Connection failed",
    "Out of memory",
    "Parsing message data failed",
    "System error",
)


def words(status):
    """What the ubus command prints for a status code."""
    return _WORDS[status] if 0 <= status < len(_WORDS) else "Unknown error: %d" % status


class UbusError(Exception):
    """What went wrong. status: a code of this module. detail: what str() adds to its words."""

    def __init__(self, status, detail=None):
        super().__init__(words(status) + (": " + detail if detail else ""))
        self.status = status
