"""Servers that refuse, talk nonsense or do not talk: status says which, and what comes next."""

import contextlib
import sys

import pytest

from cpe_agent import store
from cpe_agent.pcp import wire
from tests.support import micropython
from tests.unit.shell import rig

UNASSIGNED = 77


@pytest.mark.parametrize("result", [*range(1, 14), UNASSIGNED])
def test_a_refusal_is_named_with_the_time_of_the_next_request(make_peer, make_agent, result):
    make_peer(rig.refuse(result, lifetime=1000))
    agent = make_agent()
    agent.start()
    text = agent.wait_error("refused (%s)" % wire.result_name(result))
    assert rig.SERVER in text
    assert text.count(";") >= 2, "what it means, when it is tried again, what a person can do"
    seconds = int(text.split("asking again in ")[1].split()[0])
    assert 990 <= seconds <= 1000
    found = agent.status()
    assert found["state"] == "refused by the server"
    assert seconds - 5 <= found["next"]["in"] <= seconds
    assert agent.log().count(text) == 1


HOSTILE = {
    "0.0.0.0": ({"address": "0.0.0.0"}, "external address 0.0.0.0 is no unicast address"),
    "loopback": ({"address": "127.0.0.1"}, "external address 127.0.0.1 is no unicast address"),
    "broadcast": ({"address": "255.255.255.255"}, "external address 255.255.255.255 is no"),
    "multicast": ({"address": "224.0.0.1"}, "external address 224.0.0.1 is no unicast address"),
    "port 0": ({"first": 0}, "first external port 0"),
    "past 65535": ({"first": 65530}, "32 ports from 65530 do not end by 65535"),
    "no ports": ({"size": 0}, "PORT_SET of size 0"),
}


@pytest.mark.parametrize("what", sorted(HOSTILE))
def test_a_grant_of_nonsense_is_refused_in_words(make_peer, make_agent, what):
    wrong, reason = HOSTILE[what]
    make_peer(rig.grant(**wrong))
    agent = make_agent()
    agent.start()
    text = agent.wait_error(reason)
    assert "asking again in 30 s" in text
    assert "address" not in agent.status()
    assert store.decode(agent.state.read_text())[0][1].port_set is None


@pytest.mark.parametrize("what", sorted(HOSTILE))
def test_nonsense_at_a_renewal_leaves_the_line_as_it_was(make_peer, make_agent, what):
    wrong, reason = HOSTILE[what]
    peer = make_peer(rig.grant())
    agent = make_agent()
    agent.start()
    before = agent.wait_held()
    _, source = peer.request()
    request = wire.Request(wire.OP_MAP, 3600, b"", nonce_of(agent), [])
    peer.send(source, rig.grant(**wrong)(request))
    agent.wait_error(reason)
    found = agent.status()
    assert [found[name] for name in ("state", "address", "first_port", "size")] == [
        before[name] for name in ("state", "address", "first_port", "size")
    ]


def test_a_grant_for_no_time_is_none(make_peer, make_agent):
    peer = make_peer(rig.grant(lifetime=0))
    agent = make_agent()
    agent.start()
    peer.request()
    found = agent.wait(lambda found: found["counts"]["received"], "the answer")
    assert "address" not in found


def test_a_server_that_ends_the_mapping_takes_the_line_down_and_that_is_said(make_peer, make_agent):
    peer = make_peer(rig.grant())
    agent = make_agent()
    agent.start()
    agent.wait_held()
    _, source = peer.request()
    request = wire.Request(wire.OP_MAP, 0, b"", nonce_of(agent), [])
    peer.send(source, rig.grant(lifetime=0)(request))
    agent.wait(lambda found: "address" not in found, "the end")
    assert "the port set is lost: the server ended it; IPv4 is down until it" in agent.log()


def nonce_of(agent):
    """MapData with the nonce of the agent, from its state file."""
    [(_, state)] = store.decode(agent.state.read_text())
    return wire.MapData(state.nonce, 0, 1, 0, wire.ANY_V4)


def test_a_lifetime_of_a_century_is_taken_for_a_day(make_peer, make_agent):
    make_peer(rig.grant(lifetime=0xFFFFFFFF))
    agent = make_agent()
    agent.start()
    assert agent.wait_held()["lifetime"] == 86400


def test_more_ports_than_asked_for_are_not_taken(make_peer, make_agent):
    make_peer(rig.grant(first=1024, size=2048))
    agent = make_agent(ports="32")
    agent.start()
    agent.wait_error("2048 ports, but 32 were asked for")


def test_where_no_server_listens_that_is_said_at_once(make_agent):
    agent = make_agent()
    agent.start()
    text = agent.wait_error("no PCP server listens on its UDP port 5351")
    assert rig.SERVER in text


def garbage():
    """A script whose answers are none: of another kind each time."""
    good = rig.grant()
    kinds = [
        lambda request: b"\x02",
        lambda request: good(request)[:-3],
        lambda request: good(request._replace(map=request.map._replace(nonce=b"x" * 12))),
    ]
    return lambda request: kinds.pop()(request) if kinds else None


SCRIPTS = {"silence": lambda: None, "garbage": garbage}


@pytest.fixture(scope="module")
def unanswered(tmp_path_factory):
    """{(script, runtime): Agent} that wait from the start of this module on: three requests take
    nine seconds, in which the other tests run."""
    interpreters = {"cpython": sys.executable, "micropython": micropython.interpreter()}
    with contextlib.ExitStack() as stack:
        agents = {}
        for what, script in SCRIPTS.items():
            for name, interpreter in interpreters.items():
                link = stack.enter_context(rig.Link())
                stack.callback(rig.Peer(link, script()).stop)
                directory = tmp_path_factory.mktemp("%s-%s" % (what, name))
                agents[what, name] = rig.Agent(link.cpe, interpreter, directory)
                agents[what, name].start()
        yield agents


@pytest.fixture(autouse=True)
def _started(unanswered):
    """They are started with the first test."""


@pytest.mark.parametrize("name", ["cpython", "micropython"])
def test_silence_is_said_after_three_requests(unanswered, name):
    agent = unanswered["silence", name]
    text = agent.wait_error("is silent after 3 requests; still asking")
    assert "check that it is the right address" in text
    assert agent.status()["unanswered"] >= 3


@pytest.mark.parametrize("name", ["cpython", "micropython"])
def test_garbage_is_told_from_silence(unanswered, name):
    agent = unanswered["garbage", name]
    text = agent.wait_error("sends what is no answer to us")
    assert "not a PCP response" in text
    assert "no such mapping or nonce" in text
    assert "address" not in agent.status()
