"""Which PCP server to ask, and at which of its addresses. Pure (RFC 6887 8.1, RFC 7488).

A Selection is told how each address fares, and says which one is to be asked now. Addresses are 16
octets, IPv4 as ::ffff:a.b.c.d; times are ms.
"""

from collections import namedtuple

from cpe_agent.pcp import timing, wire

# Where a server is known from.
CONFIG = "config"
DHCPV6 = "dhcpv6"
DHCPV4 = "dhcpv4"
AFTR = "aftr"
ROUTER = "default router"

MAX_SERVERS = 8
MAX_ADDRESSES = 8  # of one server

ROUND = 900000  # ms between a round in which nobody answered and the next (RFC 7488 3)
# After a round that hard ICMP errors alone have ended: seconds of a restarting server or network
# must not cost a quarter of an hour. Doubled up to ROUND.
HARD_ROUND = 10000
PROBE = 900000  # ms between looks whether a better server is back
LONG_REFUSAL = 300  # s; shorter refusals are waited for
LONGEST_REFUSAL = 86400  # s that are believed

# The first of these that has servers is used exclusively (RFC 6887 8.1).
_TIERS = ((CONFIG,), (DHCPV6, DHCPV4), (AFTR,), (ROUTER,))

# addresses: tuple, may be empty while a name is not resolved. interface: index of the one that the
# server was learned on (RFC 7291 7), or 0.
Server = namedtuple("Server", ("addresses", "origin", "interface"))
Target = namedtuple("Target", ("server", "address"))


def is_unicast(address):
    """True for an address that can be a server's: not multicast, loopback or unspecified."""
    if wire.is_v4(address):
        return 0 < address[12] < 224 and address[12] != 127
    return address[0] != 0xFF and address[:15] != b"\0" * 15


def candidates(servers):
    """Those that may be asked, best first: configured, else by DHCP, else the AFTR, else routers.

    A configured server without an address yet still keeps the others out (RFC 6887 8.1).
    """
    for tier in _TIERS:
        found = [server for origin in tier for server in servers if server.origin == origin]
        if found:
            return found
    return []


def identity(server, known=()):
    """The address that names a server and thus its nonce, whichever address is asked (RFC 7488 3).

    The first of the known identities that is one of its addresses, so that the nonce outlives new
    addresses beside it; else the lowest, whatever their order. None for a server without any.
    """
    for address in known:
        if address in server.addresses:
            return address
    return min(server.addresses, default=None)


def _bounded(servers):
    """Servers within the limits, each address once."""
    seen = set()
    out = []
    for server in servers[:MAX_SERVERS]:
        addresses = []
        for address in server.addresses:
            if address not in seen and len(addresses) < MAX_ADDRESSES:
                seen.add(address)
                addresses.append(address)
        if addresses:
            out.append(Server(tuple(addresses), server.origin, server.interface))
    return out


class Selection:
    """The server to ask: one address after the other, until one answers.

    current: Target to ask, or None while there is none or a wait between two rounds.
    answered: True once current has answered. better: Target of a better server that answered a
    probe, or None. Reports about addresses that are not current are ignored. Methods that may
    change current return True if they did.
    """

    def __init__(self, random_bytes, sort=tuple):
        """sort(addresses) brings a server's addresses in order, afresh for each round."""
        self.current = None
        self.answered = False
        self.better = None
        self._random_bytes = random_bytes
        self._sort = sort
        self._servers = []
        self._targets = []  # all addresses in the order of this round
        self._tried = set()  # addresses that failed in this round
        self._silent = False  # one of them by silence
        self._blocked = {}  # address: ms when its server may be asked again
        self._began = None  # ms; when this round began
        self._round_at = None  # ms; when the next begins, while waiting
        self._hard_wait = HARD_ROUND
        self._probe_at = None  # ms
        self._probes = []
        self._probed = set()  # addresses whose answer to a probe is awaited

    # What the owner reports

    def set(self, now, servers):
        """Take a new list, best server first. Who has answered is kept if it is still in it.

        While nobody has, a new and better server is asked at once (RFC 6887 8.3).
        """
        before = self.current
        known = {target.address for target in self._targets}
        self._servers = _bounded(servers)
        self._order()
        listed = {target.address for target in self._targets}
        self._tried &= listed
        self._forget_blocks(now, listed)
        if not listed:
            self._round_at = None
        self.better = self._find(self.better)
        self.current = self._find(before)
        if self.current is None or (self._is_blocked(self.current, now) and self._has_others()):
            self._advance(now)
        elif self.answered:
            self._probe_newcomers(now, known)
        else:
            self._prefer_newcomers(now, known)
        return _address(before) != _address(self.current)

    def gave_up(self, now, address):
        """The address did not answer four transmissions (RFC 7488 3, step 4)."""
        return self._is_current(address) and self._fail(now, silent=True)

    def unreachable(self, now, address):
        """A hard ICMP error came, or there is no way to the address: the next one at once."""
        return self._is_current(address) and self._fail(now, silent=False)

    def answered_by(self, now, address):
        """Take note of an answer of any kind; False if it is none of the current address, and so to
        be ignored: who was given up may answer late (RFC 7488 3, step 4)."""
        if not self._is_current(address):
            return False
        if not self.answered:
            self.answered = True
            self._hard_wait = HARD_ROUND
            self._probe_at = now + self._jittered(PROBE)
        return True

    def refused_for_long(self, now, address, seconds):
        """The server refused for that long. From five minutes on the others have their turn, and
        this one is left out for the time; alone, it stays."""
        if not self._is_current(address) or seconds < LONG_REFUSAL:
            return False
        until = now + min(seconds, LONGEST_REFUSAL) * 1000
        for other in self.current.server.addresses:
            self._blocked[other] = until
        if not self._has_others():
            return False
        if now >= self._began + ROUND:
            self._begin_round(now)  # failures of that long ago count no more
        return self._advance(now)

    def restart(self, now):
        """The network changed, or a server announced itself: who failed may be asked again, and a
        wait between rounds ends."""
        self._tried = set()
        if self.current is not None or not self._targets:
            return False
        # Whoever can make announcements must not make us ask without pause.
        self._round_at = max(now, self._began + HARD_ROUND)
        return self.handle_timer(now)

    # Time

    def get_timer(self):
        """When handle_timer is due, in ms, or None."""
        if self.current is not None:
            return self._probe_at if self.answered and self._better() else None
        free = [self._blocked.get(one.address) for one in self._targets if not self._is_tried(one)]
        timers = [at for at in free + [self._round_at] if at is not None]
        return min(timers, default=None)

    def handle_timer(self, now):
        """Begin the round, or the probes, that are due at now (ms)."""
        at = self.get_timer()
        if at is None or now < at:
            return False
        if self.current is not None:
            self._probe(now)
            return False
        if self._round_at is not None and now >= self._round_at:
            self._begin_round(now)
        return self._advance(now)

    # Better servers that come back

    def probes(self):
        """Targets to ask for a sign of life by one ANNOUNCE request; each is handed out once."""
        out, self._probes = self._probes, []
        return out

    def probe_answered(self, now, address):
        """True if this says that a better server is back; better tells which."""
        if address not in self._probed:
            return False
        self._probed.discard(address)
        for target in self._better():
            if target == self.better:
                return False
            if target.address == address and not self._is_blocked(target, now):
                self.better = target
                return True
        return False

    def switch(self, now):
        """Make the better server that is back the current one."""
        target = self.better
        if target is None:
            return False
        self._begin_round(now)
        # Those before it were probed as well, and silent.
        for earlier in self._targets:
            if earlier == target:
                break
            self._tried.add(earlier.address)
        self._take(target)
        return True

    def _better(self):
        """Targets of servers that rank before the current one."""
        if self.current is None:
            return []
        rank = self._servers.index(self.current.server)
        return [one for one in self._targets if self._servers.index(one.server) < rank]

    def _probe(self, now):
        if self.better and self.better.address in self._probed:
            self.better = None  # silent since the last probe
        self._probe_at = now + self._jittered(PROBE)
        self._probes = [one for one in self._better() if not self._is_blocked(one, now)]
        self._probed = {target.address for target in self._probes}

    def _probe_newcomers(self, now, known):
        if [target for target in self._better() if target.address not in known]:
            self._probe_at = now

    def _prefer_newcomers(self, now, known):
        for target in self._targets:
            if target.address == self.current.address:
                return
            if target.address not in known and not self._is_blocked(target, now):
                self._take(target)
                return

    # Rounds

    def _begin_round(self, now):
        self._order()
        self._tried = set()
        self._silent = False
        self._began = now
        self._round_at = None

    def _order(self):
        self._targets = []
        for server in self._servers:
            self._targets += [Target(server, address) for address in self._sort(server.addresses)]

    def _fail(self, now, silent):
        if len(self._targets) == 1:
            self.answered = False
            return False  # nobody else to ask: the mapping's own retransmission goes on for ever
        failed = self.current
        if self.answered:
            self._begin_round(now)
        if self.answered and silent:
            # It worked once, so it is asked again in this round, after all others.
            self._targets = [one for one in self._targets if one != failed] + [failed]
        else:
            self._tried.add(failed.address)
        self._silent = self._silent or silent
        return self._advance(now)

    def _advance(self, now):
        """Take the first that may be asked in this round; without one, plan the next round."""
        before = self.current
        if self._began is None:
            self._began = now
        free = [one for one in self._targets if not self._is_tried(one)]
        free = [one for one in free if not self._is_blocked(one, now)]
        if free:
            self._take(free[0])
        else:
            self._take(None)
            self._plan_round(now)
        return _address(before) != _address(self.current)

    def _take(self, target):
        self.current = target
        self.answered = False
        self.better = None
        if target is not None:
            self._round_at = None

    def _plan_round(self, now):
        if self._round_at is not None or not self._tried:
            return  # planned before, or all are blocked: the first one's end is waited for
        if self._silent:
            self._round_at = now + self._jittered(ROUND)
        else:
            self._round_at = now + self._jittered(self._hard_wait)
            self._hard_wait = min(2 * self._hard_wait, ROUND)

    def _jittered(self, wait):
        """wait (ms) more or less a tenth: what stops many homes at once must not line them up."""
        return wait + timing.uniform(self._random_bytes, -(wait // 10), wait // 10)

    def _forget_blocks(self, now, listed):
        """A refusal outlives a list that changes and changes back, unless there are too many."""
        few = len(self._blocked) <= MAX_SERVERS * MAX_ADDRESSES
        for address, until in list(self._blocked.items()):
            if until <= now or not (few or address in listed):
                self._blocked.pop(address)

    def _is_current(self, address):
        return self.current is not None and self.current.address == address

    def _is_tried(self, target):
        return target.address in self._tried and len(self._targets) > 1

    def _is_blocked(self, target, now):
        return now < self._blocked.get(target.address, now)

    def _has_others(self):
        return len(self._servers) > 1

    def _find(self, target):
        """The target of the present list with the same address, or None."""
        for one in self._targets:
            if _address(target) == one.address:
                return one
        return None


def _address(target):
    return target.address if target else None
