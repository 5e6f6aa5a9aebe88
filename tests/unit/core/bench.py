"""A client on a bench: virtual time, seeded chance, and a hand that plays the server.

Shared by the core's tests. Runs on MicroPython as well, so it needs nothing but cpe_agent.
"""

from cpe_agent import address as addresses
from cpe_agent.pcp import mapping, wire
from cpe_agent.pcp.client import Client

SOURCE = bytes.fromhex("20010db8000000000000000000000001")
SERVER = bytes.fromhex("20010db8000000000000000000000002")
STRANGER = bytes.fromhex("20010db8000000000000000000000003")
NONCE = bytes(range(12))
OTHER_NONCE = b"\xaa" * 12
EPOCH = 4660
START = 5000000  # ms; any time but zero


class Dice:
    """random_bytes for the core: repeatable, the same on every runtime (xorshift32)."""

    def __init__(self, seed=1):
        self.state = (seed * 2654435761 + 1) & 0xFFFFFFFF or 1

    def __call__(self, count):
        out = bytearray(count)
        for index in range(count):
            x = self.state
            x ^= (x << 13) & 0xFFFFFFFF
            x ^= x >> 17
            x ^= (x << 5) & 0xFFFFFFFF
            self.state = x
            out[index] = (x >> 11) & 0xFF
        return bytes(out)


def ends(value):
    """random_bytes that always gives the lowest (0) or the highest (255) number."""
    return lambda count: bytes([value]) * count


class Bench:
    """One client with one mapping, which is sets[0]; more can be added."""

    def __init__(self, wish=None, known=None, first_internal=None, seed=1, nonce=NONCE):
        self.now = START
        self.client = Client(SERVER, SOURCE, Dice(seed))
        self.sent = []  # (ms, octets)
        self.events = []  # (ms, Event)
        self.sets = []
        self.add(wish or mapping.wish(17, 50000, 100, 3600), known, first_internal, nonce)
        self.epoch_zero = START - EPOCH * 1000  # when the server's clock was zero

    def add(self, wish, known=None, first_internal=None, nonce=NONCE):
        one = mapping.Mapping(wish, nonce, known, first_internal)
        self.client.add(one)
        self.sets.append(one)
        return one

    @property
    def mapping(self):
        return self.sets[0]

    def start(self, grant=None):
        for one in self.sets:
            one.start(self.now, grant)
        self.settle()
        return self

    def settle(self):
        """Take what the client has to say, and let it do what is due now."""
        for _ in range(100):
            self.sent += [(self.now, octets) for octets in self.client.datagrams()]
            self.events += [(self.now, event) for event in self.client.events()]
            due = self.client.get_timer()
            if due is None or due > self.now:
                return
            self.client.handle_timer(self.now)
        raise AssertionError("the client's timer is due again and again at the same time")

    def run(self, seconds):
        """Let time pass, with a timer that is never late."""
        end = self.now + int(seconds * 1000)
        while True:
            due = self.client.get_timer()
            if due is None or due > end:
                break
            self.now = max(due, self.now)
            self.settle()
        self.now = end
        self.settle()

    def run_to_send(self, limit=100000):
        """Let time pass until the next datagram, which is returned parsed."""
        count = len(self.sent)
        end = self.now + limit * 1000
        while len(self.sent) == count:
            due = self.client.get_timer()
            assert due is not None and due <= end, "nothing was sent"
            self.now = max(due, self.now)
            self.settle()
        return self.last()

    def receive(self, octets, address=SERVER, port=wire.SERVER_PORT):
        self.client.receive(self.now, octets, address, port)
        self.settle()

    def epoch(self):
        """The server's epoch now, of a server that never lost anything."""
        return (self.now - self.epoch_zero) // 1000

    def answer(self, size=32, first=37056, address="192.0.2.3", lifetime=3600, **more):
        """The server says SUCCESS. size None: no PORT_SET option."""
        self.receive(success(self, size, first, address, lifetime, **more))

    def refuse(self, result, lifetime, **more):
        self.receive(refusal(self, result, lifetime, **more))

    def granted(self, **more):
        """Start and grant."""
        self.start()
        self.answer(**more)
        return self

    def last(self):
        return wire.parse_request(self.sent[-1][1])

    def sent_size(self):
        octets = wire.find_option(self.last().options, wire.OPT_PORT_SET)
        return wire.parse_port_set(octets).size if octets is not None else None

    def kinds(self):
        return [event.kind for _, event in self.events]

    def gaps(self):
        """Milliseconds between the datagrams sent."""
        times = [at for at, _ in self.sent]
        return [after - before for before, after in zip(times, times[1:])]

    def held(self):
        """The set in use, or None."""
        return self.mapping.grant.port_set if self.mapping.grant else None


def success(
    bench,
    size=32,
    first=37056,
    address="192.0.2.3",
    lifetime=3600,
    epoch=None,
    first_internal=None,
    nonce=None,
    protocol=None,
    internal_port=None,
    external_ip=None,
    options=None,
    which=0,
):
    """Octets of a SUCCESS for sets[which]; all that is not given is right."""
    one = bench.sets[which]
    if options is None:
        inside = one.internal_port if first_internal is None else first_internal
        options = b"" if size is None else wire.port_set_option(size, inside)
    data = wire.MapData(
        one.nonce if nonce is None else nonce,
        one.wish.protocol if protocol is None else protocol,
        one.internal_port if internal_port is None else internal_port,
        first,
        external_ip or addresses.octets(address),
    )
    return wire.map_response(0, lifetime, bench.epoch() if epoch is None else epoch, data, options)


def refusal(bench, result, lifetime, epoch=None, which=0, nonce=None, port=0):
    """Octets of an error: an echo of a request that suggested that port, by RFC 6887 8.2."""
    one = bench.sets[which]
    key = one.nonce if nonce is None else nonce
    data = wire.MapData(key, one.wish.protocol, one.internal_port, port, wire.ANY_V4)
    options = wire.port_set_option(100, one.internal_port)
    return wire.map_response(
        result, lifetime, bench.epoch() if epoch is None else epoch, data, options
    )


def announcement(epoch):
    return wire.response(wire.OP_ANNOUNCE, 0, 0, epoch)
