"""One mapping: asking for it, holding it, renewing it, giving it back.

What lives here: what this one mapping knows and when it wants to send. It must not know the
server's epoch, other mappings, sockets or clocks; times are milliseconds and come as arguments.
"""

from collections import namedtuple

from cpe_agent import address, portset
from cpe_agent.pcp import timing, wire
from cpe_agent.portset import PortSet

# IDLE: not wanted. ASKING: no grant, a request is out. REFUSED: no grant, waiting as the server
# said. HELD: granted (a renewal may be out). RELEASING: the deletion is out.
IDLE = "idle"
ASKING = "asking"
REFUSED = "refused"
HELD = "held"
RELEASING = "releasing"

# What happened, for the shell. detail: old Grant (changed), a reason (lost, unusable), the Refusal
# (refused), True when the server confirmed it (released), otherwise None.
GRANTED = "granted"
RENEWED = "renewed"
CHANGED = "changed"
LOST = "lost"
EVENT_REFUSED = "refusal"
UNUSABLE = "unusable"
SILENT = "silent"
RELEASED = "released"
RECOVERING = "recovering"
PLAIN = "plain"  # asking again for one port without PORT_SET
OTHER_FORM = "other form"  # asking again for all protocols with internal port 0
# RFC 7488 3: so many transmissions in vain that another server may be tried; told before the next.
GAVE_UP = "gave up"
Event = namedtuple("Event", ("kind", "mapping", "detail"))
# result: code. lifetime: seconds as sent. version: of PCP, as sent. Without the nonce, for logs.
Refusal = namedtuple("Refusal", ("result", "lifetime", "version"))

MAX_LIFETIME = 86400  # s; longer grants are treated as this (RFC 6887 15)
MAX_ERROR_LIFETIME = 3600  # s; a forged "never again" must not last (RFC 6887 8.3, 18.3.1)
VERSION_RETRY = 1800  # s; RFC 6887 9
UNUSABLE_RETRY = 30000  # ms; as long as a short-lifetime error (RFC 6887 7.4)
RELEASE_TRIES = 4  # transmissions; the mapping ends by itself if nobody hears them
RECOVERY_WAIT = 5000  # ms; random wait up to this after an announcement (RFC 6887 14.1.3)
LONGEST_WAY = timing.LONGEST_WAY
SILENT_AFTER = 3  # unanswered requests before a person is told
MRC = 4  # transmissions before another server may be tried (RFC 7488 3)

# protocol: 0 for all, else IANA number. internal_port: match key with protocol and nonce.
# size: ports wanted, 65535 for as many as possible. lifetime: seconds. parity: the P bit.
# family: 4 or 6, of the external address. third_party: 16 octets of the internal host, None for
# ourselves. filters: tuples (prefix length, port, 16 octets) as in FILTER. prefer_failure: the
# suggested address and port or nothing. fallback: when a server refuses all protocols with an
# internal port (RFC 7753 5.2), ask with internal port 0 (RFC 6887 11.1).
Wish = namedtuple(
    "Wish",
    (
        "protocol",
        "internal_port",
        "size",
        "lifetime",
        "parity",
        "family",
        "third_party",
        "filters",
        "prefer_failure",
        "fallback",
    ),
)
# first_internal: First Internal Port. lifetime: seconds as used. granted, expires: ms.
Grant = namedtuple("Grant", ("port_set", "first_internal", "lifetime", "granted", "expires"))


def wish(
    protocol,
    internal_port,
    size,
    lifetime,
    parity=False,
    family=4,
    third_party=None,
    filters=(),
    prefer_failure=False,
    fallback=False,
):
    """A Wish whose internal range ends at port 65535. Raises ValueError for what no server may
    grant: a set with PREFER_FAILURE (RFC 7753 4.1), one port of all protocols (RFC 6887 11.1), more
    filters than wire.MAX_FILTERS."""
    size = min(size, 65536 - max(internal_port, 1))
    if prefer_failure and size > 1:
        raise ValueError("PREFER_FAILURE is for single ports")
    if protocol == wire.PROTO_ALL and size == 1:
        raise ValueError("all protocols need a set: of one port alone, it would be all ports")
    if len(filters) > wire.MAX_FILTERS:
        raise ValueError("%d filters; allowed: %d" % (len(filters), wire.MAX_FILTERS))
    return Wish(
        protocol,
        internal_port,
        size,
        lifetime,
        parity,
        family,
        third_party,
        tuple(filters),
        prefer_failure,
        fallback,
    )


class Mapping:
    """State of one mapping. The client calls; nothing here calls out."""

    def __init__(self, wish, nonce, known=None, first_internal=None):
        """nonce: 12 octets. known: PortSet to suggest, or None: one held before a restart, to get
        it back, or a port that somebody wants (address 0.0.0.0 or :: if any will do)."""
        self.wish = wish
        self.internal_port = wish.internal_port
        self._asked_by = None  # internal port of the last request
        self._narrowed = False  # the internal ports are those of the grant
        self.nonce = nonce
        if known and (wish.family == 4) != wire.is_v4(address.octets(known.address)):
            known = first_internal = None  # of a time when the other family was wanted
        self.known = known
        self._wanted = known  # with PREFER_FAILURE: nothing else will do
        self.first_internal = first_internal
        self.state = IDLE
        self.grant = None
        self.unanswered = 0  # requests sent since the last answer
        self._told = 0  # of those, when GAVE_UP was last looked at
        self.send_at = None  # ms
        self.hold_until = None  # ms; the server said not to ask before
        self._other_until = 0  # ms; the same of the request in its first form
        self._retransmission = None  # ms; None while the renewal windows rule
        self._urgent = False
        self._crossing = False  # a renewal was out when the release began
        self._adopted = False  # the grant is of before a restart, and not confirmed since
        self._doubted = False  # the server lost its state, and has not given the set again yet
        self._plain = False  # the server does not understand PORT_SET: one port, without it
        self.last_sent = None  # ms
        self._sent_at = []  # ms; of requests that may still be on the way
        self._answer = None  # the Response that brought the grant
        self._epoch = None  # of that Response, while the server counts on from it
        self._refusal = None  # the Response that refused last
        self._answer_at = None  # ms; of the later of the two
        self._deleted_at = None  # ms; when a deletion was last sent

    # What the client wants

    def start(self, now, grant=None):
        """Want the mapping from now on. grant: adopted after a restart of the agent; renewed at
        once."""
        self.state = HELD if grant else ASKING
        self.grant = None  # what a release still held, if it is started again before its end
        self._answered()
        if grant:
            self._take(grant)
        self._adopted = grant is not None
        self._urgent = True
        self.send_at = now

    def renew(self, now, delay=0):
        """Ask again soon: in delay ms, four seconds after the last time, or when a refusal has run
        out. Returns the time in ms."""
        at = self._spaced(now + delay)
        if self.hold_until is not None:
            at = max(at, self.hold_until)
        if self.send_at is None or at < self.send_at:
            self.send_at = at
        self._urgent = True
        self._retransmission = None
        return self.send_at

    def recover(self, now, delay=0, lost=True):
        """The server lost its state, so what it said before, refusals included, is void.

        delay: ms. lost: False when it may have kept its state. False when a request is due within
        that wait in any case.
        """
        self._doubted = self._doubted or lost
        self._epoch = None
        soon = now + max(delay, RECOVERY_WAIT)
        if self._urgent and self.send_at is not None and self.send_at <= soon:
            return False
        self.hold_until = None
        self._other_until = 0
        self._plain = False
        if self.state == REFUSED:
            self.state = ASKING
            self.internal_port = self.wish.internal_port
        self.renew(now, delay)
        return True

    def narrow(self):
        """Ask from now on for the internal ports of the grant alone, so that other mappings may
        have the rest: to the server, a request that names internal ports of several mappings is one
        for all of them (RFC 7753 4.4.1). False without a grant, and where internal port 0, which
        stands for all of them, is what the server knows the mapping by."""
        if self.grant is None or self.internal_port == 0:
            return False
        # Two at least: all protocols without PORT_SET would be a request for the whole address.
        size = max(2, self.grant.port_set.size)
        if self.grant.first_internal + size > 65536:
            return False
        wish = self.wish
        self._narrowed = True
        self.internal_port = self.grant.first_internal
        self.wish = Wish(
            wish.protocol,
            self.internal_port,
            size,
            wish.lifetime,
            wish.parity,
            wish.family,
            wish.third_party,
            wish.filters,
            wish.prefer_failure,
            False,
        )
        return True

    def is_named(self, data):
        """Is a response's MapData about this mapping? By protocol, internal port and nonce, and by
        nothing else (RFC 6887 11.4). Until it is asked again, the server knows a mapping that was
        narrowed by the internal port before."""
        ports = (self.internal_port, self._asked_by if self._narrowed else self.internal_port)
        return (
            data.internal_port in ports
            and data.protocol == self.wish.protocol
            and data.nonce == self.nonce
        )

    def is_new(self):
        """True while the server is asked for something that we do not have."""
        return self.state in (ASKING, REFUSED)

    def postpone(self, until):
        """Send nothing before that time, in ms: another mapping's refusal says so."""
        if self.send_at is not None and self.send_at < until:
            self.send_at = until

    def release(self, now):
        """Give the mapping back (RFC 6887 15.1)."""
        self.state = RELEASING
        self._crossing = self.unanswered > 0
        self.unanswered = 0
        self.send_at = now
        self._retransmission = None

    # Time

    def timer(self):
        """When handle_timer is next due, in ms, or None."""
        if self.state == IDLE:
            return None
        if self.grant is None or self.state == RELEASING:
            return self.send_at
        return self.grant.expires if self.send_at is None else min(self.send_at, self.grant.expires)

    def expire(self, now):
        """Events of a grant whose end has come."""
        if self.state == HELD and now >= self.grant.expires:
            return [self._lose(now, "it expired and no renewal was answered")]
        return []

    def handle_timer(self, now, client_ip, random_bytes):
        """(datagram or None, events) for now; expire() comes before it."""
        events = []
        if self.state == IDLE or self.send_at is None or now < self.send_at:
            return None, events
        if self.state == RELEASING and self.unanswered >= RELEASE_TRIES:
            events.append(self._end(False))
            return None, events
        if self.state == REFUSED:
            self.state = ASKING
            self.internal_port = self.wish.internal_port
        if self._gives_up():
            events.append(Event(GAVE_UP, self, None))
            return None, events  # still due: whoever has another server forgets us before that
        datagram = self._request(client_ip)
        self._sent(now, random_bytes)
        if self.unanswered == SILENT_AFTER:
            events.append(Event(SILENT, self, None))
        return datagram, events

    def _gives_up(self):
        """True once each time that another MRC transmissions were in vain."""
        in_vain = self.unanswered if self.state == ASKING else 0
        told, self._told = self._told, in_vain
        return in_vain and in_vain % MRC == 0 and in_vain != told

    def _sent(self, now, random_bytes):
        self.unanswered += 1
        self._asked_by = self.internal_port
        self.last_sent = now
        if self.state == RELEASING:
            self._deleted_at = now
        self._sent_at = [at for at in self._sent_at if at >= now - LONGEST_WAY] + [now]
        self.hold_until = None
        if self.state == HELD and not self._urgent:
            self.send_at = timing.renewal(
                self.grant.granted, self.grant.lifetime, now, random_bytes
            )
            return
        self._retransmission = timing.retransmission(self._retransmission, random_bytes)
        spacing = timing.RENEWAL_SPACING if self.state == HELD else 0
        self.send_at = now + max(self._retransmission, spacing)

    # Bytes

    def _request(self, client_ip):
        deleting = self.state == RELEASING
        suggested, port = wire.ANY_V4 if self.wish.family == 4 else wire.ANY_V6, 0
        place = self._place()
        if place and not deleting:  # a deletion suggests nothing (RFC 6887 15.1)
            suggested, port = address.octets(place.address), place.first
        wish = self.wish
        data = wire.MapData(self.nonce, wish.protocol, self.internal_port, port, suggested)
        lifetime = 0 if deleting else wish.lifetime
        return wire.map_request(client_ip, lifetime, data, self._options(client_ip, port, deleting))

    def _place(self):
        """PortSet to suggest: what we have, or had. With PREFER_FAILURE, without a grant, what was
        wanted from the beginning: that may leave the address open."""
        return self._wanted if self.wish.prefer_failure and self.grant is None else self.known

    def _options(self, client_ip, suggested_port, deleting):
        wish = self.wish
        octets = b""
        if wish.third_party not in (None, client_ip):  # never the source itself (RFC 6887 13.1)
            octets += wire.third_party_option(wish.third_party)
        size = self._size()
        if size > 1:  # RFC 7753 4.1: not on single ports
            octets += wire.port_set_option(size, self.internal_port, wish.parity)
        if deleting:  # with lifetime 0, both would be refused (RFC 6887 11.3, 13.3)
            return octets
        if wish.prefer_failure and suggested_port:
            octets += wire.prefer_failure_option()
        if wish.filters:  # they are added to what is there, so that goes first
            octets += wire.filter_option(0, 0, wire.ANY_V6)
        for one in wish.filters:
            octets += wire.filter_option(*one)
        return octets

    def _size(self):
        """Ports to ask for. What was granted, except where that could not bring the set back.

        Where the First Internal Port is not the one that was asked for (RFC 7753 5.2), the granted
        size would name other internal ports than those of the set: to the server, another set.
        """
        if self._plain:
            return 1
        one_port = self.known is not None and self.known.size == 1
        # All protocols without PORT_SET would be a request for the whole address.
        if self.known is None or (one_port and self._asks_for_more()):
            return self.wish.size
        if self.first_internal not in (None, self.internal_port):
            return self.wish.size
        return min(self.known.size, self.wish.size)

    def _asks_for_more(self):
        return self.state == ASKING or self.wish.protocol == wire.PROTO_ALL

    # Answers. The client has checked server, port, nonce, protocol and internal port.

    def is_repeat(self, now, response):
        """True for a copy of the answer that brought the present set, or of the last refusal: the
        network doubled it, or it was long on the way. It is no news, and above all no answer to a
        later request."""
        if self._answer_at is None or now > self._answer_at + LONGEST_WAY:
            return False
        heard = [known[2:] for known in (self._answer, self._refusal) if known is not None]
        return response[2:] in heard

    def believes(self, verdict):
        """False where an old datagram may have come late: then the client asks again.

        An answer from a server that lost its state is news, if it was asked for. If it is but
        some seconds behind, it may be an old one, and would stretch the lease.
        """
        if verdict in (timing.FOLLOWS, timing.BACK):
            return True
        fresh = self.grant is None and self._deleted_at is None
        return bool(self.unanswered) and (verdict == timing.LOST or fresh)

    def asked_since(self, now, age):
        """True when an answer so old, in ms, left before whatever it can be the answer to: it is
        not old, then, its server's clock was set back."""
        sent = [at for at in self._sent_at if at >= now - LONGEST_WAY]
        return bool(self.unanswered and sent) and sent[0] > now - age + timing.ON_TIME

    def on_response(self, now, response, verdict, random_bytes, age=0):
        """Events of one response. verdict, age (ms): of timing.Epoch, on the epoch in it."""
        if self.state == IDLE or self.last_sent is None:
            return []  # an answer to a request that was never sent (RFC 6887 8.3)
        if self.state == RELEASING:
            return self._on_release_answer(now, response)
        if not self.believes(verdict):
            return []
        if verdict in (timing.LATE, timing.LOST):
            self._epoch = None
        if response.result != wire.SUCCESS:
            self._refusal, self._answer_at = response, now
            self._doubted = self._doubted or verdict == timing.LOST
            return self._on_error(now, response, random_bytes)
        if response.lifetime == 0:
            return self._on_end(now, response, random_bytes)
        if self._is_stray(response):
            return []
        try:
            grant = self._read_grant(now, response, age)
        except ValueError as error:
            self._refusal, self._answer_at = response, now  # so that its copies are none
            return self._on_unusable(now, str(error), random_bytes)
        if age and self.grant and grant.port_set != self.grant.port_set:
            self.renew(now)  # an old datagram may tell of an old set
            return []
        self._answer, self._answer_at, self._epoch = response, now, response.epoch
        if not self.unanswered and self._loses_set(response):
            return self._on_bare_update(now, grant, random_bytes)
        return [self._adopt(now, grant, random_bytes)]

    def _is_stray(self, response):
        """True for a Mapping Update of an older mapping that looks like the answer to a request
        with PREFER_FAILURE (RFC 6887 13.2)."""
        place = self._place()
        if not self.wish.prefer_failure or not self.unanswered or not place or not place.first:
            return False
        wanted = address.octets(place.address)
        same_address = wanted in (wire.ANY_V4, wire.ANY_V6, response.map.external_ip)
        return response.map.external_port != place.first or not same_address

    def _on_release_answer(self, now, response):
        if response.result == wire.SUCCESS and response.lifetime:
            return []  # a late answer to a renewal, or traffic keeps it alive; ask again
        suggested = response.map.external_port if response.map else 0
        if self._crossing and response.result != wire.SUCCESS and suggested:
            self._crossing = False
            return []  # to a renewal: errors echo what was suggested, and a deletion suggests none
        if self._can_do_without_port(response.result):
            self.internal_port = 0
            return self._ask_otherwise(now, OTHER_FORM)
        return [self._end(response.result == wire.SUCCESS)]

    def _on_end(self, now, response, random_bytes):
        """SUCCESS with lifetime 0: the server ended the mapping, or answers a release late."""
        late = self._deleted_at is not None and now <= self._deleted_at + LONGEST_WAY
        if response.map.external_port == 0 and (late or self.state != HELD):
            if self.state == HELD:
                self.renew(now)  # a second deletion may have reached the server after all
            return []
        if self.state != HELD:
            return self._on_unusable(now, "its lifetime is 0 s", random_bytes)
        self._refusal, self._answer_at = response, now
        events = [self._lose(now, "the server ended it")]
        self._hold(now, UNUSABLE_RETRY, random_bytes)
        return events

    def _read_grant(self, now, response, age):
        """The Grant in a SUCCESS. Raises ValueError when no softwire can live on it."""
        data = response.map
        octets = wire.find_option(response.options, wire.OPT_PORT_SET)
        size, first_internal = 1, self.internal_port
        if octets is not None:
            size, first_internal, _ = wire.parse_port_set(octets)
        if wire.is_v4(data.external_ip) != (self.wish.family == 4):
            raise ValueError("the external address is not IPv%d" % self.wish.family)
        reason = portset.why_unusable(data.external_ip, data.external_port, size)
        if reason:
            raise ValueError(reason)
        port_set = PortSet(address.text(data.external_ip), data.external_port, size)
        if first_internal + size > 65536:
            raise ValueError("%d internal ports from %d pass 65535" % (size, first_internal))
        if size > self.wish.size and port_set != self.known:
            raise ValueError("%d ports, but %d were asked for" % (size, self.wish.size))
        lifetime = min(response.lifetime, MAX_LIFETIME)
        began = min(self._began(now, response.epoch), now - age)
        if began + lifetime * 1000 <= now:
            raise ValueError("its %d s were over before the answer came" % lifetime)
        return Grant(port_set, first_internal, lifetime, began, began + lifetime * 1000)

    def _began(self, now, epoch):
        """When the server started to count the lifetime, in ms of our clock; rather too early.

        Not when we hear it: counted from our request, the set is never in use here when it has
        ended there. Of several requests that the answer may be to, it is the first that counts, or
        a later time by the server's own clock: the epoch since its last answer, to the second.
        """
        if not self.unanswered:
            return now - LONGEST_WAY
        began = [at for at in self._sent_at if at >= now - LONGEST_WAY] or [self.last_sent]
        if self.grant is None or self._epoch is None:
            return began[0]
        by_epoch = self.grant.granted + (epoch - self._epoch - 1) * 1000
        return min(max(began[0], by_epoch), self.last_sent)

    def _loses_set(self, response):
        return (
            self.grant is not None
            and self.grant.port_set.size > 1
            and wire.find_option(response.options, wire.OPT_PORT_SET) is None
        )

    def _on_bare_update(self, now, grant, random_bytes):
        """A Mapping Update without PORT_SET for a set. RFC 6887 14.2 tells servers to leave such
        options out, so it does not shrink the set: it counts if it names the set, else we ask."""
        held = self.grant
        same = (grant.port_set.address, grant.port_set.first) == (
            held.port_set.address,
            held.port_set.first,
        )
        if not same:
            self.renew(now)
            return []
        kept = Grant(
            held.port_set, held.first_internal, grant.lifetime, grant.granted, grant.expires
        )
        return [self._adopt(now, kept, random_bytes)]

    def _adopt(self, now, grant, random_bytes):
        old = self.grant
        self._take(grant)
        self._answered()
        self.send_at = timing.renewal(grant.granted, grant.lifetime, now, random_bytes)
        if old is None:
            return Event(GRANTED, self, None)
        if old.port_set == grant.port_set:
            return Event(RENEWED, self, None)
        return Event(CHANGED, self, old)

    def _take(self, grant):
        self.state = HELD
        self.grant = grant
        self.known = grant.port_set
        self.first_internal = grant.first_internal
        if self._narrowed and grant.first_internal != self.internal_port:
            self.narrow()  # the server moved the set, and its internal ports with it

    def _answered(self):
        self.unanswered = 0
        self.hold_until = None
        self._other_until = 0
        self._retransmission = None
        self._urgent = self._doubted = self._adopted = False

    def _on_error(self, now, response, random_bytes):
        """An error changes nothing on the server (RFC 6887 7.3), so a held set is kept to its end:
        unless the server has lost it, and may have given it to a neighbour."""
        if not self.unanswered:
            doubled = self.hold_until is not None  # the refusal has come before
            if doubled or not self._revokes(response.result) or self.state != HELD:
                return []
            # Nobody asked, so it is news about the mapping: it is gone (RFC 6887 8.3).
            events = [self._lose(now, "the server revoked it")]
        elif self._doubted and self.state == HELD:
            events = [self._lose(now, "the server lost it and does not give it again")]
        else:
            events = []
        cap = VERSION_RETRY if response.result == wire.UNSUPP_VERSION else MAX_ERROR_LIFETIME
        until = now + min(response.lifetime, cap) * 1000
        # Another request is not bound by the refusal's waiting time (RFC 6887 8.3); but when that
        # is refused as well, it is the first one that comes next.
        until, self._other_until = max(until, self._other_until), 0
        if self._can_do_without_set(response.result):
            self._plain, self._other_until = True, until
            return events + self._ask_otherwise(now, PLAIN)
        if self._can_do_without_port(response.result):
            self.internal_port, self._other_until = 0, until
            return events + self._ask_otherwise(now, OTHER_FORM)
        self._hold(now, until - now, random_bytes)
        refusal = Refusal(response.result, response.lifetime, response.version)
        events.append(Event(EVENT_REFUSED, self, refusal))
        return events

    def _revokes(self, result):
        """Unasked, these end a mapping (RFC 6887 8.3, 14.2)."""
        gone = self.wish.prefer_failure and result == wire.CANNOT_PROVIDE_EXTERNAL
        return gone or result == wire.NOT_AUTHORIZED

    def _ask_otherwise(self, now, kind):
        self.unanswered = 0
        self.send_at = self._spaced(now)
        return [Event(kind, self, None)]

    def _can_do_without_port(self, result):
        """RFC 7753 5.2 asks for all protocols with internal port 1; RFC 6887 11.3 has a server
        refuse just that. Which form a lease was asked in is not known after a restart."""
        return (
            result in (wire.MALFORMED_REQUEST, wire.UNSUPP_PROTOCOL)
            and self.wish.fallback
            and self.wish.protocol == wire.PROTO_ALL
            and self.internal_port != 0
            and (self.grant is None or self._adopted or self.state == RELEASING)
        )

    def _can_do_without_set(self, result):
        """Servers exist that choke on PORT_SET instead of ignoring it. For all protocols at once
        there is no request without it: that would ask for the whole address."""
        return (
            result in (wire.MALFORMED_OPTION, wire.UNSUPP_OPTION)
            and self.wish.protocol != wire.PROTO_ALL
            and self.grant is None
            and self._size() > 1
        )

    def _on_unusable(self, now, reason, random_bytes):
        if self.state == REFUSED and not self.unanswered:
            return []  # unasked, and what was said before still holds
        if self.unanswered != 1:  # one request alone has an answer that is surely its own
            self._urgent = True
            self.unanswered = 0
            self.send_at = self._spaced(now)
        else:
            self._hold(now, UNUSABLE_RETRY, random_bytes)
        return [Event(UNUSABLE, self, reason)]

    def _hold(self, now, wait, random_bytes):
        """Ask again after wait ms, and never faster than retransmission would: a refusal of zero
        seconds must not make a flood."""
        self._retransmission = timing.retransmission(self._retransmission, random_bytes)
        self.unanswered = 0
        self.hold_until = self.send_at = self._spaced(now + max(wait, self._retransmission))
        if self.state == ASKING:
            self.state = REFUSED

    def _lose(self, now, reason):
        self.grant = None
        self._urgent = True
        self._retransmission = None
        waiting = self.hold_until is not None and self.hold_until > now
        self.state = REFUSED if waiting else ASKING
        self.send_at = self.hold_until if waiting else self._spaced(now)
        return Event(LOST, self, reason)

    def _spaced(self, at):
        """at, or later: four seconds after the last request, which to the server is the same one
        whatever made us send it (RFC 6887 11.2.1)."""
        if self.last_sent is None:
            return at
        return max(at, self.last_sent + timing.RENEWAL_SPACING)

    def _end(self, confirmed):
        self.state = IDLE
        self.grant = None
        self.send_at = None
        return Event(RELEASED, self, confirmed)
