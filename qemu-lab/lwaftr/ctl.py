"""python3 -m lwaftr.ctl SOCKET COMMAND [JSON]: one command to a running lab lwAFTR.

Prints the answer as JSON. Exit codes: 0 done, 1 refused or no answer, 2 wrong usage.

On the socket a request is one line, {"command": NAME, "args": {...}}, and so is its answer,
{"ok": true, ...} or {"ok": false, "error": TEXT}. Arguments, all optional but "client" of update:

status        -> now_ms, uptime_ms, epoch, mappings, bindings, known_clients, config, ...
bindings      -> bindings: the table, as the data plane uses it
mappings      -> mappings: the PCP server's state
counters      {"reset": false} -> totals, outside_set, used_ports, bindings
messages      {"since": 0} -> messages: number, t_ms, direction, address, port, hex
fault         {"loss": 10, ...} keys of [faults]; "reset": true ends all others -> faults
forget        {"epoch_reset": true, "announce": false | true | "unicast" | "multicast"}
announce      {"unicast": true, "multicast": true}
switch        {"map": true, "port_set": true}: what the server knows; when PORT_SET comes or goes,
              mappings and epoch start anew (RFC 7753 4.3)
drop_binding  {"client": IPV6}, all without; the PCP state stays -> dropped
update        {"client": IPV6, "address": IPV4, "first_port": PORT}: move it -> bindings
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
