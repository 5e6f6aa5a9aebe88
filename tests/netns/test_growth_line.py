"""The running agent and the ports that its LAN uses: one more set, its end, a warning, a count."""

import contextlib
import json
import pathlib
import sys
import time
import types

import pytest

from cpe_agent import portset
from cpe_agent.pcp import wire
from tests.netns import topology
from tests.netns.test_agent_line import OverVeth
from tests.netns.test_occupancy import listed
from tests.netns.topology import IMPATIENCE, INTERNET, PATIENCE, SHARED
from tests.support import micropython
from tests.unit.shell import rig
from tests.unit.shell.test_additional_sets import Pool, wait_sets

FIRST, SECOND = portset.PortSet(SHARED, 1024, 32), portset.PortSet(SHARED, 4096, 32)
ONE, OTHER = "192.168.1.40", "192.168.1.41"
STEADY = 9000  # a port of the Internet's
CLOSED = "closed to new flows"
LOOKS = 1  # s; in which the agent looks several times


class Quick(OverVeth):
    """An agent that looks often."""

    program = (str(pathlib.Path(__file__).with_name("quick_growth.py")),)


@pytest.fixture(params=["cpython", "micropython"])
def line(request, tmp_path):
    """line(*what the server gives, **options): (home, agent, Pool) with the first set held."""
    runtime = sys.executable if request.param == "cpython" else micropython.interpreter()
    with contextlib.ExitStack() as stack:

        def make(*sets, **options):
            home = stack.enter_context(topology.Home())
            home.cpe.ip("link set lw4o6 down", "link set lw4o6 name spare")
            home.lan.ip(*["addr add %s/24 dev eth0" % host for host in (ONE, OTHER)])
            pool = Pool(*sets)
            rig.Peer(types.SimpleNamespace(isp=home.aftr.namespace), pool)
            agent = Quick(home.cpe.namespace, runtime, tmp_path, backend="linux", **options)
            agent.start()
            agent.wait_held()
            return home, agent, pool

        yield make


def begin(home, name, count, host=ONE, losses=None):
    """Ports of new flows of UDP, as a server sees them; None for those that were lost. losses: so
    many end it."""
    place = [INTERNET[0], 80]
    arguments = name, "udp", [place], [host], count, losses or count, IMPATIENCE
    return home.lan.call("gather", *arguments)


def end_all_but(home, port):
    home.cpe.call("delete_flows", SHARED, port, port)


def end_all(home):
    home.cpe.call("delete_flows", SHARED, 1, 0)


def inside(ports, one):
    return [port for port in ports if port and portset.contains(one, port)]


def test_a_nearly_full_set_brings_one_more_that_new_flows_use(line):
    home, agent, pool = line(FIRST, SECOND, sets="2")
    early = begin(home, "early", 30)
    assert inside(early, FIRST) == early
    wait_sets(agent, SECOND)
    late = begin(home, "late", 16)
    assert inside(late, SECOND)
    assert home.lan.call("still", "early") == early
    assert len(pool.mappings) == 2
    assert set(agent.status()["guards"].values()) == {0}


def test_no_flow_is_lost_once_there_is_one_more_set(line):
    home, agent, _ = line(FIRST, SECOND, sets="2")
    early = begin(home, "early", 30)
    wait_sets(agent, SECOND)
    late = begin(home, "late", 34, losses=1)
    assert None not in late
    assert len(set(early + late)) == 64


def test_a_set_that_is_not_needed_is_closed_and_given_back_after_its_last_flow(line):
    home, agent, pool = line(FIRST, SECOND, sets="2", set_hold="0")
    begin(home, "early", 26)
    wait_sets(agent, SECOND)
    last = inside(begin(home, "late", 16), SECOND)[0]
    assert agent.status()["additional_sets"][0]["state"] == "open"
    end_all_but(home, last)
    agent.wait(lambda found: found["additional_sets"][0]["state"] == CLOSED, "the closing")
    new = begin(home, "new", 12)
    assert inside(new, FIRST) == new
    time.sleep(LOOKS)
    assert pool.deleted == [], "a flow still uses it"
    end_all(home)
    rig.wait_for(lambda: pool.deleted == [SECOND], "the deletion")
    found = wait_sets(agent)
    assert (found["state"], found["first_port"]) == ("up", FIRST.first)
    after = begin(home, "after", 20)
    assert inside(after, FIRST) == after


def test_a_closed_set_is_opened_again_when_it_is_needed(line):
    home, agent, pool = line(FIRST, SECOND, sets="2", set_hold="0")
    begin(home, "early", 26)
    wait_sets(agent, SECOND)
    end_all_but(home, inside(begin(home, "late", 16), SECOND)[0])
    agent.wait(lambda found: found["additional_sets"][0]["state"] == CLOSED, "the closing")
    begin(home, "again", 27)
    agent.wait(lambda found: found["additional_sets"][0]["state"] == "open", "the opening")
    assert inside(begin(home, "more", 16), SECOND)
    assert (len(pool.mappings), pool.deleted) == (2, [])


def test_when_the_server_refuses_the_busiest_host_is_told_until_there_is_room_again(line):
    home, agent, pool = line(FIRST, wire.NO_RESOURCES, SECOND, sets="2")
    begin(home, "few", 10, OTHER)
    assert agent.status()["errors"] == []
    begin(home, "many", 20, ONE)
    error = agent.wait_error("% of the ports are in use")
    assert error.startswith("93 %")
    assert "%s has most of them, 20" % ONE in error
    rig.wait_for(lambda: pool.free == [SECOND], "the refusal")
    assert error in agent.cli("status").stdout
    time.sleep(LOOKS)
    assert pool.free == [SECOND], "one refusal is enough for a while"
    end_all(home)
    found = agent.wait(lambda found: not found["errors"], "the end of the warning")
    assert (found["state"], found["additional_sets"]) == ("up", [])
    assert "there are enough free ports again" in agent.log()


def test_usage_tells_hosts_and_ports_as_the_kernel_lists_them(line):
    home, agent, _ = line(FIRST, SECOND, sets="2", set_hold="3600")
    assert agent.cli("more").returncode == 0
    wait_sets(agent, SECOND)
    home.inet.call("serve_steady", STEADY)
    begin(home, "one", 20, ONE)
    begin(home, "other", 9, OTHER)
    place = [INTERNET[0], STEADY]
    seen = home.lan.call("gather", "tcp", "tcp", [place], [OTHER], 7, 1, PATIENCE)
    assert None not in seen
    assert home.lan.call("ping", INTERNET[0], 1, PATIENCE)
    rows = listed(home)
    found = json.loads(agent.cli("usage", "--json").stdout)
    text = agent.cli("usage").stdout
    assert sorted(listed(home)) == sorted(rows), "flows came or went meanwhile"
    assert len(rows) == 20 + 9 + 7 + 1
    for protocol in ("tcp", "udp", "icmp"):
        ports = {row[2] for row in rows if row[0] == protocol}
        counts = [len(inside(ports, one)) for one in (FIRST, SECOND)]
        assert found["protocols"][protocol]["ports"] == counts
        assert "of each set: %d, %d" % tuple(counts) in text
    for one in found["hosts"]:
        used = [row for row in rows if row[1] == one["address"]]
        assert one["flows"] == len(used)
        assert one["ports"] == len({(row[0], row[2]) for row in used})
        assert "%(address)s: %(ports)d ports, %(flows)d flows" % one in text
    assert {one["address"] for one in found["hosts"]} == {row[1] for row in rows}
    assert found["full"] == 29 * 100 // 64
    assert found["sets"] == [
        {"first_port": one.first, "last_port": portset.last(one)} for one in (FIRST, SECOND)
    ]


def past(agent):
    """The last day's counts: {field: list}."""
    return json.loads(agent.cli("usage", "--history", "--json").stdout)


def test_the_history_keeps_the_highest_of_what_was_counted(line):
    home, agent, _ = line(FIRST, sets="1", more_above="100")
    rig.wait_for(lambda: past(agent)["full"], "the first count, though there are few flows")
    home.inet.call("serve_steady", STEADY)
    begin(home, "udp", 9)
    place = [INTERNET[0], STEADY]
    assert None not in home.lan.call("gather", "tcp", "tcp", [place], [OTHER], 16, 1, PATIENCE)
    assert agent.cli("usage").returncode == 0
    end_all(home)
    assert json.loads(agent.cli("usage", "--json").stdout)["full"] == 0
    found = past(agent)
    highest = {name: max(found[name]) for name in ("full", "tcp", "udp", "ports")}
    assert highest == {"full": 50, "tcp": 16, "udp": 9, "ports": FIRST.size}
    text = agent.cli("usage", "--history").stdout
    assert "most: 50 % of 32 ports" in text
    assert "tcp  at most 16 ports in use" in text
    assert agent.cli("usage", "--history", "--hist").returncode == 2
