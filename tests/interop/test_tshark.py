"""Our messages as Wireshark reads them: a peer that nobody here wrote."""

import pytest

from cpe_agent.pcp import mapping as m
from cpe_agent.pcp import wire
from cpe_agent.portset import PortSet
from tests.support import pcap
from tests.support.tshark import tshark_pcp_report
from tests.unit.core import vectors
from tests.unit.core.bench import SERVER, SOURCE, Bench, success

CLIENT_PORT = 49152


def up(octets):
    return pcap.frame(SOURCE, CLIENT_PORT, SERVER, wire.SERVER_PORT, octets)


def down(octets):
    return pcap.frame(SERVER, wire.SERVER_PORT, SOURCE, CLIENT_PORT, octets)


def report(tmp_path, frames):
    path = tmp_path / "pcp.pcap"
    pcap.write(path, list(enumerate(frames)))
    return tshark_pcp_report(path)


def test_the_worked_examples_are_flawless_pcp(tmp_path):
    frames = [
        down(octets) if octets[1] & 0x80 else up(octets)
        for name, octets in vectors.ALL
        if name not in ("E13", "E14")  # other versions, which Wireshark takes for something else
    ]
    found = report(tmp_path, frames)
    assert found.malformed == []
    assert len(found.messages) == len(frames) == 16
    sizes = [size for _, size, _ in found.port_sets]
    assert sizes == [100, 32, 65535, 2048, 100, 99, 32, 32, 32, 0, 0, 100, 65535]


def test_each_field_of_a_request_is_where_wireshark_looks_for_it(tmp_path):
    bench = Bench(
        m.wish(6, 1024, 2048, 7200, True), PortSet("198.51.100.7", 40960, 1024), nonce=b"\xa5" * 12
    ).start()
    found = report(tmp_path, [up(bench.sent[0][1])])
    assert found.malformed == []
    (message,) = found.messages
    wanted = {
        "version": "2",
        "r": "0",
        "opcode": "1",
        "lifetime_req": "7200",
        "client_ip": "2001:db8::1",
        "map.nonce": "a5:" * 11 + "a5",
        "map.protocol": "6",
        "map.internal_port": "1024",
        "map.req_sug_external_port": "40960",
        "map.req_sug_external_ip": "::ffff:198.51.100.7",
        "option.code": "130",
        "option.length": "5",
        "option.portset.size": "1024",
        "option.portset.req_sug_first_external_port": "1024",
    }
    assert {name: message.get(name) for name in wanted} == wanted
    assert message["option.portset.parity"] in ("1", "True")
    assert message["source"] == message["client_ip"], "the address in the header is the sender's"


def test_each_field_of_a_grant_is_where_wireshark_looks_for_it(tmp_path):
    bench = Bench(m.wish(0, 1, 65535, 3600)).start()
    octets = success(bench, size=2048, first=26624, address="192.0.2.5", first_internal=26624)
    found = report(tmp_path, [down(octets)])
    assert found.malformed == []
    (message,) = found.messages
    wanted = {
        "r": "1",
        "opcode": "1",
        "result_code": "0",
        "lifetime_rsp": "3600",
        "epoch_time": "4660",
        "map.protocol": "0",
        "map.internal_port": "1",
        "map.rsp_assigned_external_port": "26624",
        "map.rsp_assigned_ext_ip": "::ffff:192.0.2.5",
        "option.portset.rsp_assigned_first_external_port": "26624",
    }
    assert {name: message.get(name) for name in wanted} == wanted
    assert found.port_sets == [(1, 2048, 26624)]


def test_a_whole_life_of_a_mapping_is_flawless_pcp(tmp_path):
    """First request, retransmissions, grant, renewals, recovery, release: all a client says."""
    bench = Bench(m.wish(0, 1, 65535, 3600)).start()
    bench.run(30)
    bench.answer(size=2048, first=26624, first_internal=26624)
    bench.run(3300)
    bench.answer(size=2048, first=26624, first_internal=26624)
    bench.client.binding_lost(bench.now)
    bench.run(20)
    bench.mapping.release(bench.now)
    bench.run(60)
    frames = [up(octets) for _, octets in bench.sent]
    found = report(tmp_path, frames)
    assert found.malformed == [] and len(found.messages) == len(frames) >= 14
    assert len(found.port_sets) == len(frames), "every one of them names its port set"
    lifetimes = [message["lifetime_req"] for message in found.messages]
    assert lifetimes[-4:] == ["0"] * 4 and set(lifetimes[:-4]) == {"3600"}
    assert len({message["map.nonce"] for message in found.messages}) == 1


def test_one_port_and_announcements_are_flawless_pcp(tmp_path):
    bench = Bench(m.wish(17, 4000, 1, 3600)).start()
    frames = [
        up(bench.sent[0][1]),
        down(success(bench, size=None, first=4000)),
        up(wire.announce_request(SOURCE)),
        down(wire.response(wire.OP_ANNOUNCE, 0, 0, 77)),
    ]
    found = report(tmp_path, frames)
    assert found.malformed == [] and found.port_sets == []
    assert [message["opcode"] for message in found.messages] == ["1", "1", "0", "0"]
    assert found.messages[3]["epoch_time"] == "77"


@pytest.mark.parametrize(
    ("fault", "octets"),
    [
        ("cut in the option", vectors.E1[:66]),
        ("cut in the map", vectors.E2[:50]),
        ("an option longer than the rest", vectors.E1[:62] + b"\0\x20" + vectors.E1[64:]),
        ("an option of length 8", vectors.E1[:62] + b"\0\x08" + vectors.E1[64:]),
        ("without padding", vectors.E1[:69]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_message_is_a_fault(tmp_path, fault, octets):
    """The check itself: it must not be blind."""
    found = report(tmp_path, [up(vectors.E1), down(octets) if octets[1] & 0x80 else up(octets)])
    assert found.malformed and fault
    assert {line.split(":")[0] for line in found.malformed} == {"frame 2"}, fault


def test_a_bad_checksum_is_a_fault(tmp_path):
    frame = bytearray(up(vectors.E1))
    frame[-1] ^= 1
    assert "checksum" in report(tmp_path, [bytes(frame)]).malformed[0]
