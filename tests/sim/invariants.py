"""What must hold in every scenario, at every moment. docs/simulation.md says it in words.

The judge sees everything: both sides, and the network between them. It believes nothing that a
router says about itself but what its NAT does; broken routers are caught by this.
"""

from cpe_agent.pcp import wire
from tests.sim.network import DAY, HOUR, MINUTE, SECOND

# The longest that a router may be without its set once all is well: a retransmission at its longest
# (1126 s), or a refusal's waiting time (3600 s at most), then one exchange.
CONVERGENCE = 2 * HOUR
# How long a router may take from a sign of loss to its request, rounds of recovery being spaced by
# up to 640 s, and a retransmission or two.
REACTION = 20 * MINUTE
LONGEST_GAP = 1126400 + SECOND  # RFC 6887 8.1.1: MRT and a tenth
FIRST_GAP = 2700  # RFC 6887 8.1.1: IRT less a tenth
RENEWAL_GAP = 4000  # RFC 6887 11.2.1
# In an hour: power cuts, rounds of recovery (7 in the first 20 minutes), retransmissions (9 in the
# first hour); and for each lease the five renewals that fit where none is answered, and one after.
HOURLY = 50
A_LEASE = 6
MAX_REFUSAL = 3600  # s; RFC 6887 8.3 leaves the cap to the client
MAX_VERSION_REFUSAL = 1800  # s; RFC 6887 9
MAX_LIFETIME = 86400  # s
STALE = 30 * SECOND  # a datagram may be this long on its way


class Violation(AssertionError):
    """An invariant did not hold; the text says which, when, and how to see it again."""


class Judge:
    """Watches one simulation."""

    def __init__(self, sim):
        self.sim = sim
        self.trouble_until = 0  # when the last fault ended
        self.epochs_odd_until = 0  # before, an answer may bear an epoch that does not follow
        self.shortest = MAX_LIFETIME  # s; the shortest lease there was
        self._left_behind = []  # sets that mappings of old addresses may still occupy
        self._odd = False  # a recovery after this datagram would have a reason
        self._lifetime = 0  # s; in the datagram that comes in
        self._sent = 0  # ms; when it was sent

    def trouble(self, until, epochs=False):
        """Something is wrong until then; epochs: the epoch is, too."""
        self.trouble_until = max(self.trouble_until, until)
        if epochs:
            self.epochs_odd_until = max(self.epochs_odd_until, until)

    def fail(self, line, text):
        """Raise Violation."""
        raise Violation(
            "seed %s, day %.3f (%d ms), router %d: %s\n"
            "replay: PYTHONPATH=qemu-lab python -m tests.sim.many --seed %s"
            % (
                self.sim.seed,
                self.sim.time.now / DAY,
                self.sim.time.now,
                line.router.number,
                text,
                self.sim.seed,
            )
        )

    # Inside what the server believes

    def check(self, now, router):
        """No NAT outside of what the server believes, unless the router cannot know it yet."""
        if router.asleep_until:
            return  # no packet leaves it
        for line in router.lines:
            if line.nat is None or self.sim.operator.lets_pass(now, router.address, line.nat):
                continue
            if not self._excused(now, line):
                self.fail(line, "NAT on %s, which the server does not know" % (line.nat,))

    def _excused(self, now, line):
        # The server's hour may be shorter than the router's, as much as RFC 6887 8.5 puts up with.
        fast = self.sim.fast_clock and line.given_at is not None
        if fast and now - line.given_at > line.lifetime * 1000 * 16 // 17:
            return True
        if line.lost_at is None:
            return False
        if line.answer_sent is not None and line.answer_sent > line.lost_at:
            return line.doubtful and now <= max(line.answered_at, self.trouble_until) + REACTION
        heard = line.router.heard_sent
        if not line.lost_told or heard is None or heard <= line.lost_at:
            return True
        return now <= max(line.told_at, self.trouble_until) + REACTION

    def uses(self, now, line):
        """The NAT of a line was put on another set: nobody else's may be there."""
        for router in self.sim.routers:
            for other in () if router.asleep_until else router.lines:
                if other is line or other.nat is None or not overlap(other.nat, line.nat):
                    continue
                if not self._excused(now, other) and not self._excused(now, line):
                    self.fail(line, "%s is in use by router %d" % (line.nat, router.number))

    def has(self, now, line):
        """A line was granted a set, or had it renewed."""
        line.has_at, line.given_at = now, self._sent
        line.renewed_at = line.router.clock(now)
        line.lifetime = min(self._lifetime, MAX_LIFETIME)
        self._check_same(line)

    def _check_same(self, line):
        """Who has a set again has the one it had, if nobody else has had it since."""
        before, held = line.before, line.mapping.grant.port_set
        excused = line.moved or before is None or held == before or self._is_elsewhere(line)
        line.before, line.moved = held, False
        if excused:
            return
        others = [
            other.before
            for router in self.sim.routers
            for other in router.lines
            if other is not line and other.before
        ]
        others += self._left_behind + self.sim.operator.sets_of_others(line.router.address)
        if not any(overlap(other, before) for other in others):
            self.fail(line, "%s, though its own %s was free" % (held, before))

    @staticmethod
    def _is_elsewhere(line):
        """The line's set is where a server of softwires does not put it a second time, suggested or
        not: outside of the internal ports, or on another address than the client's other set."""
        wish, before = line.wish, line.before
        if wish.internal_port > 1 and not 0 <= before.first - wish.internal_port < wish.size:
            return True
        return any(
            other.before and other.before.address != before.address for other in line.router.lines
        )

    def left_behind(self, port_set):
        """An old address's mapping may keep that set for a while."""
        self._left_behind.append(port_set)

    # Signs and reactions

    def hearing(self, router, current, data, sent):
        """A genuine datagram is about to come in."""
        self._lifetime = int.from_bytes(data[4:8], "big")
        self._sent = sent
        self._odd = (
            router.heard_sent is None
            or router.heard_sent <= self.epochs_odd_until
            or sent <= self.epochs_odd_until
            or router.heard_odd  # RFC 6887 8.5 compares with it, old as it was
            or data[1] != wire.OP_MAP | wire.RESPONSE_BIT
        )
        if not current or data[0] != wire.VERSION or data[3] == wire.UNSUPP_VERSION:
            return
        if data[3] == wire.NO_RESOURCES:  # RFC 6887 11.4: it is not about this mapping alone
            until = self.sim.time.now + min(self._lifetime, MAX_REFUSAL) * SECOND
            router.held_back_until = max(router.held_back_until, until)
        for line in router.lines:
            lost = line.lost_at is not None and sent > line.lost_at
            if lost and (router.heard_sent is None or router.heard_sent <= line.lost_at):
                line.told_at = self.sim.time.now

    def hearing_other(self, genuine):
        """An ICMPv6 error of the lwAFTR, or a forged datagram, is about to come in."""
        self._odd = genuine

    def heard(self, router, current, data, sent):
        """It has come in."""
        if not current or data[0] != wire.VERSION or data[3] == wire.UNSUPP_VERSION:
            return
        # Overtaken, or so long on the way that its epoch does not follow.
        odd = sent < (router.heard_sent or 0) or self.sim.time.now > sent + 2 * SECOND
        router.heard_sent = max(router.heard_sent or 0, sent)
        # After the last of all epochs, the server starts again.
        router.heard_odd = odd or data[8:12] == b"\xff" * 4
        if data[1] != wire.OP_MAP | wire.RESPONSE_BIT:
            return
        port = int.from_bytes(data[40:42], "big")
        for line in router.lines:
            # An error tells nothing about the mapping (RFC 6887 7.3); where all were lost, the
            # epoch has told, and _excused() gives time to react to that.
            if line.wish.internal_port == port and data[3] == wire.SUCCESS:
                copy = line.answer_sent is not None and sent <= line.answer_sent
                if line.lost_at is not None and sent > line.lost_at and not copy:
                    if (line.answer_sent or 0) <= line.lost_at:
                        line.answered_at = self.sim.time.now
                    adopted = line.given_at is not None and line.given_at > line.lost_at
                    doubt = odd and not adopted
                    line.doubtful = doubt or self._is_doubtful(line, data)
                line.answer_sent = max(line.answer_sent or 0, sent)

    def _is_doubtful(self, line, data):
        """True for what may be old news, and is asked about first: another set, or an end by a
        server whose epochs are odd."""
        if int.from_bytes(data[4:8], "big") == 0:
            return self._odd
        return line.nat is not None and int.from_bytes(data[42:44], "big") != line.nat.first

    def recovering(self, now, router):
        """A router asks for everything again: not without a reason."""
        if not self._odd:
            self.fail(router.lines[0], "recovery, though the epoch follows")

    def loses(self, now, line):
        """A line lost its set: only if something was wrong since its last renewal."""
        line.quiet_since = now
        if line.has_at is not None and line.has_at > self.trouble_until + STALE:
            self.fail(line, "a set was lost, though nothing is wrong")

    # Requests

    def started(self, now, line):
        """A line is wanted from now on."""
        line.quiet_since = now

    def refused(self, now, line, refusal):
        """A refusal came in: its waiting time binds."""
        line.refusal = refusal.result
        cap = MAX_VERSION_REFUSAL if refusal.result == wire.UNSUPP_VERSION else MAX_REFUSAL
        until = now + min(refusal.lifetime, cap) * SECOND
        line.refused_until = until

    def sending(self, now, line, data):
        """A MAP request for a line leaves."""
        if int.from_bytes(data[4:8], "big") == 0:
            return  # a deletion, which nothing but the user's wish brings about
        self._check_spacing(now, line)
        self._check_rate(now, line)
        if line.nat is None:
            self._check_waiting(now, line)
        else:
            self._check_renewal(now, line)
        line.sent_at = line.quiet_since = now
        line.sent_while_held = line.nat is not None

    def _check_spacing(self, now, line):
        if line.sent_at is None:
            return
        gap = now - line.sent_at
        held = line.nat is not None and line.sent_while_held
        if gap < (RENEWAL_GAP if held else FIRST_GAP):
            self.fail(line, "requests %d ms apart" % gap)

    def _check_rate(self, now, line):
        times = line.sent_lately
        times.append(now)
        while times[0] < now - HOUR:
            times.popleft()
        if len(times) > HOURLY + A_LEASE * 3600 // self.shortest:
            self.fail(line, "%d requests in an hour" % len(times))

    def _check_waiting(self, now, line):
        """Without a set: not before a refusal has run out, but never silent for long."""
        recovered = line.router.recovered_at
        news = recovered is not None and recovered > now - REACTION
        if line.refused_until is not None and now < line.refused_until and not news:
            self.fail(
                line, "a request %d ms too early after a refusal" % (line.refused_until - now)
            )
        self.check_patience(now, line)
        line.refused_until = None

    def check_patience(self, now, line):
        """A line that is wanted has been silent for too long."""
        since = max(line.quiet_since, line.refused_until or 0, line.router.held_back_until)
        if now - since > LONGEST_GAP:
            self.fail(line, "no set, and no request for %d s" % ((now - since) // SECOND))

    def _check_renewal(self, now, line):
        """RFC 6887 11.2.1: the first renewal comes from 1/2 to 5/8 of the lifetime; here, not past
        3/4."""
        if line.renewed_at is None or line.lifetime is None:
            return
        age = line.router.clock(now) - line.renewed_at
        first = line.sent_at is None or line.sent_at <= line.has_at
        if first and age > line.lifetime * 750 + 2 * RENEWAL_GAP:
            self.fail(line, "the first renewal after %d s of %d" % (age // SECOND, line.lifetime))

    # The end

    def check_given_back(self, now, line, since):
        """A mapping was given back at that time: the server must have heard of it, if it could."""
        bound = line.before and self.sim.operator.lets_pass(now, line.router.address, line.before)
        if bound and not line.wanted and self.trouble_until + STALE < since:
            self.fail(line, "given back, but the server still has a mapping")

    def check_well(self):
        """What must hold when nothing has gone wrong for long enough."""
        lines = [line for router in self.sim.routers for line in router.lines]
        for line in lines:
            if not line.wanted:
                continue
            if line.nat is None:
                if self.sim.has_room(line):
                    self.fail(line, "no set %d s after the last fault" % (CONVERGENCE // SECOND))
                continue
            for other in lines:
                if other is not line and other.nat and overlap(other.nat, line.nat):
                    self.fail(line, "%s is a neighbour's too" % (line.nat,))


def overlap(one, other):
    """True when two sets share a port."""
    if one.address != other.address:
        return False
    return one.first < other.first + other.size and other.first < one.first + one.size
