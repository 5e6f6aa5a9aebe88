"""The whole lab lwAFTR without its sockets: server, faults, data plane, log, and commands.

Sans-IO like its parts: the shell and simulations feed it, tests look into it.
"""

import dataclasses
import random
from collections import deque

from cpe_agent.pcp import wire

from .bindings import BindingTable, protocol_name
from .config import ConfigError, Faults, packed, printable
from .faults import FaultyServer
from .server import PcpServer
from .softwire import Softwire


class CommandError(ValueError):
    """A control command that cannot be carried out; the text says why."""


class MessageLog:
    """The last PCP datagrams in and out, for reports. limit: how many are kept."""

    def __init__(self, limit):
        self._entries = deque(maxlen=limit)
        self._next = 0

    def note(self, now_ms, direction, data, address, port):
        """Note one datagram; direction is 'in' or 'out', address 16 octets.

        What goes beyond the longest PCP message is cut off.
        """
        octets = data[: wire.MAX_LENGTH + 4].hex()
        self._entries.append((self._next, now_ms, direction, printable(address), port, octets))
        self._next += 1

    def since(self, number):
        """Entries from a number on, as dicts; numbers count from 0 and never repeat."""
        names = ("number", "t_ms", "direction", "address", "port", "hex")
        return [dict(zip(names, entry)) for entry in self._entries if entry[0] >= number]


class Lab:
    """One lwAFTR.

    config: config.Config. random_bytes: called with a count. now_ms: the start, in
    milliseconds of the clock that all later calls use. seed 0 takes the faults' randomness
    from random_bytes. multicast: whether there is a link to multicast announcements on.
    """

    def __init__(self, config, random_bytes, now_ms=0, multicast=True):
        self.config = config
        self.start_ms = now_ms
        self._multicast = multicast
        self.bindings = BindingTable()
        self.server = PcpServer(config, self.bindings, random_bytes, now_ms=now_ms)
        seed = config.faults.seed or int.from_bytes(random_bytes(8), "big")
        self._rng = random.Random(seed)
        self.path = FaultyServer(self.server, self._rng)
        address = packed(config.server.address)
        pool = config.pool.addresses + [_integer(entry.address) for entry in config.static]
        self.plane = Softwire(config.data_plane, self.bindings, address, pool)
        self.log = MessageLog(config.server.message_log)
        # Sending that the system refused; the shell counts here.
        self.send_errors = 0

    def start(self, now_ms):
        """Announce the start, if the configuration says so; handle_timer() hands it out."""
        if self.config.pcp.announce_at_start:
            self.path.send(now_ms, self.server.announce(now_ms, multicast=self._multicast))

    def receive(self, now_ms, data, source, port):
        """A datagram to the PCP server; faults.Send tuples to send."""
        self.log.note(now_ms, "in", data, source, port)
        return self._note(now_ms, self.path.receive(now_ms, data, source, port))

    def handle_timer(self, now_ms):
        """What is due; faults.Send tuples to send."""
        return self._note(now_ms, self.path.handle_timer(now_ms))

    def get_timer(self):
        """When handle_timer() has something to do (milliseconds), or None."""
        return self.path.get_timer()

    def _note(self, now_ms, sends):
        for send in sends:
            self.log.note(now_ms, "out", send.data, send.address, send.port)
        return sends

    # Commands

    def command(self, now_ms, request):
        """Carry out {"command": name, "args": {...}}; {"ok": true, ...} or {"ok": false, "error"}.

        What a command makes the server send is handed out by the next handle_timer().
        """
        try:
            if not isinstance(request, dict):
                raise CommandError('allowed: {"command": NAME, "args": {...}}')
            name, args = request.get("command"), request.get("args") or {}
            command = _COMMANDS.get(name) if isinstance(name, str) else None
            if command is None:
                raise CommandError("command: allowed: " + ", ".join(sorted(_COMMANDS)))
            run, keys = command
            _check_args(name, args, keys)
            return {"ok": True, **run(self, now_ms, args)}
        except (CommandError, ConfigError, LookupError) as error:
            return {"ok": False, "error": str(error.args[0])}

    def _status(self, now_ms, _):
        config = dataclasses.asdict(self.config)
        config["pool"]["addresses"] = len(self.config.pool.addresses)
        return {
            "now_ms": now_ms,
            "uptime_ms": now_ms - self.start_ms,
            "epoch": self.server.epoch(now_ms),
            "mappings": self.server.mapping_count(),
            "bindings": len(self.bindings),
            "known_clients": self.server.known_clients(),
            "send_errors": self.send_errors,
            "fault_counters": self.path.counters,
            "config": config,
        }

    def _bindings(self, now_ms, _):
        return {"bindings": [binding.as_dict(now_ms) for binding in self.bindings]}

    def _mappings(self, now_ms, _):
        return {"mappings": [_mapping_dict(now_ms, one) for one in self.server.mappings()]}

    def _counters(self, now_ms, args):
        counters = {
            "totals": dict(self.plane.counters),
            "outside_set": dict(self.plane.outside),
            "used_ports": {
                printable(wire.V4_PREFIX + address.to_bytes(4, "big")): ports
                for address, ports in self.plane.usage.as_dict().items()
            },
            **self._bindings(now_ms, {}),
        }
        if args.get("reset") is True:
            self.plane.reset_counters()
        return counters

    def _fault(self, _, args):
        values = dict(args)
        base = {}
        if values.pop("reset", False):
            base = {field.name: field.default for field in dataclasses.fields(Faults)}
            base["seed"] = self.server.faults.seed
        self.server.faults.update({**base, **values})
        if "seed" in values:
            self._rng.seed(values["seed"])
        return {"faults": dataclasses.asdict(self.server.faults)}

    def _forget(self, now_ms, args):
        announce = args.get("announce", False)
        if announce not in (True, False, "unicast", "multicast"):
            raise CommandError("announce: allowed: true, false, 'unicast', 'multicast'")
        if announce == "multicast" and not self._multicast:
            raise CommandError("announce: 'multicast' needs server.access_interface")
        if announce is True and not self._multicast:
            announce = "unicast"
        before = self.server.mapping_count()
        sends = self.server.forget(now_ms, _boolean(args, "epoch_reset"), announce)
        self.path.send(now_ms, sends)
        return {"forgotten": before, "epoch": self.server.epoch(now_ms)}

    def _announce(self, now_ms, args):
        multicast = _boolean(args, "multicast") and self._multicast
        sends = self.server.announce(now_ms, _boolean(args, "unicast"), multicast)
        self.path.send(now_ms, sends)
        return {"sent": len(sends)}

    def _switch(self, now_ms, args):
        values = {key: _boolean(args, key) if key in args else None for key in ("map", "port_set")}
        announce = True if self._multicast else "unicast"
        sends = self.server.switch(now_ms, values["map"], values["port_set"], announce)
        self.path.send(now_ms, sends)
        return {"epoch": self.server.epoch(now_ms), "sent": len(sends)}

    def _messages(self, _, args):
        since = args.get("since", 0)
        if isinstance(since, bool) or not isinstance(since, int):
            raise CommandError("since: allowed: a message number")
        return {"messages": self.log.since(since)}

    def _drop_binding(self, _, args):
        if "client" in args:
            clients = [_client(args)]
        else:
            clients = {binding.client for binding in self.bindings}
        return {"dropped": sum(self.server.drop_binding(client) for client in clients)}

    def _update(self, now_ms, args):
        address = None
        if "address" in args:
            address = int.from_bytes(_address(args, "address")[12:], "big")
        port = args.get("first_port", 0)
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
            raise CommandError("first_port: allowed: 0 to 65535")
        if port and address is None:
            raise CommandError("address: needed with first_port")
        client = _client(args)
        self.path.send(now_ms, self.server.move(now_ms, client, address, port))
        moved = self.bindings.of_client(client)
        return {"bindings": [binding.as_dict(now_ms) for binding in moved]}


def _mapping_dict(now_ms, mapping):
    return {
        "client": printable(mapping.client),
        "nonce": mapping.nonce.hex(),
        "protocol": protocol_name(mapping.protocol),
        "internal_port": mapping.internal_port,
        "first_internal": mapping.internal,
        "address": printable(wire.V4_PREFIX + mapping.block.address.to_bytes(4, "big")),
        "first_port": mapping.external,
        "size": mapping.size,
        "remaining_s": None if mapping.static else mapping.remaining(now_ms),
        "peer_port": mapping.peer[1] if mapping.peer else 0,
        "filters": len(mapping.filters),
        "description": mapping.description.decode(),
        "static": mapping.static,
    }


def _check_args(name, args, keys):
    if not isinstance(args, dict):
        raise CommandError("args: allowed: an object")
    for key in args:
        if keys is not None and key not in keys:
            allowed = ", ".join(sorted(keys)) or "none"
            raise CommandError("%s: no argument %r; allowed: %s" % (name, key, allowed))


def _boolean(args, key):
    """A switch that is on unless it is said to be off."""
    value = args.get(key, True)
    if not isinstance(value, bool):
        raise CommandError("%s: allowed: true or false" % key)
    return value


def _integer(address):
    return int.from_bytes(packed(address)[12:], "big")


def _address(args, key):
    try:
        return packed(args[key])
    except (KeyError, ValueError):
        raise CommandError("%s: allowed: an address" % key) from None


def _client(args):
    return _address(args, "client")


# Name: (how, argument names; None where the command checks them itself).
_COMMANDS = {
    "status": (Lab._status, ()),
    "bindings": (Lab._bindings, ()),
    "mappings": (Lab._mappings, ()),
    "counters": (Lab._counters, ("reset",)),
    "fault": (Lab._fault, None),
    "forget": (Lab._forget, ("epoch_reset", "announce")),
    "announce": (Lab._announce, ("unicast", "multicast")),
    "messages": (Lab._messages, ("since",)),
    "switch": (Lab._switch, ("map", "port_set")),
    "drop_binding": (Lab._drop_binding, ("client",)),
    "update": (Lab._update, ("client", "address", "first_port")),
}
