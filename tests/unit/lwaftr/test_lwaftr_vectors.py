"""The server against the worked octets of RFC 7753 5 and its neighbours."""

import pytest
from lwaftr_helpers import (
    CLIENT,
    E1,
    E2,
    E3,
    E4,
    E5A,
    E5B,
    E5C,
    E6,
    E7,
    E8,
    E9A,
    E9B,
    E10,
    E11,
    E15,
    LW4O6_POOL,
    NAT44_POOL,
    NOW,
    PORT,
    ask,
    granted,
    make_server,
    only,
)

from cpe_agent.pcp import wire


def answers(server, data, now_ms=NOW, source=CLIENT):
    sent = server.receive(now_ms, data, source, PORT)
    assert all((out.address, out.port) == (source, PORT) for out in sent)
    return [out.data for out in sent]


def test_nat44_request():
    assert answers(make_server(NAT44_POOL), E1) == [E2]


def test_renewal_extends_and_keeps():
    server = make_server(NAT44_POOL)
    answers(server, E1)
    later = answers(server, E6, NOW + 1800000)
    assert later == [E2[:8] + (4660 + 1800).to_bytes(4, "big") + E2[12:]]
    server.handle_timer(NOW + 3700000)
    assert len(server.bindings) == 1


def test_renewal_rebuilds_lost_state():
    server = make_server({**NAT44_POOL, "first_port": 1024})
    assert answers(server, E6) == [E2]


def test_all_protocols_request():
    assert answers(make_server(LW4O6_POOL), E3) == [E4]


def test_all_protocols_request_stateless():
    pool = {
        "addresses": ["192.0.2.5"],
        "first_port": 24576,
        "set_size": 2048,
        "mode": "stateless",
        "client_prefix": "2001:db8::/112",
        "client_prefix_end": 128,
    }
    assert answers(make_server(pool), E3) == [E4]


def test_wildcard_form():
    (answer,) = answers(make_server(LW4O6_POOL), E15)
    assert granted(wire.parse_response(answer)) == ("192.0.2.5", 26624, 2048, 26624)
    assert answer[40:42] == b"\0\0"


def test_overlap_of_two_mappings():
    pool = {"addresses": ["192.0.2.3"], "first_port": 1, "allow_system_ports": True}
    server = make_server(pool)
    ask(server, protocol=17, internal=100, size=None, port=100, address="192.0.2.3")
    ask(server, protocol=17, internal=101, size=99, port=201, address="192.0.2.3")
    assert answers(server, E5A) == [E5B, E5C]


def test_delete_and_delete_again():
    server = make_server(NAT44_POOL)
    answers(server, E1)
    assert len(server.bindings) == 1
    assert answers(server, E7, NOW + 40000) == [E8]
    assert len(server.bindings) == 0
    assert answers(server, E7, NOW + 40000) == [E8]


def test_delete_ignores_and_copies_a_suggestion():
    server = make_server(NAT44_POOL)
    answers(server, E1)
    suggestion = bytes.fromhex("0009" + "00" * 10 + "ffffc0000209")
    request = E7[:42] + suggestion + E7[60:]
    (answer,) = answers(server, request)
    assert answer[3] == wire.SUCCESS and answer[42:60] == suggestion
    assert len(server.bindings) == 0


def test_size_zero_is_malformed():
    server = make_server(NAT44_POOL)
    assert answers(server, E9A) == [E9B]
    assert server.mapping_count() == 0


def test_quota():
    server = make_server(NAT44_POOL, max_sets=1)
    ask(server, protocol=17, internal=2000, size=10)
    assert answers(server, E1) == [E10]


def test_announce():
    server = make_server()
    expected = bytes.fromhex("0280000000000000" + "00001234" + "00" * 12)
    assert answers(server, E11) == [expected]
    changed = E11[:23] + b"\2"
    (answer,) = answers(server, changed)
    assert answer[:4] == bytes.fromhex("0280000c")
    assert server.mapping_count() == 0


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\0" + E1[1:], wire.UNSUPP_VERSION),
        (b"\1\0", wire.UNSUPP_VERSION),
        (E1[:56], wire.MALFORMED_REQUEST),
        (E1[:71], wire.MALFORMED_REQUEST),
        (E1 + bytes(1032), wire.MALFORMED_REQUEST),
        (E1[:23] + b"\2" + E1[24:], wire.ADDRESS_MISMATCH),
        (E1[:1] + b"\5" + E1[2:], wire.UNSUPP_OPCODE),
        (E1[:1] + b"\2" + E1[2:], wire.UNSUPP_OPCODE),
        (E1 + wire.option(64), wire.UNSUPP_OPTION),
        (E1[:60] + wire.option(64) + E1[60:], wire.UNSUPP_OPTION),
        (E1 + E1[60:], wire.MALFORMED_OPTION),
        (E7 + E7[60:], wire.MALFORMED_OPTION),
        (E1[:62] + b"\xff\xf0" + E1[64:], wire.MALFORMED_OPTION),
        (E1[:60] + wire.option(130, b"\0\4"), wire.MALFORMED_OPTION),
        (E1 + wire.option(2), wire.MALFORMED_OPTION),
        (E7 + wire.option(2), wire.MALFORMED_OPTION),
        (E1[:60] + wire.option(2), wire.MALFORMED_OPTION),
        (E1 + wire.option(1, CLIENT), wire.MALFORMED_REQUEST),
        (E1 + wire.option(1, CLIENT[:-1] + b"\7"), wire.UNSUPP_OPTION),
        (E1 + wire.option(3, bytes(19)), wire.MALFORMED_OPTION),
        (E7 + wire.option(3, bytes(20)), wire.MALFORMED_OPTION),
        (E1[:36] + b"\x84" + E1[37:], wire.UNSUPP_PROTOCOL),
        (E1[:40] + b"\0\0" + E1[42:], wire.UNSUPP_PROTOCOL),
        (E15[:60], wire.UNSUPP_PROTOCOL),
    ],
)
def test_refused(data, code):
    server = make_server(NAT44_POOL)
    (answer,) = answers(server, data)
    assert answer[:2] == bytes([2, data[1] | 0x80]) and answer[3] == code
    assert int.from_bytes(answer[4:8], "big") == 1800
    assert len(answer) % 4 == 0 and len(answer) <= wire.MAX_LENGTH
    echoed = data[24 : wire.MAX_LENGTH]
    assert answer[24 : 24 + len(echoed)] == echoed
    assert server.mapping_count() == 0


@pytest.mark.parametrize("data", [b"", b"\2", E2, E1[:23], E11[:20], b"\0\x80"])
def test_dropped(data):
    assert answers(make_server(NAT44_POOL), data) == []


def test_reserved_bits_name_the_client_only_when_unparsed():
    server = make_server(NAT44_POOL)
    (answer,) = answers(server, E1[:71])
    assert answer[12:24] == CLIENT[4:]
    (answer,) = answers(server, E1 + wire.option(64))
    assert answer[12:24] == bytes(12)


def test_reserved_fields_of_a_request_are_not_read():
    noisy = E1[:2] + b"\xff\xff" + E1[4:61] + b"\xff" + E1[62:68] + b"\xfe\xff\xff\xff"
    (answer,) = answers(make_server(NAT44_POOL), noisy)
    assert granted(wire.parse_response(answer)) == ("192.0.2.3", 37056, 32, 50000)


def test_unknown_optional_option_is_left_out():
    assert answers(make_server(NAT44_POOL), E1 + wire.option(200, b"abc")) == [E2]


def test_strict_server_refuses_protocol_0_with_a_port():
    server = make_server(LW4O6_POOL, strict=True)
    (answer,) = answers(server, E3)
    assert answer[3] == wire.MALFORMED_REQUEST
    assert answers(server, E15)[0][3] == wire.SUCCESS
    (answer,) = answers(make_server(LW4O6_POOL, wildcard_sets=False), E15)
    assert answer[3] == wire.UNSUPP_PROTOCOL


def test_map_can_be_switched_off():
    server = make_server(NAT44_POOL, enabled=False)
    assert answers(server, E1)[0][:4] == bytes.fromhex("02810004")
    assert only([wire.parse_response(data) for data in answers(server, E11)]).result == 0
