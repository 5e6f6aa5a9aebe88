"""Months of routers, a bad network and a forgetful lwAFTR: what must hold, holds."""

import multiprocessing

import pytest

from tests.sim import faults, many
from tests.sim.broken import BROKEN, applied
from tests.sim.invariants import Violation
from tests.sim.simulator import Recorder, Simulation

SCENARIOS = 10000


def record(seed):
    """The Recorder of a whole scenario of two days."""
    recorder = Recorder()
    Simulation(seed, days=2, recorder=recorder).run()
    return recorder


def test_two_runs_with_one_seed_are_the_same_to_the_octet():
    first, second = record(7), record(7)
    assert first.lines == second.lines and len(first.lines) > 10
    assert first.datagrams == second.datagrams
    assert first.digest.hexdigest() == second.digest.hexdigest()
    assert first.digest.hexdigest() != record(8).digest.hexdigest()


@pytest.mark.timeout(3600)
def test_routers_stay_inside_what_the_server_believes_and_come_back():
    datagrams, wrong = many.run_all(range(SCENARIOS), multiprocessing.cpu_count())
    assert not wrong, "\n\n".join(wrong[:5])
    assert datagrams > 100 * SCENARIOS


def test_every_fault_happens_in_a_few_scenarios():
    """A fault that never comes proves nothing."""
    said = []
    for seed in range(40):
        recorder = Recorder()
        Simulation(seed, recorder=recorder).run()
        said += [line.split("fault: ")[1] for line in recorder.lines if "fault: " in line]
    assert set(said) == {fault.__name__ for fault in faults.ALL}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_client_is_seen(name):
    """On seeds that the unbroken one passes: they are among those of the test above."""
    broken = BROKEN[name]
    assert broken.seeds <= SCENARIOS
    with applied(broken), pytest.raises(Violation):
        for seed in range(broken.seeds):
            Simulation(seed, client_class=broken.client, mapping_class=broken.mapping).run()
