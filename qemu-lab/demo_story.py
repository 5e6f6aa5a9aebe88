"""The story that the demo tells, step by step: what is done in the lab, and what has to come of it.

Every figure is read from a guest, from the lwAFTR or from a capture. A step that sees something
else than it must raises Unexpected; what earlier steps have found is kept.
"""

import json
import os
import re
import subprocess
import time
from collections import namedtuple
from pathlib import Path

import demo_capture
import demo_messages
from cpelab.lab import LWAFTR_ADDRESS

HERE = Path(__file__).resolve().parent
AGENT_CONFIG = f"config softwire 'wan4'\n\toption aftr '{LWAFTR_ADDRESS}'\n"
SET_SIZE = 1024
LAN_ROUTER = "192.168.1.1"  # the lab's choice, like the others of its addresses
LWAFTR_CONFIG = {"pool": {"addresses": ["192.0.2.1"], "set_size": SET_SIZE}}
TARGET = "198.51.100.1"
# Neighbours who ask before the router, so that its set is not the pool's first, and after it.
EARLY = [f"2001:db8:c0de:{number}::1" for number in (1, 2, 3)]
LATE = [f"2001:db8:c0de:{number}::1" for number in (4, 5, 6, 7)]
FIRST_TRAFFIC = {"tcp_kb": 100, "udp_sockets": 64, "http_kb": 500}
MORE_TRAFFIC = {"tcp_kb": 20, "udp_sockets": 16, "http_kb": 20}
PING_ID = 61000  # outside every set that the story hands out: the NAT has to translate it
RENEWALS = 3
PATIENCE = 60.0  # seconds for anything that takes well under ten on a quiet machine
PAUSE = 0.25  # seconds between two looks
# Of the flash disk since boot: write requests before and after a sync, sectors after it.
FlashCount = namedtuple("FlashCount", ("unsynced", "synced", "sectors"))
DASH = "\u2013"
SPLIT = "--demo-split--"
# The whole network state of the router, for "no trace".
NETWORK = (
    "ip -o link show | cut -d' ' -f2; ip -4 addr; ip -4 route show table all; "
    "ip -6 route show table main; ip rule; nft list ruleset"
)


class Unexpected(Exception):
    """Something else was seen than the story needs. tail: the console's last words, or empty."""

    def __init__(self, what, expected, seen, tail=""):
        super().__init__(f"{what}: expected {expected}, seen {seen}")
        self.what, self.expected, self.seen, self.tail = what, str(expected), str(seen), tail


def port_set(found):
    """Address, first port and size out of a status, a binding or an answer."""
    return {key: found[key] for key in ("address", "first_port", "size")}


def set_text(one):
    last = one["first_port"] + one["size"] - 1
    return f"{one['address']} ports {one['first_port']}{DASH}{last} ({one['size']})"


def contains(one, peer):
    """Is a peer [address, port], as a server saw it, inside a port set?"""
    first = one["first_port"]
    return peer[0] == one["address"] and first <= peer[1] < first + one["size"]


class Story:
    """The steps, in order, in `steps`. lab: cpelab.Lab, not started. clock: seconds since the
    beginning of the story."""

    def __init__(self, lab, clock):
        self.lab = lab
        self.cpe, self.isp = lab.cpe, lab.isp
        self.clock = clock
        self.result = {}
        self.events = []  # {"at", "text"} for the timeline
        self.agent_log = []  # {"at", "text"}: when it was read, what was new
        self.neighbours = []
        self._isp_zero = 0.0  # when the operator's machine was at uptime 0
        self._log_seen = 0
        self._before = ""
        self._flow = None
        self.steps = [
            ("Both machines boot, the lwAFTR is ready", self.boot),
            ("The router asks for a port set and is granted one", self.grant),
            ("A host at home talks to the IPv4 Internet", self.talk),
            ("Power cut at the router: the same set again", self.power_cut),
            ("The lwAFTR forgets everything: the same set again", self.lwaftr_loss),
            ("Renewals that touch nothing", self.renew),
            ("All that was sent is inside the set", self.count),
            ("Release: given back, no trace left", self.release),
            ("And the lwAFTR would have noticed", self.intrude),
        ]

    # ------------------------------------------------------------------ helpers

    def check(self, what, expected, seen, guest=None):
        """Go on only if what was seen is what was expected."""
        if seen != expected:
            raise Unexpected(what, expected, seen, (guest or self.cpe).console_tail())

    def event(self, text):
        self.events.append({"at": round(self.clock(), 3), "text": text})

    def status(self):
        """What the agent says of itself."""
        return json.loads(self.cpe.run("cpe-agent status --json").stdout or "{}")

    def wait_status(self, what, test):
        """Wait until the agent's status passes a test; the status."""
        return self._wait(what, self.status, test)

    def _wait(self, what, look, test):
        """Look until what is found passes a test. The pauses leave the emulated processor to what
        is waited for."""
        end = time.monotonic() + PATIENCE
        while not test(found := look()):
            if time.monotonic() > end:
                wanted = f"to come within {PATIENCE:.0f} s"
                raise Unexpected(what, wanted, found or "nothing yet", self.agent_tail())
            time.sleep(PAUSE)
        return found

    def wait_granted(self, what):
        """Wait until the agent's log, which starts anew with each boot, tells of a grant; the
        agent's status then."""
        seek = "grep granted /tmp/log/agent"
        self._wait(what, lambda: self.cpe.run(seek).stdout, bool)
        return self.status()

    def agent_tail(self):
        said = self.cpe.run("tail -n 20 /tmp/log/agent").stdout
        return f"{self.cpe.console_tail()}\n--- the agent's log:\n{said}"

    def read_agent_log(self, step):
        """Keep, and show, what the agent has said since the last time."""
        lines = self.cpe.run("cat /tmp/log/agent").stdout.splitlines()
        new = [
            line.removeprefix("cpe-agent: ")
            for line in lines[self._log_seen :]
            if line.startswith("cpe-agent: ")
        ]
        self._log_seen = len(lines)
        for text in new:
            self.agent_log.append({"at": round(self.clock(), 3), "text": text})
            step.say(f"agent: {text}")

    def bindings(self):
        """{client: its first binding} at the lwAFTR."""
        found = {}
        for one in self.lab.lwaftr("bindings")["bindings"]:
            found.setdefault(one["client"], one)
        return found

    def wait_binding(self, what):
        """Wait until the lwAFTR holds a binding of the router; the binding."""
        return self._wait(what, lambda: self.bindings().get(self.result["router"]), bool)

    def neighbour(self, *words):
        """Run demo_neighbour.py in the operator's guest; its JSON lines."""
        command = " ".join(["PYTHONPATH=/usr/lib/lab python3 /tmp/neighbour.py", *words])
        done = self.isp.run(command)
        self.check(f"neighbour: {' '.join(words)}", 0, done.code, self.isp)
        return done.json_lines()

    def messages(self):
        """The PCP messages so far, decoded."""
        return [
            demo_messages.decode(entry, self._isp_zero)
            for entry in self.lab.lwaftr("messages")["messages"]
        ]

    def answers(self):
        """When the lwAFTR answered the router's requests for a mapping."""
        return [
            one["at"]
            for one in self.messages()
            if one["peer"] == self.result["router"]
            and (one["kind"], one.get("opcode")) == ("response", "MAP")
        ]

    # ------------------------------------------------------------------ 1: boot

    def boot(self, step):
        step.note("two machines start in QEMU")
        self.lab.start(wait=False)
        for guest in (self.isp, self.cpe):
            self.result[f"{guest.name}_boot_s"] = round(guest.wait_boot(), 2)
        step.note("the lwAFTR starts")
        self.lab.start_lwaftr(LWAFTR_CONFIG)
        self.lab.wait_internet()
        self._isp_zero = self._uptime_zero(self.isp)
        self.event("lwAFTR ready")
        self._read_versions()
        step.say(
            f"router in {self.result['cpe_boot_s']:.1f} s, operator in "
            f"{self.result['isp_boot_s']:.1f} s; Linux {self.result['kernel']}, "
            f"{self.result['router_memory_kb'] // 1024} MB of RAM for the router"
        )

    def _uptime_zero(self, guest):
        """When that guest's uptime was 0, in seconds of the story's clock."""
        before = self.clock()
        uptime = float(guest.check("cat /proc/uptime").split()[0])
        return (before + self.clock()) / 2 - uptime

    def _read_versions(self):
        said = self.cpe.check(
            "uname -r; sed -n 's/MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo; "
            "nft --version; ip -V"
        ).splitlines()
        self.result["kernel"] = said[0]
        self.result["router_memory_kb"] = int(said[1])
        qemu = os.environ.get("QEMU", "qemu-system-x86_64")
        shown = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=True)
        self.result["versions"] = {
            "nftables": said[2].split()[1],
            "iproute2": said[3].split()[2].strip(",").removeprefix("iproute2-"),
            "qemu": shown.stdout.split()[3],
        }

    # ------------------------------------------------------------------ 2: grant

    def grant(self, step):
        step.note("three neighbours take the first sets of the address")
        self.isp.put("/tmp/neighbour.py", (HERE / "demo_neighbour.py").read_text())
        self.neighbours = self.neighbour("ask", *EARLY)
        self._before = self.cpe.check(NETWORK)
        reached = self.lab.lan(f"ping -c 1 -W 1 {TARGET}").code == 0
        self.check("IPv4 before there is a set", False, reached)
        before = self.flash_count()
        step.note("the router is given its configuration: the name of its lwAFTR")
        self.event("configured")
        self.lab.configure(AGENT_CONFIG)
        written = self.flash_count()
        found = self.wait_granted("the first grant")
        self._keep_first_grant(found)
        self.result["flash_writes_config"] = flash_writes(before, written)[0]
        self.result["flash_writes_first_grant"] = flash_writes(written, self.flash_count())[0]
        self.read_agent_log(step)
        self.neighbours += self.neighbour("ask", *LATE)
        timings = found["timings"]
        step.say(
            f"first datagram {timings['first_request_ms']} ms after the agent's start; "
            f"NAT in place {timings['response_to_nat_ms']} ms after the response"
        )

    def _keep_first_grant(self, found):
        self.result.update(
            {
                "granted": port_set(found),
                "lifetime_s": found["lifetime"],
                "router": found["source"],
                "runtime": found["runtime"],
                "agent_version": found["version"],
                "mtu": found["mtu"],
                "first_request_ms": found["timings"]["first_request_ms"],
                "response_to_nat_ms": found["timings"]["response_to_nat_ms"],
            }
        )
        binding = self.wait_binding("the binding at the lwAFTR")
        self.check("the lwAFTR's binding", self.result["granted"], port_set(binding), self.isp)
        taken = [port_set(one) for one in self.neighbours]
        self.check("a set of its own", False, self.result["granted"] in taken)

    # ------------------------------------------------------------------ 3: traffic

    def talk(self, step):
        self._traffic(step, "", **FIRST_TRAFFIC)

    def _traffic(self, step, when, tcp_kb, udp_sockets, http_kb):
        """TCP, UDP, ICMP echo and HTTP from the LAN host; each answer must come, and the far side
        must see a port of the set."""
        runs = {
            "tcp": f"tcp {TARGET} --count 10 --bytes {tcp_kb * 100}",
            "udp": f"udp {TARGET} --sockets {udp_sockets}",
            "icmp": f"ping {TARGET} --count 3 --id {PING_ID}",
            "http": f"http http://{TARGET}/big?bytes={http_kb * 1000}",
        }
        lines = {}
        for name, arguments in runs.items():
            step.note({"icmp": "ICMP echo"}.get(name, name.upper()))
            good, lines[name] = self.lab.host(arguments)
            self.result[f"{name}_ok"] = good and self.result.get(f"{name}_ok", True)
            self.check(f"{name}{when}", True, good)
        self.lan_host = lines["tcp"][0]["local"][0]
        seen = [line["seen"] for name in ("tcp", "udp") for line in lines[name]]
        strays = [peer for peer in seen if not contains(self.result["granted"], peer)]
        self.check(f"source ports that the far side saw outside the set{when}", [], strays)
        step.say(
            f"TCP {tcp_kb} kB each way in {lines['tcp'][0]['ms']:.0f} ms; "
            f"{len(lines['udp'])} UDP sockets; 3 pings at {lines['icmp'][-1]['ms']:.0f} ms; "
            f"HTTP {lines['http'][0]['bytes'] // 1000} kB in {lines['http'][0]['ms']:.0f} ms"
        )

    # ------------------------------------------------------------------ 4: power cut

    def power_cut(self, step):
        step.note("reset; nothing is shut down, nothing flushed")
        self.event("power cut")
        cut = self.clock()
        self.result["cpe_reboot_s"] = round(self.cpe.reset(), 2)
        self._log_seen = 0
        step.note("the router has booted; waiting for the set")
        found = self.wait_granted("the set after the power cut")
        self.result["after_power_cut"] = port_set(found)
        same = self.result["after_power_cut"] == self.result["granted"]
        self.result["same_after_power_cut"] = same
        self.check(
            "the set after the power cut", self.result["granted"], self.result["after_power_cut"]
        )
        self.result["power_cut_to_grant_s"] = round(self.answers()[-1] - cut, 2)
        timings = found["timings"]
        for key in ("first_request_ms", "response_to_nat_ms"):
            self.result[f"{key}_after_power_cut"] = timings[key]
        self.read_agent_log(step)
        self._traffic(step, " after the power cut", **MORE_TRAFFIC)
        step.say(f"granted again {self.result['power_cut_to_grant_s']:.1f} s after the cut")

    # ------------------------------------------------------------------ 5: loss at the lwAFTR

    def lwaftr_loss(self, step):
        self._flow = self._open_flow()
        self.event("lwAFTR forgets everything")
        lost = self.clock()
        answer = self.lab.lwaftr("forget", epoch_reset=True, announce="multicast")
        step.say(f"the lwAFTR has lost all {answer['forgotten']} mappings, and its epoch is 0")
        step.note("the agent hears of it and asks by itself")
        binding = self.wait_binding("the binding after the lwAFTR's loss")
        self.result["after_lwaftr_loss"] = port_set(binding)
        same = self.result["after_lwaftr_loss"] == self.result["granted"]
        self.result["same_after_lwaftr_loss"] = same
        self.check(
            "the set after the lwAFTR's loss",
            self.result["granted"],
            self.result["after_lwaftr_loss"],
        )
        self.result["lwaftr_loss_to_grant_s"] = round(self.answers()[-1] - lost, 2)
        self.read_agent_log(step)
        self._newcomers(step)
        self._traffic(step, " after the lwAFTR's loss", **MORE_TRAFFIC)
        self._await_flow("the flow over the lwAFTR's loss")
        self.result["flows_surviving_lwaftr_loss"] = True
        step.say(
            f"granted again {self.result['lwaftr_loss_to_grant_s']:.1f} s after the loss; "
            "a TCP connection from before goes on"
        )

    def _newcomers(self, step):
        """The neighbours ask anew and suggest nothing: what does one get who does not suggest?"""
        self.neighbours = self.neighbour("ask", *reversed(EARLY + LATE))
        default = port_set(self.neighbours[0])
        self.result["default_after_loss"] = default
        self.check(
            "the default set, which must differ for the proof",
            False,
            default == self.result["granted"],
        )
        step.say(f"who suggests nothing is given {set_text(default)}")

    def _open_flow(self):
        """A TCP connection of the LAN host that says a number four times a second; a Job."""
        return self.lab.host_job(f"--timeout 30 counter {TARGET} --seconds 300 --interval 0.25")

    def _flow_number(self):
        """The last number that came back on the flow, or None if the flow is over."""
        if self._flow.poll() is not None:
            return None
        lines = [json.loads(line) for line in self._flow.stdout().splitlines()]
        return lines[-1]["n"] if lines and lines[-1]["ok"] else 0

    def _await_flow(self, what):
        """Wait until the flow carries data that was sent after now."""
        before = self._flow_number()
        end = time.monotonic() + PATIENCE
        while before is not None and time.monotonic() < end:
            number = self._flow_number()
            if number is None:
                break
            if number >= before + 2:  # the one after next was certainly sent after now
                return
            time.sleep(0.2)
        raise Unexpected(
            what, "more numbers come back", self._flow.stdout()[-300:], self.agent_tail()
        )

    # ------------------------------------------------------------------ 6: renewals

    def renew(self, step):
        if self._flow.poll() is None:
            self._flow.stop()
        self._flow = self._open_flow()
        self._await_flow("the flow before the renewals")
        watchers = [
            self.cpe.spawn(command)
            for command in ("nft monitor", "ip monitor link address route rule")
        ]
        flash, before = self.flash_count(), self.status()
        for number in range(1, RENEWALS + 1):
            step.note(f"renewal {number} of {RENEWALS}")
            self._renew_once(number)
        after, written = self.status(), flash_writes(flash, self.flash_count())
        self._await_flow("the flow after the renewals")
        self.result["renewals_at_s"] = [round(at, 2) for at in self.answers()[-RENEWALS:]]
        self.result["flows_surviving_renewal"] = True
        events = [line for job in watchers for line in job.stop().stdout.splitlines()]
        self._keep_renewals(before, after, written, events)
        self._read_memory()
        step.say(
            f"a TCP connection from before goes on; {written[0]} writes to the "
            f"flash, {len(events)} changes of network and firewall; the agent takes "
            f"{self.result['agent_rss_kb']} kB, {self.result['agent_private_kb']} of its own"
        )
        self.read_agent_log(step)

    def _renew_once(self, number):
        """One renewal. The agent itself keeps 4 s between two requests, and says how many are
        left."""
        done = self.status()["counts"]["renewals"]
        said = self.cpe.check("cpe-agent renew")
        time.sleep(int(re.search(r"(\d+) ms", said).group(1)) / 1000)
        self.wait_status(f"renewal {number}", lambda status: status["counts"]["renewals"] > done)

    def _keep_renewals(self, before, after, written, events):
        renewals = after["counts"]["renewals"] - before["counts"]["renewals"]
        reconfigured = after["counts"]["reconfigurations"] - before["counts"]["reconfigurations"]
        self.result.update(
            {
                "renewals": renewals,
                "flash_writes_per_renewal": written[0] / renewals,
                "flash_sectors_per_renewal": written[1] / renewals,
                "reconfigurations_by_renewals": reconfigured,
                "network_events_during_renewals": len(events),
                "store_writes_by_renewals": after["store_writes"] - before["store_writes"],
            }
        )
        self.check("write requests and sectors to the flash", (0, 0), written)
        self.check("reconfigurations by the renewals", 0, reconfigured)
        self.check("changes of network and firewall by the renewals", [], events)
        self.check("the set after the renewals", self.result["granted"], port_set(after))

    def flash_count(self):
        """What the flash disk has taken so far, before and after a sync: FlashCount."""
        device = "$(awk '$2 == \"/etc/cpe-agent\" { print $1 }' /proc/mounts)"
        stat = f"cat /sys/block/$(basename {device})/stat"
        said = self.cpe.check(f"{stat}; sync; {stat}").splitlines()
        before, after = ([int(word) for word in line.split()] for line in said)
        return FlashCount(before[4], after[4], after[6])

    def _read_memory(self):
        pid = "$(cat /var/run/cpe-agent.lab.pid)"
        said = self.cpe.check(f"cat /proc/{pid}/status; echo {SPLIT}; cat /proc/{pid}/smaps_rollup")
        status, rollup = said.split(SPLIT)
        self.result["agent_rss_kb"] = _kilobytes(status, ("VmRSS:",))
        self.result["agent_private_kb"] = _kilobytes(rollup, ("Private_Clean:", "Private_Dirty:"))

    # ------------------------------------------------------------------ 7: counters

    def count(self, step):
        self._flow.stop()
        guards = self.status()["guards"]
        self.check("the router's guards have dropped", dict.fromkeys(guards, 0), guards)
        self.result["guards_dropped"] = sum(guards.values())
        self._read_counters()
        result = self.result
        self.check("packets outside the set at the lwAFTR", 0, result["packets_outside_set"])
        self.check("packets inside the set at the lwAFTR", True, result["packets_inside_set"] > 0)
        self._compare_with_capture()
        step.say(
            f"the lwAFTR saw {result['packets_inside_set']} packets inside the set and "
            f"{result['packets_outside_set']} outside; the router's guards dropped none"
        )
        step.say(
            f"the capture has {result['captured_inside_set']} and "
            f"{result['captured_outside_set']}: also those {result['packets_while_unknown']} that "
            "came while the lwAFTR knew nobody"
        )
        for name in ("tcp", "udp", "icmp"):
            self.check(f"{name} ports used", True, result["ports_used"].get(name, 0) > 0)

    def _read_counters(self):
        """The lwAFTR's counters, which run since its start."""
        counters = self.lab.lwaftr("counters")
        totals = counters["totals"]
        self.result["packets_inside_set"] = totals["packets_inside_set"]
        self.result["packets_outside_set"] = totals["packets_outside_set"]
        self.result["packets_while_unknown"] = totals["unknown_source"]
        self.result["packets_in"] = totals["inbound"]
        self.used_ports = counters["used_ports"].get(self.result["granted"]["address"], {})
        self.result["ports_used"] = {
            name: sum(last - first + 1 for first, last in ranges)
            for name, ranges in self.used_ports.items()
        }
        self.bound = list(self.bindings().values())

    def _compare_with_capture(self):
        """The same count from the wire. It also has the packets that the lwAFTR dropped because it
        had just forgotten everybody."""
        result = self.result
        path = self.lab.links["access"].pcap
        self.capture = demo_capture.summary(path, result["router"], result["granted"])
        result["captured_inside_set"] = self.capture["inside_set"]
        result["captured_outside_set"] = self.capture["outside_set"]
        self.check("packets outside the set in the capture", 0, self.capture["outside_set"])
        seen = result["packets_inside_set"] + result["packets_while_unknown"]
        self.check(
            "packets in the capture", seen, self.capture["inside_set"] + self.capture["fragments"]
        )

    # ------------------------------------------------------------------ 8: release

    def release(self, step):
        self.event("release")
        done = self.cpe.run("cpe-agent release", timeout=90)
        self.check("exit code of cpe-agent release", 0, done.code)
        self._check_nonce()
        self.result["binding_after_release"] = self.result["router"] in self.bindings()
        self.check(
            "a binding of the router at the lwAFTR", False, self.result["binding_after_release"]
        )
        self.result["traces_after_release"] = self._traces()
        self.check("traces in ip and nft", [], self.result["traces_after_release"])
        self.result["state_after_release"] = self.cpe.run("ls /etc/cpe-agent/state").code == 0
        self.check("state on the flash", False, self.result["state_after_release"])
        reached = self.lab.lan(f"ping -c 1 -W 1 {TARGET}").code == 0
        self.check("IPv4 after the release", False, reached)
        self.read_agent_log(step)
        step.say("no binding at the lwAFTR; addresses, routes and nft rules are as before")
        self._read_counters_again()

    def _check_nonce(self):
        """One mapping, one nonce: also over the power cut."""
        nonces = {
            one["nonce"]
            for one in self.messages()
            if one["peer"] == self.result["router"] and one["kind"] == "request" and "nonce" in one
        }
        self.result["nonces_used"] = len(nonces)
        self.check("nonces that the router has used", 1, len(nonces))

    def _traces(self):
        """Lines of the router's network state that were not there before the agent started."""
        before = self._before.splitlines()
        return [line for line in self.cpe.check(NETWORK).splitlines() if line not in before]

    def _read_counters_again(self):
        """The whole story is over: the counters must not have moved for the worse."""
        bound, used = self.bound, self.used_ports
        self._read_counters()
        self.bound, self.used_ports = bound, used or self.used_ports
        self.check("packets outside the set at the lwAFTR", 0, self.result["packets_outside_set"])

    # ------------------------------------------------------------------ 9: counter-proof

    def intrude(self, step):
        """A counter that stands at 0 proves something only if it can count."""
        thief, owner = self.neighbours[0], self.neighbours[1]
        self.event("a neighbour uses a foreign port")
        [said] = self.neighbour(
            "intrude", thief["client"], owner["address"], str(owner["first_port"] + 7)
        )
        counted = self.lab.lwaftr("counters")["totals"]["packets_outside_set"]
        self.result["foreign_packets_sent"] = 1
        self.result["foreign_packets_counted"] = counted - self.result["packets_outside_set"]
        self.result["foreign_packet_refused"] = said["refused"]
        self.check(
            "packets that the lwAFTR counted as outside",
            1,
            self.result["foreign_packets_counted"],
            self.isp,
        )
        self.check("ICMPv6 1/5 to the neighbour", True, said["refused"], self.isp)
        step.say(
            "one packet of a neighbour on a port that is not its own: dropped, counted, "
            "and answered with ICMPv6 type 1 code 5"
        )

    # ------------------------------------------------------------------ for the report

    def record(self):
        """What the report needs beyond result.json."""
        path = self.lab.links["access"].pcap
        messages = self.messages()
        return {
            "addresses": {
                "lan": self.lan_host,
                "router_lan": LAN_ROUTER,
                "router": self.result["router"],
                "lwaftr": LWAFTR_ADDRESS,
                "internet": TARGET,
            },
            "messages": messages,
            "events": self.events,
            "agent_log": self.agent_log,
            "neighbours": self.neighbours,
            "used_ports": self.used_ports,
            "bindings": self.bound,
            "per_second": self._traffic_on_clock(path, messages),
        }

    def _traffic_on_clock(self, path, messages):
        """Packets a second with times of the story's clock, set by a datagram that is in both."""
        times = demo_capture.pcp_times(path)
        offsets = [
            one["at"] - times[bytes.fromhex(one["hex"])]
            for one in messages
            if bytes.fromhex(one["hex"]) in times
        ]
        return [
            (round(second + offsets[0], 3), sent, received)
            for second, sent, received in self.capture["per_second"]
        ]


def flash_writes(then, now):
    """(write requests, sectors of 512 bytes) between two FlashCounts.

    Requests are counted up to the later sync, which is a request itself; sectors beyond it, so
    that nothing hides in the kernel's memory.
    """
    return now.unsynced - then.synced, now.sectors - then.sectors


def _kilobytes(text, names):
    """Sum of some lines "Name:  123 kB" of a file under /proc."""
    words = [line.split() for line in text.splitlines()]
    return sum(int(line[1]) for line in words if line and line[0] in names)


def clear(folder):
    """Make the folder, and remove what an earlier run has left that this one must not take up."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("flash.img", "result.json", "story.json", "report.html"):
        (folder / name).unlink(missing_ok=True)
