"""The imperative shell: one loop that joins core, store, backend and control socket.

It decides nothing about the protocol (pcp/) or the network (plan.py): it carries datagrams, events
and plans between them, and keeps what a person wants to know. Ending it leaves the line up.
"""

import binascii
import os

from cpe_agent import (
    advice,
    clock,
    config,
    control,
    lease,
    log,
    net,
    netlink,
    plan,
    portset,
    softwire,
    status,
    store,
)
from cpe_agent.backends import BackendError
from cpe_agent.backends.linux import Linux
from cpe_agent.backends.none import Nothing
from cpe_agent.pcp import mapping as m
from cpe_agent.pcp import wire
from cpe_agent.pcp.client import Client

_IDLE_WAIT = 3600000  # ms; the longest sleep of the loop
_SETTLE = 200  # ms; network changes come in bursts
_PATH_RETRY = 5000  # ms; between looks for a way to the server
_BACKEND_RETRY = 5000  # ms; doubled up to a minute
_BACKEND_RETRY_MOST = 60000
_CONFIG_LARGEST = 65536  # octets; most of it comments, if it comes to that


class Paths:
    """Where files are. state: flash. run: RAM."""

    def __init__(self, config_file, state_dir, run_dir):
        self.config = config_file
        self.good_config = state_dir + "/config.good"
        self.state = state_dir + "/state"
        self.state_dir = state_dir
        self.run_dir = run_dir
        self.lease = run_dir + "/lease"
        self.socket = run_dir + "/control"


class Agent:
    """One softwire: its config, its server, its mapping, its network."""

    def __init__(self, settings, paths):
        """settings: config.Config."""
        self.config = settings
        self.paths = paths
        self.clock = clock.Clock()
        self.path = None  # netlink.Path to the server
        self.client = None
        self.mapping = None
        self.errors = {}  # what is wrong now: kind -> text
        self.since = None  # ms; when the present set was first granted
        self.timings = {}
        self.counts = {"sent": 0, "received": 0, "renewals": 0, "reconfigurations": 0}
        self.store = store.File(paths.state)
        self.released = False
        self.backend = _backend(settings, paths)
        self._poller = net.Poller()
        self._sockets = []  # those of the present path
        self._server = net.text(settings.softwire.server)
        self._look_at = None  # ms; when to look at the network again
        self._apply_at = None  # ms; when to try the backend again
        self._retry = _BACKEND_RETRY
        self._received_at = None

    # Life

    def run(self):
        """Never returns."""
        self.open()
        while True:
            self.step()

    def open(self):
        """Listen for commands and for changes of the network, and start asking."""
        server = control.Server(self.paths.socket, self._command)
        self._poller.add(server.socket, server.serve)
        self._poller.add(netlink.changes_socket(), self._on_change)
        self._poller.add(netlink.tables_socket(), self._on_table_change)
        self._begin()

    def _begin(self):
        self.released = not self.config.softwire.enabled
        if not self.released:
            self._find_path(self.clock.now())
        else:
            log.info("softwire '%s' is disabled by option enabled" % self.config.softwire.name)
            if self.backend.present():
                self._apply(self.clock.now())
            if self.mapping and self.mapping.state != m.IDLE:
                self.mapping.release(self.clock.now())

    def step(self, longest=_IDLE_WAIT):
        """Wait for what comes next, at most longest ms, and do it."""
        self._poller.wait(max(0, min(self._due(longest), longest)))
        now = self.clock.now()
        if self._look_at is not None and now >= self._look_at:
            self._look(now)
        if self._apply_at is not None and now >= self._apply_at:
            self._apply(now)
        if self.client:
            self.client.handle_timer(now)
            self._carry(now)

    def _due(self, longest):
        timers = [self._look_at, self._apply_at]
        if self.client:
            timers.append(self.client.get_timer())
        timers = [at for at in timers if at is not None]
        return min(timers) - self.clock.now() if timers else longest

    # The way to the server

    def _on_change(self, sock):
        devices = netlink.changed_devices(sock)
        now = self.clock.now()
        if self._look_at is None or self._look_at > now + _SETTLE:
            self._look_at = now + _SETTLE
        if self.backend.plan is not None and (self.backend.index in devices or None in devices):
            self._check_network(now)

    def _on_table_change(self, sock):
        if netlink.rules_deleted(sock) and self.backend.plan is not None:
            self._check_network(self.clock.now())

    def _check_network(self, now):
        """Somebody touched our softwire, or our rules (or we did): look whether all is there."""
        if self._apply_at is None:
            self._apply_at = now + _SETTLE

    def _look(self, now):
        """The network has changed: is the way to the server the same?"""
        self._look_at = None
        if not self.released:
            self._find_path(now)

    def _way(self):
        """netlink.Path to the server, with the source that the config wants. Raises OSError."""
        options = self.config.softwire
        path = netlink.path_to(options.server)
        if options.source:
            path = netlink.Path(path.device, path.index, path.mtu, options.source)
        return path

    def _find_path(self, now):
        try:
            path = self._way()
        except OSError:
            self._complain("path", advice.no_route(self._server))
            self._look_at = now + _PATH_RETRY
            return
        self.errors.pop("path", None)
        before = self.path
        if before is None or (path.source, path.index) != (before.source, before.index):
            self._restart(now, path)
        elif path != before:  # its MTU
            self.path = path
            self._apply(now)

    def _forget_path(self):
        """Start anew from the way to the server on; what is up stays up until then."""
        self._close_sockets()
        self.client = self.mapping = self.path = None

    def _restart(self, now, path):
        """RFC 7596 5.1: a new source address means a new request from it."""
        self._close_sockets()
        try:
            self._open_sockets(path)
        except OSError as error:
            # An address that is still being checked for duplicates cannot be bound yet.
            self._close_sockets()
            self._complain("path", advice.no_source(net.text(path.source), error))
            self._look_at = now + _PATH_RETRY
            return
        self.client = Client(self.config.softwire.server, path.source, os.urandom)
        self.mapping = self._make_mapping()
        self.client.add(self.mapping)
        self.path = path
        self._save_state()  # a nonce that is not on flash could lock us out after a power cut
        held = lease.load(self.paths.lease, self._lease_key(), now)
        self.mapping.start(now, held)
        if held:
            log.info("adopting the running lease: " + portset.text(held.port_set))
            self.since = held.granted
        if held or self.backend.present():
            self._apply(now)

    def _open_sockets(self, path):
        options = self.config.softwire
        sock = net.request_socket(path.source, options.server)
        self._listen(sock, self._on_datagram)
        # What follows helps, but a line is possible without it.
        try:
            if not wire.is_v4(options.server):
                self._listen(net.announce_socket(path.index), self._on_datagram)
        except OSError as error:
            log.warning(advice.deaf("announcements on UDP port 5350", error))
        try:
            if options.aftr and options.icmp_recovery:
                self._listen(net.unreachable_socket(), self._on_unreachable)
        except OSError as error:
            log.warning(advice.deaf("ICMPv6 from the lwAFTR", error))

    def _listen(self, sock, handler):
        self._sockets.append(sock)
        self._poller.add(sock, handler)

    def _close_sockets(self):
        for sock in self._sockets:
            self._poller.remove(sock)
        self._sockets = []

    def _make_mapping(self):
        """The mapping to ask for: the one we had, if a state file tells."""
        options = self.config.softwire
        wish = m.wish(
            options.protocol,
            options.internal_port,
            options.ports,
            options.lifetime,
            options.parity,
        )
        state = self._load_state()
        if state is None:
            return m.Mapping(wish, os.urandom(12))
        key = (options.server, options.protocol, options.internal_port)
        same = key == (state.server, state.protocol, state.internal_port)
        nonce = state.nonce if same else os.urandom(12)
        return m.Mapping(wish, nonce, state.port_set, state.first_internal)

    # What comes in

    def _on_datagram(self, sock):
        try:
            received = net.receive(sock)
        except OSError as error:
            if error.args[0] == net.ECONNREFUSED and self.mapping.grant is None:
                self._complain("server", advice.no_listener(self._server))
            return
        if received:
            self.counts["received"] += 1
            now = self._received_at = self.clock.now()
            self.client.receive(now, *received)
            self._carry(now)

    def _on_unreachable(self, sock):
        try:
            received = net.receive(sock)
        except OSError:
            return  # the interface went; changes of the network are noticed elsewhere
        if received is None or self.mapping.state != m.HELD:
            return
        message, sender, _ = received
        options = self.config.softwire
        if softwire.says_binding_lost(message, sender, self.path.source, options.aftr):
            self.client.binding_lost(self.clock.now())

    # What comes out

    def _carry(self, now):
        """Carry the client's datagrams to the server, and its events to the rest of us."""
        for datagram in self.client.datagrams():
            self._send(datagram)
        for event in self.client.events():
            self._on_event(now, event)

    def _send(self, datagram):
        if not self._sockets:
            return  # the source address is not ours yet; a new client starts when it is
        try:
            self._sockets[0].send(datagram)
        except OSError as error:
            self._complain("server", "cannot send to %s: %s" % (self._server, error))
            return
        self.counts["sent"] += 1
        if "first_request_ms" not in self.timings:
            self.timings["first_request_ms"] = self.clock.now() - clock.process_start()

    def _on_event(self, now, event):
        kind, _, detail = event
        if kind in (m.GRANTED, m.CHANGED):
            self._on_new_set(now, kind, detail)
        elif kind == m.RENEWED:
            self.counts["renewals"] += 1
            self.errors.pop("server", None)
            self._save_lease()
        elif kind == m.LOST:
            log.error("the port set is lost: %s; IPv4 is down until it is granted again" % detail)
            lease.remove(self.paths.lease)
            self._apply(now)
        elif kind == m.RECOVERING:
            wait = max(0, event.mapping.send_at - now)
            log.warning("%s; asking for the same set again in %d ms" % (detail, wait))
        elif kind == m.PLAIN:
            log.warning(advice.plain(self._server))
        elif kind == m.RELEASED:
            self._on_released(detail)
        else:
            self._on_trouble(now, kind, detail)

    def _on_new_set(self, now, kind, old):
        grant = self.mapping.grant
        self.errors.pop("server", None)
        self.since = now
        self._apply(now)
        if self._received_at is not None:
            self.timings["response_to_nat_ms"] = self.clock.now() - self._received_at
        self._save_state()
        self._save_lease()
        was = ", was " + portset.text(old.port_set) if kind == m.CHANGED else ""
        log.info("%s %s for %d s%s" % (kind, portset.text(grant.port_set), grant.lifetime, was))
        if grant.port_set.size == 1:
            log.warning("the server gave one port only; few connections will fit")

    def _on_trouble(self, now, kind, detail):
        wait = max(0, (self.mapping.send_at or now) - now) // 1000
        if kind == m.EVENT_REFUSED:
            text = advice.refused(detail.result, self._server, wait)
        elif kind == m.UNUSABLE:
            text = advice.unusable(self._server, detail, wait)
        else:
            text = advice.silent(self._server, self.mapping.unanswered, self.client.dropped)
        self._complain("server", text)

    def _complain(self, kind, text):
        """Tell a person once, and keep it for status until it is over."""
        if self.errors.get(kind) != text:
            self.errors[kind] = text
            log.error(text)

    # The network

    def _apply(self, now):
        """Make the network what the grant says; on failure, again later."""
        self._apply_at = None
        if self.mapping is None and not self.released:
            return  # between two paths: what is there stays until the next one is known
        grant = self.mapping.grant if self.mapping else None
        port_set = grant.port_set if grant and not self.released else None
        try:
            if self.backend.apply(plan.build(self.config.softwire, self.path, port_set)):
                self.counts["reconfigurations"] += 1
        except BackendError as error:
            self._apply_at = now + self._retry
            self._complain("backend", advice.backend_failed(error, self._retry // 1000))
            self._retry = min(2 * self._retry, _BACKEND_RETRY_MOST)
            return
        self._retry = _BACKEND_RETRY
        if self.errors.pop("backend", None):
            log.info("the network is as it should be again")

    # State

    def _load_state(self):
        text = self.store.read()
        if text is None:
            return None
        try:
            return store.decode(text)
        except store.Damaged as error:
            aside = self.store.set_aside()
            log.warning(
                "%s cannot be trusted: %s; it is kept as %s, and a new start is made"
                % (self.paths.state, error, aside)
            )
            return None

    def _save_state(self):
        """Flash is written only if the content changes."""
        options, mapping = self.config.softwire, self.mapping
        state = store.State(
            mapping.nonce,
            options.server,
            options.protocol,
            options.internal_port,
            mapping.known,
            mapping.first_internal,
        )
        try:
            self.store.write(store.encode(state))
        except store.StoreError as error:
            self._complain("store", "%s; after a power cut the same set may not come back" % error)
        else:
            self.errors.pop("store", None)

    def _save_lease(self):
        try:
            lease.save(self.paths.lease, self._lease_key(), self.mapping.grant)
        except OSError as error:
            log.warning("cannot write %s: %s" % (self.paths.lease, error))

    def _lease_key(self):
        options = self.config.softwire
        addresses = binascii.hexlify(self.path.source + options.server).decode()
        return "%s %d %d" % (addresses, options.protocol, options.internal_port)

    # Commands

    def _command(self, request):
        actions = {
            "status": self.status,
            "renew": self._renew,
            "release": self.release,
            "reload": self._reload,
            "print-nft": self._print_nft,
        }
        action = actions.get(request.get("command"))
        return action() if action else {"error": "allowed commands: " + ", ".join(sorted(actions))}

    def status(self):
        """What is known now, as a dict of plain values."""
        return status.snapshot(self, self.clock.now())

    def _renew(self):
        now = self.clock.now()
        if not self.config.softwire.enabled:
            return {"error": "the softwire is disabled; set option enabled '1' and reload"}
        if self.released or self.mapping is None:
            self._forget_path()
            self._begin()
            return {"in_ms": 0}
        return {"in_ms": max(0, self.mapping.renew(now) - now)}

    def release(self):
        """Stop using the set, then give it back, in this order: nobody else may get it while we
        still send from it."""
        now = self.clock.now()
        self.released = True
        self._apply(now)
        if "backend" in self.errors:
            self.released = False
            return {"error": self.errors["backend"]}
        if self.mapping and self.mapping.state != m.IDLE:
            self.mapping.release(now)
        else:
            # Given back before, or, with no way to the server so far, never asked about.
            self._on_released(self.timings.get("release_confirmed", False))
        return {}

    def release_alone(self, patience):
        """Release without having run: for the CLI. True if the server confirmed, False if it was
        silent, None if it could not be asked, or must not be: while the line is up, the set is
        ours. patience: ms."""
        self.released = True
        self._apply(self.clock.now())
        if "backend" in self.errors:
            return None
        try:
            path = self._way()
            self._open_sockets(path)
        except OSError:
            self._on_released(False)
            return None
        self.path = path
        self.client = Client(self.config.softwire.server, path.source, os.urandom)
        self.mapping = self._make_mapping()
        self.client.add(self.mapping)
        self.mapping.release(self.clock.now())
        end = self.clock.now() + patience
        while self.mapping.state != m.IDLE and self.clock.now() < end:
            self.step(patience)
        return self.timings.get("release_confirmed")

    def complain_about_config(self, error):
        """Say that the config file cannot be used, in log and status."""
        self._complain("config", advice.bad_config(self.paths.config, error))

    def _on_released(self, confirmed):
        if confirmed:
            log.info("the server confirmed that the set is given back")
            self.store.remove()
            store.File(self.paths.good_config).remove()
        else:
            # The server may hold it still, and would refuse any other nonce: keep ours.
            log.warning(
                "the server did not confirm the release; the mapping ends by itself, and %s is "
                "kept to take it up again until then" % self.paths.state
            )
        self.timings["release_confirmed"] = confirmed
        lease.remove(self.paths.lease)
        self.since = None
        for kind in ("server", "path"):
            self.errors.pop(kind, None)

    def _print_nft(self):
        if self.backend.plan is None:
            return {"error": "no port set is held, so there are no rules"}
        return {"text": self.backend.plan.nat}

    def _reload(self):
        """Take up a changed config file; a bad one changes nothing but status."""
        settings, error = load_config(self.paths)
        if settings is None:
            self.complain_about_config(error)
            return {"error": error}
        self.errors.pop("config", None)
        changed = settings != self.config
        if changed:
            self._switch(settings)
        return {"changed": changed}

    def _switch(self, settings):
        """Start over with other settings. What they leave out is taken down and given back."""
        old, new = self.config.softwire, settings.softwire
        now = self.clock.now()
        if (old.device, self.config.agent) != (new.device, settings.agent):
            self.released = True
            self._apply(now)
            self.backend = _backend(settings, self.paths)
        same = (old.server, old.protocol, old.internal_port) == (
            new.server,
            new.protocol,
            new.internal_port,
        )
        if self.mapping and self.mapping.grant and not same:
            self.mapping.release(now)  # said once: the new settings do not wait for an answer
            self.client.handle_timer(now)
            self._carry(now)
        self.config = settings
        self._server = net.text(new.server)
        if new.enabled:
            self._forget_path()
        self._begin()


def _backend(settings, paths):
    if settings.agent.backend == "none":
        return Nothing()
    return Linux(settings.softwire.device, paths.run_dir)


def load_config(paths):
    """(Config or None, error text or None) of the config file; a good one is kept for bad days."""
    try:
        with open(paths.config) as file:
            text = file.read()
        settings = config.parse(text)
    except OSError as error:
        return None, "cannot read %s: %s" % (paths.config, error)
    except ValueError as error:
        return None, str(error) or "the file is not text"
    good = store.File(paths.good_config, _CONFIG_LARGEST)
    good.read()
    try:
        good.write(text)
    except store.StoreError as error:
        log.warning(str(error))
    return settings, None


def last_good_config(paths):
    """Config that worked before, or None."""
    text = store.File(paths.good_config, _CONFIG_LARGEST).read()
    try:
        return config.parse(text) if text else None
    except config.ConfigError:
        return None
