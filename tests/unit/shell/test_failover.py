"""Several servers (RFC 7488): who is asked when one is silent, gone, refuses or comes back."""

import json

import pytest

from cpe_agent import address, choice, config, lease, netlink, store
from cpe_agent.backends.none import Nothing
from cpe_agent.line import Line
from cpe_agent.pcp import mapping as m
from cpe_agent.pcp import wire
from cpe_agent.pcp.mapping import Grant
from cpe_agent.portset import PortSet
from tests.unit.shell import virtual
from tests.unit.shell.virtual import A, B, C

THREE = ["10.9.0.11", "10.9.0.12", "10.9.0.13"]
TWO = THREE[:2]


@pytest.fixture
def world(monkeypatch, tmp_path):
    return virtual.World(monkeypatch, tmp_path)


def nonces(requests):
    return {request.map.nonce for _, request in requests}


def server_of(world):
    return world.keeper.session and world.keeper.session.server


def test_the_first_server_is_asked_and_no_other(world):
    world.start(server=TWO)
    assert world.grant().port_set.first == 4001
    world.run(20000)
    assert world.servers[B].requests == []


def test_a_silent_server_gets_four_requests_and_then_the_next_is_asked(world, capsys):
    world.servers[A].alive = False
    began = world.time
    world.start(server=TWO)
    world.run(120)
    assert world.grant().port_set.first == 4002
    asked = world.servers[A].asked()
    assert len(asked) == 4
    first_of_b, request = world.servers[B].asked()[0]
    assert 32000 <= first_of_b - began <= 62000, "45 s; each wait is jittered, and the next on it"
    assert request.map.nonce not in nonces(asked), "a nonce for each server"
    assert "the PCP server 10.9.0.11 is silent; next: 10.9.0.12" in capsys.readouterr().err


def test_a_server_on_whose_host_nobody_listens_costs_no_time(world):
    world.servers[A].closed = True
    world.start(server=TWO)
    world.run(1)
    assert world.grant().port_set.first == 4002


def test_a_server_without_a_route_costs_no_time_while_others_have_one(world):
    world.unreachable = {A}
    world.start(server=TWO)
    assert world.grant().port_set.first == 4002


def test_without_any_route_the_first_is_waited_for(world):
    """A router that has no uplink yet: nobody is to blame."""
    world.unreachable = {A, B, C}
    world.start(server=THREE)
    world.run(3)
    assert "no route" in world.keeper.errors["path"]
    world.unreachable = set()
    world.keeper.on_network_change(world.time, world.time)
    world.run(1)
    assert world.grant().port_set.first == 4001
    assert world.keeper.errors == {}


def test_when_nobody_answers_there_is_a_pause_and_one_alone_is_asked_for_ever(world):
    for server in world.servers.values():
        server.alive = False
    world.start(server=TWO)
    world.run(200)
    assert [len(world.servers[one].asked()) for one in (A, B)] == [4, 4]
    assert server_of(world) is None
    assert "waiting for the next round" in world.keeper.errors["path"]
    world.run(500)
    assert world.servers[A].asked() == world.servers[B].asked() == []
    world.servers[B].alive = True
    world.run(600)
    assert world.grant().port_set.first == 4002
    assert world.keeper.errors == {}
    world.servers[A].alive = False
    world.start(server=TWO[0])
    world.run(6000)
    assert len(world.servers[A].asked()) > 8


def test_a_lease_is_kept_to_its_end_with_its_server(world):
    world.start(server=TWO)
    world.run(10)
    world.servers[A].closed = True
    world.run(3500)
    assert server_of(world) == A and world.grant()
    assert world.servers[B].asked() == []
    world.run(200)
    assert server_of(world) == B and world.grant().port_set.first == 4001, "the same is suggested"


def test_back_on_the_first_server_it_knows_us_by_its_nonce(world):
    world.start(server=TWO)
    first = nonces(world.servers[A].asked())
    world.servers[A].alive = False
    world.run(5000)
    assert server_of(world) == B
    world.servers[A].alive = True
    world.servers[B].alive = False
    world.run(5000)
    assert server_of(world) == A
    assert nonces(world.servers[A].asked()) == first


def test_a_better_server_that_is_back_is_noticed_and_told(world, capsys):
    world.servers[A].alive = False
    world.start(server=TWO)
    world.run(3000)
    assert server_of(world) == B
    assert 2 <= len(world.servers[A].asked(wire.OP_ANNOUNCE)) <= 4, "each 15 minutes"
    world.servers[A].alive = True
    world.servers[A].asked()
    world.run(1000)
    assert server_of(world) == B and world.grant(), "the lease is kept"
    assert "the better PCP server 10.9.0.11 is back" in world.keeper.errors["better"]
    assert capsys.readouterr().err.count("10.9.0.11 is back") == 1
    assert world.servers[A].asked() == []
    world.keeper.release(world.time)
    world.run(10)
    world.keeper.renew(world.time)
    world.run(10)
    assert server_of(world) == A and world.keeper.errors == {}


def test_a_better_server_that_is_back_gets_the_next_lease(world):
    world.servers[A].alive = False
    world.start(server=TWO)
    world.run(100)
    world.servers[A].alive = True
    world.run(1000)
    world.servers[B].alive = False
    world.run(4000)
    assert server_of(world) == A and world.grant()


def test_a_server_that_refuses_for_long_gives_the_others_their_turn(world):
    world.servers[A].refusal = (wire.USER_EX_QUOTA, 1800)
    world.start(server=TWO)
    world.run(5)
    assert world.grant().port_set.first == 4002
    assert len(world.servers[A].asked()) == 1


def test_a_short_refusal_is_waited_for(world):
    world.servers[A].refusal = (wire.NO_RESOURCES, 30)
    world.start(server=TWO)
    world.run(20)
    world.servers[A].refusal = None
    world.run(40)
    assert server_of(world) == A and world.grant()


def test_a_restarted_agent_stays_with_the_server_of_its_lease(world):
    world.servers[A].alive = False
    world.start(server=TWO)
    world.run(100)
    assert server_of(world) == B
    world.servers[A].alive = True
    world.start(server=TWO)
    assert server_of(world) == B and world.grant()


def two_addresses(world, monkeypatch):
    """DHCP tells of one server that has two addresses, of which only the second answers."""
    monkeypatch.setattr(choice, "_in_order", tuple)
    choice.Learned(world.run_dir).put("lo", "dhcpv4", ["08" + A[12:].hex() + B[12:].hex()])
    world.servers[A].alive = False
    world.start()
    world.run(120)
    assert server_of(world) == B and world.grant()
    world.servers[A].asked()


def test_a_restarted_agent_asks_the_address_that_its_lease_is_from(world, monkeypatch, capsys):
    """RFC 7488 3: of two addresses of one server the first may be dead."""
    two_addresses(world, monkeypatch)
    world.start()
    assert server_of(world) == B
    world.run(4000)
    assert world.grant() and world.servers[A].asked() == []
    assert "is lost" not in capsys.readouterr().err


def test_a_lease_that_an_older_version_wrote_is_adopted(world, monkeypatch, tmp_path):
    """It did not tell which of the server's addresses was asked."""
    two_addresses(world, monkeypatch)
    path = tmp_path / "lease.mapping web"
    path.write_text(json.dumps(json.loads(path.read_text())[:8]))
    nonce = world.keeper.mapping.nonce
    world.start()
    assert world.grant() and server_of(world) == A
    assert nonces(world.servers[A].asked()) == {nonce}


def test_a_lease_from_an_address_that_its_server_has_no_more_goes_on_at_another(world, monkeypatch):
    two_addresses(world, monkeypatch)
    choice.Learned(world.run_dir).put("lo", "dhcpv4", ["08" + A[12:].hex() + C[12:].hex()])
    world.servers[A].alive = True
    world.start()
    world.run(10)
    assert world.grant() and server_of(world) == A


BAD_ADDRESSES = [5, "", "00", "zz" * 16, "00" * 16, None, ["00"]]


@pytest.mark.parametrize("asked", BAD_ADDRESSES)
def test_a_lease_whose_address_is_garbage_stays_with_its_server(
    world, monkeypatch, tmp_path, asked
):
    two_addresses(world, monkeypatch)
    path = tmp_path / "lease.mapping web"
    path.write_text(json.dumps(json.loads(path.read_text())[:8] + [asked]))
    world.start()
    assert world.grant() and server_of(world) == A


def test_after_a_reboot_the_first_server_is_asked_with_its_own_nonce(world, tmp_path):
    world.start(server=TWO)
    first = nonces(world.servers[A].asked())
    world.servers[A].alive = False
    world.run(5000)
    assert server_of(world) == B
    entries = store.decode((tmp_path / "state").read_text())
    assert [state.server for _, state in entries] == [A, B]
    (tmp_path / "lease.mapping web").unlink()
    world.servers[A].alive = True
    world.servers[A].asked()
    world.start(server=TWO)
    assert server_of(world) == A
    assert nonces(world.servers[A].asked()) == first


def test_a_long_list_of_silent_servers_does_not_cost_the_nonce_of_the_first(world, tmp_path):
    many = ["10.9.0.%d" % last for last in range(11, 19)]
    for last in range(14, 19):
        world.servers[A[:15] + bytes([last])] = virtual.Server(world, 4000 + last)
    world.start(server=many)
    first = nonces(world.servers[A].asked())
    (tmp_path / "lease.mapping web").unlink()
    for server in world.servers.values():
        server.alive = False
    world.start(server=many)
    world.run(500)
    world.servers[A].asked()
    world.servers[A].alive = True
    writes = world.place.memory.writes
    world.run(1500)
    assert nonces(world.servers[A].asked()) == first and world.grant()
    assert world.place.memory.writes == writes, "going round once more is nothing new"


def test_the_set_of_one_server_is_suggested_to_the_next_but_not_remembered_as_its(world, tmp_path):
    world.start(server=TWO)
    world.servers[A].alive = False
    world.servers[B].alive = False
    world.run(5000)
    assert {request.map.external_port for _, request in world.servers[B].asked()} == {4001}
    entries = {state.server: state for _, state in store.decode((tmp_path / "state").read_text())}
    assert entries[A].port_set.first == 4001
    assert entries[B].port_set is None
    (tmp_path / "lease.mapping web").unlink(missing_ok=True)
    world.servers[B].alive = True
    world.start(server=TWO)
    world.run(100)
    assert server_of(world) == B and world.grant().port_set.first == 4001, "after a reboot, too"


def test_a_lease_is_kept_though_dhcp_tells_of_another_server_now(world):
    """The same goes for a host name that gets other addresses."""
    learned = choice.Learned(world.run_dir)
    learned.put("lo", "dhcpv4", ["04" + A[12:].hex()])
    world.start()
    assert server_of(world) == A and world.grant()
    learned.put("lo", "dhcpv4", ["04" + B[12:].hex()])
    world.on_names()
    world.run(3000)
    assert server_of(world) == A and world.grant()
    assert world.servers[B].requests == []
    world.servers[A].alive = False
    world.run(4000)
    assert server_of(world) == B and world.grant()


def test_without_a_lease_what_dhcp_tells_counts_at_once(world):
    world.servers[A].alive = False
    learned = choice.Learned(world.run_dir)
    learned.put("lo", "dhcpv4", ["04" + A[12:].hex()])
    world.start()
    learned.put("lo", "dhcpv4", ["04" + B[12:].hex()])
    world.on_names()
    world.run(1)
    assert server_of(world) == B and world.grant()


def test_a_release_that_nobody_hears_comes_to_its_end(world):
    world.servers[A].alive = False
    world.start(server=TWO)
    world.run(1)
    world.servers[A].closed = True
    world.keeper.release(world.time)
    world.run(100)
    assert world.keeper.confirmed is False
    assert world.servers[B].requests == []
    assert world.grant() is None


def test_a_deletion_that_nobody_hears_delays_the_next_mapping_for_some_seconds_only(world):
    world.start(server=TWO[0])
    world.servers[A].alive = False
    before = world.time
    options = world.keeper.options
    changed = options._replace(ports=4)
    world.keeper.change(world.time, changed)
    world.run(30)
    asked = world.servers[A].asked()
    deletions = [at for at, request in asked if request.lifetime == 0]
    requests = [at for at, request in asked if request.lifetime and at > before]
    assert 1 <= len(deletions) <= 4
    assert 9000 <= requests[0] - before <= 11000


class LeftUp(Nothing):
    """A line that a forerunner left up."""

    plan = "a line"

    def present(self):
        return self.plan is not None

    def apply(self, plan):
        self.plan = plan


class Half(Line):
    """The softwire's timers around a mapping that needs no softwire."""

    def __init__(self, options, place, backend=None):
        super().__init__(options._replace(aftr=None), place, backend or Nothing())

    def wish(self):
        return m.wish(wire.PROTO_TCP, self.options.internal_port, 1, 3600)


def softwire(options, place, backend=None):
    texts = "config softwire\n option aftr '2001:db8::1'\n option protocol 'tcp'\n"
    line = config.parse(texts + " option internal_port '8080'\n").softwire
    return Half(line._replace(server=options.server), place, backend)


def test_the_softwire_wakes_by_itself_when_another_round_is_due(world):
    for server in world.servers.values():
        server.alive = False
    world.start(softwire, server=TWO)
    world.run(200)
    world.servers[A].alive = True
    world.run(1200)
    assert world.grant()


def test_a_line_that_nobody_can_renew_ends_with_its_lease(world):
    """The agent was restarted, and the name of its server is not resolved any more."""
    backend = LeftUp()
    left = Grant(PortSet("192.0.2.3", 4001, 1), 8080, 600, world.time, world.time + 600000)
    lease.save(world.run_dir + "/lease", "00" * 32 + " 6 8080", left)
    world.start(lambda options, place: softwire(options, place, backend))
    world.run(590)
    assert backend.present()
    world.run(20)
    assert not backend.present()


def test_a_router_that_loses_server_list_and_address_at_once_goes_on(world, monkeypatch):
    """DHCP forgets, and the uplink has another address, before DHCP tells anew."""
    learned = choice.Learned(world.run_dir)
    learned.put("lo", "dhcpv4", ["04" + A[12:].hex()])
    world.start()
    assert world.grant()
    learned.put("lo", "dhcpv4", [])
    other = address.octets("10.9.0.99")
    old = netlink.path_to
    monkeypatch.setattr(netlink, "path_to", lambda *way: old(*way)._replace(source=other))
    monkeypatch.setattr(netlink, "address_state", lambda _: netlink.GONE)
    for _ in range(2):
        world.on_names()
        world.run(30)
    assert world.grant() is None
    learned.put("lo", "dhcpv4", ["04" + A[12:].hex()])
    world.on_names()
    world.run(30)
    assert world.grant() and world.keeper.path.source == other
