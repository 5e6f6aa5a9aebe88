"""The imperative shell: one loop that joins core, memory, backend and control socket.

It decides nothing about the protocol (pcp/) or the network (plan.py): it hands time, datagrams and
commands to those that do. Ending it leaves the line up.
"""

from cpe_agent import (
    advice,
    choice,
    clock,
    config,
    control,
    history,
    log,
    memory,
    net,
    netlink,
    orders,
    session,
    sets,
    status,
    store,
)
from cpe_agent.backends.linux import Linux
from cpe_agent.backends.none import Nothing
from cpe_agent.holder import Place
from cpe_agent.line import Line
from cpe_agent.ports import Ports
from cpe_agent.usage import Usage

_IDLE_WAIT = 3600000  # ms; the longest sleep of the loop
_SETTLE = 200  # ms; network changes come in bursts
_NAMES_PATIENCE = 10000  # ms; a release waits that long for host names of servers
_CONFIG_LARGEST = 65536  # octets; most of it comments, if it comes to that


class Paths:
    """Where files are. state: flash. run: RAM."""

    def __init__(self, config_file, state_dir, run_dir):
        self.config = config_file
        self.good_config = state_dir + "/config.good"
        self.state = state_dir + "/state"
        self.state_dir = state_dir
        self.run_dir = run_dir
        self.socket = run_dir + "/control"


class Agent:
    """A softwire, mappings beside it, the sessions with their servers, and who gives commands."""

    def __init__(self, settings, paths):
        """settings: config.Config."""
        self.config = settings  # with the softwire that netifd asks for, if it does
        self.paths = paths
        self.clock = clock.Clock()
        self.errors = {}  # what is wrong with the agent itself: kind -> text
        self.sessions = session.Sessions(net.Poller(), self.clock)
        self.memory = memory.Memory(paths.state)
        self.line = None  # the softwire, if there is one
        self.ports = []  # of the config's mappings, and of commands'
        self._directory = choice.Directory(self.sessions, paths.run_dir, self._on_servers)
        self._place = Place(self.sessions, self.memory, self._directory, paths.run_dir)
        self._orders = orders.Orders(self._place, paths.run_dir)
        self._watching = False  # for somebody who deletes our rules
        self._past = history.History()  # outlives a softwire that goes and comes
        self._releasing = False  # nothing of ours shall stay on flash
        self._netifd = None  # who decides about the softwire, on OpenWrt
        if settings.agent.backend == "openwrt":
            from cpe_agent.netifd import Netifd  # elsewhere it would take memory only

            self._netifd = Netifd(self, self._command)
            self.config = settings = self._netifd.recall(settings)
        if settings.softwire:
            self.line = self._make_line(settings)
        self.ports = [Ports(one, self._place) for one in settings.mappings]
        self.ports += self._orders.load(settings.mappings, settings.softwire)
        self._name_the_living()

    def keepers(self):
        """The softwire's and all mappings'."""
        return ([self.line] if self.line else []) + self.ports

    def _wanted(self):
        return [keeper for keeper in self.keepers() if keeper.options.enabled]

    def _name_the_living(self):
        self.memory.live = [keeper.name for keeper in self.keepers()]
        if self.line:
            self.memory.live += [sets.name_of(one) for one in range(1, self.line.options.sets)]
        self._directory.keep_only([keeper.options for keeper in self.keepers()])

    # Life

    def run(self):
        """Never returns; to be called after open()."""
        while True:
            self.step()

    def open(self):
        """Listen for commands and for changes of the network, and start asking. Raises
        control.NoSocket."""
        server = control.Server(self.paths.socket, self._command)
        poller = self.sessions.poller
        poller.add(server.socket, server.serve)
        poller.add(netlink.changes_socket(), self._on_change)
        if self.line:
            self._watch_tables()
        for keeper in self.keepers():
            keeper.start(self.clock.now())
        if self._netifd:
            self._netifd.open()

    def _watch_tables(self):
        if not self._watching:
            self._watching = True
            self.sessions.poller.add(netlink.tables_socket(), self._on_table_change)

    def step(self, longest=_IDLE_WAIT):
        """Wait for what comes next, at most longest ms, and do it."""
        self.sessions.poller.wait(max(0, min(self._due(longest), longest)))
        now = self.clock.now()
        self._directory.handle_timer(now)
        for keeper in self.keepers():
            keeper.handle_timer(now)
        self.sessions.handle_timer(now)
        if self._netifd:
            self._netifd.handle_timer(now)
        if self._releasing and all(keeper.confirmed for keeper in self._wanted()):
            self._releasing = False
            store.File(self.paths.good_config).remove()

    def _due(self, longest):
        timers = [self._directory.timer(), self.sessions.timer()]
        timers += [keeper.timer() for keeper in self.keepers()]
        timers += [self._netifd.timer()] if self._netifd else []
        timers = [at for at in timers if at is not None]
        return min(timers) - self.clock.now() if timers else longest

    def _on_change(self, sock):
        devices = netlink.changed_devices(sock)
        now = self.clock.now()
        self._directory.restart()
        for keeper in self.keepers():
            keeper.on_network_change(now, now + _SETTLE)
        if self.line:
            self.line.on_devices_changed(now, devices)

    def _on_servers(self):
        """Host names of servers have other addresses, or DHCP has told something."""
        now = self.clock.now()
        for keeper in self.keepers():
            keeper.on_network_change(now, now)

    def _on_table_change(self, sock):
        if netlink.rules_deleted(sock) and self.line:
            self.line.on_rules_deleted(self.clock.now())

    # Commands

    def _command(self, request):
        actions = {
            "status": lambda _: self.status(),
            "renew": lambda _: self._renew(),
            "release": lambda _: self.release(),
            "reload": lambda _: self._reload(),
            "print-nft": lambda _: self._print_nft(),
            "map": self._map,
            "unmap": self._unmap,
            "learned": lambda _: self._learned(),
            "more": lambda _: self._more(),
            "usage": lambda _: self._count(),
            "history": lambda _: self._past.read(self.clock.now()),
            "request": lambda request: self._map(request) if len(request) > 1 else self._more(),
        }
        if self._netifd:
            actions["up"], actions["down"] = self._netifd.up, self._netifd.down
        action = actions.get(request["command"])
        if action is None:
            return {"error": "allowed commands: " + ", ".join(sorted(actions))}
        return action(request)

    def status(self):
        """What is known now, as a dict of plain values."""
        return status.snapshot(self, self.clock.now())

    def _renew(self):
        if self.line and not self.line.options.enabled:
            return {"error": "the softwire is disabled; set option enabled '1' and reload"}
        waits = [keeper.renew(self.clock.now()) for keeper in self._wanted()]
        return {"in_ms": waits[0]} if waits else {"error": "there is nothing to ask for"}

    def release(self):
        """Give everything back."""
        now = self.clock.now()
        if self.line and not self.line.release(now):
            return {"error": self.line.errors["backend"]}
        self._releasing = True
        for keeper in self._wanted():
            if keeper is not self.line:
                keeper.release(now)
        return {}

    def release_alone(self, patience):
        """Release without having run: for the CLI. True if the servers confirmed, False if one was
        silent, None if one could not be asked, or must not be: while the line is up, the set is
        ours. patience: ms."""
        end = self.clock.now() + patience
        leaving = [keeper for keeper in self.ports if self._place.remembers(keeper.name)]
        leaving = ([self.line] if self.line else []) + leaving
        if not all(keeper.stop_using(self.clock.now()) for keeper in leaving):
            return None
        self._await_names(leaving, self.clock.now() + _NAMES_PATIENCE)
        self._releasing = True
        told = [one for one in leaving if one.release_unasked(self.clock.now())]
        unheard = told != leaving
        if self.line in told:
            told += self.line.sets.holders()
        while [one for one in told if one.confirmed is None] and self.clock.now() < end:
            self.step(end - self.clock.now())
        return None if unheard else all(one.confirmed for one in told)

    def _await_names(self, keepers, end):
        """Step until all are resolved that can be, or until end (ms)."""
        while [one for one in keepers if one.awaits_name(self.clock.now())]:
            left = end - self.clock.now()
            if left <= 0:
                return
            self.step(left)

    def _count(self):
        """How full the port sets are."""
        usage = self.line.usage if self.line else None
        if usage is None or self.line.backend.plan is None:
            return {"error": "no port set is in use"}
        error = usage.now(self.line.sets.all_sets())
        return {"error": error} if error else status.usage(usage)

    def _more(self):
        """One more port set for the softwire."""
        if self.line is None:
            return {"error": "there is no softwire that is wanted"}
        error = self.line.sets.ask(self.clock.now())
        return {"error": error} if error else {}

    def _map(self, request):
        try:
            keeper = self._orders.add(request, self.config.mappings, self.config.softwire)
        except (ValueError, OSError) as error:
            return {"error": str(error)}
        self.ports.append(keeper)
        self._name_the_living()
        keeper.start(self.clock.now())
        return {"name": keeper.options.name}

    def _unmap(self, request):
        name = request.get("name")
        if name in [one.name for one in self.config.mappings]:
            return {"error": "mapping '%s' is in the config file; delete it there" % name}
        for keeper in self.ports:
            if keeper.options.name == name:
                self.ports.remove(keeper)
                self._orders.remove(name)
                keeper.dismiss(self.clock.now())
                self._name_the_living()
                return {}
        return {"error": "there is no mapping '%s'" % name}

    def _learned(self):
        self._on_servers()
        return {}

    def complain_about_config(self, error):
        """Say that the config file cannot be used, in log and status."""
        text = advice.bad_config(self.paths.config, error)
        if self.errors.get("config") != text:
            self.errors["config"] = text
            log.error(text)

    def _print_nft(self):
        if self.line is None or self.line.backend.plan is None:
            return {"error": "no port set is held, so there are no rules"}
        return {"text": self.line.backend.rules()}

    def _reload(self):
        """Take up a changed config file; a bad one changes nothing but status."""
        settings, error = load_config(self.paths)
        if settings is not None:
            settings, error = self._complete(settings)
        if error:
            self.complain_about_config(error)
            return {"error": error}
        self.errors.pop("config", None)
        changed = settings != self.config
        if changed:
            error = self.switch(settings)
        elif self.line:
            self.line.apply(self.clock.now())  # the config of somebody else may have changed
        return {"error": error} if error else {"changed": changed}

    def switch(self, settings):
        """Go over to other settings; what is the same in them is left alone. Returns why not, or
        None."""
        now = self.clock.now()
        if self.line and not settings.softwire:
            if not self.line.dismiss(now):
                return self.line.errors["backend"]
            self.line = None
        elif self.line is None and settings.softwire:
            self.line = self._make_line(settings)
            self._watch_tables()
            self.line.start(now)
        elif self.line and self._differs(settings):
            old, new = self.config.softwire, settings.softwire
            same = (old.device, self.config.agent) == (new.device, settings.agent)
            backend = self.line.backend if same else self._backend(settings)
            self.line.change(now, new, backend)
        if self.line and self.line.forwards != settings.forwards:
            self.line.change_forwards(now, settings.forwards)
        self._switch_ports(now, settings.mappings)
        self.config = settings
        self._name_the_living()
        return None

    def _differs(self, settings):
        now = self.config
        return (now.softwire, now.agent) != (settings.softwire, settings.agent)

    def _switch_ports(self, now, mappings):
        """Changing one section touches that mapping alone."""
        wanted = {one.name: one for one in mappings}
        configured = [one.name for one in self.config.mappings]
        for keeper in list(self.ports):
            name = keeper.options.name
            if name in configured and name not in wanted:
                self.ports.remove(keeper)
                keeper.dismiss(now)
            elif name in configured and wanted[name] != keeper.options:
                keeper.change(now, wanted[name])
        for one in mappings:
            if one.name not in configured:
                self.ports.append(Ports(one, self._place))
                self.ports[-1].start(now)

    def _complete(self, settings):
        """(Config with what does not come from its file, None), or (None, why it cannot be)."""
        if self._netifd:
            return self._netifd.join(settings)
        if settings.agent.backend == "openwrt":
            return None, "option backend 'openwrt' takes effect after a restart of the agent"
        error = self.why_not_beside_orders(settings)
        return (None, error) if error else (settings, None)

    def why_not_beside_orders(self, settings):
        """Why these settings cannot be beside the mappings of commands, or None."""
        return self._orders.why_not_beside(settings.mappings, settings.softwire)

    def suspend_line(self):
        """The softwire goes down, its lease runs on."""
        self.line.suspend(self.clock.now())
        self.line = None

    def _make_line(self, settings):
        usage = Usage(self.clock, self._past) if settings.agent.backend != "none" else None
        backend = self._backend(settings)
        return Line(settings.softwire, self._place, backend, usage, settings.forwards)

    def _backend(self, settings):
        if settings.agent.backend == "none":
            return Nothing()
        if self._netifd:
            return self._netifd.backend()
        return Linux(settings.softwire.device, self.paths.run_dir)


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
