"""Holds one mapping on a PCP server: what it is called, what came of it, and what is remembered.

Which server is asked, and from where, is the business of those that build on this: keeper.py, where
that is chosen, and sets.py, where it is the server of another mapping.
"""

import os

from cpe_agent import address, advice, choice, lease, log, portset, session, store
from cpe_agent.memory import Memory
from cpe_agent.pcp import mapping as m


class Holder:
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
        self.known = None  # PortSet held last
        self._known_at = None  # 16 octets: the server that gave it
        self._place = place
        self._identity = None  # 16 octets that name the server, whichever of its addresses is asked
        self._source = None  # 16 octets: where the lease was asked from, while there is one

    # What those that build on it may change

    def wish(self):
        """mapping.Wish of what to ask for."""
        raise NotImplementedError

    def suggestion(self):
        """PortSet to suggest to the server, or None."""
        return self.known

    def on_change(self, now):
        """The grant came, changed, or went; the path's MTU changed."""

    def on_lost(self, reason):
        """The grant went; on_change follows."""
        self.error("the mapping is lost: %s; asking for it again" % reason)

    def on_attached(self, now, held):
        """The way is known. held: the Grant that was adopted, or None."""

    @property
    def identity(self):
        """16 octets that name the server, whichever of its addresses is asked; None before."""
        return self._identity

    # Life

    def release(self, now):
        """Give the mapping back."""
        self.released = True
        if self.mapping and self.mapping.state != m.IDLE:
            self.mapping.release(now)
        else:
            # Given back before, or, with no way to the server so far, never asked about.
            self._on_released(bool(self.confirmed))

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

    def forget_path(self):
        """Start anew from the way to the server on; what is up stays up until then."""
        if self.session:
            self.session.remove(self.mapping)
        self.session = self.mapping = self.path = None

    def begin(self, now):
        """Start a mapping that is attached, from the lease that runs on if there is one. Returns
        the Grant that was adopted, or None."""
        self._save_state()  # a nonce that is not on flash could lock us out after a power cut
        held = lease.load(self._lease(), self._lease_key(), now)
        self.mapping.start(now, held)
        self._source = self.path.source if held else None
        if held:
            self.info("adopting the running lease: " + portset.text(held.port_set))
            self.since = held.granted
        self.on_attached(now, held)
        return held

    def attach(self, server, path, identity, bound=False):
        """Have a Mapping on a Session for that server (16 octets) and path. identity: 16 octets
        that name the server. bound: see session.Session. Raises OSError or session.Taken."""
        self._identity = identity
        there = self._place.sessions.open(server, path, bound)
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

    def on_event(self, now, event):
        """What happened to the mapping (pcp.mapping.Event)."""
        kind, _, detail = event
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
