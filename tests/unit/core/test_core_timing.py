"""When things are sent, and what an epoch says (RFC 6887 8.1.1, 8.5, 11.2.1)."""

from cpe_agent.pcp import timing
from tests.unit.core.bench import Dice, ends

# (lowest, highest) seconds of RT1, RT2 ...: jitter of a tenth, compounding until the cap.
RETRANSMISSION = (
    (2.70, 3.30),
    (4.86, 7.26),
    (8.75, 15.97),
    (15.75, 35.14),
    (28.34, 77.30),
    (51.02, 170.07),
    (91.83, 374.15),
    (165.30, 823.14),
    (297.54, 1126.40),
    (535.57, 1126.40),
    (921.60, 1126.40),
    (921.60, 1126.40),
    (921.60, 1126.40),
)

# client_delta: lowest and highest server_delta that still fit.
EPOCH_BOUNDS = (
    (0, -1, 2),
    (1, -1, 3),
    (2, 0, 4),
    (10, 8, 12),
    (16, 13, 19),
    (30, 27, 34),
    (60, 55, 66),
    (100, 92, 108),
    (600, 561, 642),
    (1000, 936, 1068),
    (1800, 1686, 1922),
    (3600, 3373, 3842),
    (86400, 80998, 92162),
)


def ladder(random_bytes, count=13):
    values = []
    previous = None
    for _ in range(count):
        previous = timing.retransmission(previous, random_bytes)
        values.append(previous)
    return values


def test_uniform_reaches_both_ends_and_no_further():
    assert timing.uniform(ends(0), -7, 9) == -7
    assert timing.uniform(ends(255), -7, 9) == 9
    dice = Dice(3)
    seen = {timing.uniform(dice, 1, 6) for _ in range(500)}
    assert seen == {1, 2, 3, 4, 5, 6}


def test_uniform_is_even():
    dice = Dice(4)
    counts = [0] * 10
    for _ in range(5000):
        counts[timing.uniform(dice, 0, 9)] += 1
    assert min(counts) > 400 and max(counts) < 600, counts


def test_every_retransmission_is_within_its_bounds_for_any_seed():
    for seed in range(300):
        for (low, high), value in zip(RETRANSMISSION, ladder(Dice(seed))):
            assert low * 1000 - 10 <= value <= high * 1000 + 10, (seed, value)


def test_the_bounds_are_reached():
    for (low, _), value in zip(RETRANSMISSION, ladder(ends(0))):
        assert abs(value - low * 1000) <= 50, (value, low)
    for (_, high), value in zip(RETRANSMISSION, ladder(ends(255))):
        assert abs(value - high * 1000) <= 50, (value, high)


def test_every_retransmission_draws_its_own_jitter_around_the_double():
    ratios = []
    for seed in range(300):
        values = ladder(Dice(seed), 8)
        ratios += [b / a for a, b in zip(values, values[1:])]
    assert 1.799 < min(ratios) < 1.82 and 2.18 < max(ratios) < 2.201
    assert 1.98 < sum(ratios) / len(ratios) < 2.02
    assert len({int(ratio * 1000) for ratio in ratios}) > 200


def test_first_retransmissions_spread_over_the_whole_tenth():
    values = [timing.retransmission(None, Dice(seed)) for seed in range(300)]
    assert 2700 <= min(values) < 2730 and 3270 < max(values) <= 3300
    assert 2970 < sum(values) / len(values) < 3030


def window(lifetime, step):
    """Bounds in ms of a renewal window: [1 - 2^-k, 1 - 2^-k + 2^-(k+2)] of the lifetime."""
    left = lifetime * 1000 / 2**step
    return lifetime * 1000 - left, lifetime * 1000 - left + left / 4


def test_renewals_fall_into_their_windows_for_any_seed():
    for lifetime in (120, 600, 3600, 86400):
        for seed in range(60):
            granted = 777777
            after, dice = granted, Dice(seed)
            for step in (1, 2, 3, 4):
                at = timing.renewal(granted, lifetime, after, dice)
                low, high = window(lifetime, step)
                assert low - 1 <= at - granted <= high + 1, (lifetime, step, at - granted)
                after = at


def test_the_renewal_windows_are_used_to_both_ends():
    for lifetime in (120, 3600, 86400):
        low, high = window(lifetime, 1)
        assert abs(timing.renewal(0, lifetime, 0, ends(0)) - low) <= 1
        assert abs(timing.renewal(0, lifetime, 0, ends(255)) - high) <= 1


def test_renewals_are_four_seconds_apart_and_before_the_end():
    for lifetime in (1, 4, 5, 8, 9, 16, 30, 119, 120, 121, 240, 3600, 86400):
        for seed in range(60):
            after, dice, count = 0, Dice(seed), 0
            while True:
                at = timing.renewal(0, lifetime, after, dice)
                if at is None:
                    break
                assert at - after >= 4000, (lifetime, at, after)
                assert at < lifetime * 1000
                after, count = at, count + 1
            assert count < 20
            assert (count > 0) == (lifetime > 4), (lifetime, count)
            if lifetime == 120:
                assert count in (4, 5), count


def test_a_late_timer_does_not_bring_missed_windows_back():
    # A router that was busy from 50 % to 76 % of the lifetime renews in the third window.
    at = timing.renewal(0, 3600, 2740000, Dice())
    assert 3150000 <= at <= 3262500, at


def epochs(before, after, elapsed, offset=0):
    """Whether a server's epoch may go from before to after while our clock ran elapsed seconds."""
    epoch = timing.Epoch()
    assert epoch.check(before, offset) == timing.FOLLOWS
    return epoch.check(after, offset + elapsed * 1000) == timing.FOLLOWS


def test_every_row_of_the_epoch_table_holds_and_one_step_outside_does_not():
    for elapsed, low, high in EPOCH_BOUNDS:
        for before in (1000, 100000, 4000000000):
            for offset in (0, 999, 123456789):
                assert epochs(before, before + low, elapsed, offset) is True, (elapsed, low)
                assert epochs(before, before + high, elapsed, offset) is True, (elapsed, high)
                assert epochs(before, before + low - 1, elapsed, offset) is False, (elapsed, low)
                assert epochs(before, before + high + 1, elapsed, offset) is False, (elapsed, high)


def test_everything_between_the_bounds_is_consistent():
    for elapsed, low, high in EPOCH_BOUNDS[:9]:
        for delta in range(low, high + 1):
            assert epochs(10000, 10000 + delta, elapsed) is True, (elapsed, delta)


def test_the_first_epoch_of_a_server_is_taken_as_it_is():
    for first in (0, 1, 4000000000, 0xFFFFFFFF):
        assert timing.Epoch().check(first, 12345) == timing.FOLLOWS


def test_a_second_backwards_does_not_wrap_around():
    assert epochs(1000, 999, 0) is True
    assert epochs(1000, 999, 1) is True
    assert epochs(1000, 999, 2) is False
    assert epochs(1000, 998, 0) is False
    assert epochs(1, 0, 0) is True


def test_a_restarted_server_is_noticed():
    assert epochs(1000, 30, 60) is False
    assert epochs(1000, 0, 5) is False
    assert epochs(2000000, 0, 86400) is False


def test_an_inconsistent_epoch_is_remembered_so_that_the_next_one_is_not_news():
    epoch = timing.Epoch()
    assert epoch.check(1000, 0) == timing.FOLLOWS
    assert epoch.check(5, 10000) == timing.LOST
    assert epoch.check(7, 12000) == timing.FOLLOWS
    assert epoch.check(67, 72000) == timing.FOLLOWS


def test_an_epoch_some_seconds_behind_may_be_an_old_datagram():
    for behind, verdict in ((10, timing.LATE), (30, timing.LATE), (31, timing.LOST)):
        epoch = timing.Epoch()
        epoch.check(1000, 0)
        assert epoch.check(1100 - behind, 100000) == verdict, behind
