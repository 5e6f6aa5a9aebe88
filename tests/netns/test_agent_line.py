"""The running agent keeps its line as it should be, whoever touches it, and through its death."""

import pathlib
import sys
import time
import types

import pytest

from cpe_agent import guards
from tests.netns import topology
from tests.netns.topology import INNER, INTERNET, PATIENCE, SHARED
from tests.support import micropython
from tests.unit.shell import rig

SETTLED = 0.6  # s; by then the agent has looked at the network for the last time


class OverVeth(rig.Agent):
    """An agent whose softwire is a veth."""

    program = (str(pathlib.Path(__file__).with_name("over_veth.py")),)


@pytest.fixture(scope="module", params=["cpython", "micropython"])
def line(request, tmp_path_factory):
    """(home, agent, peer): a line that is up. The tests repair what they break."""
    runtime = sys.executable if request.param == "cpython" else micropython.interpreter()
    with topology.Home() as home:
        home.cpe.ip("link set lw4o6 down", "link set lw4o6 name spare")
        peer = rig.Peer(types.SimpleNamespace(isp=home.aftr.namespace))
        peer.script = rig.grant(SHARED, 1024, 1024)
        directory = tmp_path_factory.mktemp("agent")
        agent = OverVeth(home.cpe.namespace, runtime, directory, backend="linux")
        agent.start()
        agent.wait_held()
        yield home, agent, peer


def as_it_should_be(home):
    """True when the address is there, and the kernel does not claim it."""
    words = ["ip", "route", "show", "table", "local"]
    local = home.cpe.namespace.run(words).stdout
    shown = home.cpe.namespace.run(["ip", "-4", "-br", "addr", "show", "dev", "lw4o6"]).stdout
    tables = home.cpe.namespace.run(["nft", "list", "tables"]).stdout
    here = sorted(shown.split()[2:]) == [INNER + "/32", SHARED + "/32"]
    return here and SHARED not in local and "table ip cpe_agent" in tables


def reconfigurations(agent):
    return agent.status()["counts"]["reconfigurations"]


def works(home):
    answer = home.lan.call("talk", SHARED, 2500, PATIENCE).split()
    return answer[0] == SHARED and home.cpe.call("talk", INTERNET[0], 80, PATIENCE)


def test_the_line_comes_up_in_one_go(line):
    home, agent, _ = line
    assert as_it_should_be(home)
    assert works(home)
    assert reconfigurations(agent) == 1
    assert agent.status()["guards"] == dict.fromkeys(guards.COUNTERS, 0)


DISTURBANCES = {
    "link down and up": ["ip link set lw4o6 down", "ip link set lw4o6 up"],
    "local table entry": ["ip route add table local local %s dev lw4o6" % SHARED],
    "address deleted": ["ip addr del %s/32 dev lw4o6" % SHARED],
    "all flushed": ["ip addr flush dev lw4o6"],
    "default route deleted": ["ip route del default dev lw4o6"],
    "rules deleted": ["nft delete table ip cpe_agent"],
    "all rules flushed": ["nft flush ruleset"],
}


@pytest.mark.parametrize("what", sorted(DISTURBANCES))
def test_whoever_touches_the_line_the_agent_repairs_it(line, what):
    home, agent, _ = line
    if "rules" in what:  # what the last test stirred up on the device would hide a deaf agent
        time.sleep(SETTLED)
    before = reconfigurations(agent)
    for command in DISTURBANCES[what]:
        home.cpe.namespace.run(command.split())
    rig.wait_for(lambda: reconfigurations(agent) > before, "the repair")
    rig.wait_for(lambda: as_it_should_be(home), "the line as it should be")
    assert works(home)
    assert agent.status()["errors"] == []


def test_other_peoples_changes_do_not_make_it_work(line):
    home, agent, _ = line
    before = reconfigurations(agent)
    home.cpe.ip("addr add 10.1.2.3/24 dev br-lan", "addr del 10.1.2.3/24 dev br-lan")
    home.cpe.nft("table ip theirs { }\n")
    home.cpe.nft("delete table ip theirs\n")
    home.cpe.ip("addr del %s/32 dev lw4o6" % SHARED)  # the mark of the end
    rig.wait_for(lambda: reconfigurations(agent) > before, "the repair")
    rig.wait_for(lambda: as_it_should_be(home), "the line as it should be")
    assert reconfigurations(agent) == before + 1


def test_a_renewal_touches_nothing(line):
    home, agent, _ = line
    home.lan.call("open_udp", "flow", 0)
    before = agent.status()
    listing = home.cpe.namespace.run(["nft", "-t", "list", "table", "ip", "cpe_agent"]).stdout
    assert agent.cli("renew").returncode == 0
    found = agent.wait(
        lambda found: found["counts"]["renewals"] > before["counts"]["renewals"], "the renewal"
    )
    assert found["counts"]["reconfigurations"] == before["counts"]["reconfigurations"]
    assert found["store_writes"] == before["store_writes"]
    rules = [text for text in listing.splitlines() if "packets" not in text]
    now = home.cpe.namespace.run(["nft", "-t", "list", "table", "ip", "cpe_agent"]).stdout
    assert [text for text in now.splitlines() if "packets" not in text] == rules


def test_killed_or_ended_it_leaves_the_line_up_and_the_next_one_adopts_it(line):
    home, agent, _ = line
    for stop in (agent.kill, agent.end):
        stop()
        assert as_it_should_be(home)
        assert works(home)
        agent.start()
        found = agent.wait_held()
        assert found["counts"]["reconfigurations"] == 0
        assert (found["address"], found["first_port"], found["size"]) == (SHARED, 1024, 1024)


def test_release_takes_everything_away(line):
    home, agent, _ = line
    done = agent.cli("release")
    assert done.returncode == 0, done.stderr
    assert "confirmed" in done.stdout
    assert "lw4o6" not in home.cpe.namespace.run(["ip", "link"]).stdout
    assert home.cpe.namespace.run(["nft", "list", "tables"]).stdout == ""
    assert list((agent.directory / "flash").glob("state*")) == []
