"""Counts now and then how full the port sets are, in steps between which the agent does other work.

flows.py knows how to count; growth.py decides what follows.
"""

from cpe_agent import flows, log


class Usage:
    """The last count, and one in progress."""

    def __init__(self, clock, past):
        """clock: clock.Clock. past: history.History, which each count goes to."""
        self.found = None  # summary of the last count; see flows.Census
        self.sets = ()  # portset.PortSet that it is about
        self.at = None  # ms; when the last one was begun, also if that came to nothing
        self.pause = 0  # ms until the next count may begin
        self._clock = clock
        self._past = past
        self._trouble = ""  # that the log has told of
        self._dump = None
        self._on_done = None

    def busy(self):
        """True while a count is in progress."""
        return self._dump is not None

    def flows(self):
        """How many flows the kernel has, no less than ports are in use; 0 if it does not tell."""
        use = flows.table_use()
        return use[0] if use else 0

    def begin(self, sets, on_done):
        """Count; on_done(now) is called at the end, unless that comes early. sets: tuple of
        portset.PortSet."""
        if self._dump is None:
            self.at = self._clock.now()
            self._dump, self._on_done = flows.Dump(sets, self._clock), on_done

    def step(self, now):
        """Go on counting, for 10 ms at most."""
        dump = self._dump
        if dump is None or not dump.step():
            return
        self._dump = None
        self.pause = flows.pause(dump.spent)
        if dump.error and dump.error != self._trouble:
            log.warning(dump.error)
        self._trouble = dump.error
        if not dump.error:
            self._keep(dump)
            self._on_done(now)

    def now(self, sets):
        """Count at once. Returns why not, or None."""
        self.at = self._clock.now()
        dump = flows.Dump(sets, self._clock)
        while not dump.step():
            pass  # it ends by itself after ten seconds
        if dump.error:
            return dump.error
        self._keep(dump)
        return None

    def _keep(self, dump):
        self.found = dump.census.summary()
        self.sets = tuple(dump.census.sets)
        self._past.add(self.at, _values(self.found, self.sets))


def _values(found, sets):
    """Of a summary, in the order of history.FIELDS."""
    in_use = [sum(found["protocols"][name]["ports"]) for name in ("tcp", "udp", "icmp")]
    return [flows.fullness(found, sets)] + in_use + [sum([one.size for one in sets])]
