"""A router in the simulation: the client core in RAM, a state file on flash, and its NAT.

What the shell of the agent does around the core is played here, in short: nonce and set go to
flash before and after they matter, the NAT follows the grants, a new IPv6 prefix means a new
client. Times are the simulation's unless they are said to be the router's own.
"""

from collections import deque

from cpe_agent.pcp import mapping as m
from cpe_agent.pcp import wire

SERVER = bytes.fromhex("20010db8ffff00000000000000000001")
_NONCE = slice(wire.HEADER_LENGTH, wire.HEADER_LENGTH + 12)


class Line:
    """One softwire of a router: its mapping, its NAT, and what the invariants need to know."""

    def __init__(self, router, wish):
        self.router = router
        self.wish = wish
        self.mapping = None
        self.flash = None  # (nonce, PortSet or None, first internal port or None)
        self.nat = None  # PortSet that traffic leaves from
        self.before = None  # PortSet held last
        self.moved = False  # it may come back with another set: the server's or the user's doing
        self.wanted = False
        # For the spacing of requests; None after a start, when nobody remembers the last one.
        self.sent_at = None
        self.sent_while_held = False
        self.sent_lately = deque()
        self.quiet_since = 0  # when it was last heard of, or asked not to be
        # For leases: when ours was granted or renewed (by the simulation's time, and by the
        # router's own), when the server said so, its length in seconds.
        self.has_at = None
        self.given_at = None
        self.renewed_at = None
        self.lifetime = None
        self.refused_until = None
        self.refusal = None  # result code
        # For NAT outside of what the server believes: when it last lost or changed our binding,
        # and when the server sent the last answer about this mapping that came in.
        self.lost_at = None
        self.lost_told = False  # by the epoch, which every answer shows
        self.told_at = None  # when the first of those came in
        self.answer_sent = None
        self.answered_at = None  # when the first of those after the loss came in
        self.doubtful = False  # it may have been old news

    def lost(self, now, told=False):
        """The server no longer believes in this mapping."""
        self.lost_at, self.lost_told = now, told


class _Session:
    """One client core with one source address, and the datagrams in its name."""

    def __init__(self, address, client):
        self.address = address
        self.client = client


class Router:
    """A home router with one line or two."""

    def __init__(self, sim, number, wishes):
        self.sim = sim
        self.number = number
        self.port = 40000 + number
        self.prefix = 0
        self.lines = [Line(self, wish) for wish in wishes]
        self.session = None
        self.leaving = None  # session of the address before, until its mappings are released
        self.asleep_until = None  # the clock stands still
        self.heard_sent = None  # when the server sent the last datagram with an epoch that came in
        self.heard_odd = False  # what was heard last had been overtaken, or was long on the way
        self.recovered_at = None
        self.held_back_until = 0  # a server that is full wants nothing new before
        self._behind = 0

    @property
    def address(self):
        """16 octets; another prefix means another address."""
        octets = bytes.fromhex("20010db8") + self.prefix.to_bytes(4, "big")
        return octets + self.number.to_bytes(8, "big")

    def clock(self, now):
        """The router's own time: what it slept is missing."""
        return now - self._behind

    # Life

    def power_on(self, now):
        """Start from what the flash knows."""
        sim = self.sim
        self.session = _Session(
            self.address, sim.client_class(SERVER, self.address, sim.random_bytes)
        )
        self.heard_sent = None
        self.heard_odd = False
        self.held_back_until = 0
        for line in self.lines:
            if line.flash:
                line.mapping = sim.mapping_class(line.wish, *line.flash)
            else:
                line.mapping = sim.mapping_class(line.wish, sim.random_bytes(12))
            self.session.client.add(line.mapping)
            self._begin(now, line)
        self.handle_timer(now)

    def _begin(self, now, line):
        line.sent_at = line.has_at = line.renewed_at = line.refused_until = None
        line.sent_while_held = False
        line.wanted = True
        self.sim.judge.started(now, line)
        line.mapping.start(self.clock(now))

    def power_off(self, now):
        """All that is in RAM is gone; the line is down."""
        self.session = self.leaving = None
        self.asleep_until = None
        for line in self.lines:
            line.mapping = None
            line.wanted = False
            self._use(now, line, None)

    def release(self, now):
        """The user gives everything back."""
        for line in self.lines:
            self._use(now, line, None)
            line.wanted = False
            line.moved = True
            line.mapping.release(self.clock(now))
        self.handle_timer(now)

    def ask_again(self, now):
        """The user wants it after all."""
        for line in self.lines:
            self._begin(now, line)
        self.handle_timer(now)

    def renumber(self, now, farewell):
        """The provider gives another prefix. farewell: the old address works long enough to give
        the old mappings back; otherwise the server keeps them to their end."""
        old = self.session
        for line in self.lines:
            if line.nat:
                self.sim.judge.left_behind(line.nat)
            self._use(now, line, None)
            line.moved = True
            line.lost_at = None
            line.mapping.release(self.clock(now))
        self.prefix += 1
        if farewell:
            self.leaving = old
            self._carry_session(now, old, old.client.handle_timer)
        for line in self.lines:
            line.flash = None
        self.power_on(now)

    def sleep(self, now, until):
        """Suspend: nothing runs, the clock stands still."""
        self.asleep_until = until
        self.sim.time.at(until, self._wake_up, now)

    def _wake_up(self, now, since):
        if self.asleep_until != now:
            return  # the power was cut meanwhile
        self.asleep_until = None
        self._behind += now - since
        for line in self.lines:
            line.lost(now)
            line.quiet_since = now
            if line.refused_until is not None:
                line.refused_until += now - since
        self.held_back_until += now - since
        self.handle_timer(now)

    def lose_flash(self):
        """The state file is gone; what is in RAM stays."""
        for line in self.lines:
            line.flash = None
            line.moved = True

    # Datagrams

    def receive(self, now, data, address, sent):
        """A datagram of the server, sent by it at that time, to one of our addresses."""
        if self.session is None or self.asleep_until:
            return
        for session in (self.session, self.leaving):
            if session and address in (session.address, None):
                self._hear(now, session, data, sent)

    def _hear(self, now, session, data, sent):
        self.sim.judge.hearing(self, session is self.session, data, sent)
        client = session.client
        client.receive(self.clock(now), data, SERVER, wire.SERVER_PORT)
        self._carry(now, session)
        self.sim.judge.heard(self, session is self.session, data, sent)

    def receive_forged(self, now, data, address, port):
        """A datagram that only pretends, from that source address and port."""
        if self.session and not self.asleep_until:
            self.session.client.receive(self.clock(now), data, address, port)
            self._carry(now, self.session)

    def binding_lost(self, now):
        """ICMPv6 1/5 came from the lwAFTR."""
        if self.session and not self.asleep_until:
            self.session.client.binding_lost(self.clock(now))
            self._carry(now, self.session)

    def handle_timer(self, now):
        """Do what is due."""
        if self.asleep_until:
            return
        for session in (self.session, self.leaving):
            if session:
                session.client.handle_timer(self.clock(now))
                self._carry(now, session)

    def _carry_session(self, now, session, action):
        action(self.clock(now))
        self._carry(now, session)

    def _carry(self, now, session):
        """Take what the core has to say: events to the NAT and the flash, datagrams to the air."""
        for event in session.client.events():
            self._on_event(now, session, event)
        for data in session.client.datagrams():
            line = self._line_of(data) if session is self.session else None
            if line:
                self.sim.judge.sending(now, line, data)
                if line.nat is None and line.wanted:
                    self._save(line)
            self.sim.to_server(now, self, session.address, data)
        due = session.client.get_timer()
        if due is not None:
            self.sim.time.wake(self, max(due + self._behind, now))
        elif session is self.leaving:
            self.leaving = None

    def _line_of(self, data):
        """The line that a request is for, by its internal port: nonces may be wrong."""
        if data[1] != wire.OP_MAP:
            return None
        port = int.from_bytes(data[40:42], "big")
        for line in self.lines:
            if line.wish.internal_port == port:
                return line
        return None

    def _on_event(self, now, session, event):
        self.sim.note(now, "%d %s", self.number, event.kind)
        if event.kind == m.RECOVERING and session is self.session:
            self.recovered_at = now
            self.sim.judge.recovering(now, self)
        for line in self.lines:
            if line.mapping is event.mapping:
                self._on_line_event(now, line, event)

    def _on_line_event(self, now, line, event):
        judge = self.sim.judge
        if event.kind == m.EVENT_REFUSED:
            judge.refused(now, line, event.detail)
        elif event.kind == m.LOST:
            judge.loses(now, line)
        if event.kind in (m.GRANTED, m.CHANGED, m.RENEWED):
            judge.has(now, line)
        if event.kind in (m.GRANTED, m.CHANGED, m.LOST, m.RELEASED):
            grant = line.mapping.grant
            self._use(now, line, grant.port_set if grant else None)
            self._save(line)

    def _save(self, line):
        mapping = line.mapping
        line.flash = (mapping.nonce, mapping.known, mapping.first_internal)

    def _use(self, now, line, port_set):
        line.nat = port_set
        if port_set is not None:
            self.sim.judge.uses(now, line)
