"""python3 -m lwaftr: run the lab lwAFTR, or its PCP server alone.

Exit codes: 0 ended by a signal, 1 a socket or device could not be opened, 2 wrong
configuration.
"""

import argparse
import signal
import sys

from . import config as configuration
from .shell import Shell, ShellError


def _arguments():
    parser = argparse.ArgumentParser(prog="lwaftr", description="Lab lwAFTR with a PCP server.")
    parser.add_argument("--config", metavar="FILE", help="TOML or JSON; see sample.toml")
    parser.add_argument(
        "--pcp-only", action="store_true", help="no data plane, no privileges needed"
    )
    parser.add_argument("--listen", metavar="ADDRESS", help="overrides server.address")
    parser.add_argument("--port", type=int, help="overrides server.port; 0: any")
    parser.add_argument("--control", metavar="PATH", help="overrides server.control")
    parser.add_argument("--check", action="store_true", help="check the configuration only")
    return parser.parse_args()


def _configuration(arguments):
    """Config of file and command line. Raises ConfigError."""
    values = configuration.read(arguments.config) if arguments.config else {}
    server = values.setdefault("server", {})
    given = {
        "address": arguments.listen,
        "port": arguments.port,
        "control": arguments.control,
        "pcp_only": arguments.pcp_only or None,
    }
    if isinstance(server, dict):
        server.update({key: value for key, value in given.items() if value is not None})
    return configuration.from_dict(values)


def main():
    """Run until a signal; the exit code."""
    arguments = _arguments()
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
    print("lwaftr: ready on [%s]:%d" % (config.server.address, shell.pcp_port()), flush=True)
    try:
        shell.run()
    finally:
        shell.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
