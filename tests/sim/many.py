"""Many scenarios: python -m tests.sim.many --seeds 0-9999 --jobs 2; or one, with all it says."""

import argparse
import multiprocessing
import sys
import traceback

from rich.progress import track

from tests.sim.simulator import Recorder, Simulation

CHUNK = 20


def run(seed):
    """(seed, datagrams, None or what went wrong) of one scenario."""
    try:
        return seed, Simulation(seed).run().weather.datagrams, None
    except AssertionError as violation:
        return seed, 0, str(violation)
    except Exception:  # a crash of the core or of the server, which a report has to name, too
        return seed, 0, "seed %d crashed\n%s" % (seed, traceback.format_exc())


def run_all(seeds, jobs, show=lambda results, count: results):
    """(datagrams, texts of what went wrong) of all scenarios. show: wraps the results that come
    in, with their count."""
    datagrams, wrong = 0, []
    with multiprocessing.Pool(jobs) as pool:
        for _, count, text in show(pool.imap_unordered(run, seeds, CHUNK), len(seeds)):
            datagrams += count
            if text:
                wrong.append(text)
    return datagrams, sorted(wrong)


def replay(seed):
    """Run one scenario and print what happens in it."""
    recorder = Recorder()
    wrong = None
    try:
        Simulation(seed, recorder=recorder).run()
    except AssertionError as violation:
        wrong = violation
    print("\n".join(recorder.lines))
    print(wrong or "all invariants held; digest %s" % recorder.digest.hexdigest())
    return wrong is not None


def _range(text):
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def main():
    """Exit status 1 when an invariant did not hold."""
    parser = argparse.ArgumentParser(description="Seeded scenarios of 30 virtual days each.")
    parser.add_argument("--seeds", type=_range, default="0-9999", help="first-last")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--seed", type=int, help="replay this one and print what happens")
    given = parser.parse_args()
    if given.seed is not None:
        return int(replay(given.seed))
    datagrams, wrong = run_all(
        given.seeds,
        given.jobs,
        lambda results, count: track(results, "scenarios", total=count),
    )
    print("\n\n".join(wrong[:20]))
    print("%d scenarios, %d datagrams, %d violations" % (len(given.seeds), datagrams, len(wrong)))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
