"""The agent's door to ubus: the object 'cpe-agent', its events, and hotplug scripts."""

from cpe_agent import hotplug, log, pyubus

NAME = "cpe-agent"
PROTOCOL = "lw4o6"  # of netifd's interfaces that are ours
SET_UP_AGAIN = 7  # an action of notify_proto: netifd calls its handler again

_MAP = (
    ("protocol", pyubus.STRING),
    ("internal_port", pyubus.STRING),
    ("ports", pyubus.STRING),
    ("external_port", pyubus.STRING),
    ("external_address", pyubus.STRING),
    ("internal_address", pyubus.STRING),
    ("family", pyubus.STRING),
    ("server", pyubus.ARRAY),
    ("lifetime", pyubus.STRING),
    ("filter", pyubus.ARRAY),
)
# Method, command of the agent, arguments.
_METHODS = (
    ("status", "status", ()),
    ("usage", "usage", ()),
    ("history", "history", ()),
    ("renew", "renew", ()),
    ("release", "release", ()),
    ("request", "request", _MAP),
    ("remove", "unmap", (("name", pyubus.STRING),)),
    ("reload", "reload", ()),
    ("up", "up", (("interface", pyubus.STRING), ("options", pyubus.TABLE))),
    ("down", "down", (("interface", pyubus.STRING),)),
)


class Door:
    """Answers calls by the agent's commands, and tells of changes."""

    def __init__(self, poller, clock, command, interface, run_dir):
        """command(request): as control.Server's answer. interface(): name of the one that netifd
        asks for, or None. run_dir: RAM."""
        self._connection = pyubus.Connection(
            poller, clock.now, trouble=log.warning, on_up=self._look_for_ours
        )
        self._command = command
        self._interface = interface
        self._scripts = hotplug.Scripts(run_dir)
        methods = [
            pyubus.Method(name, self._answer(what), arguments) for name, what, arguments in _METHODS
        ]
        self._object = self._connection.bus.add_object(NAME, methods)
        self._told = None  # what tell() told last
        self._forwards = ()  # what tell_forwards() told last

    def open(self):
        """Go to ubusd, now and whenever it comes back."""
        self._connection.open()

    def timer(self):
        """When handle_timer is due, in ms, or None."""
        return self._connection.timer()

    def handle_timer(self, now):
        """See pyubus.Connection."""
        self._connection.handle_timer(now)

    def _look_for_ours(self):
        """Interfaces that were set up while nobody was here to hear of it, and those that are up
        although what a forerunner noted of them is lost: nobody would end them with their lease."""
        self._connection.bus.call("network.interface", "dump", {}, self._on_dump)

    def _on_dump(self, _, data):
        for found in (data or {}).get("interface", []):
            ours = found.get("proto") == PROTOCOL and (found.get("pending") or found.get("up"))
            if ours and found.get("interface") != self._interface():
                again = {"interface": found.get("interface"), "action": SET_UP_AGAIN}
                self._connection.bus.call("network.interface", "notify_proto", again, _ignore)

    def ask_status(self, name, on_done):
        """What netifd knows of an interface: on_done(status, dict or None)."""
        self._connection.bus.call("network.interface." + name, "status", {}, on_done)

    def _answer(self, command):
        def answer(request):
            words = dict(request.arguments)
            words["command"] = command
            return self._command(words)

        return answer

    def tell(self, place):
        """Tell who listens if what they know is over. place: (interface, device, address, first
        port, last port, ports of all sets as text), or None while no set is in use."""
        if place == self._told:
            return
        kind = "up" if self._told is None else "changed" if place else "down"
        names = ("interface", "device", "address", "first_port", "last_port", "ports")
        values = dict(zip(names, place or self._told))
        self._told = place
        self._send(kind, values)

    def tell_forwards(self, placed):
        """As tell(), of each port forward by itself. placed: tuple of forwards.Placed that have a
        port."""
        before, self._forwards = self._forwards, placed
        if before == placed:
            return
        names = [one.name for one in placed]
        known = {one.name: one for one in before}
        for one in before:
            if one.name not in names:
                self._send("forward_down", _forward(one))
        for one in placed:
            if known.get(one.name) != one:
                kind = "forward_changed" if one.name in known else "forward_up"
                self._send(kind, _forward(one))

    def _send(self, kind, values):
        event = dict(values, event=kind)
        bus = self._connection.bus
        bus.send_event(NAME, event)
        bus.notify(self._object, kind, event)
        self._scripts.run(kind, values)


def _forward(one):
    """A forwards.Placed as values of an event: words without spaces, for scripts."""
    return {
        "name": one.name,
        "proto": ",".join(one.proto),
        "address": one.address,
        "external_port": one.port,
        "dest_ip": one.dest_ip,
        "dest_port": one.dest_port,
    }


def _ignore(_status, _data):
    """For calls that are tried again by whoever needs it."""
