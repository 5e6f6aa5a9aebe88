"""'config forward' on Linux, under real packets: who reaches it, and whose its port is."""

import pytest

from cpe_agent import portset
from tests.netns import topology
from tests.netns.topology import IMPATIENCE, INTERNET, LAN_HOST, OWN, PATIENCE, ROUTER, SHARED

SMALL = portset.PortSet(SHARED, 1024, 64)
WEB = {"dest_ip": LAN_HOST, "dest_port": "80"}
GAME = {"dest_ip": LAN_HOST, "dest_port": "27015"}
LOGIN = {"dest_port": "8022"}  # of the router itself


@pytest.fixture(scope="module", autouse=True)
def servers(shared_home):
    shared_home.cpe.call("serve", 8022)
    shared_home.inet.call("serve_steady", 8090)


def forward(home, port_set, *sections):
    """Have the agent forward these; their ports outside."""
    placed = topology.placed(port_set, *sections)
    home.cpe.call("apply", topology.wanted(port_set, placed=placed))
    return [one.port for one in placed]


def fill(home, kind, port, count):
    """Begin so many flows to one place; the ports that it sees, None for a flow that is lost."""
    return home.lan.call(
        "gather", kind, kind, [[INTERNET[0], port]], [LAN_HOST], count, 4, IMPATIENCE
    )


def flow_from(home, port):
    """A UDP flow of a host of the LAN from a port of its own: what two places see."""
    home.lan.call("open_udp", "service", port)
    home.inet.call("open_udp", "player", 9001)
    seen = []
    for address in INTERNET[:2]:
        home.lan.call("send_udp", "service", address, 9001)
        seen.append(home.inet.call("receive_udp", "player", PATIENCE))
    home.inet.call("close", "player")
    home.lan.call("close", "service")
    return seen


def test_a_forward_is_reached_from_everywhere(home):
    """From the Internet, by a neighbour on the same address, and from the LAN (reflection)."""
    (port,) = forward(home, OWN, WEB)
    for hand, seen in ((home.inet, INTERNET[0]), (home.nei, SHARED), (home.lan, ROUTER)):
        assert hand.call("talk", SHARED, port, PATIENCE).split()[0] == seen
    packets = home.inet.call("sniffed")
    assert packets and [one for one in packets if not topology.in_set(one)] == []


def test_the_router_itself_is_reached(home):
    (port,) = forward(home, OWN, LOGIN)
    assert home.inet.call("talk", SHARED, port, PATIENCE).split()[0] == INTERNET[0]


@pytest.mark.parametrize("kind, server", [("udp", 80), ("tcp", 8090)])
def test_no_flow_takes_a_forwarded_port_though_all_others_are_in_use(home, kind, server):
    ports = forward(home, SMALL, WEB, GAME, LOGIN)
    seen = fill(home, kind, server, SMALL.size)
    assert None in seen, "there are no more ports"
    used = {port for port in seen if port}
    assert used & set(ports) == set()
    assert len(used) >= SMALL.size - 2 * len(ports)
    assert home.inet.call("talk", SHARED, ports[0], PATIENCE).split()[0] == INTERNET[0]
    home.lan.call("scatter", kind)


def test_without_forwards_the_same_ports_are_used(home):
    """What the test above shows is not by chance."""
    ports = [one.port for one in topology.placed(SMALL, WEB, GAME, LOGIN)]
    home.cpe.call("apply", topology.wanted(SMALL))
    assert set(ports) < set(fill(home, "udp", 80, SMALL.size))
    home.lan.call("scatter", "udp")


def test_what_a_server_sends_leaves_by_the_port_that_it_is_reached_at(home):
    """RFC 4787 REQ-1; also while all other ports are in use."""
    _, game = forward(home, SMALL, WEB, GAME)
    fill(home, "udp", 80, SMALL.size)
    assert flow_from(home, 27015) == [[SHARED, game]] * 2
    assert home.lan.call("talk", INTERNET[0], 80, PATIENCE, 27015) == "%s %d" % (SHARED, game)
    home.lan.call("scatter", "udp")


def test_another_servers_flows_have_other_ports(home):
    (game,) = forward(home, OWN, GAME)
    seen = flow_from(home, 27016)
    assert seen[0][1] != game and portset.contains(OWN, seen[0][1])


def test_the_routers_own_server_has_its_port_too(home):
    (port,) = forward(home, OWN, {"dest_port": "8023"})
    assert home.cpe.call("talk", INTERNET[0], 80, PATIENCE, 8023) == "%s %d" % (SHARED, port)


def test_flows_of_a_removed_forward_end(home):
    (port,) = forward(home, OWN, GAME)
    home.lan.call("open_udp", "service", 27015)
    home.inet.call("open_udp", "player", 0)
    home.inet.call("send_udp", "player", SHARED, port)
    assert home.lan.call("receive_udp", "service", PATIENCE)
    home.cpe.call("apply", topology.wanted(OWN))
    home.inet.call("send_udp", "player", SHARED, port)
    assert home.lan.call("receive_udp", "service", IMPATIENCE) is None
    home.lan.call("close", "service")
    home.inet.call("close", "player")


def test_a_port_that_the_agent_does_not_know_of_serves_both_ways_at_once(home):
    """As miniupnpd's: here a rule of another program's leads 1500 to the LAN."""
    home.cpe.call("apply", topology.wanted(portset.PortSet(SHARED, 1500, 2)))
    ports = home.lan.call("connect_many", INTERNET[0], 80, 2, PATIENCE)
    assert sorted(ports) == [1500, 1501]
    assert home.inet.call("talk", SHARED, 1500, PATIENCE).split()[0] == INTERNET[0]
    assert home.nei.call("talk", SHARED, 1500, PATIENCE).split()[0] == SHARED
