"""The agent as the servant of OpenWrt's netifd: one interface, asked for and given up by ubus."""

from cpe_agent import bus, config, forwards, interface, log, portset, store
from cpe_agent.backends.openwrt import OpenWrt
from cpe_agent.pyubus import NOT_FOUND, OK


class Netifd:
    """The interface of proto lw4o6 that netifd wants up, and the agent's door to ubus."""

    def __init__(self, agent, command):
        """command(request): as control.Server's answer."""
        self.interface = None  # interface.Interface
        self._agent = agent
        self._made = None  # the interface.Interface that the agent's line was made for
        self._todo = []  # functions
        self._record = interface.Record(agent.paths.run_dir)
        door = bus.Door(
            agent.sessions.poller, agent.clock, command, self._name, agent.paths.run_dir
        )
        self._door = door

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
        self._settle()
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
        self._made = self.interface
        return OpenWrt(self._made, self._agent.paths.run_dir)

    # The loop

    def open(self):
        """Go to ubusd, now and whenever it comes back."""
        self._door.open()

    def timer(self):
        """When handle_timer is due, in ms, or None."""
        return 0 if self._todo else self._door.timer()

    def handle_timer(self, now):
        """Do what is due, and tell who listens what has changed."""
        self._settle()
        self._door.handle_timer(now)
        self._door.tell(self._place_in_use())
        self._door.tell_forwards(self._forwards_in_use())

    def _settle(self):
        """What netifd has been told will be done is done: in its order."""
        while self._todo:
            self._todo.pop(0)()

    def _place_in_use(self):
        """For bus.Door.tell()."""
        line = self._agent.line
        plan = line.backend.plan if line else None
        if plan is None:
            return None
        first, last = plan.port_sets[0].first, portset.last(plan.port_sets[0])
        ports = ",".join(["%d-%d" % (one.first, portset.last(one)) for one in plan.port_sets])
        return (self._name(), plan.device, plan.address, first, last, ports)

    def _forwards_in_use(self):
        """For bus.Door.tell_forwards()."""
        line = self._agent.line
        plan = line.backend.plan if line else None
        return tuple(forwards.in_force(plan.forwards)) if plan else ()

    # Commands. They are answered before they are carried out, since netifd does not wait longer
    # than a firewall may take to load.

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
        error = self._join(self._agent.config, wanted)[1]
        if error:
            return _no(error, "INVALID_OPTION")
        try:
            self._record.keep(name, texts)
        except store.StoreError as error:
            log.warning(str(error))
        self.interface = wanted

        def on_status(status, found):
            self._todo.append(lambda: self._take_up(wanted, is_given_up(status, found)))

        # A handler that netifd has ended may have called all the same, and come late.
        self._door.ask_status(name, on_status)
        return {}

    def _take_up(self, wanted, given_up):
        agent = self._agent
        if self.interface is not wanted:
            return  # there was another order meanwhile
        if given_up:
            log.info("netifd does not want the interface '%s' any more" % wanted.name)
            self.down({"interface": wanted.name})
        elif agent.line and self._made == wanted:
            agent.line.apply(agent.clock.now())  # netifd may have forgotten it
        else:
            if agent.line:
                agent.suspend_line()
            error = self._switch(wanted)
            if error:
                log.error(error)

    def _switch(self, wanted):
        """The agent's settings with or without a softwire. Returns why not, or None."""
        settings, error = self._join(self._agent.config, wanted)
        return error or self._agent.switch(settings)

    def down(self, request):
        """netifd takes an interface down; by option release, the set is given back."""
        if self.interface is not None and self.interface.name == request.get("interface"):
            release, self.interface = self.interface.release, None
            self._record.remove()
            self._todo.append(lambda: self._take_down(release))
        return {}

    def _take_down(self, release):
        error = self._switch(None) if release else None
        if error:
            log.warning("the port set is not given back, and ends with its lease: " + error)
        if self._agent.line:
            self._agent.suspend_line()
            self._switch(None)


def is_given_up(status, found):
    """True if netifd does not want an interface up. status, found: answer to its 'status'."""
    if status != OK:
        return status == NOT_FOUND
    return not (found.get("pending") or found.get("up"))


def _no(text, code):
    """An answer for the protocol handler, which shows code and text in 'ifstatus'."""
    log.error(text)
    return {"error": text, "code": code}
