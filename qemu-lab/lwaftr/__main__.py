"""python3 -m lwaftr: run the lab lwAFTR, or its PCP server alone.

Exit codes: 0 ended by a signal, 1 a socket or device could not be opened, 2 wrong
configuration.
"""

import argparse
import pathlib
import signal
import sys

from . import config as configuration
from .shell import Shell, ShellError

_EXAMPLES = """
python3 -m lwaftr --pcp-only
    a PCP server on [::1]:5351 and 127.0.0.1:5351, without privileges
python3 -m lwaftr --example-config > lab.toml; python3 -m lwaftr --config lab.toml
    what the file says; every key is in it, with its default and what is allowed
"""


def _arguments():
    parser = argparse.ArgumentParser(
        prog="lwaftr",
        description="An lwAFTR with a PCP server that knows PORT_SET (RFC 6887, 7753, 7596).",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", help="TOML, or JSON in a file *.json")
    parser.add_argument(
        "--pcp-only",
        action="store_true",
        help="no data plane, no privileges; by default on the loopback addresses",
    )
    parser.add_argument(
        "--listen",
        metavar="ADDRESS",
        action="append",
        help="overrides server.address; a second time, IPv4: server.address4",
    )
    parser.add_argument("--port", type=int, help="overrides server.port; 0: any")
    parser.add_argument("--control", metavar="PATH", help="overrides server.control")
    parser.add_argument("--quiet", action="store_true", help="no line for each datagram")
    parser.add_argument("--check", action="store_true", help="check the configuration only")
    parser.add_argument("--example-config", action="store_true", help="print one, with comments")
    return parser.parse_args()


def _configuration(arguments):
    """Config of file and command line. Raises ConfigError."""
    values = configuration.read(arguments.config) if arguments.config else {}
    server = values.setdefault("server", {})
    if isinstance(server, dict):
        given = _server(arguments, server)
        server.update({key: value for key, value in given.items() if value is not None})
    return configuration.from_dict(values)


def _server(arguments, server):
    """The keys of [server] that the command line says or, of a PCP server alone, implies."""
    listen = arguments.listen
    alone = arguments.pcp_only or server.get("pcp_only") is True
    if listen is None and alone and "address" not in server:
        listen = ["::1", "127.0.0.1"]
    address, address4 = _addresses(listen) if listen else (None, None)
    return {
        "address": address,
        "address4": address4,
        "port": arguments.port,
        "control": arguments.control,
        "pcp_only": arguments.pcp_only or None,
        "log": False if arguments.quiet else (alone and "log" not in server) or None,
    }


def _addresses(listen):
    """(address, address4) of one or two addresses. Raises ConfigError."""
    if len(listen) == 1:
        return listen[0], ""
    if len(listen) > 2 or (":" in listen[0]) == (":" in listen[1]):
        raise configuration.ConfigError("--listen: allowed: one IPv6 address, one IPv4, or both")
    return sorted(listen, key=lambda address: ":" not in address)


def main():
    """Run until a signal; the exit code."""
    arguments = _arguments()
    if arguments.example_config:
        print(pathlib.Path(__file__).with_name("sample.toml").read_text(), end="")
        return 0
    try:
        config = _configuration(arguments)
    except configuration.ConfigError as error:
        print("lwaftr: %s" % error, file=sys.stderr)
        return 2
    if arguments.check:
        return 0
    try:
        shell = Shell(config)
    except ShellError as error:
        print("lwaftr: %s" % error, file=sys.stderr)
        return 1
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: shell.stop())
    addresses = " and ".join(filter(None, (config.server.address, config.server.address4)))
    print("lwaftr: ready on %s, UDP port: %d" % (addresses, shell.pcp_port()), flush=True)
    try:
        shell.run()
    finally:
        shell.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
