"""One PCP server, asked from one source address: the sockets of a Client, and who its mappings are.

Whoever wants the same server from the same address gets the same session, so that one Client
arbitrates the internal ports however many want some (RFC 7753 6.3).
"""

import os

from cpe_agent import advice, clock, log, net, netlink
from cpe_agent.pcp import mapping as m
from cpe_agent.pcp.client import Client, Overlap

_MOST_AT_ONCE = 64  # datagrams; a flood must not keep the loop from its timers
_FAREWELL = 10000  # ms; the longest that a deletion is repeated where something waits for its end


class Taken(Overlap):
    """Internal ports that others have. owners: of the mappings that have them."""

    def __init__(self, text, owners):
        super().__init__(text)
        self.owners = owners


class Session:
    """A Client and its sockets. Owners of mappings have on_event(now, mapping.Event) and
    on_send_error(now, OSError)."""

    def __init__(self, server, path, sessions, bound=False):
        """server: 16 octets. path: netlink.Path to it. bound: nothing may leave by another
        interface than the path's (RFC 7291 7). Raises OSError if the source of the path is not ours
        (yet)."""
        self.server = server
        self.path = path
        self.client = Client(server, path.source, os.urandom)
        self._sessions = sessions
        self._owners = []  # (Mapping, owner)
        device = path.device if bound else None
        self._request = net.request_socket(path.source, server, scope=path.index, device=device)
        self._sockets = [self._request]
        try:  # this helps, but a mapping is possible without it
            self._sockets.append(net.announce_socket(server, path.index))
        except OSError as error:
            log.warning(advice.deaf("announcements on UDP port 5350", error))
        for sock in self._sockets:
            sessions.poller.add(sock, self._on_datagram)

    def fits(self, server, path):
        """True if this session asks that server from that source by that interface."""
        mine = self.server, self.path.source, self.path.index
        return mine == (server, path.source, path.index)

    def add(self, mapping, owner):
        """Take charge of a mapping. Raises Taken."""
        try:
            self.client.add(mapping)
        except Overlap as error:
            raise Taken(str(error), self._in_the_way(mapping)) from None
        self._owners.append((mapping, owner))

    def _in_the_way(self, mapping):
        return [owner for other, owner in self._owners if self._meet(mapping, other)]

    def _meet(self, one, other):
        judge = Client(self.server, self.path.source, None)
        judge.add(other)
        try:
            judge.add(one)
        except Overlap:
            return True
        return False

    def remove(self, mapping):
        """Forget a mapping; the last one closes the session."""
        self.client.remove(mapping)
        self._owners = [entry for entry in self._owners if entry[0] is not mapping]
        self._sessions.close_if_unused(self)

    def hand_over(self, mapping, owner):
        """Give a mapping to another owner."""
        self._owners = [entry for entry in self._owners if entry[0] is not mapping]
        self._owners.append((mapping, owner))

    def in_use(self):
        """True while somebody has a mapping here."""
        return bool(self._owners)

    def close(self):
        """Nothing comes in or goes out any more."""
        for sock in self._sockets:
            self._sessions.poller.remove(sock)
        self._sockets = []

    def timer(self):
        """When handle_timer is due, in ms, or None."""
        timers = [self.client.get_timer()]
        timers += [owner.end_at for _, owner in self._owners if isinstance(owner, Farewell)]
        return min([at for at in timers if at is not None], default=None)

    def handle_timer(self, now):
        """Send what is due, tell what has expired, end farewells that take too long."""
        self.client.handle_timer(now)
        self.carry(now)
        for _, owner in list(self._owners):
            if isinstance(owner, Farewell) and owner.end_at is not None and now >= owner.end_at:
                owner.end(now, False)

    def carry(self, now):
        """Carry the client's datagrams to the server, and its events to the mappings' owners."""
        datagrams, events = self.client.datagrams(), self.client.events()
        # The owner may go to another server, and then nothing more is sent to this one.
        self._tell_events(now, [event for event in events if event.kind == m.GAVE_UP])
        for datagram in datagrams:
            self._send(now, datagram)
        self._tell_events(now, [event for event in events if event.kind != m.GAVE_UP])

    def _tell_events(self, now, events):
        for event in events:
            for mapping, owner in list(self._owners):
                if mapping is event.mapping:
                    owner.on_event(now, event)

    def _send(self, now, datagram):
        if not self._sockets:
            return
        try:
            self._request.send(datagram)
        except OSError as error:
            self._tell(now, error)
            return
        self._sessions.on_sent()

    def _on_datagram(self, sock):
        """Take in all that waits, before any timer: what has waited is no answer to what is sent
        next."""
        for _ in range(_MOST_AT_ONCE):
            # What came in may have ended the session.
            if sock not in self._sockets or not self._take_one(sock):
                return

    def _take_one(self, sock):
        """Take in one datagram; False when none waits."""
        now = self._sessions.clock.now()
        try:
            received = net.receive(sock)
        except OSError as error:  # what ICMP said about an earlier request
            self._tell(now, error)
            return True
        if received is None:
            return False
        self._sessions.on_received(now)
        self.client.receive(now, *received)
        self.carry(now)
        return True

    def _tell(self, now, error):
        for _, owner in list(self._owners):
            owner.on_send_error(now, error)


class Farewell:
    """Owner of a mapping that nobody wants any more, until the server has heard of it."""

    def __init__(self, now, session, mapping, then, patience=None):
        """then(now, confirmed) is called at the end, after patience ms at the latest."""
        self._session = session
        self._mapping = mapping
        self._then = then
        self.end_at = None if patience is None else now + patience
        session.hand_over(mapping, self)
        mapping.release(now)

    def on_event(self, now, event):
        """The end, when it comes."""
        if event.kind == m.RELEASED:
            self.end(now, event.detail)

    def on_send_error(self, now, error):
        """Nothing can be done about it: the mapping ends by itself. Who waits, waits no longer."""
        if self.end_at is not None:
            self.end(now, False)

    def put_off(self, now, error, then):
        """It goes as soon as it can."""

    def look(self, now):
        """The network has changed: an address that is gone cannot say farewell."""
        path = self._session.path
        try:
            state = netlink.address_state(path.source)
        except OSError:
            return
        if state == netlink.GONE:
            self.end(now, False)

    def end(self, now, confirmed):
        """Stop asking."""
        self.end_at = None
        self._session.remove(self._mapping)
        self._then(now, confirmed)


def say_farewell(now, session, mapping, then, quickly=False):
    """Give a mapping back; then(now, confirmed) is called at the end. Returns the Farewell.

    quickly: something waits for that end, so it does not take as long as a release may.
    """
    return Farewell(now, session, mapping, then, _FAREWELL if quickly else None)


class Sessions:
    """All sessions of this agent."""

    def __init__(self, poller, timer):
        """poller: net.Poller. timer: clock.Clock."""
        self.poller = poller
        self.clock = timer
        self.counts = {"sent": 0, "received": 0}
        self.first_request = None  # ms from the start of this process to the first request
        self.received_at = None  # ms; when a datagram came last
        self._all = []
        self._probes = []  # choice.Probe

    def add_probe(self, probe):
        """Remember a probe until its end."""
        self._probes.append(probe)

    def remove_probe(self, probe):
        """It has ended."""
        self._probes.remove(probe)

    def open(self, server, path, bound):
        """The Session for a server and a path, new or not; see there. Raises OSError."""
        for session in self._all:
            if session.fits(server, path):
                return session
        self._all.append(Session(server, path, self, bound))
        return self._all[-1]

    def close_if_unused(self, session):
        """Close a session that nobody has a mapping on."""
        if not session.in_use() and session in self._all:
            self._all.remove(session)
            session.close()

    def timer(self):
        """When handle_timer is due, in ms, or None."""
        timers = [session.timer() for session in self._all]
        timers += [probe.end_at for probe in self._probes]
        return min([at for at in timers if at is not None], default=None)

    def handle_timer(self, now):
        """See Session."""
        for session in list(self._all):
            session.handle_timer(now)
        for probe in list(self._probes):
            if now >= probe.end_at:
                probe.end()

    def on_sent(self):
        """Count."""
        self.counts["sent"] += 1
        if self.first_request is None:
            self.first_request = self.clock.now() - clock.process_start()

    def on_received(self, now):
        """Count."""
        self.counts["received"] += 1
        self.received_at = now
