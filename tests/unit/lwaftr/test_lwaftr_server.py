"""The server's rules for mappings: nonce, lifetime, quota, overlap, holds, notifications."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lwaftr.config import from_dict
from lwaftr.server import PcpServer
from lwaftr_helpers import (
    CLIENT,
    E1,
    E2,
    LW4O6_POOL,
    NAT44_POOL,
    NONCE,
    NOW,
    PORT,
    ask,
    client_address,
    granted,
    make_server,
    only,
)

from cpe_agent.pcp import wire

OTHER = client_address(9)
WRONG = b"\xff" * 12


def test_binding_exists_with_the_answer_and_ends_with_the_lifetime():
    server = make_server(LW4O6_POOL)
    answer = only(ask(server))
    (binding,) = server.bindings
    assert (binding.client, binding.first, binding.size) == (CLIENT, 26624, 2048)
    assert binding.expiry_ms == NOW + answer.lifetime * 1000
    assert server.get_timer() == binding.expiry_ms
    server.handle_timer(binding.expiry_ms - 1)
    assert len(server.bindings) == 1
    server.handle_timer(binding.expiry_ms)
    assert len(server.bindings) == 0


@pytest.mark.parametrize(("wanted", "given_life"), [(10, 120), (3600, 3600), (10**6, 7200)])
def test_lifetime_limits(wanted, given_life):
    server = make_server(LW4O6_POOL, lifetime_max=7200)
    assert only(ask(server, lifetime=wanted)).lifetime == given_life


def test_wrong_nonce_gets_the_remaining_life_and_changes_nothing():
    server = make_server(LW4O6_POOL)
    ask(server)
    for lifetime in (7200, 0):
        answer = only(ask(server, NOW + 600000, nonce=WRONG, lifetime=lifetime))
        assert (answer.result, answer.lifetime) == (wire.NOT_AUTHORIZED, 3000)
    assert next(iter(server.bindings)).expiry_ms == NOW + 3600000


def test_refresh_keeps_the_set_whatever_is_suggested():
    server = make_server(LW4O6_POOL)
    first = granted(only(ask(server)))
    again = only(ask(server, NOW + 1000, size=0xFFFF, port=40960, address="192.0.2.5"))
    assert granted(again) == first


def test_an_error_leaves_the_lifetime_alone():
    server = make_server(LW4O6_POOL)
    ask(server)
    ask(server, NOW + 1000000, extra=wire.option(64))
    assert server.get_timer() == NOW + 3600000


def test_never_more_than_asked_and_no_option_for_one_port():
    server = make_server(NAT44_POOL)
    assert granted(only(ask(server, protocol=17, internal=2000, size=7)))[2] == 7
    assert granted(only(ask(server, protocol=17, internal=3000, size=1)))[2:] == (1, None)
    single = make_server({**NAT44_POOL, "set_size": 1})
    assert granted(only(ask(single, protocol=17, internal=2000, size=100)))[2:] == (1, None)


def test_as_many_as_are_left_then_no_resources():
    server = make_server({"addresses": ["192.0.2.3"], "first_port": 60000, "last_port": 60055})
    assert granted(only(ask(server, protocol=17, internal=9, size=32)))[1:3] == (60000, 32)
    rest = only(ask(server, client=OTHER, protocol=17, internal=9, size=32))
    assert granted(rest)[1:3] == (60032, 24)
    none = only(ask(server, client=client_address(10), protocol=17, internal=9, size=32))
    assert (none.result, none.lifetime) == (wire.NO_RESOURCES, 30)


def test_port_quota_over_several_sets_on_one_address():
    pool = {"addresses": ["192.0.2.3", "192.0.2.4"], "set_size": 1000, "align": 1}
    server = make_server(pool, max_ports=1500)
    first = granted(only(ask(server, protocol=17, internal=2000, size=1000)))
    second = granted(
        only(ask(server, protocol=17, internal=4000, size=1000, address="192.0.2.4", port=5000))
    )
    assert (first[2], second[2]) == (1000, 500)
    assert first[0] == second[0]
    third = only(ask(server, protocol=17, internal=6000, size=10))
    assert (third.result, third.lifetime) == (wire.USER_EX_QUOTA, 30)


@pytest.mark.parametrize("protocol", [0, 6, 17])
def test_pcp_ports_and_system_ports_are_never_assigned(protocol):
    pool = {"addresses": ["192.0.2.3"], "set_size": 700, "align": 1}
    server = make_server(pool)
    seen = set()
    for number in range(100):
        answer = only(ask(server, client=client_address(number), protocol=protocol))
        if answer.result == wire.SUCCESS:
            _, first, size, _ = granted(answer)
            seen.update(range(first, first + size))
    assert seen == set(range(1024, 65536)) - {5350, 5351}
    other = make_server(pool)
    answer = only(ask(other, protocol=protocol, port=5300, address="192.0.2.3", size=100))
    assert not set(range(granted(answer)[1], granted(answer)[1] + 100)) & {5350, 5351}


def test_suggestion_honoured_or_replaced():
    pool = {"addresses": ["192.0.2.3", "192.0.2.4"], "set_size": 1024}
    server = make_server(pool)
    wish = {"address": "192.0.2.4", "port": 5000 + 2048}
    assert granted(only(ask(server, **wish)))[:3] == ("192.0.2.4", 7048, 1024)
    other = granted(only(ask(server, client=OTHER, **wish)))
    assert other[1:3] != (7048, 1024) and other[2] == 1024
    foreign = ask(server, client=client_address(3), address="198.51.100.1", port=80)
    assert granted(only(foreign))[2] == 1024


def test_prefer_failure():
    server = make_server({"addresses": ["192.0.2.3"]})
    wish = {"protocol": 6, "internal": 8080, "size": None, "extra": wire.option(2)}
    taken = only(ask(server, port=8080, address="192.0.2.3", **wish))
    assert granted(taken)[:2] == ("192.0.2.3", 8080)
    for client, address, port in (
        (OTHER, "192.0.2.3", 8080),
        (OTHER, "192.0.2.9", 9000),
        (CLIENT, "192.0.2.3", 8081),
    ):
        answer = only(ask(server, client=client, port=port, address=address, **wish))
        assert answer.result == wire.CANNOT_PROVIDE_EXTERNAL
    same = only(ask(server, port=8080, address="192.0.2.3", **wish))
    assert granted(same)[1] == 8080


def test_parity():
    server = make_server({"addresses": ["192.0.2.3"], "align": 1})
    odd = granted(only(ask(server, protocol=17, internal=50001, size=10, parity=True)))
    even = granted(only(ask(server, protocol=17, internal=50100, size=10, parity=True)))
    assert (odd[1] % 2, even[1] % 2) == (1, 0)


def test_internal_ports_stay_inside_the_request():
    # Protocol 0: internal = external where the request allows it (AMB-5).
    server = make_server({"addresses": ["192.0.2.3"], "set_size": 64})
    inside = granted(only(ask(server, internal=40000, size=100)))
    assert inside[1] == inside[3] and inside[1] >= 40000 and inside[1] + inside[2] <= 40100
    below = granted(only(ask(server, client=OTHER, internal=1, size=100)))
    assert below[1] >= 1024 and below[3] == 1 and below[2] <= 100


def test_range_is_clamped_at_the_last_port():
    server = make_server({"addresses": ["192.0.2.3"], "set_size": 65535, "align": 1})
    answer = granted(only(ask(server, protocol=17, internal=65530, size=0xFFFF)))
    assert answer[2] == 6


def test_tcp_after_udp_shares_the_ports():
    server = make_server(LW4O6_POOL)
    udp = granted(only(ask(server, protocol=17)))
    tcp = granted(only(ask(server, protocol=6, address=udp[0], port=udp[1], size=udp[2])))
    assert tcp[:3] == udp[:3]
    assert sorted(binding.protocol for binding in server.bindings) == [6, 17]
    stranger = granted(only(ask(server, client=OTHER, protocol=6, address=udp[0], port=udp[1])))
    assert stranger[1] != udp[1]
    ask(server, NOW + 1, protocol=17, lifetime=0)
    assert [binding.protocol for binding in server.bindings.of_client(CLIENT)] == [6]


# Overlap (RFC 7753 4.4.1, 6.3)


def test_overlap_echoes_the_internal_port():
    server = make_server(NAT44_POOL)
    ask(server, protocol=17, internal=1, size=10)
    answer = only(ask(server, NOW + 5000, protocol=17, internal=5, size=10))
    assert (answer.map.internal_port, granted(answer)[2:]) == (5, (10, 1))
    assert server.mapping_count() == 1
    other = make_server(NAT44_POOL)
    ask(other, protocol=17, internal=5, size=10)
    answer = only(ask(other, protocol=17, internal=1, size=10))
    assert (answer.map.internal_port, granted(answer)[2:]) == (1, (10, 5))


def test_overlap_with_mixed_nonces():
    server = make_server(NAT44_POOL)
    ask(server, protocol=17, internal=100, size=10)
    ask(server, protocol=17, internal=110, size=10, nonce=WRONG)
    right, wrong = ask(server, NOW + 60000, protocol=17, internal=100, size=20)
    assert (right.result, right.map.internal_port) == (wire.SUCCESS, 100)
    assert (wrong.result, wrong.map.internal_port) == (wire.NOT_AUTHORIZED, 110)
    assert wrong.lifetime == 3540


def test_overlapping_delete_deletes_all_it_touches():
    server = make_server(NAT44_POOL)
    ask(server, protocol=17, internal=100, size=10)
    ask(server, protocol=17, internal=110, size=10)
    answers = ask(server, protocol=17, internal=105, size=10, lifetime=0)
    assert [(a.result, a.lifetime, a.map.internal_port) for a in answers] == [
        (0, 0, 100),
        (0, 0, 110),
    ]
    assert len(server.bindings) == 0


def test_protocols_overlap_only_with_themselves_and_zero():
    server = make_server(NAT44_POOL)
    ask(server, protocol=17, internal=100, size=10)
    assert only(ask(server, protocol=6, internal=100, size=5)).result == wire.SUCCESS
    assert server.mapping_count() == 2
    assert len(ask(server, protocol=0, internal=100, size=10)) == 2


# Deletion and holds


def test_freed_ports_wait_except_for_their_owner():
    server = make_server({**LW4O6_POOL, "last_port": 26624 + 2047})
    mine = granted(only(ask(server)))
    ask(server, lifetime=0)
    assert only(ask(server, client=OTHER)).result == wire.NO_RESOURCES
    assert only(ask(server, nonce=WRONG)).result == wire.NO_RESOURCES
    assert granted(only(ask(server, NOW + 1000))) == mine
    ask(server, NOW + 2000, lifetime=0)
    assert only(ask(server, NOW + 121999, client=OTHER)).result == wire.NO_RESOURCES
    assert granted(only(ask(server, NOW + 122000, client=OTHER))) == mine


def test_owner_gets_its_own_back_without_a_suggestion():
    server = make_server({"addresses": ["192.0.2.3"], "set_size": 1024})
    ask(server, client=OTHER)
    mine = granted(only(ask(server)))
    ask(server, lifetime=0)
    ask(server, client=OTHER, lifetime=0)
    assert granted(only(ask(server))) == mine


def test_what_an_owner_leaves_of_its_hold_stays_held():
    server = make_server({**LW4O6_POOL, "last_port": 26624 + 2047})
    ask(server)
    ask(server, lifetime=0)
    assert granted(only(ask(server, NOW + 1000, size=100, internal=26624)))[1:3] == (26624, 100)
    assert only(ask(server, NOW + 2000, client=OTHER)).result == wire.NO_RESOURCES
    assert granted(only(ask(server, NOW + 120000, client=OTHER)))[2] == 1948


def test_delete_under_traffic():
    server = make_server(LW4O6_POOL, delete_idle=300)
    ask(server)
    next(iter(server.bindings)).last_out_ms = NOW
    answer = only(ask(server, NOW + 100000, lifetime=0))
    assert (answer.result, answer.lifetime) == (wire.SUCCESS, 200)
    # Even so the suggestion is copied (RFC 6887 15.1).
    assert (answer.map.external_port, answer.map.external_ip) == (0, wire.ANY_V4)
    server.handle_timer(NOW + 300000)
    assert len(server.bindings) == 0


def test_static_binding():
    entry = {
        "client": "2001:db8::1",
        "address": "192.0.2.3",
        "first_port": 2048,
        "size": 1024,
    }
    server = make_server({"addresses": ["192.0.2.3"], "set_size": 1024}, static=[entry])
    answer = only(ask(server, nonce=WRONG))
    assert granted(answer) == ("192.0.2.3", 2048, 1024, 2048)
    assert (answer.lifetime, answer.map.nonce) == (0xFFFFFFFF, WRONG)
    assert only(ask(server, lifetime=0)).result == wire.NOT_AUTHORIZED
    server.forget(NOW)
    assert len(server.bindings) == 1
    others = [granted(only(ask(server, client=client_address(n)))) for n in range(5, 10)]
    assert all(first != 2048 for _, first, _, _ in others)


# Notifications


def test_forget_resets_the_epoch_and_announces():
    server = make_server(LW4O6_POOL)
    mine = granted(only(ask(server)))
    first, multicast = server.forget(NOW + 1000, announce=True)
    assert (first.address, first.port) == (CLIENT, PORT)
    assert first.data == bytes.fromhex("0280") + bytes(22)
    assert multicast.address.hex() == "ff02" + "00" * 13 + "01" and multicast.port == 5350
    assert len(server.bindings) == 0
    again = ask(server, NOW + 1500, address=mine[0], port=mine[1])
    assert granted(only(again)) == mine


def test_announcements_repeat_with_growing_gaps():
    server = make_server(LW4O6_POOL, now_ms=NOW)
    times = [NOW]
    assert len(server.announce(NOW)) == 1
    epochs = [0]
    while server.get_timer() is not None:
        now = server.get_timer()
        (sent,) = server.handle_timer(now)
        times.append(now)
        epochs.append(wire.parse_response(sent.data).epoch)
    gaps = [after - before for before, after in zip(times, times[1:])]
    assert gaps == [250 * 2**n for n in range(9)]
    assert epochs == [(now - NOW) // 1000 for now in times]


def test_announcements_stop_for_a_client_that_is_heard():
    server = make_server(LW4O6_POOL)
    ask(server)
    assert len(server.forget(NOW, announce="unicast")) == 1
    ask(server, NOW + 100)
    assert server.handle_timer(NOW + 250) == []


def told_over_time(server, sent, until):
    """[(ms, address)] of what the server sends by itself until that time, after sent at NOW."""
    told = [(NOW, out.address) for out in sent]
    while server.get_timer() is not None and server.get_timer() <= until:
        now = server.get_timer()
        told += [(now, out.address) for out in server.handle_timer(now)]
    return told


@pytest.mark.parametrize("pace", [40, 3000])
def test_paced_announcements_go_to_one_client_after_the_other(pace):
    pool = {"addresses": ["192.0.2.3", "192.0.2.4"], "set_size": 512}
    server = make_server(pool, announce_pace=pace, announce_repeats=3)
    clients = [client_address(number) for number in range(200)]
    for client in clients:
        ask(server, client=client)
    told = told_over_time(server, server.forget(NOW, announce=True), NOW + 60000)
    # Everybody once, the link last, before anybody is told again.
    first = [address for _, address in told[:201]]
    assert first[:200] == clients and first[200][0] == 0xFF
    assert abs(told[200][0] - NOW - 200 * 1000 // pace) <= 1
    times = [now for now, _ in told]
    assert not [now for now, later in zip(times, times[pace + 1 :]) if later - now < 1000]
    for client in clients:
        mine = [now for now, address in told if address == client]
        assert len(mine) == 3
        assert mine[1] - mine[0] >= 250 and mine[2] - mine[1] >= 2 * (mine[1] - mine[0])


def test_a_client_that_is_heard_before_its_turn_is_not_told():
    server = make_server({"addresses": ["192.0.2.3"], "set_size": 64}, announce_pace=10)
    clients = [client_address(number) for number in range(5)]
    for client in clients:
        ask(server, client=client)
    sent = server.forget(NOW, announce="unicast")
    ask(server, NOW + 50, client=clients[3])
    told = told_over_time(server, sent, NOW + 399)
    assert told == [(NOW + 100 * n, clients[c]) for n, c in enumerate((0, 1, 2, 4))]


def test_a_late_timer_does_not_make_paced_announcements_a_burst():
    server = make_server({"addresses": ["192.0.2.3"], "set_size": 64}, announce_pace=1000)
    for number in range(200):
        ask(server, client=client_address(number))
    assert len(server.forget(NOW, announce="unicast")) == 1
    assert 15 <= len(server.handle_timer(NOW + 150)) <= 25
    assert server.get_timer() == NOW + 151


def test_forget_without_epoch_reset_or_announcement():
    server = make_server(LW4O6_POOL)
    ask(server)
    assert server.forget(NOW, epoch_reset=False) == []
    assert server.epoch(NOW) == 4660
    assert server.get_timer() is None


def test_mapping_update_three_times():
    server = make_server({"addresses": ["192.0.2.3", "192.0.2.4"], "set_size": 1024})
    ask(server)
    sent = [(NOW, out) for out in server.move(NOW, CLIENT, 0xC0000204, 8192)]
    while server.get_timer() < NOW + 10000:
        now = server.get_timer()
        sent += [(now, out) for out in server.handle_timer(now)]
    assert [now - NOW for now, _ in sent] == [0, 250, 750]
    for _, out in sent:
        answer = wire.parse_response(out.data)
        assert (out.address, out.port, answer.map.nonce) == (CLIENT, PORT, NONCE)
        assert granted(answer) == ("192.0.2.4", 8192, 1024, 8192)
        assert answer.map.internal_port == 1
    (binding,) = server.bindings
    assert (binding.address, binding.first) == (0xC0000204, 8192)


def test_mapping_update_stops_when_refreshed():
    server = make_server({"addresses": ["192.0.2.3"], "set_size": 1024})
    ask(server)
    server.move(NOW, CLIENT)
    moved = granted(only(ask(server, NOW + 100)))
    assert moved[1] != 1024
    assert server.handle_timer(NOW + 1000) == []


def test_mapping_update_without_port_set():
    server = make_server({"addresses": ["192.0.2.3"], "set_size": 1024}, update_port_set=False)
    ask(server)
    (out,) = server.move(NOW, CLIENT)
    assert len(out.data) == 60


def test_move_without_room_changes_nothing():
    server = make_server({**LW4O6_POOL, "last_port": 26624 + 2047})
    before = granted(only(ask(server)))
    with pytest.raises(LookupError):
        server.move(NOW, CLIENT)
    with pytest.raises(LookupError):
        server.move(NOW, OTHER)
    assert granted(only(ask(server))) == before


def test_a_moved_set_leaves_the_internal_ports_of_another_mapping_alone():
    server = make_server({"addresses": ["192.0.2.3"], "set_size": 64})
    assert granted(only(ask(server)))[1:] == (1024, 64, 1024)
    # Inside it is port 5000, outside not: 5000 is free for a set there, but not here.
    assert granted(only(ask(server, protocol=6, internal=5000, size=1, port=2000)))[1] == 2000
    updates = [wire.parse_response(out.data) for out in server.move(NOW, CLIENT, 0xC0000203, 4992)]
    assert granted(updates[0])[1:] == (4992, 64, 1024)
    # So each port has one mapping still, and each request one answer.
    assert granted(only(ask(server, internal=1024, size=64)))[1:] == (4992, 64, 1024)
    single = only(ask(server, protocol=6, internal=5000, size=1))
    assert granted(single)[1] == granted(updates[1])[1]
    # Elsewhere the internal ports follow again.
    moved = wire.parse_response(server.move(NOW, CLIENT, 0xC0000203, 8192)[0].data)
    assert granted(moved)[1:] == (8192, 64, 8192)


def test_a_set_that_is_moved_out_of_the_range_asked_for_keeps_its_internal_ports():
    server = make_server({"addresses": ["192.0.2.3"], "set_size": 64})
    assert granted(only(ask(server, internal=2000, size=200)))[1:] == (2048, 64, 2048)
    server.move(NOW, CLIENT, 0xC0000203, 8192)
    assert granted(only(ask(server, internal=2000, size=200)))[1:] == (8192, 64, 2048)


def test_dropped_binding_comes_back_with_the_renewal():
    server = make_server(LW4O6_POOL)
    ask(server)
    assert server.drop_binding(CLIENT) == 1
    assert len(server.bindings) == 0 and server.mapping_count() == 1
    ask(server, NOW + 1000)
    assert len(server.bindings) == 1


def test_known_clients_are_bounded():
    server = make_server({"addresses": ["10.0.0.0/24"]}, max_known_clients=10)
    for number in range(50):
        ask(server, client=client_address(number))
    assert server.known_clients() == 10


# Server-side faults


def test_refuse():
    server = make_server(LW4O6_POOL, faults={"refuse": 8, "refuse_lifetime": 77})
    answer = only(ask(server))
    assert (answer.result, answer.lifetime) == (wire.NO_RESOURCES, 77)
    assert server.mapping_count() == 0


def test_fewer_ports_and_no_port_set():
    server = make_server(LW4O6_POOL, faults={"fewer_ports": 100})
    assert granted(only(ask(server)))[2] == 100
    server = make_server(NAT44_POOL, faults={"ignore_port_set": True})
    (out,) = server.receive(NOW, E1, CLIENT, PORT)
    assert out.data == E2[:60]


# Stateless


def test_stateless_sets_depend_on_the_address_alone():
    pool = {
        "addresses": ["192.0.2.0/28"],
        "set_size": 4096,
        "mode": "stateless",
        "client_prefix": "2001:db8::/32",
        "client_prefix_end": 64,
    }
    clients = [client_address(number) for number in range(200)]
    server = make_server(pool)
    first = {client: granted(only(ask(server, client=client))) for client in clients}
    assert len({place[:2] for place in first.values()}) == 200
    random.Random(1).shuffle(clients)
    server = make_server(pool)
    for client in clients:
        place = granted(only(ask(server, client=client, address="192.0.2.1", port=9999)))
        assert place == first[client]
    assert only(ask(server, client=client_address(10**6))).result == wire.NO_RESOURCES
    same_number = clients[0][:-1] + b"\2"
    assert only(ask(server, client=same_number)).result == wire.NO_RESOURCES


def test_random_order_spreads_over_the_addresses():
    pool = {"addresses": ["192.0.2.0/28"], "set_size": 4096, "order": "random"}
    server = PcpServer(from_dict({"pool": pool}), random_bytes=random.Random(3).randbytes)
    places = [granted(only(ask(server, client=client_address(n))))[:3] for n in range(200)]
    assert len(set(places)) == 200 and all(size == 4096 for _, _, size in places)
    assert len({address for address, _, _ in places[:10]}) > 4


# Property: whatever is asked, nobody's ports overlap


_REQUESTS = st.tuples(
    st.integers(0, 4),
    st.sampled_from([0, 6, 17]),
    st.sampled_from([0, 1, 100, 1024, 2000, 2040, 65530]),
    st.sampled_from([None, 1, 2, 17, 64, 500, 0xFFFF]),
    st.sampled_from([0, 0, 60, 3600, 3600, 3600]),
    st.sampled_from([NONCE, WRONG]),
    st.sampled_from([None, "192.0.2.3", "192.0.2.4", "127.0.0.1"]),
    st.sampled_from([0, 80, 1024, 1030, 1100, 5349, 5350, 1200]),
    st.booleans(),
    st.integers(0, 100000),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(_REQUESTS, max_size=40), st.sampled_from([1, 64, 100]), st.integers(0, 2))
def test_ports_never_overlap(requests, set_size, holding):
    pool = {
        "addresses": ["192.0.2.3", "192.0.2.4"],
        "first_port": 1024,
        "last_port": 1300,
        "set_size": set_size,
    }
    server = make_server(pool, hold_time=holding * 100, max_sets=3)
    now = NOW
    for who, protocol, internal, size, life, nonce, address, port, parity, wait in requests:
        now += wait
        before = server.mapping_count()
        for answer in ask(
            server,
            now,
            client=client_address(who),
            protocol=protocol,
            internal=internal,
            size=size,
            lifetime=life,
            nonce=nonce,
            address=address,
            port=port,
            parity=parity,
        ):
            if server.mapping_count() > before:
                assert granted(answer)[2] <= (size or 1)
        owners = {}
        for mapping in server.mappings():
            assert mapping.binding in server.bindings
            assert mapping.low <= mapping.internal
            assert mapping.internal + mapping.size - 1 <= mapping.high
            for external in range(mapping.external, mapping.external + mapping.size):
                assert 1024 <= external <= 1300
                key = (mapping.block.address, external)
                owner, protocols = owners.setdefault(key, (mapping.client, []))
                assert owner == mapping.client
                clash = 0 in protocols or mapping.protocol in protocols
                assert not clash and not (protocols and mapping.protocol == 0)
                protocols.append(mapping.protocol)
        assert len(server.bindings) == server.mapping_count()
    # Nothing leaks: when everything has ended the pool is whole again.
    server.handle_timer(now + 10**8)
    server.handle_timer(now + 10**9)
    everything = make_server(pool, hold_time=0, max_sets=500)
    total = _drain(everything)
    assert _drain(server, now + 10**9) == total


def _drain(server, now=NOW):
    server.config.pcp.max_sets = 65535
    count = 0
    for number in range(600):
        answer = only(
            ask(server, now, client=client_address(100 + number), protocol=17, internal=2000)
        )
        if answer.result:
            return count
        count += granted(answer)[2]
    return count
