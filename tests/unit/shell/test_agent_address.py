"""The IPv6 prefix changes under a running lease: which address asks, and in which order."""

import pytest

from cpe_agent.pcp import wire
from tests.unit.shell import rig

FULL = ("192.0.2.3", 37056)
PREFIX = "2001:db8:1::/64"


@pytest.fixture
def home(link):
    """The router's namespace; its addresses and routes are as before at the end."""
    yield link.cpe
    link.cpe.run(["ip", "-6", "addr", "flush", "dev", "wan", "scope", "global"])
    link.cpe.put_address("wan", rig.CLIENT + "/64")


def prefer(home, address):
    """Let the kernel send from that address, whatever others there are."""
    home.run(["ip", "-6", "route", "replace", PREFIX, "dev", "wan", "metric", "1", "src", address])


def deprecate(home, address):
    home.run(["ip", "addr", "change", address + "/64", "dev", "wan", "preferred_lft", "0"])


def suggested(request):
    return ".".join(str(octet) for octet in request.map.external_ip[12:]), request.map.external_port


@pytest.fixture
def held(make_peer, make_agent):
    """(peer, agent, its first request): a lease from CLIENT."""
    peer = make_peer(rig.grant())
    agent = make_agent()
    agent.start()
    agent.wait_held()
    first, source = peer.request()
    assert source[0] == rig.CLIENT
    return peer, agent, first


def test_a_lease_stays_with_its_address_whichever_the_kernel_likes_better(home, held):
    """To the server, another address would be another customer (RFC 7596 5.1)."""
    peer, agent, first = held
    home.put_address("wan", rig.SECOND + "/64")
    prefer(home, rig.SECOND)
    assert peer.quiet(0.6)
    assert agent.status()["source"] == rig.CLIENT
    assert agent.cli("renew").returncode == 0
    again, source = peer.request()
    assert (source[0], again.map.nonce) == (rig.CLIENT, first.map.nonce)


def test_without_a_lease_the_kernels_choice_counts(home, make_peer, make_agent):
    peer = make_peer()
    agent = make_agent()
    agent.start()
    assert peer.request()[1][0] == rig.CLIENT
    home.put_address("wan", rig.SECOND + "/64")
    prefer(home, rig.SECOND)
    assert peer.request()[1][0] == rig.SECOND


def test_a_restarted_agent_stays_with_the_address_of_its_lease(home, held):
    peer, agent, _ = held
    home.put_address("wan", rig.SECOND + "/64")
    prefer(home, rig.SECOND)
    agent.kill()
    assert agent.start()["source"] == rig.CLIENT
    assert peer.request()[1][0] == rig.CLIENT
    assert "adopting the running lease" in agent.log()


def test_a_deprecated_address_gives_the_mapping_back_before_another_asks(home, held):
    """While the old mapping is there, nobody else may get its set: not even we."""
    peer, agent, first = held
    home.put_address("wan", rig.SECOND + "/64")
    prefer(home, rig.SECOND)
    deprecate(home, rig.CLIENT)
    deletion, source = peer.request()
    assert (source[0], deletion.lifetime, deletion.map.nonce) == (rig.CLIENT, 0, first.map.nonce)
    request, source = peer.request()
    assert (source[0], request.lifetime) == (rig.SECOND, 3600)
    assert suggested(request) == FULL
    found = agent.wait(lambda found: found["source"] == rig.SECOND, "the new address")
    assert agent.wait_held()["errors"] == [] == found["errors"]
    assert peer.quiet(0.3)


def test_a_deprecated_address_is_used_on_while_there_is_no_other(home, held):
    peer, agent, _ = held
    deprecate(home, rig.CLIENT)
    assert peer.quiet(0.6)
    assert agent.status()["state"] == "up"


def test_an_address_that_is_gone_is_not_waited_for(home, held):
    peer, agent, _ = held
    home.put_address("wan", rig.SECOND + "/64")
    home.run(["ip", "addr", "del", rig.CLIENT + "/64", "dev", "wan"])
    request, source = peer.request()
    assert (source[0], request.lifetime) == (rig.SECOND, 3600)
    assert suggested(request) == FULL
    assert agent.wait_held()["source"] == rig.SECOND


def test_an_address_that_goes_while_it_says_farewell_stops_nothing(home, held):
    peer, agent, _ = held
    peer.script = lambda request: None
    home.put_address("wan", rig.SECOND + "/64")
    prefer(home, rig.SECOND)
    deprecate(home, rig.CLIENT)
    assert peer.request()[0].lifetime == 0
    home.run(["ip", "route", "add", "blackhole", "2001:db8:dead::/48"])  # a change of the network
    home.run(["ip", "route", "del", "blackhole", "2001:db8:dead::/48"])
    assert peer.quiet(0.8), "nothing is asked for before the answer to the deletion"
    peer.script = rig.grant()
    home.run(["ip", "addr", "del", rig.CLIENT + "/64", "dev", "wan"])
    request, source = peer.request()
    assert (source[0], request.opcode, request.lifetime) == (rig.SECOND, wire.OP_MAP, 3600)
    agent.wait_held()


def test_asking_from_a_unique_local_address_is_warned_of(home, make_agent):
    """RFC 6887 8.4."""
    home.put_address("wan", "fd00::2/64")
    agent = make_agent(source="fd00::2")
    agent.start()
    agent.wait(lambda found: found["source"] == "fd00::2", "the source")
    assert "asking from fd00::2, an address that the Internet does not know" in agent.log()
    agent.configure(source=rig.CLIENT)
    assert agent.cli("reload").returncode == 0
    agent.wait(lambda found: found["source"] == rig.CLIENT, "the source")
    assert agent.log().count("an address that the Internet does not know") == 1
