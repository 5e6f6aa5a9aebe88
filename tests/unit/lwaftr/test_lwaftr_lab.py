"""Faults, control commands, and the configuration."""

import json
import random
from pathlib import Path

import lwaftr
import pytest
from lwaftr import packets
from lwaftr.config import ConfigError, from_dict, load
from lwaftr.lab import Lab
from lwaftr_helpers import (
    CLIENT,
    E1,
    E2,
    E3,
    E11,
    NAT44_POOL,
    NOW,
    PORT,
    client_address,
    map_request,
)

from cpe_agent.pcp import wire

OTHER = client_address(5)


def make_lab(faults=None, pool=NAT44_POOL, **pcp):
    values = {"pool": pool, "faults": {"seed": 7, **(faults or {})}, "pcp": pcp}
    return Lab(from_dict(values), random.Random(1).randbytes)


def run(lab, count=1000, data=E1, step=1000):
    """Send requests one by one; [(time sent, time left, Send)] until all is quiet."""
    seen = []
    now = NOW
    for _ in range(count):
        asked = now
        seen += [(asked, now, send) for send in lab.receive(now, data, CLIENT, PORT)]
        limit = now + step
        while lab.get_timer() is not None and lab.get_timer() < limit:
            now = max(now, lab.get_timer())
            seen += [(asked, now, send) for send in lab.handle_timer(now)]
        now = limit
    return seen


# Faults


def test_no_faults():
    lab = make_lab()
    seen = run(lab, 10, E11)
    assert len(seen) == 10 and all(asked == left for asked, left, _ in seen)
    assert not any(send.other_port for _, _, send in seen)


@pytest.mark.parametrize(
    ("fault", "low", "high"),
    [({"loss": 50}, 200, 300), ({"duplicate": 100}, 4000, 4000), ({"silence": True}, 0, 0)],
)
def test_loss_duplication_silence(fault, low, high):
    assert low <= len(run(make_lab(fault), 1000, E11)) <= high


def test_delay():
    delays = [left - asked for asked, left, _ in run(make_lab({"delay_min": 20, "delay_max": 90}))]
    assert min(delays) >= 20 and max(delays) <= 90 and len(set(delays)) > 30


def test_reordering():
    lab = make_lab({"reorder": 30})
    out = []
    for number in range(100):
        now = NOW + number * 1000
        for offset in (0, 10):
            out += lab.receive(now + offset, E11, CLIENT, PORT + offset)
        out += lab.handle_timer(now + 500)
    ports = [send.port for send in out]
    assert len(ports) == 200
    swapped = sum(pair == [PORT + 10, PORT] for pair in zip_pairs(ports))
    assert 10 <= swapped <= 40


def zip_pairs(values):
    return [values[at : at + 2] for at in range(0, len(values), 2)]


def test_garbled_wrong_nonce_and_other_port():
    good = run(make_lab(), 1)[0][2].data
    assert all(send.data != good for _, _, send in run(make_lab({"garble": 100}), 1))
    for _, _, send in run(make_lab({"wrong_nonce": 100}), 10):
        answer = wire.parse_response(send.data)
        assert answer.result == 0 and answer.map.nonce != E1[24:36]
    assert all(send.other_port for _, _, send in run(make_lab({"other_port": 100}), 10))


def test_the_same_seed_gives_the_same_run():
    faults = {"loss": 20, "duplicate": 20, "delay_max": 50, "reorder": 20, "garble": 20}
    assert run(make_lab(faults), 200) == run(make_lab(faults), 200)
    other = run(make_lab({**faults, "seed": 8}), 200)
    assert other != run(make_lab(faults), 200)


# Commands


def command(lab, name, **args):
    answer = lab.command(NOW, {"command": name, "args": args})
    assert json.loads(json.dumps(answer)) == answer
    return answer


def test_status_bindings_mappings_messages():
    lab = make_lab()
    lab.receive(NOW, E1, CLIENT, PORT)
    status = command(lab, "status")
    assert status["ok"] and (status["epoch"], status["mappings"], status["bindings"]) == (
        4660,
        1,
        1,
    )
    (binding,) = command(lab, "bindings")["bindings"]
    assert binding["client"] == "2001:db8::1" and binding["address"] == "192.0.2.3"
    assert (binding["first_port"], binding["last_port"], binding["size"]) == (37056, 37087, 32)
    (mapping,) = command(lab, "mappings")["mappings"]
    assert (mapping["first_internal"], mapping["remaining_s"]) == (50000, 3600)
    request, answer = command(lab, "messages")["messages"]
    assert (request["direction"], request["hex"]) == ("in", E1.hex())
    assert (answer["direction"], answer["hex"], answer["t_ms"]) == ("out", E2.hex(), NOW)
    assert command(lab, "messages", since=1)["messages"] == [answer]


def test_message_log_is_bounded():
    values = {"server": {"message_log": 10}}
    lab = Lab(from_dict(values), random.Random(1).randbytes)
    for _ in range(100):
        lab.receive(NOW, E11, CLIENT, PORT)
    assert [entry["number"] for entry in command(lab, "messages")["messages"]] == [*range(190, 200)]


def test_fault_command():
    lab = make_lab()
    assert command(lab, "fault", loss=30, silence=True)["faults"]["loss"] == 30
    assert lab.receive(NOW, E1, CLIENT, PORT) == []
    assert command(lab, "fault")["faults"]["silence"] is True
    wrong = command(lab, "fault", loss=10, garble=101)
    assert not wrong["ok"] and "garble" in wrong["error"] and "0 to 100" in wrong["error"]
    assert command(lab, "fault")["faults"]["loss"] == 30
    faults = command(lab, "fault", reset=True, refuse=8)["faults"]
    assert (faults["loss"], faults["silence"], faults["refuse"]) == (0, False, 8)
    (sent,) = lab.receive(NOW, E1, CLIENT, PORT)
    assert sent.data[3] == wire.NO_RESOURCES


@pytest.mark.parametrize(
    ("announce", "count"), [(False, 0), (True, 2), ("unicast", 1), ("multicast", 1)]
)
def test_forget_command(announce, count):
    lab = make_lab(announce_repeats=1)
    lab.receive(NOW, E1, CLIENT, PORT)
    answer = command(lab, "forget", epoch_reset=True, announce=announce)
    assert (answer["forgotten"], answer["epoch"]) == (1, 0)
    assert len(lab.handle_timer(NOW)) == count
    assert command(lab, "bindings")["bindings"] == []
    assert not command(lab, "forget", announce="loudly")["ok"]
    assert not command(lab, "forget", epoch_reset="no")["ok"]


def test_announce_command():
    lab = make_lab(announce_repeats=1)
    lab.receive(NOW, E1, CLIENT, PORT)
    assert command(lab, "announce", unicast=True, multicast=False)["sent"] == 1
    (sent,) = lab.handle_timer(NOW)
    assert (sent.address, sent.port) == (CLIENT, PORT)


def test_nothing_is_multicast_without_an_interface():
    lab = Lab(from_dict({}), random.Random(1).randbytes, multicast=False)
    lab.start(NOW)
    assert lab.handle_timer(NOW) == []
    assert not command(lab, "forget", announce="multicast")["ok"]
    assert command(lab, "forget", announce=True)["ok"]
    assert lab.handle_timer(NOW) == []


def test_update_command():
    lab = make_lab(pool={"addresses": ["192.0.2.3", "192.0.2.4"], "set_size": 1024})
    lab.receive(NOW, map_request(), CLIENT, PORT)
    client = "2001:db8::1"
    answer = command(lab, "update", client=client, address="192.0.2.4", first_port=9216)
    (binding,) = answer["bindings"]
    assert (binding["address"], binding["first_port"]) == ("192.0.2.4", 9216)
    (sent,) = lab.handle_timer(NOW)
    assert wire.parse_response(sent.data).map.external_port == 9216
    assert command(lab, "update", client=client)["bindings"][0]["first_port"] != 9216
    for args in (
        {},
        {"client": "x"},
        {"client": "2001:db8::9"},
        {"client": client, "first_port": 1},
    ):
        assert not command(lab, "update", **args)["ok"]


def test_drop_binding_and_counters():
    lab = make_lab()
    lab.receive(NOW, E1, CLIENT, PORT)
    lab.receive(NOW, map_request(OTHER), OTHER, PORT)
    assert command(lab, "drop_binding", client="2001:db8::1")["dropped"] == 1
    assert command(lab, "drop_binding")["dropped"] == 1
    assert command(lab, "status")["mappings"] == 2
    counters = command(lab, "counters", reset=True)
    assert counters["totals"]["packets_outside_set"] == 0
    assert set(counters["outside_set"]) == {"address", "port", "protocol", "icmp"}


@pytest.mark.parametrize(
    "request_",
    [
        None,
        [],
        {},
        {"command": []},
        {"command": "explode"},
        {"command": "status", "args": [1]},
        {"command": "status", "args": {"x": 1}},
        {"command": "messages", "args": {"since": "x"}},
        {"command": "drop_binding", "args": {"client": 7}},
        {"command": "fault", "args": {"reset": True, "explode": 1}},
    ],
)
def test_wrong_commands_are_named(request_):
    answer = make_lab().command(NOW, request_)
    assert answer["ok"] is False and answer["error"]


def test_hairpinning_reaches_static_bindings_outside_the_pool():
    entry = {
        "client": "2001:db8::5",
        "address": "203.0.113.1",
        "first_port": 2048,
        "size": 1024,
    }
    lab = Lab(from_dict({"pool": NAT44_POOL, "static": [entry]}), random.Random(1).randbytes)
    lab.receive(NOW, map_request(), CLIENT, PORT)
    segment = (37056).to_bytes(2, "big") + (2048).to_bytes(2, "big") + bytes(4)
    packet = packets.ipv4(0xC0000203, 0xCB007101, packets.UDP, segment)
    (action,) = lab.plane.from_softwire(NOW, CLIENT, packet)
    assert action.client == bytes.fromhex("20010db8" + "00" * 11 + "05")


def test_random_and_mutated_datagrams_through_all_faults():
    rng = random.Random(4)
    every = dict.fromkeys(
        ("loss", "duplicate", "reorder", "garble", "wrong_nonce", "other_port"), 20
    )
    lab = make_lab({**every, "delay_max": 300})
    now = NOW
    for _ in range(5000):
        data = bytearray(rng.choice((E1, E3, E11, rng.randbytes(rng.randrange(1300)))))
        if data:
            data[rng.randrange(len(data))] = rng.randrange(256)
        lab.receive(now, bytes(data), CLIENT, PORT)
        now += rng.randrange(50)
        lab.handle_timer(now)
    lab.handle_timer(now + 1000)
    assert lab.path.get_timer() is None or lab.path.get_timer() > now + 1000
    assert all(lab.path.counters.values())


# Configuration


def test_sample_holds_every_key(tmp_path):
    pytest.importorskip("tomllib")
    import tomllib

    sample = Path(lwaftr.__file__).with_name("sample.toml")
    config = load(str(sample))
    values = tomllib.loads(sample.read_text())
    for section in ("server", "pool", "pcp", "data_plane", "faults"):
        assert set(values[section]) == set(vars(getattr(config, section)))
    path = tmp_path / "lab.json"
    path.write_text(json.dumps(values))
    assert load(str(path)) == config


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"pol": {}}, ["pol", "pool"]),
        ({"pool": 3}, ["pool"]),
        ({"pool": {"size": 3}}, ["pool.size", "set_size"]),
        ({"pool": {"set_size": 0}}, ["pool.set_size", "1 to 65535"]),
        ({"pool": {"set_size": True}}, ["pool.set_size"]),
        ({"pool": {"first_port": 80}}, ["pool.first_port", "1024"]),
        ({"pool": {"first_port": 2000, "last_port": 1999}}, ["pool.last_port"]),
        ({"pool": {"addresses": []}}, ["pool.addresses"]),
        ({"pool": {"addresses": ["192.0.2.3/24"]}}, ["pool.addresses"]),
        ({"pool": {"addresses": ["10.0.0.0/8"]}}, ["pool.addresses", "65536"]),
        ({"pool": {"addresses": ["192.0.2.3", "192.0.2.3"]}}, ["pool.addresses", "different"]),
        ({"pool": {"mode": "magic"}}, ["pool.mode", "stateless"]),
        ({"pool": {"mode": "stateless", "client_prefix_end": 40}}, ["client_prefix_end"]),
        ({"pool": {"client_prefix": "2001:db8::1/48"}}, ["client_prefix"]),
        ({"pcp": {"strict": 1}}, ["pcp.strict", "true or false"]),
        ({"pcp": {"lifetime_min": 700, "lifetime_max": 600}}, ["pcp.lifetime_max"]),
        ({"pcp": {"announce_repeats": 11}}, ["1 to 10"]),
        ({"server": {"address": "::"}}, ["server.address", "unicast"]),
        ({"server": {"address": "192.0.2.1"}}, ["server.address", "pcp_only"]),
        ({"server": {"tun": "a-name-that-is-too-long"}}, ["server.tun", "15"]),
        ({"faults": {"delay_min": 5, "delay_max": 1}}, ["faults.delay_max"]),
        ({"faults": {"loss": -1}}, ["faults.loss", "0 to 100"]),
        ({"data_plane": {"icmp4_unreachable": True}}, ["data_plane.ipv4_address"]),
        ({"static": [{"client": "2001:db8::1"}]}, ["static[0].address"]),
        ({"static": {}}, ["static", "list"]),
    ],
)
def test_wrong_values_are_named(values, words):
    with pytest.raises(ConfigError) as caught:
        from_dict(values)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff"])
def test_broken_files(tmp_path, content):
    path = tmp_path / "lab.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"lab\.json"):
        load(str(path))
    with pytest.raises(ConfigError):
        load(str(tmp_path / "none.json"))


def test_switch_command():
    lab = make_lab()
    lab.receive(NOW, E1, CLIENT, PORT)
    assert lab.command(NOW, {"command": "switch", "args": {"map": False}})["sent"] == 0
    assert lab.receive(NOW, E1, CLIENT, PORT)[0].data[3] == wire.UNSUPP_OPCODE
    done = lab.command(NOW, {"command": "switch", "args": {"map": True, "port_set": False}})
    assert done["ok"] and done["epoch"] == 0 and done["sent"] == 2
    assert lab.command(NOW, {"command": "status"})["mappings"] == 0
    assert not lab.command(NOW, {"command": "switch", "args": {"map": 1}})["ok"]
