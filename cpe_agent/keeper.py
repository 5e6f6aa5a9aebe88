"""Keeps one mapping on a PCP server, whatever happens: the way there, the asking, the memory.

It decides nothing about the protocol (pcp/). What a mapping is good for is the business of those
that build on it: softwire line (line.py), or a port for somebody (ports.py).
"""

import os

from cpe_agent import address, advice, choice, lease, log, net, netlink, portset, session, store
from cpe_agent.memory import Memory
from cpe_agent.pcp import mapping as m

_BEYOND = b"\x20" + b"\0" * 15  # 2000::, any global address
# Events that the time brings, and not an answer.
_NO_ANSWERS = (m.LOST, m.SILENT, m.GAVE_UP, m.RECOVERING, m.RELEASED)
PATH_RETRY = 5000  # ms; between looks for a way to the server


class Keeper:
    """One mapping that is wanted until further notice."""

    label = ""  # begins each line of the log

    def __init__(self, name, options, place):
        """name: in the state file. options: config.Softwire or config.Mapping. place: Place."""
        self.name = name
        self.options = options
        self.path = None  # netlink.Path to the server
        self.session = None
        self.mapping = None
        self.errors = {}  # what is wrong now: kind -> text
        self.refusal = None  # result code, if the last answer was one
        self.since = None  # ms; when the present set was first granted
        self.renewals = 0
        self.released = False
        self.confirmed = None  # True when the server confirmed the last release, False if not
        self.look_at = None  # ms; when to look at the network again
        self.known = None  # PortSet held last
        self._known_at = None  # 16 octets: the server that gave it
        self.choice = place.choice(options, self.family())
        self._place = place
        self._identity = None  # 16 octets that name the server, whichever of its addresses is asked
        self._interface = 0  # index of the one that the server was learned on, or 0
        self._source = None  # 16 octets: where the lease was asked from, while there is one
        self._moving = None  # session.Farewell that has to end before anything is asked

    # What those that build on it may change

    def family(self):
        """4 or 6: of the default router that may be asked."""
        return 6

    def wish(self):
        """mapping.Wish of what to ask for."""
        raise NotImplementedError

    def suggestion(self):
        """PortSet to suggest to the server, or None."""
        return self.known

    def on_change(self, now):
        """The grant came, changed, or went; the path's MTU changed."""

    def on_move(self, now):
        """The mapping is about to be given back, to be asked for from another address. False if
        that must wait."""
        return True

    def on_lost(self, reason):
        """The grant went; on_change follows."""
        self.error("the mapping is lost: %s; asking for it again" % reason)

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

    def release(self, now):
        """Give the mapping back."""
        self.released = True
        if self.mapping and self.mapping.state != m.IDLE:
            self.mapping.release(now)
        else:
            # Given back before, or, with no way to the server so far, never asked about.
            self._on_released(bool(self.confirmed))

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

    def dismiss(self, now):
        """Not wanted any more, not even after a restart: give the mapping back and forget it."""
        self.released = True
        if self.mapping and self.mapping.state != m.IDLE:
            server = self._identity
            session.say_farewell(
                now,
                self.session,
                self.mapping,
                lambda _, confirmed: self._on_dismissed(server, confirmed),
            )
            self.session = self.mapping = self.path = None
        else:
            self.forget_path()
        self._end_lease()
        return True

    def _on_dismissed(self, server, confirmed):
        """What the server may hold still is remembered until others need the room."""
        if confirmed:
            self._forget(server)

    def choose_anew(self):
        """The options have changed, and with them who may be asked."""
        self.choice = self._place.choice(self.options, self.family())

    def forget_path(self):
        """Start anew from the way to the server on; what is up stays up until then."""
        if self.session:
            self.session.remove(self.mapping)
        self.session = self.mapping = self.path = None

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
        self._save_state()  # a nonce that is not on flash could lock us out after a power cut
        held = lease.load(self._lease(), self._lease_key(), now)
        self.mapping.start(now, held)
        self._source = path.source if held else None
        if held:
            self.info("adopting the running lease: " + portset.text(held.port_set))
            self.since = held.granted
        self.on_attached(now, held)

    def on_attached(self, now, held):
        """The way is known. held: the Grant that was adopted, or None."""

    def _attach(self, path):
        """A Mapping on a Session for that path. Raises OSError or session.Taken."""
        self._identity = self.choice.identity(self._place.memory.servers(self.name))
        self._interface = self.choice.interface
        there = self._place.sessions.open(self.server(), path, bool(self._interface))
        mapping = self._make_mapping()
        try:
            there.add(mapping, self)
        finally:
            self._place.sessions.close_if_unused(there)
        self.path, self.session, self.mapping = path, there, mapping

    def _make_mapping(self):
        """The mapping to ask for: the one we had, if the memory has it."""
        options = self.options
        memory = self._place.memory
        state = memory.recall(self.name, self._identity)
        nonce, first_internal = None, None
        key = (options.protocol, options.internal_port)
        if state and key == (state.protocol, state.internal_port):
            nonce = state.nonce
        last = state if state and state.port_set else memory.newest_set(self.name)
        if last:
            self.known, first_internal = last.port_set, last.first_internal
            self._known_at = last.server
        return m.Mapping(self.wish(), nonce or os.urandom(12), self.suggestion(), first_internal)

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
        """What happened to the mapping (pcp.mapping.Event)."""
        kind, _, detail = event
        if kind not in _NO_ANSWERS:
            self.choice.report().answered_by(now, self.session.server)
        if kind in (m.GRANTED, m.CHANGED):
            self._on_new_set(now, kind, detail)
        elif kind == m.RENEWED:
            self.renewals += 1
            self.errors.pop("server", None)
            self._save_lease()
        elif kind == m.LOST:
            self.on_lost(detail)
            self._end_lease()
            self.on_change(now)
            self._after_loss(now)
        elif kind == m.GAVE_UP:
            if self.choice.report().gave_up(now, self.session.server):
                self._hand_over(now, "is silent")
        elif kind == m.RECOVERING:
            wait = max(0, event.mapping.send_at - now)
            self.warning("%s; asking for the same set again in %d ms" % (detail, wait))
        elif kind == m.PLAIN:
            self.warning(advice.plain(address.text(self.session.server)))
        elif kind == m.OTHER_FORM:
            self.warning(advice.other_form(address.text(self.session.server)))
        elif kind == m.RELEASED:
            self._on_released(detail)
        elif kind in (m.EVENT_REFUSED, m.UNUSABLE, m.SILENT):
            self._on_trouble(now, kind, detail)

    def _on_new_set(self, now, kind, old):
        grant = self.mapping.grant
        self.errors.pop("server", None)
        self.since = now
        self.known, self._known_at = grant.port_set, self._identity
        self._save_lease()  # first: who is killed in between is followed by who adopts it
        self.on_change(now)
        self._save_state()
        was = ", was " + portset.text(old.port_set) if kind == m.CHANGED else ""
        self.info("%s %s for %d s%s" % (kind, portset.text(grant.port_set), grant.lifetime, was))

    def _on_trouble(self, now, kind, detail):
        server = address.text(self.session.server)
        wait = max(0, (self.mapping.send_at or now) - now) // 1000
        if kind == m.EVENT_REFUSED:
            text = advice.refused(detail.result, server, wait)
        elif kind == m.UNUSABLE:
            text = advice.unusable(server, detail, wait)
        else:
            text = advice.silent(server, self.mapping.unanswered, self.session.client.dropped)
        self.refusal = detail.result if kind == m.EVENT_REFUSED else None
        self.complain("server", text)
        if kind == m.EVENT_REFUSED and self.mapping.grant is None:
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

    def _on_released(self, confirmed):
        if confirmed:
            self.info("the server confirmed that the set is given back")
            self._forget(self._identity)
        else:
            # The server may hold it still, and would refuse any other nonce: keep ours.
            self.warning(
                "the server did not confirm the release; the mapping ends by itself, and %s is "
                "kept to take it up again until then" % self._place.memory.path
            )
        self.confirmed = confirmed
        self._end_lease()
        self.since = None
        for kind in ("server", "path", "better"):
            self.errors.pop(kind, None)

    # State

    def _save_state(self):
        """Flash is written only if the content changes."""
        options, mapping = self.options, self.mapping
        known = self.known if self._known_at == self._identity else None
        state = store.State(
            mapping.nonce,
            self._identity,
            options.protocol,
            options.internal_port,
            known,
            mapping.first_internal if known else None,
        )
        try:
            self._place.memory.keep(self.name, state)
        except store.StoreError as error:
            self.complain("store", "%s; after a power cut the same set may not come back" % error)
        else:
            self.errors.pop("store", None)

    def _forget(self, server):
        try:
            self._place.memory.forget(self.name, server)
        except store.StoreError as error:
            self.complain("store", str(error))

    def _end_lease(self):
        self._source = None
        lease.remove(self._lease())

    def _save_lease(self):
        self._source = self.path.source
        try:
            server = self.session.server
            lease.save(self._lease(), self._lease_key(), self.mapping.grant, server)
        except OSError as error:
            self.warning("cannot write %s: %s" % (self._lease(), error))

    def _lease(self):
        """Path of the lease's file."""
        return self._place.lease(self.name)

    def _lease_key(self):
        options = self.options
        third_party = self.mapping.wish.third_party
        return lease.key(
            self.path.source, self._identity, options.protocol, options.internal_port, third_party
        )

    # For people

    def complain(self, kind, text):
        """Tell a person once, and keep it for status until it is over."""
        if self.errors.get(kind) != text:
            self.errors[kind] = text
            self.error(text)

    def info(self, text):
        """A line for the log: life as usual."""
        log.info(self.label + text)

    def warning(self, text):
        """A line for the log: not as it should be."""
        log.warning(self.label + text)

    def error(self, text):
        """A line for the log: a person may have to do something."""
        log.error(self.label + text)


class Place:
    """What keepers share."""

    def __init__(self, sessions, memory, directory, run_dir):
        """sessions: session.Sessions. memory: memory.Memory. directory: choice.Directory. run_dir:
        RAM."""
        self.sessions = sessions
        self.memory = memory
        self._directory = directory
        self._run_dir = run_dir

    def choice(self, options, family):
        """choice.Choice for a mapping of these options."""
        return choice.Choice(options, family, self._directory, self.sessions)

    def remembers(self, name):
        """True if a mapping of that name may be held by a server."""
        return bool(self.memory.servers(name))

    def why_nobody(self, options):
        """Why there is no server to ask (text)."""
        names = [where for _, where in options.server if isinstance(where, str)]
        return advice.no_server([(name, self._directory.why_unknown(name)) for name in names])

    def in_ram(self):
        """The same for mappings that are not to outlive a reboot."""
        kept = Memory(self._run_dir + "/state")
        return Place(self.sessions, kept, self._directory, self._run_dir)

    def lease(self, name):
        """Path of the file for the running lease of a name."""
        return self._run_dir + "/lease" + ("" if name == store.SOFTWIRE else "." + name)
