"""The agent's keepers in virtual time: no kernel, no waiting. Servers answer at once, or never."""

from cpe_agent import choice, config, holder, memory, net, netlink, session
from cpe_agent.pcp import wire
from cpe_agent.ports import Ports

SOURCE = wire.V4_PREFIX + bytes([10, 9, 0, 2])
A, B, C = [wire.V4_PREFIX + bytes([10, 9, 0, last]) for last in (11, 12, 13)]


_MOST_STEPS = 2000  # of the loop in one run


class Server:
    """A PCP server. alive: answers. closed: its host says that nobody listens."""

    def __init__(self, world, first):
        self._world = world
        self._first = first
        self.alive = True
        self.closed = False
        self.refusal = None  # (result, seconds)
        self.lifetime = 3600
        self.requests = []  # (ms, Request)

    def answer(self, data):
        """Octets, or None."""
        request = wire.parse_request(data)
        self.requests.append((self._world.time, request))
        epoch = self._world.time // 1000
        if not self.alive:
            return None
        if request.opcode == wire.OP_ANNOUNCE:
            return wire.response(wire.OP_ANNOUNCE, 0, 0, epoch)
        if self.refusal:
            return wire.map_response(self.refusal[0], self.refusal[1], epoch, request.map)
        port = request.map.external_port or self._first
        octets = wire.V4_PREFIX + bytes([192, 0, 2, 3])
        data = request.map._replace(external_port=port, external_ip=octets)
        return wire.map_response(0, self.lifetime if request.lifetime else 0, epoch, data)

    def asked(self, opcode=wire.OP_MAP):
        """(ms, Request) of an opcode since the last call."""
        found = [entry for entry in self.requests if entry[1].opcode == opcode]
        self.requests = [entry for entry in self.requests if entry[1].opcode != opcode]
        return found


class Socket:
    """A socket to a server."""

    def __init__(self, world, server):
        self.world = world
        self.server = server
        self.waiting = []

    def send(self, data):
        """The answer, or what ICMP says, waits at once."""
        server = self.world.servers[self.server]
        if server.closed:
            self.waiting.append(OSError(111, "Connection refused"))
        else:
            reply = server.answer(data)
            if reply is not None:
                self.waiting.append((reply, self.server, wire.SERVER_PORT))


class World:
    """A network of servers, and one mapping that is kept in it."""

    def __init__(self, monkeypatch, directory):
        self.time = 1000000  # ms
        self.servers = {A: Server(self, 4001), B: Server(self, 4002), C: Server(self, 4003)}
        self.unreachable = set()
        self.names = {}
        self._handlers = {}
        self.run_dir = str(directory)
        self.keeper = None
        self.others = []  # keepers beside it, in the same place
        monkeypatch.setattr(net, "request_socket", self._request_socket)
        monkeypatch.setattr(net, "announce_socket", lambda server, index: Socket(self, server))
        monkeypatch.setattr(net, "receive", self._receive)
        monkeypatch.setattr(netlink, "path_to", self._path_to)

    def start(self, keep=Ports, **options):
        """A keeper of a mapping with these options, from what is on flash and in RAM."""
        texts = {"internal_port": "8080", "default_router": "0", **options}
        self.sessions = session.Sessions(self, self)
        self.directory = choice.Directory(self.sessions, self.run_dir, self.on_names)
        kept = memory.Memory(self.run_dir + "/state")
        self.place = holder.Place(self.sessions, kept, self.directory, self.run_dir)
        self._handlers = {}
        self.others = []
        self.keeper = keep(config.read_mapping("web", texts), self.place)
        self.keeper.start(self.time)
        self.run(0)

    def start_beside(self, name, **options):
        """A keeper of another mapping in the same agent."""
        texts = {"default_router": "0", **options}
        self.others.append(Ports(config.read_mapping(name, texts), self.place))
        self.others[-1].start(self.time)
        self.run(0)
        return self.others[-1]

    def run(self, seconds):
        """Let time pass."""
        end = self.time + seconds * 1000
        for _ in range(_MOST_STEPS):
            timers = [self.sessions.timer(), self.directory.timer()]
            timers += [one.timer() for one in self._keepers()]
            due = min([at for at in timers if at is not None], default=end + 1)
            if due > end:
                self.time = end
                return
            self.time = max(self.time, due)
            self._look()
            self.sessions.handle_timer(self.time)
            self._deliver()
            self._look()  # the agent does it after each wait
        raise AssertionError("a timer at %d is not served" % due)

    def _keepers(self):
        return [self.keeper, *self.others]

    def _look(self):
        for one in self._keepers():
            one.handle_timer(self.time)

    def grant(self):
        """The mapping's grant, or None."""
        return self.keeper.mapping and self.keeper.mapping.grant

    def on_names(self):
        """As the agent does it."""
        for one in self._keepers():
            one.on_network_change(self.time, self.time)

    def _deliver(self):
        while True:
            ready = [sock for sock in self._handlers if sock.waiting]
            if not ready:
                return
            self._handlers[ready[0]](ready[0])

    # net, netlink, the poller and the clock

    def _request_socket(self, _source, server, _port=wire.SERVER_PORT, scope=0, device=None):
        return Socket(self, server)

    def _receive(self, sock):
        if not sock.waiting:
            return None
        found = sock.waiting.pop(0)
        if isinstance(found, OSError):
            raise found
        return found

    def _path_to(self, address, _interface=0):
        if address in self.unreachable:
            raise OSError(101, "Network is unreachable")
        return netlink.Path("wan", 2, 1500, SOURCE)

    def add(self, sock, handler):
        """As net.Poller."""
        self._handlers[sock] = handler

    def remove(self, sock):
        """As net.Poller."""
        del self._handlers[sock]

    def now(self):
        """As clock.Clock."""
        return self.time
