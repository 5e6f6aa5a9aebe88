"""A line that runs: what must not disturb it, what must change with its set, and how it ends."""

import re
import subprocess
import time

import pytest

from tests.e2e.scenarios.home import POOL, ROUTER, held, requests
from tests.support.tshark import tshark_pcp_report

REPAIRED = 2.0  # s


def packets(home, wanted, *fields, link="access"):
    """Rows of fields of a link's packets that a filter wants."""
    command = ["tshark", "-r", str(home.lab.links[link].pcap), "-Y", wanted, "-T", "fields"]
    for field in fields:
        command += ["-e", field]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


def test_a_killed_agent_leaves_the_line_up_and_its_successor_changes_nothing(home):
    before = home.begin()
    connection = home.connection()
    router = home.lab.cpe
    flows = "conntrack -L -o id -p tcp | grep -o 'id=.*'"
    flow = router.check(flows)
    router.check("sh -c 'ip monitor link address route > /tmp/ip.monitor' & echo $! > /tmp/m1")
    router.check("sh -c 'nft monitor > /tmp/nft.monitor' & echo $! > /tmp/m2")
    home.messages()
    router.check("touch /tmp/no-agent; kill -9 $(cat /var/run/cpe-agent.lab.pid)")
    assert router.run("cpe-agent status").code == 3
    home.talk(before)
    assert home.still_carries(connection)
    home.start_agent()
    home.wait_log("adopting the running lease")
    after = home.wait_status(lambda found: found["counts"]["renewals"] == 1)
    assert held(after) == held(before)
    assert after["counts"]["reconfigurations"] == 0
    assert after["store_writes"] == 0
    assert router.check("cat /tmp/ip.monitor /tmp/nft.monitor") == ""
    assert flow in router.check(flows).split()
    assert home.still_carries(connection)
    connection.stop()
    router.run("kill $(cat /tmp/m1 /tmp/m2)")


def test_ten_renewals_touch_nothing(home):
    before = home.begin(fresh=False)
    connection = home.connection(seconds=120)
    image = home.lab.cpe.check("cat /sys/block/vdb/stat").split()[4]
    home.lab.cpe.check("for i in 0 1 2 3 4 5 6 7 8 9; do cpe-agent renew; sleep 4; done", 90)
    renewals = before["counts"]["renewals"] + 10
    after = home.wait_status(lambda found: found["counts"]["renewals"] >= renewals)
    assert held(after) == held(before)
    assert after["counts"]["reconfigurations"] == before["counts"]["reconfigurations"]
    assert after["store_writes"] == before["store_writes"]
    assert home.lab.cpe.check("cat /sys/block/vdb/stat").split()[4] == image
    assert home.still_carries(connection)
    connection.stop()
    assert home.totals()["packets_outside_set"] == 0


def test_packets_on_the_wire_have_the_right_shape(home):
    status = home.begin(fresh=False)
    assert home.lan_probe("big --octets 1472")["ok"]  # 1500 octets, more than the softwire takes
    home.lan_probe("marked --tos 40")
    home.talk(status)
    mss = packets(home, "ipv6.nxt == 4 && tcp.flags.syn == 1", "ipv6.src", "tcp.options.mss_val")
    assert {row[1] for row in mss if row[0] == ROUTER} == {"1420"}
    answers = packets(
        home, "ip.dst == 192.168.1.10 && tcp.flags.syn == 1", "tcp.options.mss_val", link="home"
    )
    assert {row[0] for row in answers} == {"1420"}
    marked = packets(home, 'ipv6.nxt == 4 && udp contains "marked"', "ipv6.tclass", "ip.dsfield")
    assert [int(value, 16) for value in marked[0]] == [40, 40]
    assert packets(home, "ipv6.nxt == 60", "frame.number") == []
    lengths = packets(home, f"ipv6.src == {ROUTER} && ipv6.nxt == 4", "ipv6.plen")
    assert max(int(row[0]) for row in lengths) == 1460


DAMAGES = {
    "ip link set lw4o6 down; ip link set lw4o6 up": "grep -q lw4o6.00000000 /proc/net/route",
    "ip link del lw4o6": "grep -q lw4o6.00000000 /proc/net/route",
    "nft flush ruleset": "nft list table ip cpe_agent | grep -q 'comment .cpe-agent'",
}


@pytest.mark.parametrize("hurt", DAMAGES)
def test_a_line_that_somebody_damages_is_repaired(home, hurt):
    status = home.begin(fresh=False)
    wanted = home.network()
    clock = "cut -d' ' -f1 /proc/uptime"
    times = home.lab.cpe.check(
        f"{hurt}\n{clock}\nfor i in $(seq 300); do\n"
        f"if {DAMAGES[hurt]}; then {clock}; break; fi; sleep 0.2; done"
    ).split()
    assert len(times) == 2, "it was not repaired"
    seconds = float(times[1]) - float(times[0])
    print(f"{hurt}: repaired after {seconds:.2f} s")
    assert seconds < REPAIRED
    home.wait_up()
    home.talk(status)
    found = home.network()
    for question in ("ip route", "ip route show table local", "nft"):
        assert without_counts(found[question]) == without_counts(wanted[question])


def without_counts(listing):
    return re.sub(r"packets \d+ bytes \d+", "", listing)


def moved(home, old):
    """Let the lwAFTR move the router's set; the status with the new one."""
    home.lwaftr("update", client=ROUTER, address=POOL, first_port=40960)
    found = home.wait_status(lambda found: found.get("first_port") == 40960)
    assert old[1] != 40960
    return found


def test_a_moved_set_takes_its_flows_along_and_no_others(home):
    before = home.begin()
    # A flow that is none of the softwire's: from the LAN to the router itself.
    assert home.lab.lan("ping -c 1 192.168.1.1").code == 0
    foreign = "conntrack -L -o id -d 192.168.1.1 -p icmp | grep -o 'id=[0-9]*$'"
    flow = home.lab.cpe.check(foreign)
    connection = home.connection()
    stream = home.stream(interval=0.05)
    after = moved(home, held(before))
    assert home.bindings() == [held(after)]
    assert home.lab.cpe.check(foreign) == flow
    left = home.lab.cpe.run(f"conntrack -L -q {POOL}").stdout
    old_ports = range(before["first_port"], before["last_port"] + 1)
    assert not [
        word for word in left.split() if word.startswith("dport=") and int(word[6:]) in old_ports
    ]
    home.talk(after)
    seen = home.measure(stream)
    print(f"outage of a UDP flow when the set moves: {seen['gap']} s, ports {seen['ports']}")
    assert len(seen["ports"]) == 2
    assert seen["ports"][0] in old_ports
    assert seen["ports"][1] in range(40960, 40960 + 1024)
    assert seen["gap"] < 10
    connection.stop("KILL")
    # The lwAFTR moved first, so what was on its way came too late. After the first packet from
    # the new set, none left from the old one.
    rows = packets(home, f"ipv6.src == {ROUTER} && ipv6.nxt == 4 && udp", "udp.srcport")
    news = [int(row[0]) not in old_ports for row in rows[-seen["sent"] :]]
    assert news == sorted(news)
    outside = home.totals()["packets_outside_set"]
    print(f"packets from the old set after the lwAFTR had moved it: {outside}")
    time.sleep(1)
    assert home.totals()["packets_outside_set"] == outside


def test_release_removes_every_trace(home):
    home.begin(wait=False, faults={"silence": True})
    empty = home.network()
    assert not home.has_softwire()
    home.lwaftr("fault", silence=False)
    before = home.wait_up()
    home.talk(before)
    assert home.network() != empty
    home.messages()
    said = home.lab.cpe.check("cpe-agent release", 60)
    assert "the server confirmed it" in said
    assert home.network() == empty
    assert home.bindings() == []
    assert [one.octets[4:8] for one in requests(home.messages())] == [b"\0" * 4]
    assert home.lab.cpe.run("ls /etc/cpe-agent/state* /var/run/cpe-agent/lease*").stdout == ""
    assert home.status()["state"] == "released"
    home.renew()
    home.talk(home.wait_up())


def test_release_without_an_agent_removes_every_trace_too(home):
    home.begin(fresh=False)
    home.stop_agent()
    assert home.has_softwire()
    said = home.lab.cpe.check("cpe-agent release", 60)
    assert "the server confirmed it" in said
    assert not home.has_softwire()
    assert home.lab.cpe.check("nft list ruleset") == ""
    assert home.bindings() == []


def test_tshark_finds_no_fault_in_these_messages(home):
    report = tshark_pcp_report(home.lab.links["access"].pcap)
    assert report.malformed == []
    assert len(report.port_sets) > 10
