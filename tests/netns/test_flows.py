"""Which flows end when the set or the address changes, in the kernel's own table."""

import pytest

from cpe_agent import portset
from tests.netns import topology
from tests.netns.topology import INTERNET, LAN_HOST, OWN, PATIENCE, SHARED

HALF = portset.PortSet(SHARED, 1024, 512)
MOVED = portset.PortSet("192.0.2.77", 1024, 1024)


def flows(home):
    """Lines of the kernel's table that have to do with the softwire."""
    text = home.cpe.namespace.run(["cat", "/proc/net/nf_conntrack"]).stdout
    return [line for line in text.splitlines() if INTERNET[0] in line]


def external_port(line):
    """The port of a flow that is ours: of its replies, or, if it came in, of its first packet."""
    words = [word.partition("=") for word in line.split()]
    parts = {}
    sides = []
    for name, _, value in words:
        if name == "src":
            parts = {}
            sides.append(parts)
        parts[name] = value
    for side in sides:
        if side.get("dst") == SHARED:
            return int(side["dport"] if "dport" in side else side["id"])
    return None


@pytest.fixture
def busy(home):
    """A home with flows of all kinds: TCP, UDP and ping from inside, and one that came in."""
    home.lan.call("ask_udp", [[INTERNET[0], 80]], 40, 10, PATIENCE)
    home.lan.call("connect_many", INTERNET[0], 80, 40, 0.2)
    for identifier in range(40):
        assert home.lan.call("ping", INTERNET[0], identifier, PATIENCE)
    assert home.inet.call("talk", SHARED, 1500, PATIENCE)
    assert home.cpe.call("ask_udp", [[INTERNET[0], 80]], 1, 10, PATIENCE)
    return home


def kinds(lines):
    return {line.split()[2] for line in lines}


def test_the_same_set_again_ends_no_flow(busy):
    before = len(flows(busy))
    assert before >= 120
    assert busy.cpe.call("apply", topology.wanted(OWN)) is False
    assert len(flows(busy)) == before


def test_a_smaller_set_ends_the_flows_outside_it_and_no_other(busy):
    before = flows(busy)
    inside = [line for line in before if portset.contains(HALF, external_port(line))]
    assert kinds(inside) == kinds(before) == {"tcp", "udp", "icmp"}
    assert any("dst=%s sport" % SHARED in line.split("src=")[1] for line in inside), "came in"
    assert len(inside) < len(before)
    busy.cpe.call("apply", topology.wanted(HALF))
    ports = sorted(external_port(line) for line in inside)
    assert sorted(external_port(line) for line in flows(busy)) == ports


def test_a_flow_that_came_in_ends_when_its_port_is_lost(busy):
    upper = portset.PortSet(SHARED, 1501, 547)
    busy.cpe.call("apply", topology.wanted(upper))
    left = [external_port(line) for line in flows(busy)]
    assert left
    assert [port for port in left if not portset.contains(upper, port)] == []


def test_another_address_ends_all_flows(busy):
    busy.cpe.call("apply", topology.wanted(MOVED))
    assert flows(busy) == []


def test_flows_that_are_not_of_the_softwire_stay(busy):
    busy.lan.call("serve", 7777)
    assert busy.cpe.call("talk", LAN_HOST, 7777, PATIENCE)
    busy.cpe.call("apply", topology.wanted(MOVED))
    text = busy.cpe.namespace.run(["cat", "/proc/net/nf_conntrack"]).stdout
    assert "dport=7777" in text
