"""Requirements on the client that only a whole agent can show (docs/conformance.md)."""

import ipaddress
import re

from tests.unit.shell import rig

NOBODY = "2001:db8:1::9"
LOCAL = "fd00:db8:1::2"


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


def test_a_global_address_goes_before_a_unique_local_one(link, make_peer, make_agent):
    """RFC 6887 8.4."""
    peer = make_peer(rig.grant())
    agent = make_agent()
    link.cpe.put_address("wan", LOCAL + "/64")
    try:
        agent.start()
        request, source = peer.request()
        assert source[0] == rig.CLIENT
        assert request.client_ip == ipaddress.ip_address(rig.CLIENT).packed
    finally:
        link.cpe.run(["ip", "addr", "del", LOCAL + "/64", "dev", "wan"])


def test_a_hard_error_moves_to_the_next_server_at_once(link, make_peer, make_agent):
    """RFC 7488 3: the first server's host says that nobody listens there."""
    peer = make_peer(rig.grant())
    link.isp.put_address("eth0", NOBODY + "/64")
    agent = make_agent()
    servers = "".join(" list server '%s'\n" % one for one in (NOBODY, rig.SERVER))
    agent.config.write_text(agent.config.read_text() + servers)
    try:
        agent.start()
        assert agent.wait_held()["counts"]["sent"] == 2, "one request to each, and no repetition"
        peer.request()
    finally:
        link.isp.run(["ip", "addr", "del", NOBODY + "/64", "dev", "eth0"])
