"""A mapping and a softwire that want the same internal ports of one server (RFC 7753 6.3)."""

import pytest

from cpe_agent import address, config, netlink
from tests.unit.shell import virtual
from tests.unit.shell.test_failover import softwire
from tests.unit.shell.virtual import A, B

FIRST, SECOND = "10.9.0.11", "10.9.0.12"
PORTS = {"internal_port": "8080"}
ELSEWHERE = address.octets("10.9.0.99")


@pytest.fixture
def world(monkeypatch, tmp_path):
    made = virtual.World(monkeypatch, tmp_path)
    made.source = virtual.SOURCE
    made.deprecated = None
    monkeypatch.setattr(netlink, "path_to", lambda *_: netlink.Path("wan", 2, 1500, made.source))
    monkeypatch.setattr(
        netlink,
        "address_state",
        lambda one: netlink.DEPRECATED if one == made.deprecated else netlink.USABLE,
    )
    return made


def move(world):
    """The prefix changes in good order."""
    world.deprecated, world.source = world.source, ELSEWHERE
    world.on_names()


def test_a_mapping_in_the_softwires_way_is_put_off_when_the_softwire_moves(world, capsys):
    world.start(softwire, server=[FIRST])
    other = world.start_beside("ssh", server=[FIRST], **PORTS)
    assert "put off" in other.errors["path"]
    world.servers[A].alive = False  # so that the mapping gets in while the softwire says farewell
    move(world)
    world.run(8)
    assert world.grant() is None and other.mapping is not None
    world.servers[A].alive = True
    world.run(20)
    assert world.grant() and world.keeper.path.source == ELSEWHERE
    assert world.keeper.errors == {}
    assert other.mapping is None and "the softwire" in other.errors["path"]
    assert "mapping 'ssh': put off" in capsys.readouterr().err


def test_what_was_granted_in_the_way_is_given_back_before_the_softwire_asks(world):
    world.start(softwire, server=[FIRST, SECOND])
    world.servers[A].alive = False
    world.run(5000)
    assert world.keeper.session.server == B
    world.servers[A].alive = True
    other = world.start_beside("ssh", server=[FIRST], **PORTS)
    assert other.mapping.grant and other.errors == {}, "nothing is in its way now"
    world.servers[A].asked()
    world.servers[B].alive = False
    world.run(5000)
    assert world.keeper.session.server == A and world.grant()
    asked = [request for _, request in world.servers[A].asked()]
    own = [request.map.nonce == world.keeper.mapping.nonce for request in asked]
    last_of_other = asked[own.index(True) - 1]
    assert last_of_other.lifetime == 0 and all(own[own.index(True) :])
    assert other.mapping is None and "put off" in other.errors["path"]


def test_a_silent_server_delays_the_softwire_by_the_farewell_alone(world):
    world.start(softwire, server=[FIRST])
    other = world.start_beside("ssh", server=[FIRST], **PORTS)
    world.servers[A].alive = False
    move(world)
    world.run(60)
    assert world.keeper.mapping is not None, "it asks"
    assert other.mapping is None


def test_the_mapping_comes_back_by_itself_when_the_softwire_has_gone(world):
    world.start(softwire, server=[FIRST])
    other = world.start_beside("ssh", server=[FIRST], **PORTS)
    world.run(100)
    assert other.mapping is None
    world.keeper.dismiss(world.time)
    world.run(30)
    assert other.mapping.grant and other.errors == {}


def test_waiting_is_told_once_and_not_each_time(world, capsys):
    world.start(softwire, server=[FIRST])
    world.start_beside("ssh", server=[FIRST], **PORTS)
    world.run(600)
    assert capsys.readouterr().err.count("put off") == 1


def test_what_does_not_meet_the_softwires_ports_is_left_alone(world):
    world.start(softwire, server=[FIRST])
    other = world.start_beside("dns", server=[FIRST], internal_port="53", protocol="udp")
    move(world)
    world.run(60)
    assert world.grant() and other.mapping.grant
    assert other.errors == {}


SOFTWIRE = "config softwire\n option aftr '2001:db8::1'\n"
BESIDE = "config mapping 'web'\n option internal_port '8080'\n"
REFUSED = [
    (SOFTWIRE, " option server '2001:db8::1'\n"),
    (SOFTWIRE + " list server 'pcp.example'\n", " option server 'pcp.example'\n"),
    (
        SOFTWIRE + " list server 'pcp.example'\n",
        " list server 'a.example'\n list server 'pcp.example'\n",
    ),
    (SOFTWIRE + " option protocol 'tcp'\n", " option server '2001:db8::1'\n"),
    (
        SOFTWIRE + " option source '2001:db8::9'\n",
        " option server '2001:db8::1'\n option source '2001:db8::9'\n",
    ),
]
ALLOWED = [
    (SOFTWIRE, ""),
    (SOFTWIRE, " option server '2001:db8::2'\n"),
    (SOFTWIRE + " list server 'pcp.example'\n", " option server '2001:db8::1'\n"),
    (SOFTWIRE + " option protocol 'udp'\n", " option server '2001:db8::1'\n"),
    (SOFTWIRE + " option enabled '0'\n", " option server '2001:db8::1'\n"),
    (SOFTWIRE, " option server '2001:db8::1'\n option enabled '0'\n"),
    (SOFTWIRE, " option server '2001:db8::1'\n option source '2001:db8::9'\n"),
    (SOFTWIRE, " option server '2001:db8::1'\n option internal_address '2001:db8::7'\n"),
]


@pytest.mark.parametrize("line,mapping", REFUSED)
def test_what_the_config_alone_shows_to_meet_is_refused(line, mapping):
    with pytest.raises(config.ConfigError) as raised:
        config.parse(line + BESIDE + mapping)
    text = str(raised.value)
    assert text.startswith("mapping 'web' needs other ports, or another server than the softwire:")


@pytest.mark.parametrize("line,mapping", ALLOWED)
def test_what_may_do_without_each_others_ports_is_not(line, mapping):
    assert len(config.parse(line + BESIDE + mapping).mappings) == 1


def test_two_mappings_may_not_meet_on_one_of_several_servers():
    text = "config mapping 'a'\n option internal_port '80'\n list server '10.0.0.1'\n"
    both = text + "config mapping 'b'\n option internal_port '80'\n list server '10.0.0.2'\n"
    assert len(config.parse(both).mappings) == 2
    with pytest.raises(
        config.ConfigError, match="mapping 'b' needs other ports: internal ports 80"
    ):
        config.parse(both + " list server '10.0.0.1'\n")
