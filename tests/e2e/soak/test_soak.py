"""A soak: mixed traffic without end through the router while everything around it changes. Not one
packet may come to the lwAFTR from outside of the router's ports.

SOAK_PACKETS says how many packets have to pass; 'make soak' is a million. docs/soak.md has what is
asserted, and figures.
"""

import os
import re
import sys
import time
from collections import Counter
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from tests.e2e.conftest import start, stop
from tests.e2e.scenarios.home import LWAFTR, PATIENCE, POOL, ROUTER, Home, held
from tests.e2e.soak import judge

PACKETS = int(os.environ.get("SOAK_PACKETS", "30000"))
BETWEEN = max(300, PACKETS // 80)  # packets from one event to the next, at least
PAUSE = 0.5  # s between looks at the count, which cost the lwAFTR time
MOST_WAITS = 20  # for packets on their way
LEAST_ROUNDS = 3
FLOWS = 8192  # that the router has room for, as OpenWrt has; its kernel would have 1024 here
KEPT = 192  # octets of each packet in the captures: a PCP answer with PORT_SET is 130
PLACES = (20480, 30720, 40960)  # first ports of sets that the lwAFTR moves the router between
SERVER_PORT = 8080
GROWTH = 256  # KiB that the agent may have more after the soak than after everything happened once
HERE = Path(__file__).parent
PACE = 100  # packets a second, on the slowest machine
KINDS = ("UDP", judge.UDP_FRAGMENTS, "TCP", judge.ICMP_ECHO, judge.ICMP_ERROR)

pytestmark = pytest.mark.timeout(900 + PACKETS // PACE)

# Packets to nobody are done with when the lwAFTR has counted and passed them.
SINK = "ip daddr 203.0.113.64/26"
FORWARD = """
table ip soak_forward {
    chain dstnat {
        type nat hook prerouting priority -101;
        iifname "lw4o6" ip daddr %s udp dport & 63 == 5 dnat to 192.168.1.10:%d
    }
}
"""


class Soak:
    """The traffic, and what is done to the router meanwhile."""

    def __init__(self, lab):
        self.home = Home(lab)
        self.lab = lab
        self.moved = Counter()  # {reason: packets} that the lwAFTR refused while it moved a set
        self.happened = Counter()
        self.rounds = 0
        self._jobs = {}

    # ------------------------------------------------------------ traffic

    def begin(self):
        # Which ports were used nobody asks; the list would be long, and is asked for often.
        self.home.begin(data_plane={"usage_addresses": 0})
        isp, cpe = self.lab.isp, self.lab.cpe
        isp.check("nft add table ip sink")
        isp.check("nft 'add chain ip sink in { type filter hook prerouting priority raw; }'")
        isp.check(f"nft add rule ip sink in iifname lw0 {SINK} counter drop")
        cpe.check(f"echo {FLOWS} > /proc/sys/net/netfilter/nf_conntrack_max")
        cpe.check(f"echo {FLOWS // 2} > /proc/sys/net/netfilter/nf_conntrack_buckets")
        cpe.put("/tmp/forward.nft", FORWARD % (POOL, SERVER_PORT))
        cpe.check("nft -f /tmp/forward.nft")
        isp.put("/tmp/traffic.py", (HERE / "traffic.py").read_text())
        cpe.put("/tmp/router_traffic.py", (HERE / "router_traffic.py").read_text())
        self._start_traffic()

    def _start_traffic(self):
        isp = self.lab.isp
        mac = self.lab.cpe.check("cat /sys/class/net/eth1/address").strip()
        sets = " ".join(str(first) for first in PLACES)
        program = "python3 /tmp/traffic.py"
        self._jobs = {
            "server": self.lab.host_job(f"serve {SERVER_PORT} --seconds 86400"),
            "flood": isp.spawn(f"{program} flood --mac {mac} --shared {POOL}"),
            "talk": isp.spawn(f"ip netns exec lan {program} talk"),
            "knock": isp.spawn(f"ip netns exec internet {program} knock --sets {sets}"),
            "router": self.lab.cpe.spawn("micropython /tmp/router_traffic.py"),
        }

    def end_traffic(self):
        """{name: {what: count}} of those who sent."""
        found = {}
        for name in ("flood", "talk", "knock"):
            found[name] = self._jobs[name].stop().json_lines()[-1]
        found["router"] = {"packets": int(self._jobs["router"].stop().stdout.split()[-1])}
        self._jobs["server"].stop()
        return found

    # ------------------------------------------------------------ what happens

    def round(self, *events):
        """Each event, some traffic in between."""
        for event in events:
            before = self.outside()
            event()
            if event in (self.set_change, self.one_set_less, self.set_given_back_and_got_again):
                self.moved += self.last_refused() - before
            self.happened[event.__name__.replace("_", " ")] += 1
            print(f"soak: {event.__name__}, {self.passed()} packets", file=sys.stderr, flush=True)
            self.wait_packets(BETWEEN)
        self.rounds += 1

    def passed(self):
        return self.home.totals()["packets_inside_set"]

    def wait_packets(self, count):
        """Until the lwAFTR has had so many packets more."""
        now = self.passed()
        wanted, end = now + count, time.monotonic() + PATIENCE
        while now < wanted:
            time.sleep(PAUSE)
            before, now = now, self.passed()
            if now > before:
                end = time.monotonic() + PATIENCE
            assert time.monotonic() < end, "nothing passes: " + self.home.log()

    def outside(self):
        counters = self.home.lwaftr("counters")
        return Counter(counters["outside_set"], unknown=counters["totals"]["unknown_source"])

    def renewal(self):
        before = self.home.status()
        self.home.renew()
        self.home.wait_renewed(before)

    def set_change(self):
        """The lwAFTR moves the router, which cannot know before it is told."""
        taken = [first for _, first, _ in self.home.bindings()]
        free = [first for first in PLACES if first not in taken]
        self.home.lwaftr("update", client=ROUTER, address=POOL, first_port=free[0])
        self.wait_agreed()

    def last_refused(self):
        """What the lwAFTR has refused, when all has arrived that was on its way: no more comes.

        A set that was given back goes there at once, and packets from before may wait in its queue
        still. Who sent when, the wire tells.
        """
        found = None
        for _ in range(MOST_WAITS):
            before, found = found, self.outside()
            if found == before:
                break
            self.wait_packets(BETWEEN)
        return found

    def agent_killed(self):
        self.lab.cpe.check("kill -9 $(cat /var/run/cpe-agent.lab.pid)")
        self.home.wait_up()

    def agent_restarted(self):
        self.home.stop_agent()
        self.wait_packets(BETWEEN)
        self.home.start_agent()
        self.home.wait_up()

    def config_reload(self):
        """Other rules, and the first ones again."""
        for options in ("option mss_clamp '0'", ""):
            self.home.configure(options)
            self.lab.cpe.check("cpe-agent reload")
            self.home.wait_up()

    def one_more_set(self):
        """The agent may have asked for some itself: there is much traffic."""
        if not additional(self.home.status()):
            self.lab.cpe.check("cpe-agent more")
        self.home.wait_status(lambda found: additional(found))
        self.wait_agreed()

    def one_set_less(self):
        self.home.configure("option sets '1'")
        self.lab.cpe.check("cpe-agent reload")
        self.home.wait_status(lambda found: not found["additional_sets"])
        self.home.configure()
        self.lab.cpe.check("cpe-agent reload")
        self.wait_agreed()

    def set_given_back_and_got_again(self):
        self.lab.cpe.check("cpe-agent release", timeout=PATIENCE)
        self.home.renew()
        self.home.wait_up()

    def softwire_deleted(self):
        self.lab.cpe.check("ip link del lw4o6")
        self.home.wait_up()
        self.lab.cpe.wait_until("ip route show default | grep -q lw4o6", PATIENCE)

    def uplink_down_and_up(self):
        self.lab.cpe.check("ip link set eth0 down")
        self.home.wait_error("no route to the PCP server")
        self.lab.cpe.check(
            f"ip link set eth0 up; ip addr add {ROUTER}/64 dev eth0 nodad; "
            "ip route add default via 2001:db8:c0de::1 dev eth0"
        )
        self.home.wait_up()

    def delete_table(self):
        """Somebody takes the rules away; what the lwAFTR refuses until they are back, and then."""
        self._start_traffic()
        self.wait_packets(BETWEEN)
        before = self.outside()
        self.lab.cpe.check("nft delete table ip cpe_agent")
        self.lab.cpe.wait_until("nft list table ip cpe_agent | grep -q cpe-agent", PATIENCE)
        self.wait_packets(BETWEEN)
        repaired = self.outside()
        self.wait_packets(BETWEEN)
        self.end_traffic()
        return repaired - before, self.outside() - repaired

    def wait_agreed(self):
        """Until the router has the sets that the lwAFTR has for it, and its network is so."""

        def agreed(found):
            if found["state"] != "up" or not found["mtu"] or found["errors"]:
                return False
            return sorted([held(found), *map(held, additional(found))]) == sorted(
                self.home.bindings()
            )

        self.home.wait_status(agreed)

    def memory(self):
        """KiB that the agent has."""
        status = self.lab.cpe.check("cat /proc/$(cat /var/run/cpe-agent.lab.pid)/status")
        return int(re.search(r"VmRSS:\s+(\d+)", status).group(1))


def additional(found):
    return [one for one in found["additional_sets"] if "address" in one]


@pytest.fixture(scope="module")
def soak(request, tmp_path_factory):
    """A Soak that is over, with all that was counted."""
    lab = start(tmp_path_factory.mktemp("soak"), isp_memory=256, capture=KEPT)
    request.addfinalizer(lambda: stop(lab))
    run = Soak(lab)
    run.begin()
    run.round(run.agent_killed, run.agent_restarted)
    while run.rounds < LEAST_ROUNDS or run.passed() < PACKETS:
        run.round(
            run.renewal,
            run.set_change,
            run.config_reload,
            run.one_more_set,
            run.set_change,
            run.one_set_less,
            run.set_given_back_and_got_again,
            run.softwire_deleted,
            run.uplink_down_and_up,
        )
        if run.rounds == 2:
            run.memory_before = run.memory()
    run.memory_after = run.memory()
    run.sent = run.end_traffic()
    run.guards = run.home.status()["guards"]
    run.total, run.refused = run.passed(), run.outside()
    ends = [IPv6Address(end).packed for end in (ROUTER, LWAFTR)]
    run.verdict = judge.judge(lab.links["access"].pcap, *ends)
    run.unguarded, run.repaired = run.delete_table()
    print(table(run))
    return run


def table(run):
    lines = []
    groups = {
        "sent": {
            f"{who}: {what}": n for who, found in run.sent.items() for what, n in found.items()
        },
        "passed, on the wire": run.verdict.passed,
        "stopped by the guards": run.guards,
        "happened": run.happened,
        "refused by the lwAFTR while it moved the set": run.moved,
        "refused by the lwAFTR at all": run.refused,
        "the wire": {"late": run.verdict.late, "leaks": run.verdict.leaks},
        "passed, at the lwAFTR": {"all": run.total},
        "refused while the table was away": run.unguarded,
        "the agent's memory, KiB": {"before": run.memory_before, "after": run.memory_after},
    }
    for group, counts in groups.items():
        lines += [group] + [f"  {name:<40} {counts[name]:>9}" for name in counts]
    return "\n".join(lines)


def test_as_many_packets_passed_as_wanted(soak):
    assert soak.total >= PACKETS


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_passed(soak, kind):
    assert soak.verdict.passed[kind] > 0


def test_each_kind_was_sent_and_real_connections_worked(soak):
    assert all(count > 0 for who in soak.sent.values() for count in who.values())


def test_no_packet_left_from_ports_that_were_not_the_routers(soak):
    assert soak.verdict.leaks == 0, "\n".join(soak.verdict.described)


def test_the_lwaftr_refused_nothing_but_what_it_moved_away_under_way(soak):
    assert soak.refused - soak.moved == Counter()
    assert set(+soak.moved) <= {"port", "unknown"}  # unknown: the last set was given back


def test_the_guards_stopped_what_should_not_leave(soak):
    assert soak.guards["outside_out"] > 0
    assert soak.guards["looped"] > 0


def test_when_somebody_deletes_the_table_nothing_leaves_once_it_is_back(soak):
    assert soak.repaired == Counter()


def test_the_agent_has_grown_no_more(soak):
    assert soak.memory_after <= soak.memory_before + GROWTH
