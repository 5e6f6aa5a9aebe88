"""First Internal Port on a softwire: where the lwAFTR translates no ports it changes nothing."""

import types

import pytest

from cpe_agent.pcp import wire
from tests.netns import topology
from tests.netns.test_agent_line import OverVeth, as_it_should_be
from tests.unit.shell import rig

ADDRESS, FIRST, SIZE = topology.SHARED, 37056, 32  # the set of the example in RFC 7753 5.1
SAID = "the ports are used as they are outside, not from %d on"


def grant(first_internal):
    """A script that gives the set, from that internal port on."""

    def answer(request):
        octets = wire.V4_PREFIX + bytes(int(part) for part in ADDRESS.split("."))
        data = request.map._replace(external_port=FIRST, external_ip=octets)
        option = wire.port_set_option(SIZE, first_internal)
        return wire.map_response(wire.SUCCESS, request.lifetime, 1000, data, option)

    return answer


@pytest.fixture
def house():
    """A home whose softwire is the agent's to make, and whose lwAFTR has its set."""
    with topology.Home() as made:
        made.cpe.ip("link set lw4o6 down", "link set lw4o6 name spare")
        ports = "%d-%d" % (FIRST, FIRST + SIZE - 1)
        rule = "ip daddr %s tcp dport %s meta mark set 1" % (ADDRESS, ports)
        made.aftr.nft("add rule ip lwaftr customers " + rule)
        yield made


def test_the_line_uses_the_external_ports_and_the_difference_is_told(house, runtime, tmp_path):
    """PS-4-11, AMB-5."""
    peer = rig.Peer(types.SimpleNamespace(isp=house.aftr.namespace), grant(50000))
    agent = OverVeth(house.cpe.namespace, runtime, tmp_path, backend="linux")
    try:
        agent.start()
        agent.wait_held()
        rig.wait_for(lambda: as_it_should_be(house), "the line as it should be")
        ports = house.lan.call("connect_many", topology.INTERNET[0], 80, 10, topology.PATIENCE)
    finally:
        agent.end()
        peer.stop()
    assert len(ports) == 10
    assert set(ports) <= set(range(FIRST, FIRST + SIZE))
    assert SAID % 50000 in agent.log()


def test_equal_internal_ports_are_no_news(make_peer, make_agent):
    make_peer(grant(FIRST))
    agent = make_agent()
    agent.start()
    assert agent.wait_held()["first_port"] == FIRST
    assert SAID % FIRST not in agent.log()
