"""The softwire: a mapping whose port set is what the router's NAT lives on."""

from cpe_agent import advice, config, forwards, lease, log, net, plan, softwire, store
from cpe_agent.backends import BackendError
from cpe_agent.keeper import Keeper
from cpe_agent.pcp import mapping as m
from cpe_agent.pcp import wire
from cpe_agent.sets import Sets

_SETTLE = 200  # ms; network changes come in bursts
_RETRY = 5000  # ms between tries of the backend; doubled up to a minute
_RETRY_MOST = 60000
_CODES = {"server": "PCP_SILENT", "path": "NO_WAY_TO_SERVER", "store": "STATE_NOT_SAVED"}


class Line(Keeper):
    """Keeps the port set, and the network as the set says."""

    def __init__(self, options, place, backend, usage=None, wanted_forwards=()):
        """options: config.Softwire. backend: as those in cpe_agent.backends. usage: usage.Usage, or
        None where nothing can be counted. wanted_forwards: tuple of config.Forward."""
        super().__init__(store.SOFTWIRE, options, place)
        self.usage = usage
        self.forwards = wanted_forwards
        self._placed = ()  # forwards.Placed that the log has told of
        self._warned = []  # what the backend has warned of, as the log has told
        self._changed = False  # so that there may be more of it
        self.sets = Sets(self, place, usage)
        self.sets.recall()
        self.backend = backend
        self.reconfigurations = 0
        self.response_to_nat = None  # ms
        self._sessions = place.sessions
        self._listener = None  # raw socket for ICMPv6
        self._apply_at = None  # ms; when to try the backend again
        self._retry = _RETRY

    def wish(self):
        """As the options say, but for internal ports of additional sets."""
        return config.softwire_wish(self.sets.wish(self._place.memory.newest_set(self.name)))

    # Life

    def start(self, now):
        """Want the line from now on, if the config says so."""
        if self.options.enabled:
            super().start(now)
            return
        self.released = True
        log.info("softwire '%s' is disabled by option enabled" % self.options.name)
        if self.backend.present():
            self.apply(now)
        # While the line is up the set is in use: then the lease ends by itself.
        if self.mapping and self.mapping.state != m.IDLE and "backend" not in self.errors:
            self.sets.dismiss(now)
            self.mapping.release(now)

    def timer(self):
        """When handle_timer is due, in ms, or None."""
        timers = super().timer(), self._apply_at, self.sets.timer(), 0 if self._changed else None
        return min([at for at in timers if at is not None], default=None)

    def handle_timer(self, now):
        """Look again for the way; try again what failed."""
        super().handle_timer(now)
        if self._apply_at is not None and now >= self._apply_at:
            self.apply(now)
        self.sets.handle_timer(now)
        if self._changed:
            self._changed = False
            self._tell_warnings()

    def release(self, now):
        """Stop using the set, then give it back, in this order: nobody else may get it while we
        still send from it. False if the line could not be taken down."""
        if not self._take_down(now):
            return False
        self.sets.dismiss(now)
        super().release(now)
        return True

    def release_unasked(self, now):
        """See Keeper; and additional sets."""
        told = super().release_unasked(now)
        if told:
            self.sets.release_unasked(now)
        return told

    def stop_using(self, now):
        """See Keeper: take down a line that a forerunner left."""
        return self._take_down(now)

    def change(self, now, options, backend):
        """Go over to other options, and to another backend if it is one."""
        old = self.options
        if backend is not self.backend:
            self._take_down(now)
            self.backend = backend
        same = (old.server, old.protocol, old.internal_port) == (
            options.server,
            options.protocol,
            options.internal_port,
        )
        if self.mapping and self.mapping.grant and not same and self._take_down(now):
            self.sets.dismiss(now)
            self.let_go(now)
        self.options = options
        self.choose_anew()
        if options.enabled:
            self.forget_path()
        self.start(now)
        self.sets.change(now)

    def change_forwards(self, now, wanted):
        """Go over to other forwards. wanted: tuple of config.Forward."""
        self.forwards = wanted
        self.apply(now)

    def dismiss(self, now):
        """See Keeper. False if the line could not be taken down: then it is kept."""
        if not self._take_down(now):
            return False
        self.sets.dismiss(now)
        return super().dismiss(now)

    def suspend(self, now):
        """Not wanted for now: the line goes down, but the lease runs on, to be taken up again."""
        self._take_down(now)
        self.forget_path()

    def complain(self, kind, text):
        """See Keeper; and whoever set up the interface shows a word for it."""
        super().complain(kind, text)
        try:
            self.backend.complain(self.code(kind), text)
        except BackendError as error:
            log.warning(str(error))

    def code(self, kind):
        """A word for what is wrong, as netifd's protocols have them."""
        if kind == "server" and self.refusal is not None:
            return "PCP_" + wire.result_name(self.refusal)
        return _CODES.get(kind, "SETUP_FAILED")

    def _take_down(self, now):
        """Stop using the set. False if that failed."""
        self.released = True
        self.apply(now)
        self.released = "backend" not in self.errors
        return self.released

    def forget_path(self):
        """Start anew from the way to the server on; what is up stays up until then."""
        self.sets.forget_path()
        super().forget_path()
        self._stop_listening()

    def on_attached(self, now, held):
        """The network as the adopted lease says, or down if there is none but a line."""
        self._listen()
        self.sets.attach(now)
        if held or self.backend.present():
            self.apply(now)

    def _on_no_way(self, now):
        """Without a way nothing is renewed: a line that is up without a mapping of ours ends with
        its lease."""
        super()._on_no_way(now)
        if self.mapping is not None or not self.backend.present():
            return
        end = lease.end(self._lease())
        if end is not None and end > now:
            self.look_soon(end)
        else:
            self._apply_set(now, None)

    # ICMPv6 from the lwAFTR

    def _listen(self):
        options = self.options
        if not options.aftr or not options.icmp_recovery:
            return
        try:  # this helps, but a line is possible without it
            self._listener = net.unreachable_socket()
        except OSError as error:
            log.warning(advice.deaf("ICMPv6 from the lwAFTR", error))
            return
        self._sessions.poller.add(self._listener, self._on_unreachable)

    def _stop_listening(self):
        if self._listener:
            self._sessions.poller.remove(self._listener)
            self._listener = None

    def _on_unreachable(self, sock):
        try:
            received = net.receive(sock)
        except OSError:
            return  # the interface went; changes of the network are noticed elsewhere
        if received is None or self.mapping is None or self.mapping.state != m.HELD:
            return
        message, sender, _ = received
        if softwire.says_binding_lost(message, sender, self.path.source, self.options.aftr):
            now = self._sessions.clock.now()
            self.session.client.binding_lost(now)

    # Others at the same server

    def on_taken(self, now, error):
        """The softwire comes first: without it there is no IPv4 to map anything of."""
        for owner in error.owners:
            owner.put_off(now, error, self.look_soon)

    # The network

    def on_move(self, now):
        """Nobody else may get the sets while we still send from them."""
        self._apply_set(now, None)
        if "backend" in self.errors:
            return False
        self.sets.dismiss(now)
        return True

    def on_lost(self, reason):
        """IPv4 is down."""
        log.error("the port set is lost: %s; IPv4 is down until it is granted again" % reason)

    def on_change(self, now):
        """The network as the grant says."""
        self.sets.check(now)
        self.apply(now)
        if self.since == now and self._sessions.received_at is not None:
            self.response_to_nat = self._sessions.clock.now() - self._sessions.received_at

    def _on_new_set(self, now, kind, old):
        super()._on_new_set(now, kind, old)
        grant = self.mapping.grant
        if grant.first_internal != grant.port_set.first:  # the lwAFTR translates no ports
            log.warning(
                "the ports are used as they are outside, not from %d on" % grant.first_internal
            )
        if grant.port_set.size == 1:
            log.warning("the server gave one port only; few connections will fit")

    def on_devices_changed(self, now, devices):
        """Links, addresses or routes of these interface indexes changed; None stands for any."""
        if self.backend.plan is not None and (self.backend.index in devices or None in devices):
            self._check_network(now)

    def on_rules_deleted(self, now):
        """Somebody deleted rules of nftables."""
        if self.backend.plan is not None:
            self._check_network(now)

    def _check_network(self, now):
        """Somebody touched our softwire, or our rules (or we did): look whether all is there."""
        if self._apply_at is None:
            self._apply_at = now + _SETTLE

    def apply(self, now):
        """Make the network what the grant says; on failure, again later."""
        self._apply_at = None
        if self.mapping is None and not self.released:
            return  # between two paths: what is there stays until the next one is known
        grant = self.mapping.grant if self.mapping else None
        self._apply_set(now, grant.port_set if grant and not self.released else None)

    def _apply_set(self, now, port_set):
        try:
            wanted = self._plan(port_set)
            if self.backend.apply(wanted):
                self.reconfigurations += 1
            self._tell_forwards(wanted.forwards if wanted else ())
            self._changed = wanted is not None
        except BackendError as error:
            self._apply_at = now + self._retry
            self.complain("backend", advice.backend_failed(error, self._retry // 1000))
            self._retry = min(2 * self._retry, _RETRY_MOST)
            return
        self._retry = _RETRY
        if self.errors.pop("backend", None):
            log.info("the network is as it should be again")

    def _plan(self, port_set):
        if port_set is None:
            return None
        others, closed = self.sets.port_sets()
        port_sets = (port_set,) + others + closed
        taken = self.backend.taken(port_sets)
        placed = forwards.place(
            self.forwards,
            port_sets,
            self.options.inner_address,
            self.options.protocol,
            taken,
        )
        return plan.build(
            self.options,
            self.path,
            port_set,
            others,
            closed,
            placed,
            forwards.reserved(placed, taken),
            self.backend.protocols(),
        )

    def _tell_forwards(self, placed):
        """What is new goes to the log."""
        for one in placed:
            if one not in self._placed:
                (self.warning if one.problem else self.info)(forwards.text(one))
        self._placed = placed

    def _tell_warnings(self):
        """The same. Not while the set is put in place: looking costs time."""
        try:
            found = self.backend.warnings()
        except BackendError as error:
            found = [str(error)]
        for text in found:
            if text not in self._warned:
                self.warning(text)
        self._warned = found
