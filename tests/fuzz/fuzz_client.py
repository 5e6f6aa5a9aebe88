"""Random conversations with the client core, by a seed.

    python -m tests.fuzz.fuzz_client --count 1000000 --seed 7

Whatever arrives, nothing may be raised, and the client may change its mind only when address, port
and (but for announcements) nonce are right: conversation.py says what happens, judge.py what must
not. cover.py has the same conversations driven by coverage.
"""

import argparse
import random
import sys
import time

from tests.fuzz import targets

sys.path.insert(0, str(targets.ROOT / "qemu-lab"))

from tests.fuzz.conversation import MOST_STEPS, Client, Conversation
from tests.fuzz.judge import Broken


class Fuzz:
    """One conversation after the other, and a count of how far each thing came."""

    def __init__(self, seed, client_class=Client):
        self.random = random.Random(seed)
        self.seed = seed
        self.client_class = client_class
        self.stages = {}
        self.step = 0

    def count(self, stage):
        self.stages[stage] = self.stages.get(stage, 0) + 1

    def run(self, count):
        """That many steps; the counts. Raises Broken."""
        end = self.step + count
        while self.step < end:
            steps = min(self.random.randrange(1, MOST_STEPS), end - self.step)
            try:
                self._talk(steps)
            except AssertionError as error:
                raise Broken("seed %d, step %d: %s" % (self.seed, self.step, error)) from error
        return self.stages

    def _talk(self, steps):
        talk = Conversation(self.random, self.count, self.client_class)
        for _ in range(steps):
            self.step += 1
            talk.step()
        talk.finish()


def table(stages, count):
    """Counts for people."""
    lines = [
        "%-24s %8d  %5.1f %%" % (name, stages[name], 100 * stages[name] / count)
        for name in sorted(stages)
    ]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    begin = time.monotonic()
    stages = Fuzz(options.seed).run(options.count)
    print(table(stages, options.count))
    print("%d steps in %.1f s: no fault" % (options.count, time.monotonic() - begin))


if __name__ == "__main__":
    main()
