#!/usr/bin/env python3
"""Drive the QEMU lab by hand: a home router ("cpe") and an operator ("isp").

  lab.py up                  boot both and the lwAFTR; stays until Ctrl-C or `lab.py down`
  lab.py shell [PLACE]       type commands (in another terminal), one a line
  lab.py run PLACE COMMAND   one command; its output and exit code
  lab.py reset GUEST         power cut: reset, nothing is shut down or flushed
  lab.py kill GUEST          power cut for good;  lab.py start GUEST gives it back
  lab.py down                end the lab

A PLACE is a guest, cpe or isp, or a namespace inside isp: lan (the home's host) or internet.
"""

import argparse
import json
import os
import shlex
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from cpelab import Lab, LabError, openwrt
from cpelab.lab import LWAFTR_ADDRESS
from cpelab.openwrt import OpenWrtLab
from images import BUILD, BuildError

PLACES = ("cpe", "isp", "lan", "internet")
AGENT_CONFIG = f"config softwire 'wan4'\n\toption aftr '{LWAFTR_ADDRESS}'\n"
NOTES = """
The lab is up. In another terminal:
  {me} shell cpe                    the router; its agent's log: tail /tmp/log/agent
  {me} run cpe cpe-agent status
  {me} run lan ping -c 3 198.51.100.1
  {me} run lan python3 /usr/lib/lab/tools/host.py tcp 198.51.100.1
  {me} reset cpe
Captures and console transcripts: {folder}
Ctrl-C ends the lab.
"""


class Server:
    """Takes commands for a running lab on a unix socket, one JSON line per connection."""

    def __init__(self, lab, path):
        self.lab = lab
        self.path = path

    def serve(self):
        self.path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.path))
            listener.listen(8)
            try:
                while self.serve_one(listener):
                    pass
            finally:
                self.path.unlink(missing_ok=True)

    def serve_one(self, listener):
        conn, _ = listener.accept()
        with conn, conn.makefile("rwb") as stream:
            try:
                request = json.loads(stream.readline())
                answer = self.answer(request)
            except LabError as err:
                answer = {"code": 255, "stdout": "", "stderr": str(err)}
            except (ValueError, KeyError) as err:
                answer, request = {"code": 255, "stdout": "", "stderr": repr(err)}, {}
            stream.write(json.dumps(answer).encode() + b"\n")
        return request.get("action") != "down"

    def answer(self, request):
        action, place = request["action"], request.get("place", "cpe")
        if action == "run":
            result = self.place(place)(request["command"], timeout=request["timeout"])
            return {"code": result.code, "stdout": result.stdout, "stderr": result.stderr}
        said = ""
        if action != "down":
            guest = {guest.name: guest for guest in self.lab.guests}[place]
            act = {"reset": guest.reset, "kill": guest.kill, "start": guest.start_again}[action]
            seconds = act()
            said = f"{place} has a shell after {seconds:.1f} s" if seconds else f"{place} is off"
        return {"code": 0, "stdout": said, "stderr": ""}

    def place(self, name):
        places = {
            "cpe": self.lab.cpe.run,
            "isp": self.lab.isp.run,
            "lan": self.lab.lan,
            "internet": self.lab.internet,
        }
        return places[name]


def request(args, **fields):
    """Ask the running lab; print what it says; its exit code."""
    with socket.socket(socket.AF_UNIX) as conn:
        try:
            conn.connect(str(args.dir / "control"))
        except OSError:
            print(f"no lab runs in {args.dir}; start one with `up`", file=sys.stderr)
            return 255
        with conn.makefile("rwb") as stream:
            stream.write(json.dumps(fields).encode() + b"\n")
            stream.flush()
            answer = json.loads(stream.readline() or b'{"code": 255}')
    for name, out in (("stdout", sys.stdout), ("stderr", sys.stderr)):
        if answer.get(name):
            print(answer[name], file=out, flush=True)
    return answer["code"]


def do_up(args):
    config = args.config.read_text() if args.config else AGENT_CONFIG
    flash = args.dir / "flash.img"
    kept = flash if args.keep and flash.exists() else None
    lwaftr = json.loads(args.lwaftr.read_text()) if args.lwaftr else {}
    router = openwrt.chosen()
    lab = OpenWrtLab(args.dir, router) if router else Lab(args.dir, flash=kept)
    with lab:
        if router:
            lab.wait_ready()
            lab.set_up_network()
        if not args.bare:
            lab.start_lwaftr(lwaftr)
            lab.configure(config)
        print(NOTES.format(me=os.path.relpath(__file__), folder=args.dir), flush=True)
        Server(lab, args.dir / "control").serve()
    return 0


def do_shell(args):
    code = 0
    while True:
        try:
            line = input(f"{args.place}# " if sys.stdin.isatty() else "")
        except EOFError:
            return code
        if line.strip():
            code = request(args, action="run", place=args.place, command=line, timeout=60)


def do_run(args):
    command = args.command[0] if len(args.command) == 1 else shlex.join(args.command)
    return request(args, action="run", place=args.place, command=command, timeout=args.timeout)


def do_power(args):
    return request(args, action=args.action, place=getattr(args, "guest", "cpe"))


def parser():
    top = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument(
        "--dir",
        type=Path,
        default=BUILD / "run",
        help="where the lab keeps its files (default: %(default)s)",
    )
    sub = top.add_subparsers(dest="action", required=True, metavar="ACTION")
    one = sub.add_parser("up", help="boot both guests and the lwAFTR")
    one.add_argument("--config", type=Path, help="the router's /etc/config/cpe-agent")
    one.add_argument("--lwaftr", type=Path, help="the lwAFTR's configuration, JSON")
    one.add_argument("--keep", action="store_true", help="keep the router's flash disk")
    one.add_argument("--bare", action="store_true", help="neither agent nor lwAFTR")
    one.set_defaults(do=do_up)
    one = sub.add_parser("shell", help="type commands, one a line")
    one.add_argument("place", choices=PLACES, nargs="?", default="cpe")
    one.set_defaults(do=do_shell)
    one = sub.add_parser("run", help="one command")
    one.add_argument("--timeout", type=float, default=60.0, help="seconds")
    one.add_argument("place", choices=PLACES)
    one.add_argument("command", nargs=argparse.REMAINDER)
    one.set_defaults(do=do_run)
    for name, text in (
        ("reset", "power cut and power back"),
        ("kill", "power cut"),
        ("start", "power back"),
    ):
        one = sub.add_parser(name, help=text)
        one.add_argument("guest", choices=("cpe", "isp"))
        one.set_defaults(do=do_power)
    sub.add_parser("down", help="end the lab").set_defaults(do=do_power)
    return top


def main():
    args = parser().parse_args()
    args.dir = args.dir.resolve()
    try:
        return args.do(args)
    except KeyboardInterrupt:
        return 130
    except (LabError, BuildError, OSError, ValueError) as err:
        print(f"lab: {err}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
