"""Options besides PORT_SET, IPv4 clients, and what the administrator switches."""

import pytest
from lwaftr import packets
from lwaftr.config import DataPlaneConfig
from lwaftr.softwire import Softwire, ToSoftwire
from lwaftr_helpers import (
    CLIENT,
    LW4O6_POOL,
    NAT44_POOL,
    NONCE,
    NOW,
    PORT,
    ask,
    client_address,
    granted,
    make_server,
    map_request,
    only,
)

from cpe_agent.pcp import wire

OTHER = client_address(9)
WRONG = b"\xff" * 12
HOST4 = wire.V4_PREFIX + bytes((192, 168, 1, 10))
FAILURE = wire.option(wire.OPT_PREFER_FAILURE)
LIFE = 3600


def v4(*octets):
    return int.from_bytes(bytes(octets), "big")


def filter_option(length, port=0, address=(198, 51, 100, 0)):
    octets = bytes((0, length)) + port.to_bytes(2, "big") + wire.V4_PREFIX + bytes(address)
    return wire.option(wire.OPT_FILTER, octets)


def options_of(answer, code):
    return [octets for found, octets in answer.options if found == code]


def single(server, now_ms=NOW, **request):
    """The answer to a request for one TCP port."""
    defaults = {"protocol": 6, "internal": 8080, "size": None}
    return only(ask(server, now_ms, **{**defaults, **request}))


# FILTER (RFC 6887 13.3)


def arrives(server, table, address, sport=40000, protocol=packets.UDP, kind=8):
    """Does a packet from an IPv4 peer reach the owner of the set's first port?"""
    first = next(iter(server.mappings())).external
    plane = Softwire(DataPlaneConfig(), table, bytes(16), [v4(192, 0, 2, 3)])
    payload = sport.to_bytes(2, "big") + first.to_bytes(2, "big") + bytes(4)
    if protocol == packets.ICMP:
        payload = bytes((kind, 0, 0, 0)) + first.to_bytes(2, "big") + bytes(2)
    if protocol == packets.ICMP and kind == 3:
        quote = packets.ipv4(v4(192, 0, 2, 3), v4(8, 8, 8, 8), 17, first.to_bytes(2, "big") * 4)
        payload = bytes((3, 1, 0, 0)) + bytes(4) + quote
    packet = packets.ipv4(address, v4(192, 0, 2, 3), protocol, payload)
    (action,) = plane.from_internet(NOW, packet)
    if not isinstance(action, ToSoftwire):
        assert plane.counters["inbound_filtered"] == 1
    return isinstance(action, ToSoftwire)


def filtered_server(*filters):
    server = make_server({"addresses": ["192.0.2.3"]})
    answer = only(ask(server, extra=b"".join(filters)))
    assert answer.result == wire.SUCCESS
    return server, server.bindings


def test_a_filter_lets_its_peers_in_and_no_others():
    server, table = filtered_server(filter_option(120, 53))
    assert arrives(server, table, v4(198, 51, 100, 77), 53)
    assert not arrives(server, table, v4(198, 51, 100, 77), 54)
    assert not arrives(server, table, v4(198, 51, 101, 77), 53)
    # Echo requests have no port; errors come from any router.
    assert arrives(server, table, v4(198, 51, 100, 77), protocol=packets.ICMP)
    assert not arrives(server, table, v4(8, 8, 8, 8), protocol=packets.ICMP)
    assert arrives(server, table, v4(8, 8, 8, 8), protocol=packets.ICMP, kind=3)


def test_filters_are_added_and_cleared():
    server, table = filtered_server(filter_option(128, address=(8, 8, 8, 8)))
    ask(server, NOW + 1, extra=filter_option(128, address=(9, 9, 9, 9)))
    assert arrives(server, table, v4(8, 8, 8, 8)) and arrives(server, table, v4(9, 9, 9, 9))
    ask(server, NOW + 2)
    assert not arrives(server, table, v4(7, 7, 7, 7))
    ask(server, NOW + 3, extra=filter_option(0) + filter_option(96 + 8, address=(7, 0, 0, 0)))
    assert arrives(server, table, v4(7, 7, 7, 7)) and not arrives(server, table, v4(8, 8, 8, 8))
    answer = only(ask(server, NOW + 4, extra=filter_option(0)))
    assert arrives(server, table, v4(8, 8, 8, 8))
    assert len(options_of(answer, wire.OPT_FILTER)) == 1


@pytest.mark.parametrize(
    "option",
    [
        filter_option(95),
        filter_option(129),
        wire.option(wire.OPT_FILTER, bytes(19)),
        wire.option(wire.OPT_FILTER, bytes((0, 64, 0, 0)) + CLIENT),
    ],
)
def test_a_wrong_filter_changes_nothing(option):
    server, table = filtered_server(filter_option(128, address=(8, 8, 8, 8)))
    answer = only(ask(server, NOW + 1000, extra=filter_option(0) + option))
    assert (answer.result, answer.lifetime) == (wire.MALFORMED_OPTION, 1800)
    assert not arrives(server, table, v4(9, 9, 9, 9))
    assert server.get_timer() == NOW + LIFE * 1000


def test_more_peers_than_the_limit_are_refused():
    server = make_server(LW4O6_POOL, max_filters=2)
    two = filter_option(128, address=(1, 1, 1, 1)) + filter_option(128, address=(2, 2, 2, 2))
    three = filter_option(128, address=(3, 3, 3, 3))
    assert only(ask(server, extra=two + three)).result == wire.EXCESSIVE_REMOTE_PEERS
    assert server.mapping_count() == 0
    assert only(ask(server, extra=two)).result == wire.SUCCESS
    assert only(ask(server, NOW + 1000, extra=three)).result == wire.EXCESSIVE_REMOTE_PEERS
    assert server.get_timer() == NOW + LIFE * 1000
    # The same ones again, as in every renewal, and others in their place.
    assert only(ask(server, NOW + 2000, extra=two)).result == wire.SUCCESS
    assert only(ask(server, NOW, extra=filter_option(0) + three)).result == wire.SUCCESS


# THIRD_PARTY (RFC 6887 13.1)


def third_party(address):
    return wire.option(wire.OPT_THIRD_PARTY, address)


def test_third_party_is_for_those_who_are_listed():
    server = make_server(LW4O6_POOL, third_party=["2001:db8::/64", "192.168.1.0/24"])
    answer = only(ask(server, extra=third_party(OTHER)))
    assert answer.result == wire.SUCCESS
    assert options_of(answer, wire.OPT_THIRD_PARTY) == [OTHER]
    assert [binding.client for binding in server.bindings] == [OTHER]
    stranger = client_address(7)
    refused = only(ask(server, client=stranger, extra=third_party(OTHER)))
    assert refused.result == wire.UNSUPP_OPTION
    assert only(ask(server, client=HOST4, extra=third_party(CLIENT))).result == wire.SUCCESS
    twice = third_party(OTHER) * 2
    assert only(ask(server, extra=twice)).result == wire.MALFORMED_OPTION


def test_third_party_mapping_belongs_to_the_internal_host():
    server = make_server(LW4O6_POOL, third_party=["2001:db8::1"])
    mine = granted(only(ask(server, extra=third_party(OTHER))))
    # The host itself needs the nonce, and nobody's quota but its own is used.
    assert only(ask(server, client=OTHER, nonce=WRONG)).result == wire.NOT_AUTHORIZED
    assert granted(only(ask(server, client=OTHER))) == mine
    deleted = only(ask(server, lifetime=0, extra=third_party(OTHER)))
    assert (deleted.result, len(server.bindings)) == (wire.SUCCESS, 0)


def test_mapping_update_of_a_third_party_goes_to_who_asked():
    server = make_server({"addresses": ["192.0.2.3"]}, third_party=["2001:db8::1"])
    ask(server, extra=third_party(OTHER) + filter_option(120))
    (out,) = server.move(NOW, OTHER)
    answer = wire.parse_response(out.data)
    assert (out.address, out.port) == (CLIENT, PORT)
    assert options_of(answer, wire.OPT_THIRD_PARTY) == [OTHER]
    assert len(options_of(answer, wire.OPT_FILTER)) == 1
    assert next(iter(server.bindings)).filters


# DESCRIPTION (RFC 7220)


def description(octets):
    return wire.option(128, octets)


def test_description_is_kept_changed_and_cleared():
    server = make_server(LW4O6_POOL)
    assert options_of(only(ask(server, extra=description(b"CPE-1"))), 128) == [b"CPE-1"]
    assert options_of(only(ask(server, NOW + 1)), 128) == []
    assert next(server.mappings()).description == b"CPE-1"
    long = "\u00e9".encode() * 100
    assert options_of(only(ask(server, NOW + 2, extra=description(long))), 128) == [long[:128]]
    odd = b"x" + long
    assert options_of(only(ask(server, NOW + 3, extra=description(odd))), 128) == [odd[:127]]
    assert options_of(only(ask(server, NOW + 4, extra=description(b""))), 128) == [b""]
    assert next(server.mappings()).description == b""


def test_a_description_that_is_no_text_is_ignored():
    server = make_server(LW4O6_POOL)
    ask(server, extra=description(b"good"))
    answer = only(ask(server, NOW + 1, extra=description(b"\xff\xfe")))
    assert (answer.result, options_of(answer, 128)) == (wire.SUCCESS, [])
    assert next(server.mappings()).description == b"good"
    twice = description(b"a") + description(b"b")
    assert only(ask(server, NOW + 2, extra=twice)).result == wire.MALFORMED_OPTION
    off = make_server(LW4O6_POOL, description_max=0)
    assert options_of(only(ask(off, extra=description(b"x"))), 128) == []


def test_an_answer_never_passes_1100_octets():
    server = make_server(LW4O6_POOL, description_max=1016, third_party=["2001:db8::1"])
    extra = third_party(OTHER) + description(b"x" * 1004)
    assert only(ask(server, extra=extra)).result == wire.SUCCESS
    # The mapping is a set: its answer has a PORT_SET that this request does not have.
    data = map_request(size=None, extra=third_party(OTHER) + description(b"x" * 1016))
    assert len(data) == wire.MAX_LENGTH
    (out,) = server.receive(NOW + 1, data, CLIENT, PORT)
    assert len(out.data) == wire.MAX_LENGTH and out.data[3] == wire.MALFORMED_REQUEST


# PREFER_FAILURE (RFC 6887 13.2, 14.2)


def test_prefer_failure_without_an_address_takes_the_port_anywhere():
    server = make_server({"addresses": ["192.0.2.3", "192.0.2.4"]})
    first = single(server, port=8080, extra=FAILURE)
    assert granted(first)[:2] == ("192.0.2.3", 8080)
    assert (wire.OPT_PREFER_FAILURE, b"") in first.options
    assert granted(single(server, client=OTHER, port=8080, extra=FAILURE))[:2] == (
        "192.0.2.4",
        8080,
    )
    third = single(server, client=client_address(3), port=8080, extra=FAILURE)
    assert (third.result, third.lifetime) == (wire.CANNOT_PROVIDE_EXTERNAL, 1800)
    assert granted(single(server, port=8080, extra=FAILURE))[1] == 8080


def test_prefer_failure_never_gets_the_ports_of_pcp():
    server = make_server({"addresses": ["192.0.2.3"]})
    for port in (5350, 5351):
        answer = single(server, protocol=17, port=port, extra=FAILURE)
        assert answer.result == wire.CANNOT_PROVIDE_EXTERNAL


def test_a_moved_mapping_of_prefer_failure_ends():
    server = make_server({"addresses": ["192.0.2.3"]})
    single(server, port=8080, extra=FAILURE)
    single(server, protocol=17, port=8080)
    sent = [(NOW, out) for out in server.move(NOW, CLIENT)]
    while server.get_timer() < NOW + 10000:
        now = server.get_timer()
        sent += [(now, out) for out in server.handle_timer(now)]
    ended = [(now - NOW, wire.parse_response(out.data)) for now, out in sent if out.data[3]]
    assert [(at, a.result, a.map.internal_port) for at, a in ended] == [
        (at, wire.CANNOT_PROVIDE_EXTERNAL, 8080) for at in (0, 250, 750)
    ]
    assert [mapping.protocol for mapping in server.mappings()] == [17]
    assert len(sent) == 6


def test_the_news_of_an_ended_mapping_stop_when_its_client_asks():
    server = make_server({"addresses": ["192.0.2.3"]})
    single(server, port=8080, extra=FAILURE)
    server.move(NOW, CLIENT)
    single(server, NOW + 100, port=9090, extra=FAILURE)
    assert server.handle_timer(NOW + 1000) == []


# Suggestions without a usable address


@pytest.mark.parametrize("address", [None, "192.168.1.10"])
def test_a_suggested_port_is_given_on_any_address(address):
    server = make_server({"addresses": ["192.0.2.3", "192.0.2.4"]})
    wish = {"port": 6881, "address": address}
    assert granted(single(server, **wish))[:2] == ("192.0.2.3", 6881)
    assert granted(single(server, client=OTHER, **wish))[:2] == ("192.0.2.4", 6881)
    taken = single(server, client=client_address(3), **wish)
    assert taken.result == wire.SUCCESS and granted(taken)[1] != 6881


def test_second_protocol_takes_what_it_suggests_or_else_the_same_ports():
    server = make_server({"addresses": ["192.0.2.3"]})
    tcp = granted(single(server))
    free = granted(single(server, protocol=17, port=9999))
    assert (free[0], free[1]) == (tcp[0], 9999)
    ask(server, client=OTHER, protocol=6, internal=1, size=None, port=7777)
    other = {"internal": 8081, "client": CLIENT}
    first = granted(single(server, **other))
    assert granted(single(server, protocol=17, port=7777, **other)) == first


def test_a_held_port_comes_back_by_its_number_alone():
    server = make_server({"addresses": ["192.0.2.3"]})
    single(server, port=8080)
    single(server, lifetime=0)
    assert granted(single(server, client=OTHER, port=8080))[1] != 8080
    assert granted(single(server, port=8080))[1] == 8080


def test_one_address_counts_for_more_than_equal_ports():
    server = make_server({"addresses": ["192.0.2.3", "192.0.2.4"]})
    ask(server, internal=2000, size=1, port=5000)
    for number, wish in enumerate((None, "192.0.2.4")):
        client = client_address(number + 20)
        ask(server, client=client, internal=2000, size=1, address="192.0.2.3", port=6000 + number)
        answer = only(ask(server, client=client, internal=5000, size=1, address=wish))
        assert granted(answer)[0] == "192.0.2.3"


def test_a_suggestion_counts_for_more_than_equal_ports():
    server = make_server({"addresses": ["192.0.2.3", "192.0.2.4"], "set_size": 64})
    wish = {"internal": 32768, "size": 64}
    ask(server, **wish)
    server.move(NOW, CLIENT, v4(192, 0, 2, 4), 1088)
    server.forget(NOW)
    back = granted(only(ask(server, address="192.0.2.4", port=1088, **wish)))
    assert back == ("192.0.2.4", 1088, 64, 32768)
    taken = granted(only(ask(server, client=OTHER, address="192.0.2.4", port=1088, **wish)))
    assert taken[1] == taken[3] == 32768


# IPv4 clients and NAT44


def test_ipv4_clients_have_a_nat_in_front_of_them():
    server = make_server({"addresses": ["192.0.2.3"], "set_size": 64})
    answer = only(ask(server, client=HOST4, internal=40000, size=100))
    assert granted(answer) == ("192.0.2.3", 1024, 64, 40000)
    lw4o6 = granted(only(ask(server, internal=40000, size=100)))
    assert lw4o6[1] == lw4o6[3]
    assert granted(single(server, client=HOST4, internal=22))[1:3] == (1088, 1)


@pytest.mark.parametrize(("who", "translated"), [("none", [0, 0]), ("all", [1, 1])])
def test_who_is_translated_is_configured(who, translated):
    server = make_server({"addresses": ["192.0.2.3"], "set_size": 64}, translate=who)
    answers = [only(ask(server, client=client, internal=1)) for client in (HOST4, CLIENT)]
    assert [granted(answer)[3] == 1 for answer in answers] == translated


def test_ipv4_clients_are_announced_to_by_ipv4_multicast():
    server = make_server(LW4O6_POOL)
    server.config.server.address4 = "127.0.0.1"
    ask(server, client=HOST4)
    targets = [(out.address, out.port) for out in server.announce(NOW)]
    assert targets == [
        (HOST4, PORT),
        (bytes.fromhex("ff02" + "00" * 13 + "01"), 5350),
        (wire.V4_PREFIX + bytes((224, 0, 0, 1)), 5350),
    ]


# Switches (RFC 7753 4.3, RFC 6887 11)


def test_port_set_comes_and_goes_with_the_epoch():
    server = make_server(LW4O6_POOL)
    assert granted(only(ask(server)))[2] == 2048
    notices = server.switch(NOW, port_set=False)
    assert (server.epoch(NOW), server.mapping_count()) == (0, 0)
    assert notices[0].address == CLIENT and wire.parse_response(notices[0].data).epoch == 0
    assert granted(only(ask(server, NOW + 1000)))[2:] == (1, None)
    assert server.switch(NOW + 2000, port_set=False) == [] and server.mapping_count() == 1
    assert server.switch(NOW + 5000, port_set=True)
    assert server.epoch(NOW + 5000) == 0
    assert granted(only(ask(server, NOW + 6000)))[2] == 2048


def test_map_can_be_switched_off():
    server = make_server(LW4O6_POOL)
    ask(server)
    assert server.switch(NOW, map_opcode=False) == []
    answer = only(ask(server, NOW + 1000))
    assert (answer.result, answer.lifetime) == (wire.UNSUPP_OPCODE, 1800)
    assert server.mapping_count() == 1
    server.switch(NOW, map_opcode=True)
    assert only(ask(server, NOW + 2000)).result == wire.SUCCESS


# Static mappings


def test_a_static_mapping_takes_no_filter_and_no_other_place():
    entry = {"client": "2001:db8::1", "address": "192.0.2.3", "first_port": 2048, "size": 8}
    server = make_server({"addresses": ["192.0.2.3"]}, static=[entry])
    refused = only(ask(server, internal=2048, size=8, extra=filter_option(120)))
    assert refused.result == wire.NOT_AUTHORIZED
    wish = {"protocol": 17, "internal": 2050, "address": "192.0.2.3", "extra": FAILURE}
    assert single(server, port=9999, **wish).result == wire.CANNOT_PROVIDE_EXTERNAL
    # A client with a static set gets its next one on the same address (RFC 6887 10).
    more = make_server({"addresses": ["192.0.2.9", "192.0.2.3"]}, static=[entry])
    assert granted(single(more))[0] == "192.0.2.3"


def test_quota_counts_ports_and_sets():
    server = make_server(NAT44_POOL, max_sets=2, max_ports=33)
    assert granted(only(ask(server, protocol=17, internal=1000, size=100)))[2] == 32
    assert granted(only(ask(server, protocol=17, internal=2000, size=100)))[2] == 1
    full = only(ask(server, protocol=17, internal=3000, size=1))
    assert (full.result, full.lifetime) == (wire.USER_EX_QUOTA, 30)
    assert only(ask(server, client=OTHER, protocol=17, internal=3000)).result == wire.SUCCESS
    assert only(ask(server, NOW, protocol=17, internal=1000, size=32, nonce=NONCE)).result == 0
