"""A PCP client for one server, without I/O (RFC 6887, RFC 7753).

Driven by receive(), handle_timer() and the mappings' own methods; get_timer() says when to call
back; datagrams() and events() hand out what came of it. Nothing that arrives here raises, grows
memory, or moves a mapping unless server address, server port and nonce match.
"""

from cpe_agent.pcp import mapping as m
from cpe_agent.pcp import timing, wire

RECOVERY_SPACING = 10000  # ms; servers that disagree on the epoch must not cause a storm
MAX_RECOVERY_SPACING = 640000

# Why datagrams were dropped: names of counters.
FOREIGN = "from another address or port"
MALFORMED = "not a PCP response"
NAT_PMP = "a NAT-PMP server's refusal"
UNMATCHED = "no such mapping or nonce"
REPEATED = "a copy of an earlier answer"

_WHY = {
    timing.BACK: "an old message came in between: asking to be sure",
    timing.LATE: "the server's epoch is behind: an old message, or the server lost its state",
    timing.LOST: "the server's epoch jumped: it lost its state",
}


class Overlap(ValueError):
    """The internal ports belong to another mapping already; the text says which."""


class Client:
    """Mappings on one server, asked for from one source address."""

    def __init__(self, server, source, random_bytes):
        """server, source: 16 octets. random_bytes(n) gives n octets."""
        self.server = server
        self.source = source
        self.mappings = []
        self.epoch = timing.Epoch()
        self.dropped = dict.fromkeys((FOREIGN, MALFORMED, NAT_PMP, UNMATCHED, REPEATED), 0)
        self._random_bytes = random_bytes
        self._round_at = None  # ms; when the last round of recovery was due
        self._spacing = RECOVERY_SPACING
        self._new_from = None  # ms; before, nothing new is asked for (RFC 6887 11.4)
        self._any_from = None  # ms; before, nothing at all is
        self._events = []
        self._datagrams = []

    def add(self, mapping):
        """Take charge of a mapping. Its nonce, protocol and internal port are the match key.

        Raises Overlap when its internal ports meet another's: to the server, a request for a part
        of a mapping is a request for that mapping (RFC 7753 4.4.1, 6.3).
        """
        for other in self.mappings:
            if self._overlap(mapping.wish, other.wish):
                raise Overlap(
                    "internal ports %d-%d meet those of another mapping, %d-%d"
                    % (_internal_range(mapping.wish) + _internal_range(other.wish))
                )
        self.mappings.append(mapping)

    def remove(self, mapping):
        """Forget a mapping; what the server knows of it stays until its lifetime is over."""
        self.mappings.remove(mapping)

    def probe(self, now):
        """Ask for the epoch, which changes nothing at the server (RFC 6887 14.1.2)."""
        if not self._is_quiet(now):
            self._datagrams.append(wire.announce_request(self.source))

    def _overlap(self, one, other):
        if wire.PROTO_ALL not in (one.protocol, other.protocol) and one.protocol != other.protocol:
            return False
        if (one.third_party or self.source) != (other.third_party or self.source):
            return False
        first, last = _internal_range(one)
        other_first, other_last = _internal_range(other)
        return first <= other_last and other_first <= last

    def datagrams(self):
        """Datagrams to send to the server, port 5351, from the source; each is handed out once."""
        out, self._datagrams = self._datagrams, []
        return out

    def events(self):
        """What happened since the last call, as mapping.Event."""
        out, self._events = self._events, []
        return out

    def get_timer(self):
        """When handle_timer is due, in ms, or None."""
        timers = [mapping.timer() for mapping in self.mappings]
        return min([at for at in timers if at is not None], default=None)

    def handle_timer(self, now):
        """Send what is due at now (ms) and notice what has expired."""
        for mapping in self.mappings:
            self._events += mapping.expire(now)
            self._hold_back(now, mapping)
            datagram, events = mapping.handle_timer(now, self.source, self._random_bytes)
            self._events += events
            if datagram:
                self._datagrams.append(datagram)

    def _hold_back(self, now, mapping):
        if self._is_quiet(now):
            mapping.postpone(self._any_from)
        elif self._new_from is not None and now < self._new_from and mapping.is_new():
            mapping.postpone(self._new_from)

    def _is_quiet(self, now):
        return self._any_from is not None and now < self._any_from

    def receive(self, now, data, address, port):
        """Take in one datagram, by the order of RFC 6887 8.3. address: 16 octets."""
        if address != self.server or port != wire.SERVER_PORT:
            self._drop(FOREIGN)
            return
        try:
            response = wire.parse_response(data)
        except wire.WireError:
            self._drop(NAT_PMP if wire.is_nat_pmp_refusal(data) else MALFORMED)
            return
        if response.result == wire.UNSUPP_VERSION:
            self._on_version(now, data, response)
        elif response.opcode == wire.OP_ANNOUNCE and response.result == wire.SUCCESS:
            self._on_announcement(now, response)
        elif response.opcode == wire.OP_MAP:
            self._on_map(now, response)
        else:
            self._drop(MALFORMED)

    def binding_lost(self, now):
        """The lwAFTR said that it has no binding for us: ICMPv6 1/5 (RFC 7596 5.1).

        The caller has checked that the message came from the lwAFTR and quotes our softwire. The
        wait is that of an announcement: a lwAFTR that forgot us forgot our neighbours too.
        """
        wait = timing.uniform(self._random_bytes, 0, m.RECOVERY_WAIT)
        self._recover(now, wait, "the lwAFTR has no binding for our softwire (ICMPv6 1/5)")

    def _drop(self, reason):
        self.dropped[reason] += 1

    def _on_announcement(self, now, response):
        """RFC 6887 14.1.3. A server whose silence has made us slow says by this that it is back."""
        wait = timing.uniform(self._random_bytes, 0, m.RECOVERY_WAIT)
        verdict = self.epoch.check(response.epoch, now)
        if verdict != timing.FOLLOWS:
            self._recover(now, wait, _WHY[verdict], lost=verdict == timing.LOST)
        elif [mapping for mapping in self.mappings if mapping.unanswered]:
            self._recover(now, wait, "the server announced itself", answered=False, lost=False)

    def _on_map(self, now, response):
        mapping = self._match(response.map)
        if mapping is None:
            self._drop(UNMATCHED)
            return
        if mapping.is_repeat(now, response):
            self._drop(REPEATED)
            return
        verdict = self.epoch.check(response.epoch, now)
        if verdict != timing.FOLLOWS:
            # An answer that is believed is fresh news about its mapping; the rest may be gone.
            asked = mapping if mapping.believes(verdict) else None
            lost = verdict == timing.LOST or mapping.asked_since(now, self.epoch.age)
            self._recover(now, 0, _WHY[timing.LOST if lost else verdict], but=asked, lost=lost)
        if response.result == wire.NO_RESOURCES and mapping.unanswered:
            self._on_no_resources(now, response, mapping)
        self._events += mapping.on_response(
            now, response, verdict, self._random_bytes, self.epoch.age
        )

    def _on_no_resources(self, now, response, refused):
        """RFC 6887 11.4: a server that is full wants no new mappings for a while; one that cannot
        even delete wants to hear nothing."""
        until = now + min(response.lifetime, m.MAX_ERROR_LIFETIME) * 1000
        if refused.state == m.RELEASING and response.map.external_port == 0:
            self._any_from = until  # the deletion was refused: that suggested no port
        else:
            self._new_from = until

    def _match(self, data):
        """The mapping that a response is about, or None."""
        for mapping in self.mappings:
            if mapping.is_named(data):
                return mapping
        return None

    def _on_version(self, now, data, response):
        """UNSUPP_VERSION may be too short to hold a nonce, so it may only delay a request that is
        out, and only from a server that has never spoken our version to us."""
        nonce = bytes(data[wire.HEADER_LENGTH : wire.HEADER_LENGTH + 12])
        for mapping in self.mappings:
            known = self.epoch.server is not None or not mapping.unanswered
            if known or (nonce and nonce != mapping.nonce):
                self._drop(UNMATCHED)
            else:
                self._events += mapping.on_response(
                    now, response, timing.FOLLOWS, self._random_bytes
                )

    def _recover(self, now, wait, why, but=None, answered=True, lost=True):
        """Ask for every mapping again: at once, or when the last round is long enough ago.

        but: a mapping that needs it not. answered: False for those alone that await an answer.
        lost: False when the server may have kept its state.
        """
        self._new_from = self._any_from = None
        planned = self._round_at is not None and now < self._round_at
        at, spacing = (self._round_at, self._spacing) if planned else self._next_round(now, wait)
        for mapping in self.mappings:
            if mapping is but or mapping.state in (m.IDLE, m.RELEASING):
                continue
            if not answered and not mapping.unanswered:
                continue
            if mapping.recover(now, at - now, lost):
                self._round_at, self._spacing = at, spacing
                if not planned:  # a storm is told once a round
                    self._events.append(m.Event(m.RECOVERING, mapping, why))

    def _next_round(self, now, wait):
        """(when the next round may begin, spacing after it), in ms. The spacing grows while rounds
        do not help."""
        if self._round_at is None:
            return now + wait, RECOVERY_SPACING
        # Three: an event that comes again and again is let through after two spacings, or as much
        # later as a retransmission was pending then.
        if now > self._round_at + 3 * self._spacing:
            return now + wait, RECOVERY_SPACING
        at = max(now + wait, self._round_at + self._spacing)
        return at, min(2 * self._spacing, MAX_RECOVERY_SPACING)


def _internal_range(wish):
    """(first, last) internal port; all of them for internal port 0, now or as a fallback."""
    if wish.internal_port == 0 or (wish.fallback and wish.protocol == wire.PROTO_ALL):
        return 0, 65535
    return wish.internal_port, wish.internal_port + wish.size - 1
