"""A fleet behind one lwAFTR that restarts and forgets everybody: python -m tests.sim.fleet.

The real client core, 100 000 times, and the real server. What is played is time, a good network,
and a server that reads so many requests a second from a socket buffer that holds so many. The
result is docs/fleet.svg and the table of docs/fleet.md.
"""

import argparse
import heapq
import multiprocessing
import pathlib
import random
from collections import Counter, deque, namedtuple

from lwaftr.config import from_dict
from lwaftr.server import PcpServer

from cpe_agent.pcp import mapping as m
from cpe_agent.pcp import wire
from cpe_agent.pcp.client import Client
from tests.sim import plot
from tests.sim.network import HOUR, MINUTE, SECOND

SERVER = bytes.fromhex("20010db8ffff00000000000000000001")
SETS_OF_AN_ADDRESS = 60  # of 1024 ports
WAY = 20  # ms, there or back
# Of a socket: the kernel's default of 212992 octets holds some 277 datagrams of this size.
BUFFER = 277
PORT = 40000  # of all routers

# How the routers learn of the restart. announce: how the server tells them (RFC 6887 14.1.3),
# 'multicast' or 'unicast', or None. pace: its announcements a second; 0: no limit. traffic: ICMPv6
# 1/5 errors a second. Neither: the epoch in the answer to the next renewal. client: its class.
Way = namedtuple("Way", ("name", "announce", "pace", "traffic", "client"))


class PatientClient(Client):
    """Takes a repeated announcement for what it is: no reason to ask sooner (RFC 6887 14.1.3)."""

    def _on_announcement(self, now, response):
        if self._round_at is None or now > self._round_at + 3 * MINUTE:
            super()._on_announcement(now, response)
        else:
            self.epoch.check(response.epoch, now)


WAYS = (
    Way("announced to all at once", "multicast", 0, None, Client),
    Way("announced to all at once, repeats ignored", "multicast", 0, None, PatientClient),
    Way("announced one by one, 1000/s", "unicast", 1000, None, Client),
    Way("announced one by one, 300/s", "unicast", 300, None, Client),
    Way("ICMPv6 1/5, 1000/s", None, 0, 1000, Client),
    Way("next renewal", None, 0, None, Client),
)
RATES = (2000, 500)  # requests a second that the server serves
# sent: requests in each second. back: ms when each router had its set. lost: requests that found
# the buffer full.
Result = namedtuple("Result", ("way", "rate", "sent", "back", "lost"))


class Fleet:
    """Routers that hold sets of one server."""

    def __init__(self, count, way, lifetime=86400, seed=1):
        """count: routers. way: how they will learn of a restart. lifetime: seconds of a lease.
        Each got its set at some time of the last half lease."""
        self.chance = random.Random(seed)
        self.way = way
        self.lifetime = lifetime
        self._queue = []
        self._number = 0
        self._planned = {}
        addresses = -(-count // SETS_OF_AN_ADDRESS)
        pool = ["198.18.%d.%d" % divmod(index, 256) for index in range(addresses)]
        config = from_dict(
            {
                "server": {"address": "2001:db8:ffff::1", "pcp_only": True},
                "pool": {"addresses": pool, "set_size": 1024},
                "pcp": {"lifetime_max": lifetime, "announce_pace": way.pace},
            }
        )
        self.server = PcpServer(config, now_ms=0)
        self.clients = [self._client(number) for number in range(count)]
        self._by_address = {client.source: client for client in self.clients}
        self.restart_at = lifetime * SECOND // 2
        self._grant_all()

    def _client(self, number):
        address = bytes.fromhex("20010db8c0de0000") + number.to_bytes(8, "big")
        client = self.way.client(SERVER, address, self.chance.randbytes)
        client.add(m.Mapping(m.wish(0, 1, 65535, self.lifetime), self.chance.randbytes(12)))
        return client

    def _grant_all(self):
        starts = sorted(self.chance.randrange(self.restart_at) for _ in self.clients)
        for now, client in zip(starts, self.clients):
            client.mappings[0].start(now)
            client.handle_timer(now)
            (request,) = client.datagrams()
            self._answer(now, client, request)
            client.events()

    def _answer(self, now, client, request):
        for data, _, _ in self.server.receive(now, request, client.source, PORT):
            client.receive(now, data, SERVER, wire.SERVER_PORT)

    def restart(self, rate=None):
        """Result of a restart. rate: requests a second that the server serves; None: all."""
        now = self.restart_at
        self.sent = Counter()
        self.back = []
        self.lost = 0
        self.rate = rate
        self._busy_until = now
        self._buffer = deque()
        self._tell(now)
        for client in self.clients:
            self._plan_timer(now, client)
        end = now + self.lifetime * SECOND
        while self._queue and self._queue[0][0] <= end and len(self.back) < len(self.clients):
            now, _, action, arguments = heapq.heappop(self._queue)
            action(now, *arguments)
        return Result(self.way, rate, self.sent, self.back, self.lost)

    def _at(self, when, action, *arguments):
        self._number += 1
        heapq.heappush(self._queue, (when, self._number, action, arguments))

    # How they learn

    def _tell(self, now):
        """The server forgets; what it announces, and what it does not."""
        self._announce(now, self.server.forget(now, announce=self.way.announce))
        if self.way.traffic:
            order = list(self.clients)
            self.chance.shuffle(order)
            for number, client in enumerate(order):
                self._at(now + number * SECOND // self.way.traffic, self._icmp, client)

    def _announce(self, now, datagrams):
        for data, address, _ in datagrams:
            reached = [self._by_address[address]] if address in self._by_address else self.clients
            for client in reached:
                self._heard(now, client, data)
        due = self.server.get_timer()
        if due is not None:
            self._at(due, self._server_timer)

    def _server_timer(self, now):
        self._announce(now, self.server.handle_timer(now))

    def _icmp(self, now, client):
        if not self.server.bindings.of_client(client.source):
            client.binding_lost(now)
            self._carry(now, client)

    # Datagrams

    def _carry(self, now, client):
        client.events()
        for data in client.datagrams():
            self.sent[(now - self.restart_at) // SECOND] += 1
            self._at(now + WAY, self._arrives, client, data)
        self._plan_timer(now, client)

    def _plan_timer(self, now, client):
        due = client.get_timer()
        if due is not None and self._planned.get(client) != due:
            self._planned[client] = due
            self._at(max(due, now), self._timer, client, due)

    def _timer(self, now, client, due):
        if self._planned.get(client) == due:
            del self._planned[client]
            client.handle_timer(now)
            self._carry(now, client)

    def _arrives(self, now, client, data):
        """A request reaches the server's socket."""
        if self.rate is None:
            self._serve(now, client, data)
            return
        while self._buffer and self._buffer[0] <= now:
            self._buffer.popleft()
        if len(self._buffer) >= BUFFER:
            self.lost += 1
            return
        self._busy_until = max(self._busy_until, now) + SECOND / self.rate
        self._buffer.append(self._busy_until)
        self._at(self._busy_until, self._serve, client, data)

    def _serve(self, now, client, data):
        now = int(now)
        known = bool(self.server.bindings.of_client(client.source))
        answers = self.server.receive(now, data, client.source, PORT)
        if not known:
            self.back.append(now - self.restart_at)
        for answer, _, _ in answers:
            self._at(now + WAY, self._heard, client, answer)

    def _heard(self, now, client, data):
        client.receive(now, data, SERVER, wire.SERVER_PORT)
        self._carry(now, client)


def figures(result):
    """(requests in the worst second, requests in all, lost ones, ms until half, 99 % and all of
    the routers were back)."""
    back = sorted(result.back)
    count = len(back)
    return (
        max(result.sent.values()),
        sum(result.sent.values()),
        result.lost,
        back[count // 2],
        back[count * 99 // 100],
        back[-1],
    )


def _duration(ms):
    if ms < 2 * MINUTE:
        return "%.1f s" % (ms / SECOND)
    return "%.0f min" % (ms / MINUTE) if ms < 3 * HOUR else "%.1f h" % (ms / HOUR)


def row(result):
    """A line of the table in docs/fleet.md."""
    peak, total, lost, half, most, last = figures(result)
    return "| %s | %s | %d | %.2f | %.1f %% | %s | %s | %s |" % (
        result.way.name,
        "all" if result.rate is None else "%d/s" % result.rate,
        peak,
        total / len(result.back),
        100 * lost / total,
        _duration(half),
        _duration(most),
        _duration(last),
    )


def _one(count, way, rate):
    return Fleet(count, way).restart(rate)


def main():
    """All ways, by a slow server and by a slower one."""
    parser = argparse.ArgumentParser(description="A fleet whose lwAFTR restarts.")
    parser.add_argument("--count", type=int, default=100000, help="routers")
    parser.add_argument("--svg", default="docs/fleet.svg", help="where the plot goes")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    given = parser.parse_args()
    runs = [(given.count, way, rate) for rate in RATES for way in WAYS]
    with multiprocessing.Pool(given.jobs, maxtasksperchild=1) as pool:
        results = pool.starmap(_one, runs, chunksize=1)
    print("\n".join(map(row, results)))
    pathlib.Path(given.svg).write_text(plot.svg(results, given.count))


if __name__ == "__main__":
    main()
