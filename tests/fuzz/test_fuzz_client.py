"""100 000 datagrams into the client core, the same ones each time (issue 2, point 5)."""

import time
import tracemalloc

import pytest

from tests.fuzz.fuzz_client import Broken, Fuzz, table

COUNT = 100000
SEED = 20240607

# Share of the datagrams that must get this far, or the fuzz would be blind beyond.
SHARES = {
    "foreign": 0.05,
    "malformed": 0.1,
    "announcement": 0.02,
    "announced a loss": 0.005,
    "version": 0.01,
    "version refused": 0.0002,
    "unmatched": 0.03,
    "matched": 0.15,
    "adopted": 0.008,
    "taken away": 0.0005,
    "success at asking": 0.005,
    "success at refused": 0.005,
    "success at held": 0.01,
    "success at releasing": 0.0005,
    "success at idle": 0.0005,
    "error at asking": 0.005,
    "error at refused": 0.005,
    "error at held": 0.01,
    "error at releasing": 0.0001,
    "sent": 0.01,
}


@pytest.mark.timeout(120)
def test_the_client_survives_100000_datagrams_and_believes_only_its_server():
    begin = time.monotonic()
    stages = Fuzz(SEED).run(COUNT)
    print("\n%s\n%.1f s" % (table(stages, COUNT), time.monotonic() - begin))
    blind = {
        name: (stages.get(name, 0), share * COUNT)
        for name, share in SHARES.items()
        if stages.get(name, 0) < share * COUNT
    }
    assert not blind, "too few came this far: (count, wanted) %r" % blind


def test_the_client_does_not_grow_under_fire():
    fuzz = Fuzz(SEED + 1)
    fuzz.run(3000)
    tracemalloc.start()
    fuzz.run(1000)
    before, _ = tracemalloc.get_traced_memory()
    fuzz.run(5000)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 20000, after - before


def test_the_fuzz_sees_a_client_that_believes_strangers():
    """The judge itself: a client without the nonce check must not pass."""
    fuzz = Fuzz(SEED)

    def any_mapping(data):
        return fuzz.client.mappings[0]

    def reset(old=fuzz.reset):
        old()
        fuzz.client._match = any_mapping

    fuzz.reset = reset
    fuzz.reset()
    with pytest.raises(Broken):
        fuzz.run(5000)
