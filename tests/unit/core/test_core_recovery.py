"""The server lost its state: noticing it, asking for the same set, and not making a storm of it."""

from cpe_agent.pcp import mapping as m
from cpe_agent.pcp import wire
from tests.unit.core import vectors
from tests.unit.core.bench import Bench, announcement


def three():
    """A bench that holds three mappings for ten minutes, with their requests cleared away."""
    bench = Bench()
    bench.add(m.wish(17, 100, 1, 3600), nonce=b"\x55" * 12)
    bench.add(m.wish(6, 200, 50, 3600), nonce=b"\x66" * 12)
    bench.start()
    bench.answer()
    bench.answer(size=None, first=1100, which=1)
    bench.answer(size=50, first=2000, which=2)
    bench.run(600)
    bench.sent.clear()
    bench.events.clear()
    return bench


def test_an_announced_restart_asks_for_the_same_sets_within_five_seconds():
    waits = []
    for seed in range(60):
        bench = Bench(seed=seed).granted()
        bench.run(600)
        bench.receive(vectors.E12)
        assert bench.kinds() == [m.GRANTED, m.RECOVERING]
        before = bench.now
        bench.run_to_send()
        waits.append(bench.now - before)
        assert bench.sent[-1][1] == vectors.E6, "the same set is suggested, with the option"
        assert bench.held() is not None
    assert 0 <= min(waits) < 500 and 4500 < max(waits) <= 5000, waits
    assert len(set(waits)) > 50


def test_an_announcement_that_fits_asks_for_nothing():
    bench = Bench().granted()
    bench.run(600)
    for _ in range(20):
        bench.receive(announcement(bench.epoch()))
        bench.run(30)
    assert len(bench.sent) == 1 and bench.kinds() == [m.GRANTED]


def test_announcements_keep_the_epoch_up_to_date():
    bench = Bench().granted()
    bench.run(600)
    bench.receive(announcement(bench.epoch() + 2))
    assert bench.client.epoch.server == bench.epoch() + 2


def test_ten_announcements_of_one_restart_make_one_round():
    bench = three()
    gap = 0.25
    begin = bench.now
    for _ in range(10):
        bench.receive(announcement((bench.now - begin) // 1000))
        # The server, restarted, answers what it is asked.
        answer_all(bench, begin)
        bench.run(gap)
        answer_all(bench, begin)
        gap *= 2
        if gap > 128:
            break
    assert len(bench.sent) == 3
    assert bench.kinds().count(m.RECOVERING) == 3 and bench.kinds().count(m.RENEWED) == 3


def answer_all(bench, begin):
    """A server that restarted at begin confirms every set that was asked for."""
    sets = ((32, 37056), (None, 1100), (50, 2000))
    for which, (size, first) in enumerate(sets):
        if bench.sets[which].unanswered:
            epoch = (bench.now - begin) // 1000
            bench.answer(size=size, first=first, which=which, epoch=epoch)


def test_an_announcement_with_options_or_a_lifetime_is_still_one():
    for octets in (
        vectors.E12 + bytes.fromhex("05000004") + b"abcd",
        vectors.E12[:4] + b"\0\0\3\xe7" + vectors.E12[8:],
    ):
        bench = Bench().granted()
        bench.run(600)
        bench.receive(octets)
        assert bench.kinds() == [m.GRANTED, m.RECOVERING]


def test_an_announcement_before_anything_was_heard_moves_nothing():
    bench = Bench().start()
    bench.receive(vectors.E12)
    assert len(bench.sent) == 1 and bench.kinds() == []


def test_a_jump_in_any_answer_asks_for_the_other_mappings_at_once():
    bench = three()
    bench.mapping.renew(bench.now)
    bench.settle()
    assert len(bench.sent) == 1
    bench.answer(epoch=9)
    assert bench.kinds().count(m.RECOVERING) == 2 and bench.kinds()[-1] == m.RENEWED
    assert [bench.now] * 3 == [at for at, _ in bench.sent]
    ports = [int.from_bytes(octets[42:44], "big") for _, octets in bench.sent]
    assert sorted(ports) == [1100, 2000, 37056], "each with its own suggestion"


def test_the_answer_that_shows_the_jump_is_itself_believed():
    bench = Bench().granted()
    bench.run_to_send()
    bench.answer(first=40960, epoch=9)
    assert bench.kinds() == [m.GRANTED, m.CHANGED] and len(bench.sent) == 2


def test_an_unasked_answer_with_a_jump_is_asked_about_and_not_believed():
    bench = Bench().granted()
    bench.run(600)
    bench.answer(first=40960, epoch=9)
    assert bench.held().first == 37056 and bench.kinds() == [m.GRANTED, m.RECOVERING]
    assert len(bench.sent) == 2
    bench.answer(epoch=9)
    assert bench.held().first == 37056 and bench.kinds()[-1] == m.RENEWED


def test_a_restart_ends_what_the_server_refused_before():
    bench = Bench().start()
    bench.refuse(8, 3000)
    bench.run(60)
    bench.receive(announcement(0))
    bench.run(5)
    assert len(bench.sent) == 2 and bench.mapping.state == m.ASKING


def test_a_restart_is_asked_about_while_a_refused_renewal_waits():
    bench = Bench().granted(lifetime=86400)
    bench.run_to_send()
    bench.refuse(8, 3600)
    bench.run(60)
    bench.receive(announcement(0))
    bench.run(5)
    assert len(bench.sent) == 3


def test_no_binding_at_the_lwaftr_asks_within_five_seconds():
    waits = set()
    for seed in range(40):
        bench = Bench(seed=seed).granted()
        bench.run(600)
        bench.client.binding_lost(bench.now)
        bench.settle()
        assert bench.kinds() == [m.GRANTED, m.RECOVERING]
        before = bench.now
        bench.run_to_send()
        assert bench.sent[-1][1] == vectors.E6
        waits.add(bench.now - before)
    assert max(waits) <= 5000 and max(waits) - min(waits) > 4000


def test_icmp_at_packet_rate_makes_no_flood():
    for answered in (True, False):
        bench = Bench().granted(lifetime=86400)
        bench.run(600)
        begin, count = bench.now, len(bench.sent)
        while bench.now < begin + 3600000:
            for _ in range(3):
                bench.client.binding_lost(bench.now)
            bench.settle()
            if answered and bench.mapping.unanswered:
                bench.answer(lifetime=86400)
            bench.run(0.5)
        # One round in eleven minutes, in the end; an unanswered one is repeated in itself.
        assert bench.kinds().count(m.RECOVERING) <= 12
        assert 5 <= len(bench.sent) - count <= (12 if answered else 100), len(bench.sent) - count
        assert bench.held() is not None


def test_two_servers_behind_one_address_make_no_storm():
    """Anycast: every answer comes from the other server, and their epochs do not agree."""
    bench = three()
    begin, turn = bench.now, 0
    while bench.now < begin + 3600000:
        for which, (size, first) in enumerate(((32, 37056), (None, 1100), (50, 2000))):
            if bench.sets[which].unanswered:
                turn += 1
                epoch = (10, 100000)[turn % 2] + (bench.now - begin) // 1000
                bench.answer(size=size, first=first, which=which, epoch=epoch)
        bench.run(0.25)
    assert len(bench.sent) <= 60, len(bench.sent)


def test_announcements_that_disagree_each_second_make_no_storm():
    bench = three()
    begin, turn = bench.now, 0
    while bench.now < begin + 3600000:
        turn += 1
        bench.receive(announcement((10, 100000)[turn % 2]))
        answer_all(bench, begin - 5000000)
        bench.run(1)
    assert len(bench.sent) <= 90, len(bench.sent)
    assert bench.kinds().count(m.RECOVERING) <= 90


def test_updates_that_disagree_each_second_make_no_storm():
    bench = Bench().granted(lifetime=86400)
    begin, turn = bench.now, 0
    while bench.now < begin + 3600000:
        turn += 1
        if not bench.mapping.unanswered:
            bench.answer(lifetime=86400, epoch=(10, 100000)[turn % 2])
        bench.run(0.5)
        if bench.mapping.unanswered:
            bench.answer(lifetime=86400, epoch=(10, 100000)[turn % 2])
        bench.run(0.5)
    assert len(bench.sent) <= 60, len(bench.sent)


def test_a_storm_of_forged_announcements_does_not_put_off_the_next_real_recovery():
    bench = Bench().granted(lifetime=86400)
    for turn in range(120):
        bench.receive(announcement((10, 100000)[turn % 2]))
        if bench.mapping.unanswered:
            bench.answer(lifetime=86400)
        bench.run(1)
    bench.answer(lifetime=86400)
    bench.run(3600)
    if bench.mapping.unanswered:
        bench.answer(lifetime=86400)
    count = len(bench.sent)
    bench.receive(announcement(0))
    bench.run(640 + 5)
    assert len(bench.sent) > count


def test_however_long_the_icmp_lasts_the_same_set_is_asked_for_every_eleven_minutes():
    bench = Bench().granted(lifetime=86400)
    begin = bench.now
    while bench.now < begin + 8 * 3600000:
        bench.client.binding_lost(bench.now)
        bench.settle()
        if bench.mapping.unanswered:
            bench.answer(lifetime=86400)
        bench.run(20)
    times = [at for at, event in bench.events if event.kind == m.RECOVERING]
    assert 600000 <= times[-1] - times[-2] <= 680000 and bench.now - times[-1] <= 680000
    assert [at for at, _ in bench.sent if at > bench.now - 700000]


def test_after_an_hour_of_peace_a_loss_is_recovered_at_once_again():
    bench = Bench().granted(lifetime=86400)
    for _ in range(600):
        bench.client.binding_lost(bench.now)
        bench.settle()
        if bench.mapping.unanswered:
            bench.answer(lifetime=86400)
        bench.run(3)
    bench.run(640)
    if bench.mapping.unanswered:
        bench.answer(lifetime=86400)
    bench.run(3600)
    for _ in range(2):  # and so is a second one, a minute later
        before = bench.now
        bench.receive(announcement(0))
        bench.run_to_send()
        assert bench.now - before <= 5000
        bench.answer(lifetime=86400, epoch=0)
        bench.run(60)


def test_two_losses_an_hour_apart_are_both_recovered_at_once():
    bench = Bench().granted(lifetime=86400)
    for _ in range(3):
        bench.run(3600)
        restart = bench.now
        count = len(bench.sent)
        bench.receive(announcement(0))
        bench.run_to_send()
        assert bench.now - restart <= 5000 and len(bench.sent) == count + 1
        bench.answer(lifetime=86400, epoch=(bench.now - restart) // 1000)
        bench.epoch_zero = restart


def test_a_recovery_that_is_not_answered_is_repeated_like_a_first_request():
    bench = Bench().granted(lifetime=86400)
    bench.run(600)
    bench.receive(vectors.E12)
    bench.run(200)
    gaps = bench.gaps()[1:]
    assert 5 <= len(gaps) <= 7 and 4000 <= gaps[0] <= 4400 and gaps[1] <= 7300
    for before, after in zip(gaps[1:], gaps[2:]):
        assert 1.79 * before <= after <= 2.21 * before
    assert bench.held() is not None and bench.kinds().count(m.SILENT) == 1


def test_a_released_mapping_is_not_recovered():
    bench = Bench().granted()
    bench.mapping.release(bench.now)
    bench.settle()
    bench.receive(announcement(0))
    bench.client.binding_lost(bench.now)
    bench.answer(lifetime=0, epoch=0)
    bench.run(3600)
    assert len(bench.sent) == 2 and bench.mapping.state == m.IDLE
    assert m.RECOVERING not in bench.kinds()


def test_after_recovery_a_set_where_there_was_one_port_is_taken():
    bench = Bench().granted(size=None, first=4000)
    bench.run(600)
    bench.receive(vectors.E12)
    bench.run(5)
    bench.answer(epoch=4, size=32, first=4000)
    assert bench.held().size == 32


def test_a_set_that_is_lost_is_told_even_where_the_request_takes_another_form():
    """The server restarted with other software: what it forgot is gone, whatever is asked next."""
    bench = Bench().granted()
    bench.run(600)
    bench.receive(vectors.E12)
    bench.run_to_send()
    bench.refuse(wire.UNSUPP_OPTION, 1800, epoch=5)
    assert bench.kinds()[-2:] == [m.LOST, m.PLAIN] and bench.held() is None


def test_a_server_that_restarts_half_a_minute_after_a_restart_is_doubted_too():
    """Its epoch is behind by so little that the answer may be an old one, but no request of ours
    is old enough for that."""
    bench = Bench().granted(lifetime=120)
    bench.run_to_send()
    bench.epoch_zero += 20000
    bench.refuse(wire.NOT_AUTHORIZED, 1800)
    assert bench.held() is not None, "it may still be an answer of the time before"
    bench.run_to_send()
    bench.refuse(wire.NOT_AUTHORIZED, 1800)
    assert bench.kinds()[-2:] == [m.LOST, m.EVENT_REFUSED] and bench.held() is None


def test_an_old_answer_does_not_make_a_server_doubted():
    """An answer that was long on the way, while its request was out: the set is kept."""
    bench = Bench().granted(lifetime=120)
    bench.run_to_send()
    bench.run(20)
    bench.refuse(wire.NETWORK_FAILURE, 1800, epoch=bench.epoch() - 18)
    bench.run_to_send()
    bench.refuse(wire.NOT_AUTHORIZED, 1800)
    assert bench.held() is not None


def test_neither_form_of_a_request_is_asked_inside_its_own_refusal():
    bench = Bench(m.wish(0, 1, 1024, 3600, fallback=True)).start()
    bench.refuse(wire.UNSUPP_PROTOCOL, 1800)
    bench.run(5)
    bench.refuse(wire.UNSUPP_PROTOCOL, 60)
    bench.run(1790)
    assert len(bench.sent) == 2
    bench.run(20)
    assert len(bench.sent) == 3
