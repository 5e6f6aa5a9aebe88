"""What follows a refusal: how long it is waited out, and what is kept (RFC 6887 7.4, 8.3, 11.4)."""

from cpe_agent.pcp import mapping as m
from cpe_agent.pcp import wire
from tests.unit.core import vectors
from tests.unit.core.bench import Bench

CODES = list(range(2, 14)) + [14, 127, 200, 255]
ALL = m.wish(0, 1, 1024, 3600)  # all protocols: there is no other form to fall back to


def wait(bench):
    """Seconds until the next datagram."""
    before = bench.now
    bench.run_to_send()
    return (bench.now - before) / 1000


def test_every_refusal_is_waited_out_told_once_and_grants_nothing():
    for code in CODES:
        for lifetime in (30, 937, 1800):
            bench = Bench(ALL).start()
            bench.refuse(code, lifetime)
            assert bench.mapping.state == m.REFUSED and bench.held() is None, code
            assert bench.kinds() == [m.EVENT_REFUSED], code
            assert bench.events[0][1].detail.result == code
            assert wait(bench) == lifetime, code
            assert bench.mapping.state == m.ASKING
            assert bench.sent[0][1] == bench.sent[1][1]


def test_the_worked_refusals_are_obeyed():
    bench = Bench().start()
    bench.receive(vectors.E10)
    assert bench.events[0][1].detail.result == 10
    assert bench.held() is None and wait(bench) == 30
    bench = Bench().start()
    bench.receive(vectors.E9B)  # MALFORMED_OPTION: what was refused is not sent again
    assert bench.kinds() == [m.PLAIN] and bench.held() is None
    assert 4 <= wait(bench) < 4.1 and bench.sent_size() is None


def test_a_refusal_for_ever_is_asked_about_within_the_hour():
    for code in CODES:
        for lifetime in (3601, 86400, 1 << 31, 0xFFFFFFFF):
            bench = Bench(ALL).start()
            bench.refuse(code, lifetime)
            assert wait(bench) == 3600, (code, lifetime)


def test_refusals_of_no_seconds_make_no_flood():
    for code in (2, 8, 10, 200):
        for state in ("asking", "held"):
            bench = Bench().start()
            if state == "held":
                bench.answer(lifetime=86400)
                bench.run_to_send()
            begin, count = bench.now, len(bench.sent)
            while bench.now < begin + 3600000:
                bench.run_to_send()
                bench.refuse(code, 0)
            assert len(bench.sent) - count <= 15, (code, state, len(bench.sent) - count)


def test_renewals_stay_four_seconds_apart_whatever_the_refusals_say():
    for lifetime in (0, 1, 2, 3):
        for seed in range(20):
            bench = Bench(seed=seed).granted()
            bench.run_to_send()
            for _ in range(3):
                bench.refuse(10, lifetime)
                bench.run_to_send()
            assert bench.mapping.state == m.HELD
            assert min(bench.gaps()) >= 4000, (lifetime, bench.gaps())


def test_a_refused_renewal_keeps_the_set_to_its_own_end():
    for code in CODES:
        bench = Bench().granted(lifetime=3600)
        begin = bench.now
        bench.run_to_send()
        bench.refuse(code, 0xFFFFFFFF)
        count = len(bench.sent)
        bench.run((begin + 3599000 - bench.now) / 1000)
        assert bench.mapping.state == m.HELD and bench.held() is not None, code
        assert len(bench.sent) == count, "renewals within the refusal's time are left out"
        bench.run(1)
        assert bench.kinds() == [m.GRANTED, m.EVENT_REFUSED, m.LOST] and bench.held() is None
        assert bench.mapping.state == m.REFUSED and len(bench.sent) == count


def test_after_a_refused_renewal_the_next_one_goes_out_when_the_refusal_ends():
    bench = Bench().granted(lifetime=3600)
    bench.run_to_send()
    bench.refuse(7, 30)
    assert wait(bench) == 30
    bench.answer()
    assert bench.kinds()[-1] == m.RENEWED


def test_an_old_grant_does_not_outlive_a_refusal_that_ends_later():
    bench = Bench().granted(lifetime=120)
    bench.run_to_send()
    bench.refuse(8, 600)
    refused = bench.now
    bench.run(120)
    assert bench.held() is None
    bench.run_to_send()
    assert bench.now == refused + 600000
    assert bench.last().map.external_port == 37056, "and the same set is asked for"


def test_an_unasked_revocation_ends_the_set_at_once():
    bench = Bench().granted()
    bench.run(100)
    bench.refuse(wire.NOT_AUTHORIZED, 500)
    assert bench.kinds() == [m.GRANTED, m.LOST, m.EVENT_REFUSED]
    assert bench.held() is None and bench.mapping.state == m.REFUSED
    assert wait(bench) == 500


def test_any_other_unasked_error_changes_nothing():
    for code in CODES:
        if code == wire.NOT_AUTHORIZED:
            continue
        bench = Bench().granted()
        bench.run(100)
        due = bench.client.get_timer()
        bench.refuse(code, 500)
        assert bench.kinds() == [m.GRANTED] and bench.held() is not None, code
        assert bench.client.get_timer() == due


def test_a_refusal_that_the_network_doubles_does_not_become_a_revocation():
    bench = Bench().granted()
    bench.run_to_send()
    for _ in range(3):
        bench.refuse(wire.NOT_AUTHORIZED, 600)
        bench.run(0.05)
    assert bench.held() is not None
    assert bench.kinds() == [m.GRANTED, m.EVENT_REFUSED]


def test_a_doubled_refusal_is_told_once_and_waited_out_once():
    bench = Bench().start()
    for _ in range(3):
        bench.refuse(10, 30)
        bench.run(1)
    assert bench.kinds() == [m.EVENT_REFUSED]
    assert wait(bench) == 27


def test_renew_on_demand_waits_for_the_end_of_a_refusal():
    for held in (False, True):
        bench = Bench().start()
        if held:
            bench.answer()
            bench.run_to_send()
        bench.refuse(8, 600)
        assert bench.mapping.renew(bench.now) == bench.now + 600000
        assert wait(bench) == 600


def test_a_refusal_of_one_mapping_does_not_hold_back_another():
    bench = Bench(m.wish(17, 100, 1, 3600))
    other = bench.add(m.wish(17, 200, 50, 3600), nonce=b"\x55" * 12)
    bench.start()
    bench.refuse(3, 1800)
    bench.answer(which=1)
    assert other.state == m.HELD and bench.mapping.state == m.REFUSED
    bench.run_to_send()
    assert bench.last().map.internal_port == 100 and bench.now - bench.sent[0][0] == 1800000


def test_the_epoch_of_a_refusal_counts():
    bench = Bench(m.wish(17, 100, 1, 3600))
    other = bench.add(m.wish(17, 200, 50, 3600), nonce=b"\x55" * 12)
    bench.start()
    bench.answer(size=None)
    bench.answer(which=1)
    bench.run(600)
    bench.mapping.renew(bench.now)
    bench.settle()
    count = len(bench.sent)
    bench.refuse(8, 30, epoch=3)
    assert bench.client.epoch.server == 3
    assert len(bench.sent) == count + 1 and bench.last().map.internal_port == 200
    assert (m.RECOVERING, other) in [(event.kind, event.mapping) for _, event in bench.events]


def test_a_late_copy_of_an_old_refusal_does_not_take_the_line_down():
    bench = Bench(ALL).start()
    refusal = wire.map_response(
        wire.NOT_AUTHORIZED, 3, bench.epoch(), wire.parse_request(bench.sent[-1][1]).map
    )
    bench.receive(refusal)
    bench.run(5)
    bench.answer(size=1024, first=2048, first_internal=1)
    held = bench.held()
    bench.run(10)
    bench.receive(refusal)  # doubled by the network
    assert held and bench.held() == held
    bench.run(60)
    assert bench.held() == held and m.LOST not in bench.kinds()
