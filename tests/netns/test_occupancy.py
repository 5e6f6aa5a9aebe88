"""Ports in use, as the agent counts them and as the kernel's own listing shows them."""

import json
import re
import shutil
import sys
from collections import defaultdict

import pytest

from cpe_agent import portset
from tests.netns import topology
from tests.netns.topology import INTERNET, LAN_HOST, PATIENCE, SHARED
from tests.support import micropython

HALVES = [portset.PortSet(SHARED, 1024, 512), portset.PortSet(SHARED, 1536, 512)]
OTHERS = ["192.168.1.%d" % number for number in range(20, 26)]

# Run inside the router's namespace, by either interpreter.
_COUNT = """
import json, sys
sys.path.insert(0, %(root)r)
from cpe_agent import clock, flows, portset
sets = [portset.PortSet(*one) for one in %(sets)r]
clock = clock.Clock()
dump = flows.Dump(sets, clock)
steps = longest = 0
ended = False
while not ended:
    begun = clock.now()
    ended = dump.step()
    steps, longest = steps + 1, max(longest, clock.now() - begun)
found = dump.census.summary(40)
found["full"] = flows.fullness(found, sets)
found["error"], found["longest"] = dump.error, longest
found["table"], found["lost"] = flows.table_use(), flows.flows_lost()
print(json.dumps(found))
"""

# Run inside the LAN: 400 sockets, 40 destinations.
_MANY = """
import socket
for number in range(400):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind(("192.168.1.10", 20000 + number))
        for address in %r:
            for port in range(2000, 2008):
                try:
                    client.sendto(b"x", (address, port))
                except ConnectionRefusedError:
                    client.sendto(b"x", (address, port))
"""

INTERPRETERS = {"cpython": lambda: sys.executable, "micropython": micropython.interpreter}


def counted(home, runtime="cpython", sets=HALVES):
    """What the agent's code counts there, with what it has to say about itself."""
    code = _COUNT % {"root": str(micropython.ROOT), "sets": [tuple(one) for one in sets]}
    done = home.cpe.namespace.run([INTERPRETERS[runtime](), "-c", code], timeout=60)
    return json.loads(done.stdout)


def listed(home):
    """(protocol, host, external port, destination) of each flow that uses the shared address."""
    tool = shutil.which("conntrack")
    words = [tool, "-L", "-o", "extended"] if tool else ["cat", "/proc/net/nf_conntrack"]
    lines = home.cpe.namespace.run(words).stdout.splitlines()
    return [flow for flow in map(_flow, lines) if flow]


def _flow(line):
    sides = []
    for name, value in re.findall(r"\b(src|dst|sport|dport|id)=(\S+)", line):
        if name == "src":
            sides.append({})
        sides[-1][name] = value
    first, reply = sides
    outer, inner = (reply, first) if reply["dst"] == SHARED else (first, reply)
    if outer["dst"] != SHARED:
        return None
    port = int(outer["dport"] if "dport" in outer else outer["id"])
    return line.split()[2], inner["src"], port, (outer["src"], outer.get("sport"))


def by_protocol(rows, place):
    found = defaultdict(list)
    for row in rows:
        found[row[0]].append(row[place])
    return found


def agrees(found, rows):
    """The agent's count is that of the listing."""
    assert found["error"] == ""
    assert found["whole"] is True
    ports, places = by_protocol(rows, 2), by_protocol(rows, 3)
    for name in ("tcp", "udp", "icmp"):
        of = found["protocols"][name]
        assert of["flows"] == len(ports[name])
        inside = [[port for port in set(ports[name]) if portset.contains(s, port)] for s in HALVES]
        assert of["ports"] == [len(one) for one in inside], name
        crowd = max([places[name].count(one) for one in places[name]], default=0)
        told = of["crowded"]["flows"] if "crowded" in of else 0
        assert crowd <= told <= crowd + 2, name
    in_use = sum(sum(found["protocols"][name]["ports"]) for name in ("tcp", "udp", "icmp"))
    assert sum(one["ports"] for one in found["hosts"]) == in_use
    flows_of = {one["address"]: one["flows"] for one in found["hosts"]}
    hosts = [row[1] for row in rows]
    assert flows_of == {host: hosts.count(host) for host in hosts}


@pytest.fixture(scope="module")
def crowd(shared_home):
    """The LAN's host has more addresses, so that it is several."""
    shared_home.lan.ip(*["addr add %s/24 dev eth0" % address for address in OTHERS])


@pytest.fixture
def busy(home, crowd):
    """Flows of all kinds by several hosts, one that came in, one to a neighbour, some elsewhere."""
    home.lan.call("ask_udp", [[address, 80] for address in INTERNET[:3]], 60, 10, PATIENCE)
    home.lan.call("connect_many", INTERNET[0], 80, 40, 0.2)
    for number, address in enumerate(OTHERS):
        home.lan.ip("route replace default via %s src %s" % (topology.ROUTER, address))
        home.lan.call("ask_udp", [[INTERNET[0], 80]], 5 * (number + 1), 10, PATIENCE)
        home.lan.call("connect_many", INTERNET[number % 5], 80, number + 1, 0.2)
        assert home.lan.call("ping", INTERNET[0], number, PATIENCE)
    home.lan.ip("route replace default via %s src %s" % (topology.ROUTER, LAN_HOST))
    assert home.inet.call("talk", SHARED, 1500, PATIENCE)
    home.lan.call("ask_udp", [[SHARED, 2500]], 1, 10, 0.2)
    home.lan.call("ask_udp", [[topology.ROUTER, 80]], 5, 10, 0.2)
    assert home.cpe.call("ask_udp", [[INTERNET[0], 80]], 1, 10, PATIENCE)
    return home


@pytest.mark.parametrize("runtime", ["cpython", "micropython"])
def test_what_is_counted_is_what_the_kernel_lists(busy, runtime):
    before = listed(busy)
    found = counted(busy, runtime)
    assert sorted(listed(busy)) == sorted(before), "flows came or went meanwhile"
    assert {row[0] for row in before} == {"tcp", "udp", "icmp"}
    assert len({row[1] for row in before}) >= len(OTHERS) + 2
    agrees(found, before)
    assert found["table"][0] >= len(before)


def test_an_endpoint_has_one_port_towards_many_places(home):
    home.lan.call("ask_udp", [[address, 80] for address in INTERNET], 1, 10, PATIENCE)
    udp = counted(home)["protocols"]["udp"]
    assert udp["flows"] == 5
    assert sum(udp["ports"]) == 1
    assert udp["crowded"]["flows"] == 1


def test_a_full_set_is_full_and_its_losses_are_counted(home):
    few = portset.PortSet(SHARED, 1600, 32)
    home.cpe.call("apply", topology.wanted(few))
    before = counted(home, sets=[few])
    assert before["full"] == 0
    home.lan.call("ask_udp", [[INTERNET[0], 80]], 40, 10, 0.05)
    after = counted(home, sets=[few])
    assert after["full"] == 100
    assert after["protocols"]["udp"]["ports"] == [32]
    assert after["protocols"]["udp"]["crowded"] == {
        "address": INTERNET[0],
        "port": 80,
        "flows": 32,
    }
    assert after["lost"] - before["lost"] == 8


def test_flows_elsewhere_on_the_shared_address_are_told(home):
    home.lan.call("ask_udp", [[INTERNET[0], 80]], 10, 10, PATIENCE)
    beside = portset.PortSet(SHARED, 60000, 16)
    found = counted(home, sets=[beside])
    assert found["outside"] == 10
    assert found["full"] == 0


@pytest.mark.parametrize("runtime", ["cpython", "micropython"])
def test_sixteen_thousand_flows_are_counted_in_short_steps(home, runtime):
    home.lan.namespace.run([sys.executable, "-c", _MANY % (INTERNET,)], timeout=60)
    found = counted(home, runtime)
    assert found["whole"] is True
    udp = found["protocols"]["udp"]
    assert udp["flows"] == 16000
    assert sum(udp["ports"]) == sum(one["ports"] for one in found["hosts"])
    assert 400 <= udp["crowded"]["flows"] <= 420
    assert found["longest"] <= 100  # ms: ten of ours, and what else a busy machine does
    home.cpe.call("delete_flows", SHARED, 1, 0)
