"""One home and its operator, as the scenarios use them: begin, look, wait, talk, measure."""

import json
import shlex
import time
from collections import namedtuple
from pathlib import Path

from cpelab.guest import LabError

LWAFTR = "2001:db8:ffff::1"
ROUTER = "2001:db8:c0de::2"
ROUTER2 = "2001:db8:c0de:2::2"
POOL = "192.0.2.3"
NEIGHBOUR = "2001:db8:ffff::99"
SET_SIZE = 1024
PATIENCE = 60  # s; a machine that is shared with others has slow moments
NOT_AUTHORIZED = 2
PROBE = Path(__file__).with_name("probe.py")
CONTROL = Path(__file__).with_name("control.py")

# number, t_ms: as the lwAFTR noted it. direction: "in" is towards the lwAFTR. octets: the message.
Message = namedtuple("Message", ("number", "t_ms", "direction", "address", "octets"))

_CLEAN = """
touch /tmp/no-agent
for pid in $(cat /var/run/cpe-agent.lab.pid); do kill -9 $pid; done
umount /usr/sbin/nft; umount /usr/bin/ip
ip route del default dev eth1
ip link del lw4o6
nft flush ruleset
conntrack -F
rm -rf /etc/cpe-agent/* /etc/config/cpe-agent /var/run/cpe-agent /tmp/log/agent
"""


class Home:
    """A booted lab with helpers. Nothing here knows how the agent works inside."""

    def __init__(self, lab):
        self.lab = lab
        self.cpe = lab.cpe
        self.address = ROUTER
        self.lan = "lan"
        self._config = None
        self._began = None
        self._next_message = 0
        lab.wait_internet()
        for path in (PROBE, CONTROL):
            lab.isp.put(f"/tmp/{path.name}", path.read_text())
        lab.isp.check(f"ip addr replace {NEIGHBOUR}/128 dev aftr0 nodad")

    # ------------------------------------------------------------ beginning

    def begin(self, options="", *, fresh=True, **others):
        """An empty router at an empty lwAFTR, then its first grant; its status.

        options: lines of the softwire's config. fresh: False goes on with what the last test left
        if it began alike and its line is well. others: see _begin.
        """
        alike = (options, others)
        if fresh or alike != self._began:
            self._began = alike
            return self._begin(options, **others)
        found = self.status()
        if found.get("state") == "up" and not found["errors"]:
            return found
        return self._begin(options, **others)

    def _begin(self, options, neighbour=False, faults=None, wait=True, **lwaftr):
        """neighbour: another home takes the first set of the pool before. faults: those from the
        beginning. wait: False returns at once. lwaftr: sections of the lwAFTR's config."""
        self.clean()
        self._begin_lwaftr(lwaftr)
        if neighbour:
            assert self.probe("neighbour")["first_port"] == 1024
        if faults:
            self.lwaftr("fault", **faults)
        self.configure(options)
        self.start_agent()
        return self.wait_up() if wait else None

    def clean(self):
        """An empty router. One whose shell is gone takes its own test down, not the next ones."""
        try:
            self.cpe.run(_CLEAN)
        except LabError:
            self.cpe.kill()
            self.cpe.start_again()
            self.cpe.run(_CLEAN)

    def _begin_lwaftr(self, sections):
        config = {
            "pool": {"addresses": [POOL], "set_size": SET_SIZE},
            "pcp": {"hold_time": 0, "announce_at_start": False},
        }
        for name, values in sections.items():
            config[name] = config.get(name, {}) | values
        if config != self._config:
            if self._config:
                self.lab.stop_lwaftr()
            self.lab.start_lwaftr(config)
            self._config = config
            self._next_message = 0
        else:
            self.lwaftr_all(
                ("fault", {"reset": True}),
                ("forget", {"epoch_reset": False, "announce": False}),
                ("counters", {"reset": True}),
            )
        self.messages()

    def configure(self, options=""):
        """Write the router's config: the lwAFTR's address, and more lines of options."""
        lines = ["config softwire 'wan4'", f"option aftr '{LWAFTR}'", *options.split("\n")]
        self.lab.configure("\n\t".join(lines) + "\n", self.cpe)

    # ------------------------------------------------------------ the agent

    def status(self):
        """What 'cpe-agent status --json' says; {} while no agent answers."""
        result = self.cpe.run("cpe-agent status --json")
        return result.json() if result.code in (0, 1) and result.stdout else {}

    def wait_status(self, wanted, timeout=PATIENCE):
        """Status when wanted(status) is true."""
        end = time.monotonic() + timeout
        while True:
            found = self.status()
            if found and wanted(found):
                return found
            if time.monotonic() > end:
                raise self.cpe.failure(f"not within {timeout} s: {found}\n{self.log()}")

    def wait_up(self, timeout=PATIENCE):
        """Status when a set is held and the network is what it should be."""
        return self.wait_status(
            lambda found: found.get("state") == "up" and found["mtu"] and not found["errors"],
            timeout,
        )

    def wait_error(self, *texts):
        """Status when one of its errors has all texts."""
        return self.wait_status(
            lambda found: any(all(text in error for text in texts) for error in found["errors"])
        )

    def log(self):
        return self.cpe.run("cat /tmp/log/agent").stdout

    def wait_log(self, text, count=1, timeout=PATIENCE):
        """Wait until a text stands in the log as often as that."""
        pattern = text.replace("'", ".")
        command = f"[ $(grep -c '{pattern}' /tmp/log/agent) -ge {count} ]"
        self.cpe.wait_until(command, timeout)

    def stop_agent(self):
        """End the agent, and see that it does not come back."""
        self.cpe.run("touch /tmp/no-agent; kill $(cat /var/run/cpe-agent.lab.pid); sleep 0.3")

    def start_agent(self):
        self.cpe.check("rm -f /tmp/no-agent")

    def renew(self):
        self.cpe.check("cpe-agent renew")

    def wait_renewed(self, before, timeout=PATIENCE):
        """Status when there is one more renewal than before (a status)."""
        count = before["counts"]["renewals"]
        return self.wait_status(lambda found: found["counts"]["renewals"] > count, timeout)

    # ------------------------------------------------------------ the lwAFTR

    def lwaftr(self, command, **arguments):
        """One control command to the lwAFTR; its answer."""
        return self.lwaftr_all((command, arguments))[0]

    def lwaftr_all(self, *commands):
        """Several control commands, (name, arguments); their answers."""
        lines = [json.dumps({"command": name, "args": args}) for name, args in commands]
        text = " ".join(shlex.quote(line) for line in lines)
        answers = self.lab.isp.run(f"python3 -SE /tmp/control.py {text}").json_lines()
        assert all(answer["ok"] for answer in answers), answers
        return answers

    def messages(self):
        """PCP messages since the last call."""
        entries = self.lwaftr("messages", since=self._next_message)["messages"]
        if entries:
            self._next_message = entries[-1]["number"] + 1
        return [
            Message(
                entry["number"],
                entry["t_ms"],
                entry["direction"],
                entry["address"],
                bytes.fromhex(entry["hex"]),
            )
            for entry in entries
        ]

    def wait_request(self, timeout=PATIENCE):
        """Wait for a MAP request of the router; all messages up to then."""
        found = []
        end = time.monotonic() + timeout
        while not requests(found):
            assert time.monotonic() < end, f"no request within {timeout} s: {self.log()}"
            found += self.messages()
        return found

    def bindings(self, client=None):
        """Bindings of an IPv6 address, by default the router's, as (address, first port, size)."""
        client = client or self.address
        found = self.lwaftr("bindings")["bindings"]
        return [
            (one["address"], one["first_port"], one["size"])
            for one in found
            if one["client"] == client
        ]

    def wait_bindings(self, wanted, client=None, timeout=PATIENCE):
        """Wait until the lwAFTR has these bindings, as of bindings()."""
        end = time.monotonic() + timeout
        while self.bindings(client) != wanted:
            assert time.monotonic() < end, f"{self.bindings(client)}, not {wanted}: {self.log()}"

    def totals(self):
        return self.lwaftr("counters")["totals"]

    # ------------------------------------------------------------ the LAN

    def probe(self, command, where=""):
        """One command of probe.py; the object that it printed last."""
        text = f"PYTHONPATH=/usr/lib/lab {where} python3 /tmp/probe.py {command}"
        return self.lab.isp.run(text, timeout=60).json_lines()[-1]

    def lan_probe(self, command):
        return self.probe(command, "ip netns exec " + self.lan)

    def talk(self, held=None):
        """The LAN host talks TCP, UDP and ICMP to the Internet, from inside the set."""
        seen = self.lan_probe("talk")
        assert seen["tcp"] and seen["udp"] and seen["icmp"], f"{seen}\n{self.log()}"
        if held:
            for address, port in (seen["tcp"], seen["udp"]):
                assert address == held["address"]
                assert held["first_port"] <= port <= held["last_port"]
        return seen

    def stream(self, interval=0.1):
        """A UDP stream from the LAN, started and answered; end it with measure()."""
        job = self.lab.isp.spawn(
            f"ip netns exec {self.lan} python3 /tmp/probe.py stream --interval {interval}"
        )
        end = time.monotonic() + PATIENCE
        while "ready" not in job.stdout():
            assert time.monotonic() < end, "no datagram came back to the LAN host"
        return job

    @staticmethod
    def measure(job):
        """End a stream: {sent, answered, gap (longest, s), ports}."""
        return job.stop().json_lines()[-1]

    def connection(self, seconds=60, interval=0.5):
        """A TCP connection from the LAN that carries a number each interval; a Job."""
        command = f"counter 198.51.100.1 --seconds {seconds} --interval {interval}"
        job = self.lab.host_job(f"--timeout {PATIENCE} {command}", self.lan)
        end = time.monotonic() + PATIENCE
        while '"n": 1' not in job.stdout():
            assert time.monotonic() < end, "no TCP connection"
        return job

    @staticmethod
    def still_carries(job):
        """The connection carried data up to now, and carries more."""
        before = len(job.stdout().splitlines())
        end = time.monotonic() + PATIENCE
        while len(job.stdout().splitlines()) < before + 2:
            assert job.poll() is None and time.monotonic() < end, job.stdout()
        return '"ok": false' not in job.stdout()

    # ------------------------------------------------------------ the router's network

    def network(self):
        """All that a person would look at on the router."""
        questions = ("ip addr", "ip route", "ip route show table local", "ip -6 route")
        found = {question: self.cpe.check(question) for question in questions}
        found["nft"] = self.cpe.check("nft -t list ruleset")  # flows come and go in its sets
        found["flows"] = self.cpe.run("conntrack -L").stdout
        return found

    def has_softwire(self):
        return self.cpe.run("ip link show lw4o6").code == 0


class SecondHome(Home):
    """The second home of a lab with two, at the lwAFTR that the first one began with."""

    def __init__(self, lab):
        super().__init__(lab)
        self.cpe = lab.cpe2
        self.address = ROUTER2
        self.lan = "lan2"

    def join(self, options=""):
        """An empty router, then its first grant; its status."""
        self.clean()
        self.configure(options)
        self.start_agent()
        return self.wait_up()


def held(found):
    """(address, first port, size) of a status."""
    return found["address"], found["first_port"], found["size"]


def requests(messages):
    """The MAP requests among messages."""
    return [one for one in messages if one.direction == "in" and one.octets[1] == 1]


def nonces(messages):
    """Nonces of the MAP requests among messages."""
    return {one.octets[24:36] for one in requests(messages)}


def results(messages):
    """Result codes of the MAP responses among messages, in order."""
    answers = [one for one in messages if one.direction == "out" and one.octets[1] == 0x81]
    return [one.octets[3] for one in answers]
