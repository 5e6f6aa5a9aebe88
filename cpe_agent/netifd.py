"""The agent as the servant of OpenWrt's netifd: one interface, asked for and given up by ubus."""

from cpe_agent import bus, config, interface, log, portset, store
from cpe_agent.backends.openwrt import OpenWrt


class Netifd:
    """The interface of proto lw4o6 that netifd wants up, and the agent's door to ubus."""

    def __init__(self, agent, command):
        """command(request): as control.Server's answer."""
        self.interface = None  # interface.Interface
        self._agent = agent
        self._record = interface.Record(agent.paths.run_dir)
        self._door = bus.Door(agent.sessions.poller, agent.clock, command, self._name)

    def _name(self):
        return self.interface.name if self.interface else None

    def recall(self, settings):
        """The config, with the softwire that netifd asked for before the agent was started."""
        self.interface = self._record.recall()
        joined, error = self.join(settings)
        if error:
            log.error(error)
            self.interface = None
        return joined or settings

    def join(self, settings):
        """(Config with the softwire that netifd asks for, None), or (None, why not)."""
        if settings.agent.backend != "openwrt":
            return None, "another option backend takes effect after a restart of the agent"
        return self._join(settings, self.interface)

    def _join(self, settings, wanted):
        try:
            settings = interface.join(settings, wanted)
        except config.ConfigError as error:
            return None, str(error)
        error = self._agent.why_not_beside_orders(settings)
        return (None, error) if error else (settings, None)

    def backend(self):
        """What makes plans so."""
        return OpenWrt(self.interface, self._agent.paths.run_dir)

    # The loop

    def open(self):
        """Go to ubusd, now and whenever it comes back."""
        self._door.open()

    def timer(self):
        """When handle_timer is due, in ms, or None."""
        return self._door.timer()

    def handle_timer(self, now):
        """Do what is due, and tell who listens what has changed."""
        self._door.handle_timer(now)
        self._door.tell(self._place_in_use())

    def _place_in_use(self):
        """For bus.Door.tell()."""
        line = self._agent.line
        plan = line.backend.plan if line else None
        if plan is None:
            return None
        ports = plan.port_set.first, portset.last(plan.port_set)
        return (self._name(), plan.device, plan.address) + ports

    # Commands

    def up(self, request):
        """netifd's protocol handler wants an interface up; what it asks for is kept, so that an
        agent that is started again goes on with it."""
        name, texts = request.get("interface", ""), request.get("options", {})
        try:
            wanted = interface.read(name, texts)
        except config.ConfigError as error:
            return _no(str(error), "INVALID_OPTION")
        if self.interface is not None and self.interface.name != name:
            text = "interface '%s' is up; one softwire is possible" % self.interface.name
            return _no(text, "ONE_SOFTWIRE")
        settings, error = self._join(self._agent.config, wanted)
        if error:
            return _no(error, "INVALID_OPTION")
        try:
            self._record.keep(name, texts)
        except store.StoreError as error:
            log.warning(str(error))
        return self._take_up(settings, wanted)

    def _take_up(self, settings, wanted):
        agent = self._agent
        before, self.interface = self.interface, wanted
        if agent.line and before == wanted:
            agent.line.apply(agent.clock.now())  # netifd may have forgotten it
            return {}
        if agent.line:
            agent.suspend_line()
        error = agent.switch(settings)
        return _no(error, "SETUP_FAILED") if error else {}

    def down(self, request):
        """netifd takes an interface down; by option release, the set is given back."""
        if self.interface is None or self.interface.name != request.get("interface"):
            return {}
        self._record.remove()
        wanted, self.interface = self.interface, None
        if not wanted.release:
            self._agent.suspend_line()
        settings, _ = self._join(self._agent.config, None)
        error = self._agent.switch(settings)
        return _no(error, "SETUP_FAILED") if error else {}


def _no(text, code):
    """An answer for the protocol handler, which shows code and text in 'ifstatus'."""
    log.error(text)
    return {"error": text, "code": code}
