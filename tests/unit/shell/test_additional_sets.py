"""More port sets for a softwire: asked for by command here; growth.py and tests/netns say when."""

import struct
import time

import pytest

from cpe_agent import store
from cpe_agent.pcp import wire
from tests.unit.shell import rig

FIRST = ("192.0.2.3", 37056, 32)
SECOND = ("192.0.2.3", 41024, 32)
THIRD = ("192.0.2.3", 51200, 32)


class Pool:
    """A server's script: mappings by nonce and internal port, with a set for each new one."""

    def __init__(self, *free):
        """free: (address, first port, size), or a result code for a refusal."""
        self.free = list(free)
        self.mappings = {}
        self.deleted = []
        self.moved = {}  # internal port asked for: the one that the set has
        self._epoch = time.monotonic() - 1000

    def __call__(self, request):
        epoch = int(time.monotonic() - self._epoch)
        if request.opcode != wire.OP_MAP:
            return wire.response(request.opcode, 0, 0, epoch)
        key = request.map.nonce, request.map.internal_port
        if not request.lifetime:
            self.deleted.append(self.mappings.pop(key, None))
            return wire.map_response(wire.SUCCESS, 0, epoch, request.map)
        if key not in self.mappings:
            place = self._next(request)
            if isinstance(place, int):
                return wire.map_response(place, 1800, epoch, request.map)
            self.mappings[key] = place
        address, first, size = self.mappings[key]
        octets = wire.V4_PREFIX + bytes(int(part) for part in address.split("."))
        data = request.map._replace(external_port=first, external_ip=octets)
        internal_port = request.map.internal_port
        inside = struct.pack(">HHB", size, self.moved.get(internal_port, internal_port), 0)
        options = wire.option(wire.OPT_PORT_SET, inside)
        return wire.map_response(wire.SUCCESS, 3600, epoch, data, options)

    def _next(self, request):
        """What is suggested, if it is free; else what comes first."""
        for place in self.free:
            if not isinstance(place, int) and place[1] == request.map.external_port:
                self.free.remove(place)
                return place
        return self.free.pop(0)


def additional(found):
    return [
        (one["address"], one["first_port"], one["size"])
        for one in found["additional_sets"]
        if "address" in one
    ]


def asked(request):
    """(first internal port, ports) of a request."""
    octets = wire.find_option(request.options, wire.OPT_PORT_SET)
    return request.map.internal_port, wire.parse_port_set(octets)[0]


@pytest.fixture
def line(make_peer, make_agent):
    """line(*sets, **options): (agent, peer, Pool) with the first set held."""

    def make(*sets, **options):
        pool = Pool(*sets)
        peer = make_peer(pool)
        agent = make_agent(**options)
        agent.start()
        agent.wait_held()
        peer.request()
        return agent, peer, pool

    return make


def wait_sets(agent, *sets):
    return agent.wait(lambda found: additional(found) == list(sets), "the sets %s" % (sets,))


def test_one_more_set_is_another_mapping_of_the_same_router(line):
    agent, peer, pool = line(FIRST, SECOND)
    assert agent.cli("more").returncode == 0
    found = wait_sets(agent, SECOND)
    assert (found["first_port"], found["size"]) == FIRST[1:]
    request, _ = peer.request()
    assert asked(request) == (1024, 32)
    assert request.map.protocol == wire.PROTO_ALL
    assert len(pool.mappings) == 2
    assert "41024-41055 (32), open" in agent.cli("status").stdout


def test_the_first_set_names_its_own_internal_ports_from_then_on(line):
    """A request for all internal ports would be one for both mappings (RFC 7753 4.4.1)."""
    agent, peer, _ = line(FIRST, SECOND)
    agent.cli("more")
    wait_sets(agent, SECOND)
    peer.request()
    agent.cli("renew")
    request, _ = peer.request()
    assert asked(request) == (1, 32)


def test_a_restarted_agent_goes_on_with_all_sets(line):
    agent, peer, pool = line(FIRST, SECOND)
    agent.cli("more")
    wait_sets(agent, SECOND)
    peer.request()
    agent.kill()
    agent.start()
    found = wait_sets(agent, SECOND)
    assert found["first_port"] == FIRST[1]
    names = {asked(peer.request()[0]), asked(peer.request()[0])}
    assert names == {(1, 32), (1024, 32)}
    assert len(pool.mappings) == 2


def test_after_a_restart_too_the_first_set_follows_internal_ports_that_the_server_moves(line):
    """By the name of before it would be another mapping, beside the moved one."""
    agent, peer, pool = line(FIRST, SECOND)
    agent.cli("more")
    wait_sets(agent, SECOND)
    agent.kill()
    agent.start()
    wait_sets(agent, SECOND)
    peer.request()  # of the forerunner, for the second set

    assert {asked(peer.request()[0]) for _ in range(2)} == {(1, 32), (1024, 32)}
    (nonce,) = [nonce for nonce, internal_port in pool.mappings if internal_port == 1]
    pool.moved[1] = 5000
    agent.cli("renew")
    assert asked(peer.request()[0]) == (1, 32)
    pool.mappings[nonce, 5000] = pool.mappings.pop((nonce, 1))
    agent.cli("renew")
    assert asked(peer.request()[0]) == (5000, 32)


def test_after_a_power_cut_all_sets_are_asked_for_again(line):
    agent, _, pool = line(FIRST, SECOND)
    agent.cli("more")
    wait_sets(agent, SECOND)
    agent.wait(lambda _: len(store.decode(agent.state.read_text())) == 2, "both on flash")
    agent.kill()
    for file in agent.run_dir.iterdir():
        file.unlink()
    pool.mappings.clear()
    pool.free = [THIRD, SECOND, FIRST]
    agent.start()
    found = wait_sets(agent, SECOND)
    assert found["first_port"] == FIRST[1]


def test_a_refusal_is_the_end_of_it_and_harms_nothing(line):
    agent, _, pool = line(FIRST, wire.USER_EX_QUOTA)
    assert agent.cli("more").returncode == 0
    found = agent.wait(lambda found: not found["additional_sets"], "the refusal")
    assert found["state"] == "up" and found["first_port"] == FIRST[1]
    assert len(pool.mappings) == 1
    assert "does not give it" in agent.log()


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (("192.0.2.9", 41024, 32), "of another address, 192.0.2.9"),
        (("192.0.2.3", 37087, 32), "shares ports with another set"),
    ],
)
def test_a_set_that_does_not_go_with_the_first_one_is_given_back(line, wrong, why):
    agent, _, pool = line(FIRST, wrong)
    agent.cli("more")
    rig.wait_for(lambda: pool.deleted == [wrong], "the deletion")
    assert why in agent.log()
    assert agent.wait(lambda found: not found["additional_sets"], "the end")["state"] == "up"


def test_no_more_sets_than_the_option_allows(line):
    agent, _, _ = line(FIRST, SECOND, THIRD, sets="2")
    agent.cli("more")
    wait_sets(agent, SECOND)
    done = agent.cli("more")
    assert done.returncode == 1
    assert "option sets allows no more than 2" in done.stderr


def test_a_smaller_option_gives_back_what_is_too_much(line):
    agent, _, pool = line(FIRST, SECOND)
    agent.cli("more")
    wait_sets(agent, SECOND)
    agent.configure(sets="1")
    assert agent.cli("reload").returncode == 0
    rig.wait_for(lambda: pool.deleted == [SECOND], "the deletion")
    assert wait_sets(agent)["first_port"] == FIRST[1]


def test_release_gives_all_sets_back(line):
    agent, _, pool = line(FIRST, SECOND)
    agent.cli("more")
    wait_sets(agent, SECOND)
    assert agent.cli("release").returncode == 0
    rig.wait_for(lambda: sorted(pool.deleted) == [FIRST, SECOND], "both deletions")
    rig.wait_for(lambda: not agent.state.exists(), "no trace")


def test_release_without_an_agent_gives_all_sets_back(line):
    agent, _, pool = line(FIRST, SECOND)
    agent.cli("more")
    wait_sets(agent, SECOND)
    agent.kill()
    done = agent.cli("release")
    assert done.returncode == 0, done.stderr
    assert sorted(pool.deleted) == [FIRST, SECOND]


def test_without_a_first_set_there_is_nothing_to_add_to(make_peer, make_agent):
    make_peer(rig.refuse(wire.NO_RESOURCES))
    agent = make_agent()
    agent.start()
    done = agent.cli("more")
    assert done.returncode == 1
    assert "there is no first set yet" in done.stderr


def test_a_server_that_wants_internal_port_0_has_no_room_for_more(line):
    agent, _, _ = line(FIRST, internal_port="0")
    done = agent.cli("more")
    assert done.returncode == 1
    assert "internal port 0" in done.stderr


def test_an_additional_set_that_the_server_ends_leaves_the_others(line):
    agent, peer, pool = line(FIRST, SECOND)
    agent.cli("more")
    wait_sets(agent, SECOND)
    peer.request()
    [key] = [key for key in pool.mappings if key[1] == 1024]
    del pool.mappings[key]
    pool.free = [wire.NO_RESOURCES]
    agent.cli("renew")
    agent.wait(lambda found: len(additional(found)) == 1, "the lease runs on")
    assert agent.status()["state"] == "up"
