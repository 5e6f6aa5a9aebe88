"""The agent from its start to its end: its state, its lease, its uplink, and kill -9."""

import ast
import pathlib
import re
import stat
import zlib

import pytest

from cpe_agent import store
from cpe_agent.pcp import wire
from cpe_agent.portset import PortSet
from tests.unit.shell import rig

FULL = ("192.0.2.3", 37056, 32)
SERVER = bytes.fromhex("20010db8000100000000000000000001")
NONCE = bytes(range(100, 112))


def remembered(agent):
    """The softwire's store.State on flash."""
    return dict(store.decode(agent.state.read_text()))[store.SOFTWIRE]


def flash(*state):
    """A state file with these fields of store.State."""
    return store.encode([(store.SOFTWIRE, store.State(*state))])


# As the first version wrote it.
VERSION_1 = """\
{"address": "192.0.2.3", "first_internal": 1, "first_port": 37056, "internal_port": 1, \
"nonce": "6465666768696a6b6c6d6e6f", "protocol": 0, \
"server": "20010db8000100000000000000000001", "size": 32}
"""
VERSION_1 = "cpe-agent-state 1 %08x\n%s" % (zlib.crc32(VERSION_1.encode()), VERSION_1)


def held(found):
    return found["address"], found["first_port"], found["size"]


def suggested(request):
    address = ".".join(str(octet) for octet in request.map.external_ip[12:])
    return address, request.map.external_port


def test_the_nonce_is_on_flash_before_the_first_request_leaves(make_peer, make_agent):
    agent = make_agent()
    on_flash = []
    peer = make_peer(lambda request: on_flash.append(agent.state.read_text()))
    agent.start()
    request, _ = peer.request()
    assert request.map.nonce.hex() in on_flash[0]
    assert stat.S_IMODE(agent.state.stat().st_mode) == 0o600


def test_a_grant_is_on_flash_and_a_renewal_writes_nothing(make_peer, make_agent):
    peer = make_peer(rig.grant())
    agent = make_agent()
    agent.start()
    found = agent.wait_held()
    assert remembered(agent).port_set == PortSet(*FULL)
    writes, inode = found["store_writes"], agent.state.stat().st_ino
    peer.request()
    assert agent.cli("renew").returncode == 0
    found = agent.wait(lambda found: found["counts"]["renewals"] == 1, "a renewal")
    assert (found["store_writes"], agent.state.stat().st_ino) == (writes, inode)


FLASH = {"this version": flash(NONCE, SERVER, 0, 1, PortSet(*FULL), 1), "version 1": VERSION_1}


@pytest.mark.parametrize("version", sorted(FLASH))
def test_after_a_power_cut_the_same_set_is_asked_for_with_the_same_nonce(
    make_peer, make_agent, version
):
    peer = make_peer(rig.grant())
    agent = make_agent()
    agent.state.parent.mkdir()
    agent.state.write_text(FLASH[version])
    agent.start()
    request, _ = peer.request()
    assert (request.map.nonce, suggested(request)) == (NONCE, FULL[:2])


DAMAGED = {
    "empty": b"",
    "cut": flash(NONCE, SERVER, 0, 1, PortSet(*FULL), 1).encode()[:100],
    "newer": b"cpe-agent-state 3 %08x\n[]\n" % zlib.crc32(b"[]\n"),
    "foreign": b'{"nonce": "646464646464646464646464"}',
    "binary": bytes(range(256)),
}


@pytest.mark.parametrize("what", sorted(DAMAGED))
def test_a_damaged_state_is_set_aside_and_the_agent_starts_anew(make_peer, make_agent, what):
    peer = make_peer(rig.grant())
    agent = make_agent()
    agent.state.parent.mkdir()
    agent.state.write_bytes(DAMAGED[what])
    agent.start()
    request, _ = peer.request()
    assert request.map.nonce != NONCE
    assert suggested(request) == ("0.0.0.0", 0)
    agent.wait_held()
    assert agent.state.with_name("state.bad").read_bytes() == DAMAGED[what]
    assert "%s cannot be trusted: " % agent.state in agent.log()
    assert remembered(agent).port_set == PortSet(*FULL)


def test_a_half_written_file_of_the_forerunner_confuses_nobody(make_peer, make_agent):
    peer = make_peer(rig.grant())
    agent = make_agent()
    agent.state.parent.mkdir()
    agent.state.write_text(FLASH["this version"])
    agent.state.with_name("state.new").write_text("cpe-agent-state 1 0")
    agent.start()
    request, _ = peer.request()
    assert request.map.nonce == NONCE
    agent.wait_held()


def test_a_state_that_cannot_be_written_is_said_and_the_line_works(make_peer, make_agent):
    make_peer(rig.grant())
    agent = make_agent()
    agent.state.mkdir(parents=True)  # a directory in its place
    agent.start()
    text = agent.wait_error("cannot write %s" % agent.state)
    assert "after a power cut the same set may not come back" in text
    assert held(agent.wait_held()) == FULL


def test_killed_and_started_again_it_adopts_the_lease(make_peer, make_agent):
    peer = make_peer(rig.grant())
    agent = make_agent()
    agent.start()
    before = agent.wait_held()
    first, _ = peer.request()
    agent.kill()
    peer.script = lambda request: None  # the set is held without an answer
    found = agent.start()
    assert (found["state"], held(found)) == ("up", FULL)
    assert before["remaining"] - 3 <= found["remaining"] <= before["remaining"]
    again, _ = peer.request()
    assert again.map.nonce == first.map.nonce
    assert suggested(again) == FULL[:2]
    assert "adopting the running lease: 192.0.2.3 ports 37056-37087 (32)" in agent.log()


LEASES = ["", "{}", "5", "null", '["x"]', "[" * 3000, "\0\xff", "[1, 2, 3, 4, 5, 6, 7, 8]"]
FIELDS = '["key", "%s", %s, %s, 1, 3600, 1, %s]'
LEASES += [FIELDS % ("192.0.2.3", 1024, 1024, number) for number in ("1e999", '"x"', "null", "[]")]


@pytest.mark.parametrize("text", LEASES, ids=range(len(LEASES)))
def test_a_foreign_lease_is_no_lease(make_peer, make_agent, text):
    make_peer(rig.grant())
    agent = make_agent()
    (agent.directory / "run").mkdir()
    (agent.directory / "run" / "lease").write_text(text)
    agent.start()
    agent.wait_held()
    assert "adopting" not in agent.log()


def test_without_an_uplink_it_waits_and_asks_as_soon_as_there_is_one(link, make_peer, make_agent):
    peer = make_peer(rig.grant())
    link.cpe.run(["ip", "addr", "del", rig.CLIENT + "/64", "dev", "wan"])
    agent = make_agent()
    try:
        found = agent.start()
        assert found["state"] == "waiting for the uplink"
        assert "no route to the PCP server" in agent.wait_error("waiting for the IPv6 uplink")
        assert peer.quiet(0.3)
    finally:
        link.cpe.put_address("wan", rig.CLIENT + "/64")
    assert peer.requests.get(timeout=1.5)
    found = agent.wait_held()
    assert found["errors"] == []


def test_a_new_source_address_asks_anew_from_it(link, make_peer, make_agent):
    """RFC 7596 5.1. The server binds the source, and so does the softwire."""
    peer = make_peer(rig.grant())
    agent = make_agent()
    agent.start()
    agent.wait_held()
    first, source = peer.request()
    assert source[0] == rig.CLIENT
    try:
        link.cpe.put_address("wan", rig.SECOND + "/64")
        link.cpe.run(["ip", "addr", "del", rig.CLIENT + "/64", "dev", "wan"])
        again, source = peer.request()
        assert source[0] == rig.SECOND
        assert again.client_ip[-1] == 3
        assert again.map.nonce == first.map.nonce
        assert agent.wait_held()["source"] == rig.SECOND
    finally:
        link.cpe.put_address("wan", rig.CLIENT + "/64")
        link.cpe.run(["ip", "addr", "del", rig.SECOND + "/64", "dev", "wan"])


def test_an_address_beside_it_changes_nothing(link, make_peer, make_agent):
    peer = make_peer(rig.grant())
    agent = make_agent(source=rig.CLIENT)
    agent.start()
    agent.wait_held()
    peer.request()
    link.cpe.put_address("wan", rig.SECOND + "/64")
    try:
        assert peer.quiet(0.6)
    finally:
        link.cpe.run(["ip", "addr", "del", rig.SECOND + "/64", "dev", "wan"])


def test_release_gives_the_set_back_and_leaves_no_trace(make_peer, make_agent):
    peer = make_peer(rig.grant())
    agent = make_agent()
    agent.start()
    agent.wait_held()
    first, _ = peer.request()
    done = agent.cli("release")
    assert (done.returncode, done.stderr) == (0, "")
    assert "released: the server confirmed it" in done.stdout
    deletion, _ = peer.request()
    assert (deletion.lifetime, deletion.map.nonce) == (0, first.map.nonce)
    assert list(agent.state.parent.glob("state*")) == []
    assert not (agent.directory / "run" / "lease").exists()
    assert agent.status()["state"] == "released"
    assert agent.cli("renew").returncode == 0
    agent.wait_held()
    anew, _ = peer.request()
    assert anew.map.nonce != first.map.nonce


def test_release_without_an_agent_gives_the_set_back_too(make_peer, make_agent):
    peer = make_peer(rig.grant())
    agent = make_agent()
    agent.start()
    agent.wait_held()
    first, _ = peer.request()
    agent.kill()
    done = agent.cli("release")
    assert done.returncode == 0, done.stderr
    assert "no agent is running; doing it without one" in done.stdout
    assert "released: the server confirmed it" in done.stdout
    deletion, _ = peer.request()
    assert (deletion.lifetime, deletion.map.nonce) == (0, first.map.nonce)
    assert list(agent.state.parent.glob("state*")) == []


def test_a_release_that_no_server_heard_is_not_called_confirmed(link, make_agent):
    link.cpe.run(["ip", "addr", "del", rig.CLIENT + "/64", "dev", "wan"])
    agent = make_agent()
    try:
        agent.start()
        agent.wait_error("waiting for the IPv6 uplink")
        done = agent.cli("release")
    finally:
        link.cpe.put_address("wan", rig.CLIENT + "/64")
    assert done.returncode == 0
    assert "released here" in done.stdout
    assert "confirmed" not in agent.log().replace("did not confirm", "")


def test_no_module_looks_at_the_wall_clock():
    """It jumps when the router hears of the time: nothing here may depend on it."""
    folder = pathlib.Path(store.__file__).parent
    called = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                called.add("%s.%s" % (node.value.id, node.attr))
    of_time = {name for name in called if re.match(r"(time|datetime|utime)\.", name)}
    assert of_time == {
        "time.CLOCK_BOOTTIME",
        "time.clock_gettime_ns",
        "time.monotonic_ns",
        "time.sleep",
        "time.ticks_diff",
        "time.ticks_ms",
    }


def test_an_announcement_of_a_restart_brings_a_request_for_the_same_set(make_peer, make_agent):
    peer = make_peer(rig.grant(epoch=1000))
    agent = make_agent()
    agent.start()
    agent.wait_held()
    first, source = peer.request()
    peer.send(source, wire.response(wire.OP_ANNOUNCE, 0, 0, 5))
    again, _ = peer.request()
    assert (again.map.nonce, suggested(again)) == (first.map.nonce, FULL[:2])
