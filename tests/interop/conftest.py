"""A home with the agent and an operator with miniupnpd, in network namespaces of their own.

miniupnpd is a PCP server that nobody here wrote. Debian's package asks by debconf whether to start
a service, and does not start one where no listening address was given, as is the case with
DEBIAN_FRONTEND=noninteractive. The tests bring their own configuration and rules in a namespace,
so the machine's own firewall is not touched. Its nft_init.sh is not used: the nftables flavour
ships a script that needs iptables.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.support import micropython
from tests.support.netns import Network

HOME = "198.51.100.2"
SERVER = "198.51.100.1"
SERVER_V6 = "2001:db8:1::1"
# miniupnpd refuses to run with an external address that is private or kept for documentation. This
# one never leaves the namespace.
EXTERNAL = "5.0.0.1"
PORT = 40000

# The chains that miniupnpd fills, under the names that it expects.
_RULES = """\
table inet filter {
    chain miniupnpd {}
    chain prerouting_miniupnpd {}
    chain postrouting_miniupnpd {}
    chain forward { type filter hook forward priority 0; jump miniupnpd; }
    chain prerouting { type nat hook prerouting priority -100; jump prerouting_miniupnpd; }
    chain postrouting { type nat hook postrouting priority 100; jump postrouting_miniupnpd; }
}
"""
_SERVER_CONFIG = """\
ext_ifname=up
ext_ip=%s
listening_ip=eth0
enable_natpmp=yes
enable_upnp=no
secure_mode=yes
system_uptime=no
min_lifetime=120
max_lifetime=86400
uuid=00000000-0000-4000-8000-000000000001
%s
"""
ALLOW = "allow 1024-65535 198.51.100.0/24 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535"
DENY = "deny 0-65535 0.0.0.0/0 0-65535"


def until(question, what, seconds=15):
    """The first true answer of question(); fails when none comes in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = question()
        if answer:
            return answer
        time.sleep(0.02)
    pytest.fail("waited %d s in vain: %s" % (seconds, what))


def program(name, package):
    """Path of a program of the host; fails with what to install."""
    path = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if path is None:
        pytest.fail("%s is not installed: apt-get install %s" % (name, package))
    return path


class Miniupnpd:
    """miniupnpd as the PCP server of a namespace: Debian's, or the one that $MINIUPNPD names."""

    def __init__(self, namespace, folder):
        self._namespace = namespace
        self._config = folder / "miniupnpd.conf"
        self._pid_file = folder / "miniupnpd.pid"
        namespace.run([program("nft", "nftables"), "-f", "-"], input=_RULES)

    def start(self, permissions=ALLOW):
        """Start it without a memory of earlier mappings, and wait until it listens.

        As a daemon: its debug mode writes a line for each of 65535 ports that it may not give.
        """
        self._config.write_text(_SERVER_CONFIG % (EXTERNAL, permissions))
        binary = os.environ.get("MINIUPNPD") or program("miniupnpd", "miniupnpd")
        self._namespace.run([binary, "-f", str(self._config), "-P", str(self._pid_file)])
        until(self._listens, "miniupnpd to listen")

    def crash(self):
        """Kill it, and take away its rules: a power cut of the server."""
        os.kill(int(self._pid_file.read_text()), signal.SIGKILL)
        until(lambda: not self._listens(), "miniupnpd to end")
        self._pid_file.unlink()
        for chain in ("miniupnpd", "prerouting_miniupnpd", "postrouting_miniupnpd"):
            self._namespace.run(["nft", "flush", "chain", "inet", "filter", chain])

    def _listens(self):
        sockets = pathlib.Path("/proc/%d/net/udp" % self._namespace.pid).read_text()
        return ":14E7 " in sockets  # port 5351

    def mappings(self):
        """[(external port, internal address, internal port)] of its redirections in the kernel."""
        words = ["nft", "-j", "list", "chain", "inet", "filter", "prerouting_miniupnpd"]
        found = json.loads(self._namespace.run(words).stdout)["nftables"]
        return [_mapping(item["rule"]["expr"]) for item in found if "rule" in item]


def _mapping(expressions):
    """Of the rule '... th dport PORT dnat ip to ADDRESS:PORT'."""
    port = target = None
    for expression in expressions:
        match = expression.get("match", {})
        if match.get("left") == {"payload": {"protocol": "th", "field": "dport"}}:
            port = match["right"]
        target = expression.get("dnat", target)
    return port, target["addr"], target["port"]


class Agent:
    """The agent of a namespace, and its command line, on one runtime."""

    def __init__(self, namespace, folder, words):
        """words: that start the runtime."""
        self._namespace = namespace
        self._config = folder / "config"
        self._log = folder / "agent.log"
        self.state = folder / "flash/state"
        self._words = [*words, "-m", "cpe_agent", "--config", str(self._config)]
        self._words += ["--state-dir", str(self.state.parent), "--run-dir", str(folder / "run")]
        self._process = None
        path = str(micropython.ROOT)
        self._environment = {**os.environ, "PYTHONPATH": path, "MICROPYPATH": path + ":.frozen"}

    def configure(self, **options):
        """Write the config file; what is not given is as the tests' most common case."""
        wanted = {"server": SERVER, "protocol": "udp", "internal_port": PORT, "ports": 1, **options}
        lines = ["\toption %s '%s'\n" % item for item in wanted.items()]
        text = "config softwire 'wan'\n%s\nconfig agent\n\toption backend 'none'\n"
        self._config.write_text(text % "".join(lines))

    def start(self, **options):
        """Start it with these options in its config file; returns when it answers."""
        self.configure(**options)
        self.restart()

    def restart(self):
        """Start it with the config file that is there; returns when it answers."""
        words = [*self._words, "run"]
        with open(self._log, "a") as log:
            self._process = self._namespace.popen(
                words, stdout=log, stderr=log, env=self._environment
            )
        until(lambda: self.cli("status").returncode != 3, "the agent to answer")

    def kill(self):
        """As by kill -9."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def cli(self, *words):
        """The finished command 'cpe-agent ...'."""
        return self._namespace.run(
            [*self._words, *words], env=self._environment, check=False, timeout=60
        )

    def status(self):
        """What 'status --json' says."""
        return json.loads(self.cli("status", "--json").stdout)

    def log(self):
        """All that the agent has said."""
        return self._log.read_text()

    def until_held(self, renewals=0):
        """Wait for a grant, and so many renewals of it; the status then."""
        return until(lambda: self._held(renewals), "a mapping, renewed %d times" % renewals)

    def _held(self, renewals):
        status = self.status()
        enough = "address" in status and status["counts"]["renewals"] >= renewals
        return status if enough and not status["errors"] else None

    def until_error(self, words):
        """Wait for words in the errors of the status; the status then."""
        return until(lambda: self._failed(words), "an error that says: " + words)

    def _failed(self, words):
        status = self.status()
        return status if words in " ".join(status["errors"]) else None


# Writes what passes a device to a pcap file, until its input ends and no packet waits.
_CAPTURE = """
import select, socket, struct, sys, time
device, path = sys.argv[1:]
line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
line.bind((device, 0))
with open(path, "wb") as file:
    file.write(struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
    print("ready", flush=True)
    while line in (ready := select.select([line, sys.stdin], [], [])[0]):
        data, now = line.recv(65535), time.time()
        file.write(struct.pack("=IIII", int(now), int(now % 1 * 1e6), len(data), len(data)) + data)
"""


class Capture:
    """A pcap file of the line between home and operator.

    Not by dumpcap: it drops what it has not read yet when it is told to end.
    """

    def __init__(self, namespace, folder):
        self._file = folder / "line.pcap"
        words = [sys.executable, "-c", _CAPTURE, "eth0", str(self._file)]
        pipe = subprocess.PIPE
        self._process = namespace.popen(words, stdin=pipe, stdout=pipe)
        assert self._process.stdout.readline() == b"ready\n"

    def stop(self):
        """End the capture; the file is complete then."""
        if self._process.poll() is None:
            self._process.stdin.close()
            self._process.wait(timeout=10)

    def read(self, display_filter, *fields):
        """Rows of fields, as text, of the packets that pass a display filter of tshark's."""
        self.stop()
        words = [program("tshark", "tshark"), "-r", str(self._file), "-Y", display_filter]
        words += ["-T", "fields"] + [word for field in fields for word in ("-e", field)]
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
        return [line.split("\t") for line in done.stdout.splitlines()]

    def request_times(self):
        """When requests passed, in seconds."""
        rows = self.read("portcontrol.r == 0 && !icmp", "frame.time_relative")
        return [float(row[0]) for row in rows]


@pytest.fixture(params=["cpython", "micropython"])
def runtime(request):
    """Words that start a Python."""
    if request.param == "cpython":
        return [sys.executable]
    return [micropython.interpreter(), "-X", "heapsize=2M"]


@pytest.fixture
def network():
    """Namespaces of one test."""
    with Network() as net:
        yield net


@pytest.fixture
def internet(network):
    """Namespace beyond the PCP server: eth0 to it."""
    return network.namespace("internet")


@pytest.fixture
def operator(network, internet):
    """Namespace of the PCP server: eth0 to the home, 'up' to the Internet."""
    operator = network.namespace("operator")
    network.link(operator, "up", internet, "eth0")
    operator.put_address("up", EXTERNAL + "/24")
    return operator


@pytest.fixture
def home(network, operator):
    """Namespace of the agent: 'wan' to the operator."""
    home = network.namespace("home")
    network.link(home, "wan", operator, "eth0")
    home.put_address("wan", HOME + "/24")
    home.put_address("wan", "2001:db8:1::2/64")
    operator.put_address("eth0", SERVER + "/24")
    operator.put_address("eth0", SERVER_V6 + "/64")
    return home


@pytest.fixture
def miniupnpd(operator, home, tmp_path):
    """A PCP server that a test starts as it needs it."""
    return Miniupnpd(operator, tmp_path)


@pytest.fixture
def agent(home, runtime, tmp_path):
    """An agent that a test starts as it needs it."""
    return Agent(home, tmp_path, runtime)


@pytest.fixture
def capture(operator, home, tmp_path):
    """All that passes between home and operator from now on."""
    capture = Capture(operator, tmp_path)
    yield capture
    capture.stop()
