"""How full the port sets have been in the last day, for a plot. Pure: time and counts come as
arguments.

A day in steps of five minutes; of each step the highest that was counted. It takes 3 kB, however
long the agent runs, and is in RAM alone: a restart of the agent begins anew.

Every value is a count (flows.py), none an estimate from how many flows there are at all: a router
has flows that need no port of the sets, so that would be a plot of something else. growth.py sees
to it that there is a count for each step, and more of them while the ports are nearly all needed.
"""

from array import array

STEP = 300000  # ms
STEPS = 288
# full: percent of the ports that are needed (flows.fullness). tcp, udp, icmp: ports in use. ports:
# of all sets.
FIELDS = ("full", "tcp", "udp", "icmp", "ports")
_NOTHING = 0xFFFF  # was counted in that step


class History:
    """A ring of steps."""

    def __init__(self):
        self._columns = [array("H", b"\xff\xff" * STEPS) for _ in FIELDS]
        self._newest = 0  # number of the newest step, counted from the time 0 on

    def add(self, now, values):
        """Note a count. now: ms, of a clock that never goes back. values: numbers in the order of
        FIELDS."""
        self._go_on(now)
        at = self._newest % STEPS
        for column, value in zip(self._columns, values):
            if column[at] == _NOTHING or column[at] < value:
                column[at] = min(value, _NOTHING - 1)

    def read(self, now):
        """{field: list}, each with a number for each step, or None where nothing was counted, and
        step: their length in seconds. The first is the oldest step with a count, the last is the
        one that now (ms) is in."""
        self._go_on(now)
        order = [step % STEPS for step in range(self._newest + 1, self._newest + 1 + STEPS)]
        while order and self._columns[0][order[0]] == _NOTHING:
            order.pop(0)
        found = {"step": STEP // 1000}
        for name, column in zip(FIELDS, self._columns):
            found[name] = [None if column[at] == _NOTHING else column[at] for at in order]
        return found

    def _go_on(self, now):
        """Steps that are over a day old make room."""
        newest = max(self._newest, now // STEP)
        for step in range(max(self._newest + 1, newest + 1 - STEPS), newest + 1):
            for column in self._columns:
                column[step % STEPS] = _NOTHING
        self._newest = newest
