"""Clients, a bad network and a lwAFTR in virtual time: a month in a tenth of a second.

Deterministic: one seed, one run, octet for octet. The real client core and the real lab server run
in it; what is played is the network between them, the power of both sides, the flash of the routers
and their users' traffic. After every event the invariants of those whom it touched are checked; a
scenario ends with quiet hours in which everything must be well again.
"""

import hashlib
import random

from lwaftr.config import from_dict

from cpe_agent.pcp import mapping as m
from cpe_agent.pcp import wire
from cpe_agent.pcp.client import Client
from tests.sim import faults
from tests.sim.invariants import CONVERGENCE, Judge
from tests.sim.network import DAY, HOUR, MINUTE, Timeline, Weather
from tests.sim.operator_side import Operator
from tests.sim.router import SERVER, Router

ALL_NODES = bytes.fromhex("ff02" + "00" * 13 + "01")
POOL = ("192.0.2.1", "192.0.2.2")
FIRST_PORT = 8192  # of a small pool: past 5351, which is never assigned
# Long leases are common, so that a month of them is a few hundred datagrams and not a hundred
# thousand; short_leases sees to it that every other scenario has hours of short ones.
LIFETIMES = (86400,) * 10 + (43200,) * 5 + (7200,) * 4 + (3600,)
SHORT_LIFETIMES = (120, 600)  # one scenario in a hundred has a router with these for a month
LIFETIME_MAX = (86400,) * 7 + (43200,) * 2 + (3600,)


class Recorder:
    """What happened, as text, for comparison and for reading; and the datagrams, for captures."""

    def __init__(self):
        self.digest = hashlib.sha256()
        self.datagrams = []  # (ms, source, source port, destination, destination port, octets)
        self.lines = []

    def note(self, now, text):
        """One line."""
        self.lines.append("%10.3f %s" % (now / 1000, text))
        self.digest.update(b"%d %s\n" % (now, text.encode()))


class Simulation:
    """One scenario of some days, planned by its seed."""

    def __init__(
        self,
        seed,
        days=30,
        client_class=Client,
        mapping_class=m.Mapping,
        recorder=None,
        trouble=None,
    ):
        """trouble: the faults to choose from, by default all; () for none. recorder: a Recorder,
        which takes as much time as the rest, or None."""
        self.seed = seed
        self.recorder = recorder
        self.client_class = client_class
        self.mapping_class = mapping_class
        self.chance = chance = random.Random(seed)
        self.random_bytes = chance.randbytes
        self.time = Timeline()
        self.weather = Weather(chance)
        self.judge = Judge(self)
        self.fast_clock = False
        self.end = days * DAY
        self.judge.shortest = lifetime = self._choose_lifetime()
        wishes = self._choose_wishes(lifetime)
        self.operator = self._make_operator(wishes)
        self._all_lines = []
        self.lease_at_most(self.lifetime_max)
        # Old mappings may keep their owners, and others, out until they end.
        self.calm = max(self.end - CONVERGENCE - DAY - chance.randrange(HOUR), 1)
        self.routers = [Router(self, number, mine) for number, mine in enumerate(wishes)]
        self._all_lines = [line for router in self.routers for line in router.lines]
        for router in self.routers:
            self.time.at(chance.randrange(5 * MINUTE), router.power_on)
        self._plan_faults(faults.ALL if trouble is None else trouble)

    def _choose_lifetime(self):
        return self.chance.choice(LIFETIMES if self.chance.random() > 0.01 else SHORT_LIFETIMES)

    def _choose_wishes(self, lifetime):
        """For each router a list of wishes: one softwire with all it can get, or two."""
        chance = self.chance
        ports = chance.choice((65535, 65535, 1024, 64))
        protocol = chance.choice((wire.PROTO_ALL, wire.PROTO_ALL, wire.PROTO_UDP))
        wishes = []
        for _ in range(1 if lifetime in SHORT_LIFETIMES else chance.choice((1, 1, 2, 2, 3, 4))):
            if chance.random() < 0.25:
                size = min(ports, 1024)
                pair = (m.wish(protocol, first, size, lifetime) for first in (16384, 32768))
                wishes.append(list(pair))
            else:
                wishes.append([m.wish(protocol, 1, ports, lifetime)])
        return wishes

    def _make_operator(self, wishes):
        chance = self.chance
        self.set_size = chance.choice((64, 256, 1024))
        pool = {"addresses": list(POOL), "set_size": self.set_size}
        self.capacity = None  # in ports, where there may be too few
        lines = sum(len(mine) for mine in wishes)
        if chance.random() < 0.2:
            sets = max(1, lines + chance.choice((-1, 0, 1)))
            self.capacity = sets * self.set_size
            pool.update(addresses=list(POOL[:1]), first_port=FIRST_PORT)
            pool.update(last_port=FIRST_PORT + self.capacity - 1)
        self.lifetime_max = chance.choice(LIFETIME_MAX)
        config = from_dict(
            {
                "server": {"address": "2001:db8:ffff::1", "pcp_only": True},
                "pool": pool,
                "pcp": {"lifetime_max": self.lifetime_max},
            }
        )
        return Operator(config, self.random_bytes)

    def _plan_faults(self, kinds):
        chance = self.chance
        for _ in range(chance.randint(1, 20) if kinds else 0):
            self.time.at(chance.randrange(self.calm), self._begin_fault, chance.choice(kinds))
        self.time.at(self.calm, faults.good_network, self)

    def _begin_fault(self, now, fault):
        if now > self.judge.trouble_until + CONVERGENCE + DAY:
            self.judge.check_well()
        self.note(now, "fault: %s", fault.__name__)
        fault(self, now)
        self._check_all(now)

    def run(self):
        """The whole scenario; raises Violation."""
        self.time.run(self.end)
        self._check_all(self.end)
        for line in self._all_lines:
            if line.wanted and line.nat is None:
                self.judge.check_patience(self.end, line)
        self.judge.check_well()
        return self

    def note(self, now, text, *values):
        """What happened, for the recorder if there is one."""
        if self.recorder:
            self.recorder.note(now, text % values)

    # Datagrams

    def to_server(self, now, router, address, data):
        """A router's datagram goes out."""
        if self.recorder:
            self.note(now, "%d > %s", router.number, data.hex())
            self.recorder.datagrams.append(
                (now, address, router.port, SERVER, wire.SERVER_PORT, data)
            )
        for delay in self.weather.ways():
            self.time.at(now + delay, self._at_server, router, address, data)

    def _at_server(self, now, router, address, data):
        self.deliver(now, self.operator.receive(now, data, address, router.port))
        self.judge.check(now, router)

    def deliver(self, now, outgoing):
        """The server's datagrams go out."""
        for data, address, port in outgoing:
            if self.recorder:
                self.recorder.datagrams.append((now, SERVER, wire.SERVER_PORT, address, port, data))
            if address == ALL_NODES:
                for router in self.routers:
                    self._to_router(now, router, None, data)
            elif port - 40000 < len(self.routers):
                self._to_router(now, self.routers[port - 40000], address, data)
        self.time.wake(self, self._timer(now))

    def _to_router(self, now, router, address, data):
        self.note(now, "%d < %s", router.number, data.hex())
        for delay in self.weather.ways():
            self.time.at(now + delay, self._at_router, router, address, data, now)

    def _at_router(self, now, router, address, data, sent):
        router.receive(now, data, address, sent)
        self.judge.check(now, router)

    def _timer(self, now):
        due = self.operator.get_timer()
        return None if due is None else max(due, now)

    def handle_timer(self, now):
        """Called by the timeline: the server has something to do, or had."""
        due = self._timer(now)
        if due is not None and due <= now:
            self.deliver(now, self.operator.handle_timer(now))
            self._check_all(now)
        else:
            self.time.wake(self, due)

    def plan_traffic(self, now):
        """Users' packets leave at some time; where there is no binding, ICMPv6 1/5 comes back."""
        for router in self.routers:
            if self.chance.random() < 0.7:
                self.time.at(now + self.chance.randrange(HOUR), self._traffic, router)

    def _traffic(self, now, router):
        passing = self.operator.lets_pass
        nats = [line.nat for line in router.lines if line.nat]
        if self.operator.up and not all(passing(now, router.address, nat) for nat in nats):
            for delay in self.weather.ways():
                self.time.at(now + delay, self._at_router_icmp, router)

    def _at_router_icmp(self, now, router):
        self.judge.hearing_other(genuine=True)
        router.binding_lost(now)

    # For faults and the judge

    def all_lost(self, now, told):
        """The server has lost its state."""
        self.judge.trouble(now, epochs=True)
        for line in self._all_lines:
            line.lost(now, told)

    def lease_at_most(self, lifetime):
        """The server grants leases of at most so many seconds from now on.

        A renewal whose answer is lost may so shorten a lease, and its owner cannot know.
        """
        for line in self._all_lines:
            line.lost(self.time.now)
        self.operator.core.config.pcp.lifetime_max = lifetime
        self.judge.shortest = min(self.judge.shortest, lifetime)

    def has_room(self, line):
        """True when the server could give the line a set."""
        if self.capacity is None:
            return True
        used = sum(binding.size for binding in self.operator.core.bindings)
        return self.capacity - used >= min(self.set_size, line.wish.size)

    def _check_all(self, now):
        for router in self.routers:
            self.judge.check(now, router)
