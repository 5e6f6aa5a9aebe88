"""Clients, a bad network and a lwAFTR in virtual time: weeks in a fraction of a second.

Deterministic: one seed, one run, octet for octet. The real client core and the real lab server run
in it; what is played is the network between them, the power of both sides, the flash of the routers
and their users' traffic. After every event the invariants are checked (see check()); a scenario
ends with quiet hours in which everything must be well again.
"""

import hashlib
import heapq
import random

from lwaftr.config import from_dict
from lwaftr.server import PcpServer

from cpe_agent import store
from cpe_agent.pcp import mapping as m
from cpe_agent.pcp import wire
from cpe_agent.pcp.client import Client

SECOND = 1000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

SERVER = bytes.fromhex("20010db8ffff00000000000000000001")
POOL = ("192.0.2.1", "192.0.2.2")
# The longest that a router may be without its set once all is well: a retransmission at its longest
# (1126 s), or a refusal's waiting time (3600 s at most), then one exchange.
CONVERGENCE = 2 * HOUR


class Violation(AssertionError):
    """An invariant did not hold; the text says which, when and with which seed."""


class Router:
    """A router: the client core in RAM, the state file on flash, and what its NAT uses."""

    def __init__(self, sim, number, client_class=Client, mapping_class=m.Mapping):
        self.sim = sim
        self.number = number
        self.address = bytes.fromhex("20010db8c0de") + number.to_bytes(10, "big")
        self.wish = m.wish(wire.PROTO_ALL, 1, sim.ports, sim.lifetime)
        self.client_class = client_class
        self.mapping_class = mapping_class
        self.flash = None  # text of the state file
        self.client = None
        self.mapping = None
        self.nat = None  # PortSet that traffic leaves from
        self.heard = None  # ms; last answer that was taken in
        self.sent = []  # ms of requests, for the flood check
        self.down_since = 0
        self.outage = 0  # ms without a set, in all
        self.before = None  # PortSet held last
        self.moved = False  # the server has given it another set since
        self.lost_nonce = False  # then its old mapping may keep it out to that mapping's end

    def power_on(self, now):
        self.client = self.client_class(SERVER, self.address, self.sim.random_bytes)
        state = store.decode(self.flash) if self.flash else None
        if state:
            self.mapping = self.mapping_class(
                self.wish, state.nonce, state.port_set, state.first_internal
            )
        else:
            self.mapping = self.mapping_class(self.wish, self.sim.random_bytes(12))
        self.client.add(self.mapping)
        self.mapping.start(now)
        self.run(now)

    def power_off(self, now):
        self.client = self.mapping = None
        self.use(now, None)

    def lose_flash(self):
        self.flash = None
        self.lost_nonce = True

    def receive(self, now, data):
        if self.client:
            before = sum(self.client.dropped.values())
            self.client.receive(now, data, SERVER, wire.SERVER_PORT)
            if sum(self.client.dropped.values()) == before:
                self.heard = now
            self.carry(now)

    def run(self, now):
        """Do what is due."""
        if self.client:
            self.client.handle_timer(now)
            self.carry(now)

    def carry(self, now):
        for event in self.client.events():
            self.sim.note(now, "%d %s" % (self.number, event.kind))
            if event.kind in (m.GRANTED, m.CHANGED):
                self.sim.check_same(now, self)
            if event.kind in (m.GRANTED, m.CHANGED, m.LOST, m.RELEASED):
                self.use(now, self.mapping.grant.port_set if self.mapping.grant else None)
                self.save()
        for datagram in self.client.datagrams():
            if self.mapping.state == m.ASKING:
                self.save()
            self.sent.append(now)
            self.sim.to_server(now, self, datagram)
        self.sim.wake(self, self.client.get_timer())

    def save(self):
        mapping = self.mapping
        self.flash = store.encode(
            store.State(
                mapping.nonce, SERVER, wire.PROTO_ALL, 1, mapping.known, mapping.first_internal
            )
        )

    def use(self, now, port_set):
        if self.nat is None and port_set is not None:
            self.outage += now - self.down_since
        elif self.nat is not None and port_set is None:
            self.down_since = now
        self.nat = port_set


class Simulation:
    """One scenario. faults: how much goes wrong, 0 for nothing."""

    def __init__(self, seed, days=30, faults=True, client_class=Client, mapping_class=m.Mapping):
        self.seed = seed
        self.chance = random.Random(seed)
        self.random_bytes = self.chance.randbytes
        chance = self.chance
        self.end = days * DAY
        self.calm = self.end - CONVERGENCE - chance.randrange(HOUR)
        self.lifetime = chance.choice((120, 600, 3600, 7200, 86400))
        self.ports = chance.choice((65535, 65535, 1024, 64))
        self.set_size = chance.choice((64, 256, 1024))
        self.now = 0
        self.digest = hashlib.sha256()
        self._queue = []
        self._number = 0
        self._wakes = {}
        self.server = self._make_server()
        self.server_up = True
        self.lost_at = None  # ms; when the server last lost state, in whole or in part
        self.loss, self.delay, self.duplicate = 0.0, 50, 0.0
        self.datagrams = 0
        self.routers = [
            Router(self, number, client_class, mapping_class)
            for number in range(chance.randint(1, 4))
        ]
        for router in self.routers:
            self.at(chance.randrange(5 * MINUTE), router.power_on)
        if faults:
            self._plan_faults()

    def _make_server(self):
        config = from_dict(
            {
                "server": {"address": "2001:db8:ffff::1", "pcp_only": True},
                "pool": {"addresses": list(POOL), "set_size": self.set_size},
                "pcp": {"lifetime_max": self.chance.choice((120, 3600, 86400))},
            }
        )
        return PcpServer(config, random_bytes=self.random_bytes, now_ms=0)

    # Time

    def at(self, when, action, *arguments):
        """Call action(when, *arguments) at that time, in ms."""
        self._number += 1
        heapq.heappush(self._queue, (when, self._number, action, arguments))

    def run(self):
        """The whole scenario; raises Violation."""
        while self._queue and self._queue[0][0] <= self.end:
            when, _, action, arguments = heapq.heappop(self._queue)
            self.now = max(self.now, when)
            action(self.now, *arguments)
            self.check(self.now)
        self.now = self.end
        self.check_well()
        return self

    def wake(self, router, when):
        """Run the router's timers at that time; an earlier wake-up is dropped when it comes."""
        if when is not None and self._wakes.get(router) != when:
            self._wakes[router] = when
            self.at(max(when, self.now), self._on_wake, router, when)

    def _on_wake(self, now, router, when):
        if self._wakes.get(router) == when:
            del self._wakes[router]
            router.run(now)

    def note(self, now, text):
        """What happened, into the digest by which two runs are compared."""
        self.digest.update(b"%d %s\n" % (now, text.encode()))

    # The network

    def to_server(self, now, router, data):
        self.note(now, "%d > %s" % (router.number, data.hex()))
        for delay in self._ways():
            self.at(now + delay, self._server_receives, router, data)

    def to_router(self, now, router, data):
        self.note(now, "%d < %s" % (router.number, data.hex()))
        for delay in self._ways():
            self.at(now + delay, router.receive, data)

    def _ways(self):
        """Delays in ms of the copies of one datagram that arrive."""
        self.datagrams += 1
        copies = 2 if self.chance.random() < self.duplicate else 1
        return [
            self.chance.randint(1, self.delay)
            for _ in range(copies)
            if self.chance.random() >= self.loss
        ]

    def _server_receives(self, now, router, data):
        if self.server_up:
            self._serve(now, self.server.receive(now, data, router.address, 40000 + router.number))

    def _serve(self, now, outgoing):
        by_address = {router.address: router for router in self.routers}
        for data, address, _ in outgoing:
            if address in by_address:
                self.to_router(now, by_address[address], data)
            else:  # multicast
                for router in self.routers:
                    self.to_router(now, router, data)
        due = self.server.get_timer() if self.server_up else None
        if due is not None and self._wakes.get("server") != due:
            self._wakes["server"] = due
            self.at(max(due, now), self._server_timer, due)

    def _server_timer(self, now, due):
        if self._wakes.get("server") == due:
            del self._wakes["server"]
            if self.server_up:
                self._serve(now, self.server.handle_timer(now))

    # What goes wrong

    def _plan_faults(self):
        chance = self.chance
        kinds = (
            self._power_cut,
            self._flash_lost,
            self._server_forgets,
            self._server_down,
            self._binding_dropped,
            self._bad_network,
            self._set_moved,
        )
        for _ in range(chance.randint(1, 20)):
            self.at(chance.randrange(self.calm), chance.choice(kinds))
        self.at(self.calm, self._network_is_well)

    def _power_cut(self, now):
        router = self.chance.choice(self.routers)
        if router.client:
            router.power_off(now)
            self.at(now + self.chance.randrange(1, 10 * MINUTE), self._power_back, router)

    def _power_back(self, now, router):
        if router.client is None:
            router.power_on(now)

    def _flash_lost(self, now):
        self.chance.choice(self.routers).lose_flash()

    def _server_forgets(self, now):
        self.lost_at = now
        reset = self.chance.random() < 0.8
        announce = self.chance.choice((False, "unicast", "multicast")) if reset else False
        self.server.forget(now, epoch_reset=reset, announce=announce)
        self.note(now, "server forgets, %s %s" % (reset, announce))
        self._serve(now, [])

    def _server_down(self, now):
        self.server_up = False
        wait = min(self.chance.randrange(1, 6 * HOUR), self.calm - now)
        self.at(now + max(wait, 1), self._server_back)

    def _server_back(self, now):
        self.server_up = True
        if self.chance.random() < 0.5:
            self._server_forgets(now)
        self._serve(now, self.server.handle_timer(now))

    def _binding_dropped(self, now):
        """The data plane loses one binding; ICMPv6 1/5 tells at the router's next packet."""
        router = self.chance.choice(self.routers)
        self.lost_at = now
        self.server.drop_binding(router.address)
        self.at(now + self.chance.randrange(HOUR), self._traffic, router)

    def _traffic(self, now, router):
        """A packet of the LAN leaves; without a binding for it, ICMPv6 1/5 comes back."""
        if router.nat and router.client and not self._bound(router):
            router.client.binding_lost(now)
            router.carry(now)

    def _bad_network(self, now):
        chance = self.chance
        self.loss = chance.choice((0.1, 0.5, 0.9))
        self.delay = chance.choice((50, 2000, 10000))
        self.duplicate = chance.choice((0.0, 0.3))
        self.at(min(now + chance.randrange(1, 6 * HOUR), self.calm), self._network_is_well)

    def _network_is_well(self, now):
        self.loss, self.delay, self.duplicate = 0.0, 50, 0.0

    def _set_moved(self, now):
        router = self.chance.choice(self.routers)
        if self.server_up and self.server.bindings.of_client(router.address):
            self.lost_at = now
            router.moved = True
            self.server.move(now, router.address)
            self._serve(now, [])

    # Invariants

    def _bound(self, router):
        """True when the lwAFTR would let the router's whole set pass."""
        first, last = router.nat.first, router.nat.first + router.nat.size - 1
        return any(
            binding.first <= first and last <= binding.last
            for binding in self.server.bindings.of_client(router.address)
        )

    def check(self, now):
        """What must hold at any time."""
        for router in self.routers:
            if router.nat is None:
                continue
            if now > router.mapping.grant.expires:
                self._fail(router, "NAT after the end of its lease")
            lost = self.lost_at is not None and (router.heard or 0) <= self.lost_at + 60 * SECOND
            if not lost and not self._bound(router):
                self._fail(router, "NAT on %s, which the server does not know" % (router.nat,))

    def check_same(self, now, router):
        """A router that has a set again has the one it had, if nobody else has had it since."""
        before, held = router.before, router.mapping.grant.port_set
        excused = router.moved or router.lost_nonce or before is None
        router.before, router.moved = held, False
        if excused or held == before:
            return
        for other in self.routers:
            if other is not router and other.before and self._overlap(other.before, before):
                return
        self._fail(router, "%s, though its own %s was free" % (held, before))

    @staticmethod
    def _overlap(one, other):
        if one.address != other.address:
            return False
        return one.first < other.first + other.size and other.first < one.first + one.size

    def check_well(self):
        """What must hold when nothing has gone wrong for a while."""
        used = set()
        for router in self.routers:
            if router.nat is None and router.lost_nonce:
                continue  # RFC 6887 11.3: NOT_AUTHORIZED for the old mapping's remaining life
            if router.nat is None:
                self._fail(
                    router, "no port set %d s after the last fault" % (CONVERGENCE // SECOND)
                )
            for port in range(router.nat.first, router.nat.first + router.nat.size):
                if (router.nat.address, port) in used:
                    self._fail(router, "port %d is a neighbour's too" % port)
                used.add((router.nat.address, port))
            self._check_flood(router)

    def _check_flood(self, router):
        times = router.sent
        for earlier, later in zip(times, times[1:]):
            if later - earlier < 2700:
                self._fail(router, "requests %d ms apart at %d" % (later - earlier, later))

    def _fail(self, router, text):
        raise Violation(
            "seed %d, %d ms, router %d: %s" % (self.seed, self.now, router.number, text)
        )
