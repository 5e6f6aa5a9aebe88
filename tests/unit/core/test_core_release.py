"""Giving a mapping back (RFC 6887 15.1)."""

from cpe_agent.pcp import mapping as m
from tests.unit.core import vectors
from tests.unit.core.bench import Bench


def releasing(**more):
    bench = Bench(**more).granted()
    bench.run(40)
    bench.mapping.release(bench.now)
    bench.settle()
    return bench


def test_a_release_is_the_worked_deletion_and_its_answer_ends_it():
    bench = releasing()
    assert bench.sent[-1][1] == vectors.E7
    bench.receive(vectors.E8)
    assert bench.mapping.state == m.IDLE and bench.held() is None
    event = bench.events[-1][1]
    assert (event.kind, event.detail) == (m.RELEASED, True)
    bench.run(86400)
    assert len(bench.sent) == 2 and bench.client.get_timer() is None


def test_a_release_of_one_port_has_no_port_set():
    bench = Bench().granted(size=None, first=4000)
    bench.mapping.release(bench.now)
    bench.settle()
    assert len(bench.sent[-1][1]) == 60 and bench.last().lifetime == 0


def test_a_release_suggests_nothing():
    request = releasing(known=None).last()
    assert request.map.external_port == 0
    assert request.map.external_ip == bytes.fromhex("00000000000000000000ffff00000000")
    assert request.lifetime == 0


def test_a_silent_server_is_told_four_times_and_then_left_alone():
    for seed in range(20):
        bench = releasing(seed=seed)
        bench.run(3600)
        assert [octets for _, octets in bench.sent[1:]] == [vectors.E7] * 4
        assert 2700 <= bench.gaps()[1] <= 3300 and bench.gaps()[3] <= 16000
        assert bench.mapping.state == m.IDLE and bench.held() is None
        assert bench.events[-1][1].kind == m.RELEASED and bench.events[-1][1].detail is False
        assert bench.events[-1][0] - bench.sent[1][0] <= 62000
        assert bench.kinds().count(m.RELEASED) == 1 and bench.client.get_timer() is None


def test_a_release_takes_its_own_tries_and_times_whatever_went_unanswered_before():
    for lifetime, silence in ((3600, 3400), (3600, 2000), (86400, 3000)):
        bench = Bench().granted(lifetime=lifetime)
        bench.mapping.renew(bench.now)
        bench.run(silence)
        assert bench.mapping.unanswered > 3
        bench.sent.clear()
        bench.mapping.release(bench.now)
        bench.settle()
        bench.run(3600)
        assert [octets for _, octets in bench.sent] == [vectors.E7] * 4
        assert 2700 <= bench.gaps()[0] <= 3300


def test_a_refused_release_is_over_and_not_repeated():
    for code in (2, 7, 8, 200):
        bench = releasing()
        bench.refuse(code, 30)
        assert bench.mapping.state == m.IDLE and bench.events[-1][1].detail is False
        bench.run(3600)
        assert len(bench.sent) == 2


def test_a_mapping_that_traffic_keeps_alive_is_released_again():
    bench = releasing()
    bench.answer(lifetime=118)
    assert bench.mapping.state == m.RELEASING
    bench.run(4)
    assert [octets for _, octets in bench.sent[1:]] == [vectors.E7] * 2
    bench.receive(vectors.E8)
    assert bench.mapping.state == m.IDLE


def test_a_late_answer_to_a_renewal_does_not_revive_a_released_mapping():
    bench = Bench().granted()
    bench.run_to_send()
    bench.mapping.release(bench.now)
    bench.settle()
    bench.answer()
    assert bench.mapping.state == m.RELEASING and bench.kinds() == [m.GRANTED]
    bench.answer(lifetime=0)
    bench.answer()
    assert bench.mapping.state == m.IDLE and bench.kinds() == [m.GRANTED, m.RELEASED]


def test_an_expiry_during_release_is_no_loss():
    bench = Bench().granted(lifetime=120)
    bench.run(118)
    bench.mapping.release(bench.now)
    bench.run(20)
    assert m.LOST not in bench.kinds()


def test_a_release_does_not_wait_for_a_refusal_to_end():
    bench = Bench().granted()
    bench.run_to_send()
    bench.refuse(8, 1800)
    bench.mapping.release(bench.now)
    bench.settle()
    assert bench.sent[-1][1] == vectors.E7


def test_a_released_mapping_can_be_started_again():
    bench = releasing()
    bench.receive(vectors.E8)
    bench.run(60)
    bench.mapping.start(bench.now)
    bench.settle()
    assert bench.sent[-1][1] == vectors.E6
    bench.answer()
    assert bench.mapping.state == m.HELD


def test_a_mapping_started_again_while_its_release_is_out_asks_anew():
    for answered in (False, True):
        bench = releasing()
        bench.run(1)
        bench.mapping.start(bench.now)
        bench.settle()
        assert bench.mapping.state == m.ASKING and bench.held() is None
        assert bench.sent[-1][1] == vectors.E6
        if answered:
            bench.answer()
            assert bench.held() is not None
        bench.run(4000)
        assert bench.mapping.state == m.ASKING, "unanswered, or expired since"


def test_after_a_release_the_other_mapping_lives_on():
    bench = Bench()
    bench.add(m.wish(6, 200, 50, 3600), nonce=b"\x66" * 12)
    bench.start()
    bench.answer()
    bench.answer(size=50, first=2000, which=1)
    bench.mapping.release(bench.now)
    bench.settle()
    bench.answer(lifetime=0)
    bench.run(2300)
    assert bench.last().map.internal_port == 200 and bench.sets[1].state == m.HELD
