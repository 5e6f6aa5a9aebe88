"""Days of routers, a bad network and a forgetful lwAFTR: what must hold, holds; faults are seen."""

import pytest

from cpe_agent.pcp import mapping as m
from tests.sim.simulator import Simulation, Violation

DAYS = 4
SEEDS = range(40)


def test_two_runs_with_one_seed_are_the_same_to_the_octet():
    first, second = (Simulation(7, days=2).run().digest.hexdigest() for _ in range(2))
    assert first == second
    assert first != Simulation(8, days=2).run().digest.hexdigest()


@pytest.mark.parametrize("seed", SEEDS)
def test_routers_stay_inside_what_the_server_believes_and_come_back(seed):
    simulation = Simulation(seed, days=DAYS).run()
    assert simulation.datagrams > 10


class ForgetsItsNonce(m.Mapping):
    """Draws a new one at every start, as most published clients do."""

    def start(self, now, grant=None):
        self.nonce = bytes(reversed(self.nonce))
        super().start(now, grant)


class CountsFromTheAnswer(m.Mapping):
    """Lets a lease begin when its answer comes in."""

    def _began(self, now, epoch):
        return now


class BelievesCopies(m.Mapping):
    """Takes any answer for an answer to its last request."""

    def is_repeat(self, now, response):
        return False

    def believes(self, verdict):
        return True

    def _began(self, now, epoch):
        return self.last_sent


class NeverSuggests(m.Mapping):
    """Asks for any set after a loss."""

    def _request(self, client_ip):
        known, self.known = self.known, None
        try:
            return super()._request(client_ip)
        finally:
            self.known = known


class KeepsNoDistance(m.Mapping):
    """Asks again at once whenever it feels like it."""

    def _spaced(self, at):
        return at


@pytest.mark.parametrize(
    "broken",
    [ForgetsItsNonce, CountsFromTheAnswer, BelievesCopies, NeverSuggests, KeepsNoDistance],
)
def test_a_broken_router_is_seen(broken):
    with pytest.raises(Violation):
        for seed in range(200):
            Simulation(seed, days=DAYS, mapping_class=broken).run()
