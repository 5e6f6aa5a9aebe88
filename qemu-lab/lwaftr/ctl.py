"""python3 -m lwaftr.ctl SOCKET COMMAND [JSON]: one command to a running lab lwAFTR.

Prints the answer as JSON. Exit codes: 0 done, 1 refused or no answer, 2 wrong usage.
"""

import json
import socket
import sys


def call(path, command, args=None, timeout=10):
    """The answer of a lab to one command, a dict. Raises OSError or ValueError.

    path: its control socket. args: dict of arguments. timeout: seconds.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect(path)
        connection.sendall(json.dumps({"command": command, "args": args or {}}).encode() + b"\n")
        with connection.makefile("rb") as lines:
            return json.loads(lines.readline())


def main():
    """Run the command line; the exit code."""
    if len(sys.argv) not in (3, 4):
        print("usage: python3 -m lwaftr.ctl SOCKET COMMAND [JSON]", file=sys.stderr)
        return 2
    try:
        args = json.loads(sys.argv[3]) if len(sys.argv) == 4 else {}
    except ValueError as error:
        print("lwaftr.ctl: %s" % error, file=sys.stderr)
        return 2
    try:
        answer = call(sys.argv[1], sys.argv[2], args)
    except (OSError, ValueError) as error:
        print("lwaftr.ctl: %s: %s" % (sys.argv[1], error), file=sys.stderr)
        return 1
    print(json.dumps(answer, indent=1))
    return 0 if answer.get("ok") else 1


if __name__ == "__main__":
    sys.exit(main())
