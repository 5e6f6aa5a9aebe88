"""Requirements on the client that only a whole agent can show (docs/conformance.md)."""

import re

from tests.unit.shell import rig

NOBODY = "2001:db8:1::9"


def test_everything_goes_from_one_port_to_one_server(make_peer, make_agent):
    """RFC 6887 14.2: Mapping Updates come to the port of the last request."""
    peer = make_peer(rig.grant())
    agent = make_agent()
    agent.start()
    agent.wait_held()
    first, source = peer.request()
    assert agent.cli("renew").returncode == 0
    again, later = peer.request()
    assert later == source
    assert (again.map.nonce, again.lifetime) == (first.map.nonce, first.lifetime)


def test_another_server_gets_another_nonce(make_peer, make_agent):
    """RFC 6887 11.2: whoever runs one server must not be able to speak for another."""
    peer = make_peer(rig.grant())
    agent = make_agent(server=NOBODY)
    agent.start()
    rig.wait_for(agent.state.exists, "a nonce on flash")
    told = re.findall('"([0-9a-f]{24})"', agent.state.read_text())
    assert len(told) == 1
    agent.configure(server=rig.SERVER)
    assert agent.cli("reload").returncode == 0
    request, _ = peer.request()
    assert request.map.nonce.hex() not in told
