"""Requirements on a PCP client that no story in the other modules shows (docs/conformance.md)."""

from cpe_agent.pcp import client as c
from cpe_agent.pcp import mapping as m
from cpe_agent.pcp import wire
from tests.unit.core import vectors
from tests.unit.core.bench import OTHER_NONCE, SOURCE, Bench, announcement, refusal, success

WEB = m.wish(6, 8080, 1, 3600)


def test_an_error_that_echoes_our_address_is_an_error():
    # RFC 6887 7.2: where a request was not understood, 96 reserved bits repeat its client address.
    bench = Bench().start()
    octets = bytearray(refusal(bench, 10, 30))
    octets[12:24] = SOURCE[4:]
    bench.receive(bytes(octets))
    assert bench.kinds() == [m.EVENT_REFUSED] and bench.events[0][1].detail.result == 10


def test_the_external_side_of_an_error_is_not_used():
    # RFC 6887 11.1: it is but an echo of what was suggested.
    bench = Bench().start()
    octets = bytearray(success(bench, address="203.0.113.9", first=4000))
    octets[3] = wire.USER_EX_QUOTA
    bench.receive(bytes(octets))
    assert bench.held() is None and bench.kinds() == [m.EVENT_REFUSED]
    bench.run_to_send()
    assert (bench.last().map.external_port, bench.last().map.external_ip) == (0, wire.ANY_V4)


def test_a_refusal_of_one_server_does_not_hold_back_another():
    # Whoever has two servers has two clients.
    bench, other = Bench(WEB).start(), Bench(WEB)
    bench.refuse(wire.NO_RESOURCES, 600)
    other.now = bench.now
    other.start()
    assert len(bench.sent) == len(other.sent) == 1 and other.sent[0][0] == bench.now


def test_a_silent_server_is_given_up_when_the_fourth_time_runs_out():
    # RFC 7488 3: MRC is 4 where a server has several addresses; 45 s without jitter.
    for seed in range(40):
        bench = Bench(seed=seed).start()
        bench.run(30)
        assert m.GAVE_UP not in bench.kinds()
        bench.run(33)
        at = [when for when, event in bench.events if event.kind == m.GAVE_UP]
        assert len(at) == 1 and 32000 <= at[0] - bench.sent[0][0] <= 61800
        assert len([when for when, _ in bench.sent if when < at[0]]) == 4


def test_a_held_mapping_is_never_given_up():
    bench = Bench().granted(lifetime=3600)
    bench.mapping.renew(bench.now)
    bench.run(3590)
    assert bench.mapping.unanswered > 4 and m.GAVE_UP not in bench.kinds()


def test_a_mapping_that_was_never_asked_for_takes_no_answer():
    # RFC 6887 8.3: it is known to the client, but no request has left.
    bench = Bench()
    bench.answer()
    bench.refuse(2, 60)
    assert bench.held() is None and bench.kinds() == [] and bench.mapping.state == m.IDLE


def test_each_server_has_its_own_epoch():
    one, other = Bench().granted(), Bench()
    other.epoch_zero -= 4000000000 * 1000
    other.granted()
    for bench in (one, other):
        bench.run(60)
        bench.receive(announcement(bench.epoch()))
        bench.run(30)
        assert bench.kinds() == [m.GRANTED] and len(bench.sent) == 1


def deletion(wish, **grant):
    bench = Bench(wish).granted(**grant)
    bench.mapping.release(bench.now)
    bench.settle()
    return bench.last()


def test_a_deletion_suggests_the_zero_of_its_family():
    # RFC 6887 15.1 as corrected by erratum 3621.
    for family, address, zero in ((4, "192.0.2.3", wire.ANY_V4), (6, "2001:db8::9", wire.ANY_V6)):
        request = deletion(m.wish(6, 8080, 1, 3600, family=family), size=None, address=address)
        assert (request.lifetime, request.map.external_port) == (0, 0)
        assert request.map.external_ip == zero


def test_a_mapping_of_all_ports_is_deleted_with_its_own_nonce():
    bench = Bench(m.wish(0, 0, 1024, 3600), nonce=OTHER_NONCE).granted(size=1024, first=2048)
    assert bench.held().size == 1024
    bench.mapping.release(bench.now)
    bench.settle()
    request = bench.last()
    assert (request.lifetime, request.map.protocol, request.map.internal_port) == (0, 0, 0)
    assert request.map.nonce == OTHER_NONCE


def port_sets(octets):
    options = wire.parse_request(octets).options
    return [wire.parse_port_set(data) for code, data in options if code == wire.OPT_PORT_SET]


def test_two_sets_are_two_requests_of_one_option_each():
    # RFC 7753 4.1: several sets are several requests, whose internal ports differ.
    bench = Bench(m.wish(17, 5000, 100, 3600))
    bench.add(m.wish(17, 6000, 50, 3600), nonce=OTHER_NONCE)
    bench.start()
    found = [port_sets(octets) for _, octets in bench.sent]
    assert found == [[(100, 5000, False)], [(50, 6000, False)]]
    assert [octets[40:42] for _, octets in bench.sent] == [b"\x13\x88", b"\x17\x70"]


def test_an_announcement_of_a_stranger_is_no_news():
    # RFC 6887 14.1.3: it comes by multicast, so anybody on the link can send one.
    bench = Bench().granted()
    bench.run(600)
    bench.receive(vectors.E12, address=SOURCE)
    bench.run(60)
    assert bench.client.dropped[c.FOREIGN] == 1
    assert len(bench.sent) == 1 and bench.kinds() == [m.GRANTED]
