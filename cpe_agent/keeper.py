"""Keeps one mapping on a PCP server, whatever happens: finds a server, and the way there.

It decides nothing about the protocol (pcp/). What a mapping is good for is the business of those
that build on it: softwire line (line.py), or a port for somebody (ports.py).
"""

from cpe_agent import address, advice, choice, lease, net, netlink, session
from cpe_agent.holder import Holder
from cpe_agent.pcp import mapping as m

_BEYOND = b"\x20" + b"\0" * 15  # 2000::, any global address
# Events that the time brings, and not an answer.
_NO_ANSWERS = (m.LOST, m.SILENT, m.GAVE_UP, m.RECOVERING, m.RELEASED)
PATH_RETRY = 5000  # ms; between looks for a way to the server


class Keeper(Holder):
    """A mapping on the best server that answers."""

    def __init__(self, name, options, place):
        """See Holder."""
        super().__init__(name, options, place)
        self.look_at = None  # ms; when to look at the network again
        self.choice = place.choice(options, self.family())
        self._interface = 0  # index of the one that the server was learned on, or 0
        self._moving = None  # session.Farewell that has to end before anything is asked

    # What those that build on it may change

    def family(self):
        """4 or 6: of the default router that may be asked."""
        return 6

    def on_move(self, now):
        """The mapping is about to be given back, to be asked for from another address. False if
        that must wait."""
        return True

    def on_taken(self, now, error):
        """Others have the internal ports that we want (session.Taken). We look again later."""

    # Life

    def start(self, now):
        """Want the mapping from now on."""
        self.released = False
        self.confirmed = None
        self.choice.refresh(now)
        self.choice.report().switch(now)
        self._recall_lease(now)
        self.find_path(now)

    def _recall_lease(self, now):
        """Begin where a lease that runs on was asked for, and from where."""
        parties = lease.parties(self._lease())
        if parties:
            self._source, server, asked = parties
            self.choice.stay_with(now, server, asked)

    def timer(self):
        """When handle_timer is due, in ms, or None."""
        timers = [self.look_at, None if self.released else self.choice.timer()]
        return min([at for at in timers if at is not None], default=None)

    def handle_timer(self, now):
        """Look again for the way, or go to another server."""
        if self.released:
            self.look_at = None
            return
        changed = self.choice.handle_timer(now)
        self._note_better(now)
        if changed or (self.look_at is not None and now >= self.look_at):
            self.look_at = None
            self.find_path(now)

    def on_network_change(self, now, settled):
        """Links, addresses, routes, names or what DHCP told have changed; look again at settled
        (ms)."""
        self.choice.report().restart(now)
        self.look_soon(settled)

    def look_soon(self, at):
        """Something has changed: look at the time in ms, or before."""
        if self.look_at is None or self.look_at > at:
            self.look_at = at

    def stop_using(self, now):
        """Use no more what a forerunner left, before it is given back by release_unasked. False if
        that failed."""
        self.released = True
        return True

    def awaits_name(self, now):
        """True while it is being resolved whom to give the mapping back to."""
        self.choice.refresh(now)
        self._recall_lease(now)
        parties = lease.parties(self._lease())
        if parties and self.choice.address == parties[2]:
            return False
        return None in [why for _, why in self.choice.names()]

    def release_unasked(self, now):
        """Give back what a forerunner left, without having asked for it. False if nobody could be
        told."""
        self.choice.refresh(now)
        self._recall_lease(now)
        try:
            self._attach(self._with_held_source(now, self._way()))
        except (OSError, session.Taken) as error:
            self.error(advice.nobody_told(error, self.choice.names()))
            self._on_released(False)
            self.confirmed = None
            return False
        self.mapping.release(now)
        return True

    def renew(self, now):
        """Ask the server now, or start again after a release. Returns in how many ms."""
        if self.released or self.mapping is None:
            self.forget_path()
            self.start(now)
            return 0
        return max(0, self.mapping.renew(now) - now)

    def choose_anew(self):
        """The options have changed, and with them who may be asked."""
        self.choice = self._place.choice(self.options, self.family())

    def let_go(self, now, then=None):
        """Give the mapping back in passing, to ask for another one. then(now, confirmed) is called
        when that is over; by default, it is asked for. Returns session.Farewell."""
        left, mapping = self.session, self.mapping
        self.session = self.mapping = self.path = None
        self._end_lease()
        return session.say_farewell(now, left, mapping, then or self._on_gone, quickly=True)

    def _on_gone(self, now, _confirmed):
        """What was in the way of another mapping on the same server is so no more."""
        self._moving = None
        self.look_soon(now)

    # The way to the server

    def server(self):
        """16 octets of the server to ask, or None. A lease is kept to its end with its server, even
        if DHCP or a host name does not lead there any more."""
        return self.session.server if self._holds() else self.choice.address

    def _holds(self):
        return self.mapping is not None and self.mapping.grant is not None

    def _server_text(self):
        return choice.text(self.server())

    def _way(self):
        """netlink.Path to the server, with the source that the config wants. Raises OSError."""
        if self.server() is None:
            raise OSError("no server is known")
        # An interface that was made anew has another index.
        same = self.server() == self.choice.address
        path = netlink.path_to(self.server(), self.choice.interface if same else self._interface)
        if net.is_link_local(path.source) and not self.options.source:
            path = self._with_global_source(path)
        if self.options.source:
            path = netlink.Path(path.device, path.index, path.mtu, self.options.source)
        return path

    def _with_global_source(self, path):
        """A mapping for a link-local address would be good for nothing: a link-local router is
        asked from the address that is used to go beyond it (RFC 6887 8.1)."""
        try:
            beyond = netlink.path_to(_BEYOND)
        except OSError:
            return path
        return beyond if beyond.index == path.index else path

    def find_path(self, now):
        """Ask on from where the kernel sends now."""
        if self._moving:
            self._moving.look(now)
            return
        self.choice.refresh(now)
        if self.session is None and not self.choice.report().answered:
            self._recall_lease(now)  # host names are resolved by and by
        path = None
        while path is None:
            try:
                path = self._way()
            except OSError:
                if self._holds() or self.server() is None or not self.choice.unreachable(now):
                    self._on_no_way(now)
                    return
        path = self._with_held_source(now, path)
        if path is None:
            self._move(now)
            return
        before = self.path
        if before is None or not self.session.fits(self.server(), path):
            self._restart(now, path)
        elif path != before:  # its MTU
            self.path = path
            self.on_change(now)
        if self.session is not None:
            self.errors.pop("path", None)

    def _with_held_source(self, now, path):
        """The path from where the lease was asked for, as long as that address is good for it; None
        when it is not, but can still be used to say so.

        To the server, another address is another client (RFC 7596 5.1); so the kernel's liking for
        a newer one does not count while there is a lease.
        """
        held = self._source
        if held in (None, path.source) or self.options.source:
            return path
        try:
            state = netlink.address_state(held)
        except OSError:
            return path
        moved = self.path is not None and self.path.index != path.index  # to another uplink
        if state == netlink.GONE or moved:
            return path
        if net.is_unique_local(path.source) and not net.is_unique_local(held):
            state = netlink.USABLE  # a router's own prefix is no successor of the provider's
        if state == netlink.DEPRECATED and self.mapping and self.mapping.grant:
            return None
        if state == netlink.DEPRECATED:  # first adopt the lease, then move
            self.look_soon(now)
        return netlink.Path(path.device, path.index, path.mtu, held)

    def _move(self, now):
        """The prefix changes. The old mapping goes first: while the server has it, nobody else may
        get its set, not even we from another address. What cannot be said in some seconds is left
        to the lease's end."""
        self.info("the address %s is deprecated; moving" % address.text(self.path.source))
        if self.on_move(now):
            self._moving = self.let_go(now)
        else:
            self.look_at = now + PATH_RETRY

    def _on_no_way(self, now):
        """Wait until there is one; where there are other servers, pcp.servers says when."""
        if self.server() is None:
            self.forget_path()
            self.complain("path", self._place.why_nobody(self.options))
            return
        self.complain("path", advice.no_route(self._server_text()))
        self.look_at = now + PATH_RETRY

    def _restart(self, now, path):
        """RFC 7596 5.1: a new source address means a new request from it."""
        server = self.server()
        self.forget_path()
        if self.server() != server:  # the lease's server was only asked for the lease's sake
            self.look_at = now
            return
        try:
            self._attach(path)
        except session.Taken as error:
            self.on_taken(now, error)
        except OSError as error:
            # An address that is still being checked for duplicates cannot be bound yet.
            self.complain("path", advice.no_source(address.text(path.source), error))
        if self.session is None:
            self.look_at = now + PATH_RETRY
            return
        if net.is_unique_local(path.source) and not net.is_unique_local(self.server()):
            self.warning(advice.unique_local(address.text(path.source)))
        self.begin(now)

    def _attach(self, path):
        """See Holder.attach."""
        identity = self.choice.identity(self._place.memory.servers(self.name))
        self._interface = self.choice.interface
        self.attach(self.server(), path, identity, bool(self._interface))

    # What comes in

    def on_send_error(self, now, error):
        """The kernel did not send, or an ICMP error came back."""
        if self.released:
            return  # the mapping ends by itself
        server = self.session.server
        if self.mapping.grant is None and self.choice.report().unreachable(now, server):
            self._hand_over(now, "cannot be reached (%s)" % error)
        elif error.args[0] != net.ECONNREFUSED:
            self.complain("server", "cannot send to %s: %s" % (address.text(server), error))
        elif self.mapping.grant is None:
            self.complain("server", advice.no_listener(address.text(server)))

    def on_event(self, now, event):
        """See Holder; and another server may be asked."""
        kind, _, detail = event
        if kind not in _NO_ANSWERS:
            self.choice.report().answered_by(now, self.session.server)
        super().on_event(now, event)
        if kind == m.LOST:
            self._after_loss(now)
        elif kind == m.GAVE_UP:
            if self.choice.report().gave_up(now, self.session.server):
                self._hand_over(now, "is silent")
        elif kind == m.EVENT_REFUSED and self.mapping.grant is None:
            seconds = detail.lifetime
            if self.choice.report().refused_for_long(now, self.session.server, seconds):
                self._hand_over(now, "refuses for %d s" % seconds)

    # Other servers

    def _after_loss(self, now):
        """A lease is kept to its end with its server; now others have their turn."""
        selection = self.choice.report()
        if self.mapping.unanswered:
            selection.gave_up(now, self.session.server)
        selection.switch(now)
        if self.choice.address != self.session.server:
            self._hand_over(now, "has let the mapping end")

    def _hand_over(self, now, why):
        """Another server is to be asked, or none for a while."""
        self.warning(
            "the PCP server %s %s; next: %s"
            % (address.text(self.session.server), why, self._server_text())
        )
        self.forget_path()
        self.look_at = now  # not here: the session's events are still being told

    def _note_better(self, now):
        better = self.choice.better
        if better is None:
            self.errors.pop("better", None)
        elif self.mapping and self.mapping.grant is None and self.choice.report().switch(now):
            self._hand_over(now, "gives nothing, and a better one is back")
        else:
            self.complain("better", advice.better(address.text(better), self._server_text()))
