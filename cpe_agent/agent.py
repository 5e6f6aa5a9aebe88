"""The imperative shell: one loop that joins core, memory, backend and control socket.

It decides nothing about the protocol (pcp/) or the network (plan.py): it hands time, datagrams and
commands to those that do. Ending it leaves the line up.
"""

from cpe_agent import (
    advice,
    clock,
    config,
    control,
    log,
    memory,
    net,
    netlink,
    session,
    status,
    store,
)
from cpe_agent.backends.linux import Linux
from cpe_agent.backends.none import Nothing
from cpe_agent.keeper import Place
from cpe_agent.line import Line

_IDLE_WAIT = 3600000  # ms; the longest sleep of the loop
_SETTLE = 200  # ms; network changes come in bursts
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
    """A softwire, the sessions with its servers, and who may give commands."""

    def __init__(self, settings, paths):
        """settings: config.Config."""
        self.config = settings
        self.paths = paths
        self.clock = clock.Clock()
        self.errors = {}  # what is wrong with the agent itself: kind -> text
        self._poller = net.Poller()
        self.sessions = session.Sessions(self._poller, self.clock)
        self.memory = memory.Memory(paths.state)
        self._place = Place(self.sessions, self.memory, paths.run_dir)
        self._releasing = False  # nothing of ours shall stay on flash
        self.line = Line(settings.softwire, self._place, _backend(settings, paths))

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
        self.line.start(self.clock.now())

    def step(self, longest=_IDLE_WAIT):
        """Wait for what comes next, at most longest ms, and do it."""
        self._poller.wait(max(0, min(self._due(longest), longest)))
        now = self.clock.now()
        self.line.handle_timer(now)
        self.sessions.handle_timer(now)
        if self._releasing and self.line.confirmed:
            self._releasing = False
            store.File(self.paths.good_config).remove()

    def _due(self, longest):
        timers = [self.line.timer(), self.sessions.timer()]
        timers = [at for at in timers if at is not None]
        return min(timers) - self.clock.now() if timers else longest

    def _on_change(self, sock):
        devices = netlink.changed_devices(sock)
        now = self.clock.now()
        self.line.look_soon(now + _SETTLE)
        self.line.on_devices_changed(now, devices)

    def _on_table_change(self, sock):
        if netlink.rules_deleted(sock):
            self.line.on_rules_deleted(self.clock.now())

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
        line = self.line
        if not line.options.enabled:
            return {"error": "the softwire is disabled; set option enabled '1' and reload"}
        if line.released or line.mapping is None:
            line.forget_path()
            line.start(now)
            return {"in_ms": 0}
        return {"in_ms": max(0, line.mapping.renew(now) - now)}

    def release(self):
        """Give everything back."""
        self._releasing = True
        if not self.line.release(self.clock.now()):
            return {"error": self.line.errors["backend"]}
        return {}

    def release_alone(self, patience):
        """Release without having run: for the CLI. True if the server confirmed, False if it was
        silent, None if it could not be asked, or must not be: while the line is up, the set is
        ours. patience: ms."""
        now = self.clock.now()
        self._releasing = True
        if not self.line.release_unasked(now):
            return None
        end = now + patience
        while self.line.confirmed is None and self.clock.now() < end:
            self.step(patience)
        return self.line.confirmed

    def complain_about_config(self, error):
        """Say that the config file cannot be used, in log and status."""
        text = advice.bad_config(self.paths.config, error)
        if self.errors.get("config") != text:
            self.errors["config"] = text
            log.error(text)

    def _print_nft(self):
        if self.line.backend.plan is None:
            return {"error": "no port set is held, so there are no rules"}
        return {"text": self.line.backend.plan.nat}

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
        same = (old.device, self.config.agent) == (new.device, settings.agent)
        backend = self.line.backend if same else _backend(settings, self.paths)
        self.config = settings
        self.line.change(self.clock.now(), new, backend)


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
