"""A small fleet behind a lwAFTR that restarts: all are back soon, and nobody storms."""

import pytest

from cpe_agent.pcp import timing
from tests.sim.fleet import WAYS, Fleet, figures

COUNT = 2000
AT_ONCE, PATIENT, FAST, PACED, TRAFFIC, RENEWAL = WAYS
# Spread evenly over the five seconds of RFC 6887 14.1.3, with four standard deviations above.
PEAK = COUNT // 5 + 4 * int((COUNT // 5) ** 0.5)


def peak_and_last(way, rate=None):
    """(requests in the worst second, requests in all, ms until the last router was back)."""
    result = Fleet(COUNT, way).restart(rate)
    assert len(result.back) == COUNT, "some never came back"
    peak, total, _, _, _, last = figures(result)
    return peak, total, last


def test_an_announcement_is_answered_over_five_seconds_by_one_request_each():
    peak, total, last = peak_and_last(AT_ONCE)
    assert peak <= PEAK and total == COUNT
    assert last < 6000


def test_a_paced_announcement_makes_no_wave():
    peak, total, last = peak_and_last(PACED._replace(pace=20))
    assert peak < 45 and total == COUNT
    assert last < 110000


def test_without_any_sign_all_are_back_by_their_next_renewals():
    peak, total, last = peak_and_last(RENEWAL)
    assert peak <= 6 and total < 1.1 * COUNT
    assert last <= 86400000 * 5 // 8


def test_a_slow_server_is_not_drowned_for_good():
    """It serves forty requests a second and drops the rest: the fleet is back in little more than
    the fifty seconds that this takes at least."""
    _, total, last = peak_and_last(AT_ONCE, rate=40)
    assert last < 120000
    assert total < 8 * COUNT


def _no_jitter(random_bytes, low, high):
    return (low + high) // 2


def _no_wait(random_bytes, low, high):
    return 0 if low == 0 else _uniform(random_bytes, low, high)


_uniform = timing.uniform


@pytest.mark.parametrize("broken", [_no_jitter, _no_wait], ids=["no jitter", "recovery wait 0"])
def test_a_fleet_that_does_not_spread_its_requests_is_seen(broken, monkeypatch):
    monkeypatch.setattr(timing, "uniform", broken)
    peak, _, _ = peak_and_last(AT_ONCE)
    assert peak > 2 * PEAK, "the invariant of the first test would not see it"
