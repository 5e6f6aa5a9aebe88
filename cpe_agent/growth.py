"""When to ask for one more port set, and when to give one back. Pure: numbers in, a wish out.

RFC 7753 4.1 lets a client that runs short ask again; 6.4 warns of clients that take what others
need. So a set is asked for only while the present ones stay nearly full, one at a time; a server
that refuses is asked again after longer and longer waits; and a set that is not needed is first
closed to new flows, then given back when the last flow on it has ended.
"""

from collections import namedtuple

from cpe_agent import history, portset

MORE, CLOSE, REOPEN, GIVE_BACK = "more", "close", "reopen", "give back"

INTERVAL = 10000  # ms between looks at how many flows there are
SLOW_INTERVAL = 60000  # ms between looks at the ports while there are few flows
RARE_INTERVAL = history.STEP - INTERVAL  # the same with one set: a count for each step of history
_URGENT = 95  # percent; no second look is needed
_LOOKS = 2  # in a row that show sets nearly full
_REFUSED = 600000  # ms; after a refusal; doubled each time
_REFUSED_MOST = 86400000

# most: sets, the first included. more_above, less_below: percent of the ports of a protocol that
# are in use; for less, of what would be left. hold: ms that little has to be in use for.
Limits = namedtuple("Limits", ("most", "more_above", "less_below", "hold"))


class Growth:
    """Looks at what is in use, again and again. Sets are numbered; 0 is the first one, which is
    always kept."""

    def __init__(self, limits):
        """limits: Limits."""
        self.limits = limits
        self.closed = None  # number of the set that gets no new flows
        self._full_looks = 0  # in a row
        self._idle_since = None  # ms
        self._not_before = 0  # ms; no more is asked for
        self._refusals = 0  # in a row

    def look(self, now, sizes, needed, idle):
        """(wish, number of the set) or None. now: ms.

        sizes: {number: ports} of the sets that are held. needed: ports that the flows need (see
        flows.needed). idle: numbers of the sets that no flow uses.
        """
        if self.closed not in sizes:
            self.closed = None
        room = sum([sizes[one] for one in sizes if one != self.closed])
        if not room:
            return None
        percent = 100 * needed // room
        if percent >= self.limits.more_above:
            return self._when_full(now, percent, len(sizes))
        self._full_looks = 0
        if self.closed is not None:
            return (GIVE_BACK, self.closed) if self.closed in idle else None
        return self._when_idle(now, sizes, needed)

    def _when_full(self, now, percent, count):
        self._idle_since = None
        if self.closed is not None:
            reopened, self.closed = self.closed, None
            return REOPEN, reopened
        self._full_looks += 1
        if self._full_looks < _LOOKS and percent < _URGENT:
            return None
        if count >= self.limits.most or now < self._not_before:
            return None
        self._full_looks = 0
        return MORE, None

    def _when_idle(self, now, sizes, needed):
        """The newest set goes first."""
        newest = max(sizes)
        rest = sum(sizes.values()) - sizes[newest]
        if not newest or 100 * needed // max(rest, 1) >= self.limits.less_below:
            self._idle_since = None
            return None
        if self._idle_since is None:
            self._idle_since = now
        if now - self._idle_since < self.limits.hold:
            return None
        self._idle_since = None
        self.closed = newest
        return CLOSE, newest

    def refused(self, now, wait):
        """The server gives no more. wait: ms that it wants not to be asked for."""
        longer = min(_REFUSED << min(self._refusals, 20), _REFUSED_MOST)
        self._refusals += 1
        self._not_before = now + max(wait, longer)

    def granted(self):
        """The server gave one more."""
        self._refusals = 0


def room(port_set, reserved):
    """Ports of a set that flows from the LAN can have: those that somebody is reached at are not
    theirs. At least one, so that a set that is all reserved is a full one. reserved: ports."""
    taken = [port for port in reserved if portset.contains(port_set, port)]
    return max(1, port_set.size - len(taken))


def is_worth_a_look(limits, sizes, flows, since):
    """True if it has to be known which ports are in use, which costs something.

    flows: all that the kernel tracks, which costs nothing to know, and is no less than the ports in
    use. since: ms since the last look, or None if there was none.
    """
    if 100 * flows >= limits.more_above * sum(sizes.values()):
        return True
    return since is None or since >= (SLOW_INTERVAL if len(sizes) > 1 else RARE_INTERVAL)
