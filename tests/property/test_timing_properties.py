"""Laws of retransmission, renewal and epochs for any numbers."""

from fractions import Fraction

from hypothesis import assume, given
from hypothesis import strategies as st

from cpe_agent.pcp import timing

FOUR = st.binary(min_size=4, max_size=4)
U32 = st.integers(0, 2**32 - 1)
TIME = st.integers(0, 10**12)


@given(FOUR, st.integers(-(10**6), 10**6), st.integers(0, 10**7))
def test_uniform_stays_inside(octets, low, width):
    assert low <= timing.uniform(lambda count: octets[:count], low, low + width) <= low + width


@given(st.lists(FOUR, min_size=20, max_size=20))
def test_each_retransmission_is_about_the_double_until_the_cap(draws):
    draws = iter(draws)
    previous = timing.retransmission(None, lambda count: next(draws))
    assert 2700 <= previous <= 3300
    for _ in range(19):
        value = timing.retransmission(previous, lambda count: next(draws))
        base = min(2 * previous, 1024000)
        assert abs(value - base) <= base / 10
        previous = value
    assert 921600 <= previous <= 1126400


@given(TIME, st.integers(1, 86400), st.integers(-5, 10**8), FOUR)
def test_a_renewal_is_in_a_window_or_four_seconds_after_the_last_send(
    granted, lifetime, elapsed, octets
):
    after = granted + elapsed
    at = timing.renewal(granted, lifetime, after, lambda count: octets)
    end = granted + lifetime * 1000
    if at is None:
        # Then no window of useful length begins after the last send, or four seconds do not fit.
        remaining = end - max(after, granted)
        assert remaining <= 2 * timing.RENEWAL_SPACING or lifetime * 1000 <= 8000
        return
    assert after + 4000 <= at < end
    share = Fraction(at - granted, lifetime * 1000)
    rounding = Fraction(20, lifetime * 1000)
    in_window = any(
        1 - Fraction(1, 2**k) - rounding <= share <= 1 - Fraction(3, 2 ** (k + 2)) + rounding
        for k in range(1, 20)
    )
    assert in_window or at == after + 4000


@given(TIME, st.integers(120, 86400), st.binary(min_size=400, max_size=400))
def test_a_silent_server_is_asked_a_handful_of_times_within_a_lease(granted, lifetime, octets):
    at, sends, position = granted, [], 0
    while True:
        draw = octets[position : position + 4]
        position = (position + 4) % 400
        at = timing.renewal(granted, lifetime, at, lambda count, draw=draw: draw)
        if at is None:
            break
        sends.append(at)
    assert 4 <= len(sends) <= 16
    assert granted + lifetime * 500 <= sends[0] <= granted + lifetime * 625 + 1
    assert all(b - a >= 4000 for a, b in zip([granted, *sends], sends))


def consistent(before, after, elapsed):
    """RFC 6887 8.5 in exact integers, written down once more."""
    if after < before - 1:
        return False
    server = after - before
    shrunk_server = server - (server // 16 if server >= 0 else -(-server // 16))
    return not (elapsed + 2 < shrunk_server or server + 2 < elapsed - elapsed // 16)


@given(U32, st.integers(-100, 200000), st.integers(0, 100000), st.integers(0, 10**9))
def test_epochs_are_judged_by_the_rfc_s_inequalities(before, delta, elapsed, start):
    after = before + delta
    assume(0 <= after < 2**32)
    epoch = timing.Epoch()
    assert epoch.check(before, start) == timing.FOLLOWS
    verdict = epoch.check(after, start + elapsed * 1000)
    assert (verdict == timing.FOLLOWS) == consistent(before, after, elapsed)


@given(st.lists(st.tuples(U32, st.integers(0, 10**7)), min_size=2, max_size=12))
def test_only_the_last_epoch_heard_counts(heard):
    epoch, now = timing.Epoch(), 0
    for server, pause in heard:
        now += pause
        epoch.check(server, now)
    fresh = timing.Epoch()
    fresh.check(server, now)
    for after in (0, server, min(server + 70, 2**32 - 1)):
        one, other = timing.Epoch(), timing.Epoch()
        one.server, one.client = epoch.server, epoch.client
        other.server, other.client = fresh.server, fresh.client
        assert one.check(after, now + 60000) == other.check(after, now + 60000)


@given(U32, st.lists(st.integers(0, 40000), min_size=1, max_size=30), st.integers(0, 999))
def test_a_healthy_server_is_never_taken_for_a_restarted_one(first, pauses, phase):
    """Both clocks run alike, each cut to whole seconds, and answers take up to a second."""
    assume(first + sum(pauses) < 2**32)
    epoch, now = timing.Epoch(), 10**9
    begin = now
    for pause in pauses:
        now += pause * 1000
        server = first + (now + phase - begin) // 1000
        assert epoch.check(server, now)
        now += 1000
        assert epoch.check(server, now), "a second old"
        begin += 1000
