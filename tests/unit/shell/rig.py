"""An agent as a process of its own, and a PCP server whose every answer the test decides."""

import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
import time

from cpe_agent import control
from cpe_agent.pcp import wire
from tests.support import micropython, netns

SERVER = "2001:db8:1::1"
CLIENT = "2001:db8:1::2"
SECOND = "2001:db8:1::3"
_STARTED = time.monotonic()  # of the server whose scripts grant() makes
PATIENCE = 10  # s; for what is expected to come
SET = ("192.0.2.3", 37056, 32)


def wait_for(condition, what):
    """The first true value of condition(), which is asked again and again."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError("waited in vain for " + what)


class Link:
    """The operator's end and the router's end of one link."""

    def __enter__(self):
        self._network = netns.Network().__enter__()
        try:
            self.isp = self._network.namespace("isp")
            self.cpe = self._network.namespace("cpe")
            self._network.link(self.isp, "eth0", self.cpe, "wan")
            self.isp.put_address("eth0", SERVER + "/64")
            self.cpe.put_address("wan", CLIENT + "/64")
            self.cpe.run(["mount", "-t", "sysfs", "none", "/sys"])  # as seen from in there
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self._network.__exit__()


class Peer:
    """A PCP server. script(request) gives the octets to answer with, or None."""

    def __init__(self, link, script=None, address=SERVER):
        self.script = script or (lambda request: None)
        self.requests = queue.Queue()
        program = os.path.join(os.path.dirname(__file__), "peer_program.py")
        self.process = link.isp.popen([sys.executable, program, address], stdin=-1, stdout=-1)
        assert self.process.stdout.readline(), "the peer has not started"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        for line in self.process.stdout:
            seen = json.loads(line)
            request = wire.parse_request(bytes.fromhex(seen["data"]))
            answer = self.script(request)
            if answer is not None:
                self.send(seen["from"], answer)
            self.requests.put((request, seen["from"]))

    def send(self, to, data):
        """Send octets to [address, port]."""
        line = json.dumps({"to": to, "data": data.hex()})
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def request(self):
        """(request, [address, port]) of the next one, in order."""
        return self.requests.get(timeout=PATIENCE)

    def quiet(self, seconds):
        """True if no request comes for that long."""
        try:
            self.requests.get(timeout=seconds)
        except queue.Empty:
            return True
        return False

    def stop(self):
        """Nothing listens any more."""
        self.process.kill()
        self.process.wait()


def grant(address=SET[0], first=SET[1], size=SET[2], lifetime=3600, epoch=None):
    """A script that says yes to everything; a deletion is confirmed. epoch: s, of its start; by
    default all scripts are of one server, which does not start anew when its script changes."""
    started = _STARTED if epoch is None else time.monotonic()

    def answer(request):
        now = (epoch or 1000) + int(time.monotonic() - started)
        if request.opcode != wire.OP_MAP:
            return wire.response(request.opcode, 0, 0, now)
        octets = wire.V4_PREFIX + bytes(int(part) for part in address.split("."))
        data = request.map._replace(external_port=first, external_ip=octets)
        options = wire.option(wire.OPT_PORT_SET, bytes([size >> 8, size & 255, 0, 1, 0]))
        given = lifetime if request.lifetime else 0
        return wire.map_response(wire.SUCCESS, given, now, data, options)

    return answer


def refuse(result, lifetime=1800):
    """A script that says no."""
    return lambda request: wire.map_response(result, lifetime, 1000, request.map)


def section(kind, name, options):
    """Lines of a section; a list makes a 'list'."""
    lines = ["config %s '%s'" % (kind, name)]
    for option, value in options.items():
        if isinstance(value, list):
            lines += [" list %s '%s'" % (option, one) for one in value]
        else:
            lines.append(" option %s '%s'" % (option, value))
    return lines


class Agent:
    """python -m cpe_agent in the router's namespace, with files of its own."""

    program = ("-m", "cpe_agent")

    def __init__(self, namespace, runtime, directory, **options):
        self._namespace = namespace
        self._runtime = runtime
        self.directory = directory
        self.config = directory / "config"
        self.state = directory / "flash" / "state"
        self.run_dir = directory / "run"
        self.tools = directory / "tools"  # what is in here comes first in PATH
        self._log = directory / "log"
        self.process = None
        self.configure(**options)

    def configure(self, backend="none", mappings=None, softwire=True, forwards=None, **options):
        """Write the config file. mappings, forwards: {name: {option: value or list}}."""
        lines = ["config agent", " option backend '%s'" % backend]
        if softwire:
            lines += section("softwire", "wan4", {"aftr": SERVER, **options})
        for name, values in (mappings or {}).items():
            lines += section("mapping", name, values)
        for name, values in (forwards or {}).items():
            lines += section("forward", name, values)
        self.config.write_text("\n".join(lines) + "\n")

    def words(self, *command):
        """The command line."""
        paths = "PYTHONPATH=%s" % micropython.ROOT, "MICROPYPATH=%s:.frozen" % micropython.ROOT
        path = "PATH=%s:%s" % (self.tools, os.environ["PATH"])
        words = ["env", path, *paths, self._runtime, *self.program, "--config", str(self.config)]
        words += ["--state-dir", str(self.directory / "flash")]
        return [*words, "--run-dir", str(self.run_dir), *command]

    @property
    def socket(self):
        """Path of the control socket."""
        return pathlib.Path(self.run_dir) / "control"

    def start(self):
        """Run it, and wait until it answers."""
        with open(self._log, "ab") as log:
            self.process = self._namespace.popen(self.words("run"), stderr=log, stdout=log)
        return wait_for(self.answers, "the agent to answer: " + self.log())

    def answers(self):
        """Status as the control socket gives it, or None while nobody answers."""
        assert self.process.poll() is None, "the agent has ended: " + self.log()
        try:
            return control.ask(str(self.socket), "status")
        except control.NotRunning:
            return None

    def status(self):
        """Status; somebody has to answer."""
        return control.ask(str(self.socket), "status")

    def wait(self, condition, what):
        """Status, once condition(status) is true."""
        try:
            return wait_for(lambda: (found := self.status()) and condition(found) and found, what)
        except AssertionError as error:
            raise AssertionError("%s; %s; %s" % (error, self.status(), self.log())) from None

    def wait_held(self):
        """Status, once a set is held."""
        return self.wait(lambda found: found["state"] == "up", "a port set")

    def wait_error(self, text):
        """The error in status that has this text in it."""
        found = self.wait(lambda found: text in "\n".join(found["errors"]), "'%s'" % text)
        return next(error for error in found["errors"] if text in error)

    def cli(self, *command):
        """subprocess.CompletedProcess of a command, in the router's namespace."""
        return self._namespace.run(self.words(*command), check=False, timeout=60)

    def log(self):
        """All that it has written."""
        return self._log.read_text() if self._log.exists() else ""

    def kill(self):
        """kill -9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process = None

    def end(self):
        """As procd does it; True if it was running till then."""
        running = self.process is not None and self.process.poll() is None
        if running:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return running
