"""A PCP server as short as it can be, for the state machines: leases, neighbours, bad days.

RFC 6887 11 and 13, RFC 7753 4.2, without anything that the lab's own server has: the two were
written apart, so that one shows the other's mistakes.
"""

from collections import namedtuple

from cpe_agent import portset
from cpe_agent.pcp import wire

OUTSIDE_4 = wire.V4_PREFIX + portset.octets("192.0.2.3")
OUTSIDE_6 = bytes.fromhex("20010db80000000000000000000000f3")
STEP = 256  # between the first ports of sets that nobody asked for by name

# address: 16 octets. first, size: external ports. internal: first internal port. expires: ms.
Lease = namedtuple("Lease", ("nonce", "address", "first", "size", "internal", "expires"))


def overlap(first, size, other_first, other_size):
    """True when two port ranges share a port."""
    return first < other_first + other_size and other_first < first + size


class Server:
    """One server, as one client (and neighbours, by their ports alone) sees it."""

    def __init__(self, now, source, size):
        """now: ms. source: 16 octets of the client. size: ports of a set at most."""
        self.zero = now  # ms; when its epoch began
        self.source = source
        self.size = size
        self.lifetime = 3600  # s, at most
        self.most = 8  # leases; a new one beyond gets NO_RESOURCES
        self.refusal = None  # (result, lifetime) to everything
        self.leases = {}  # (internal host, protocol, internal port) -> Lease
        self.neighbours = []  # (first, size) of external ports that others have
        self.next_first = 4096

    def epoch(self, now):
        return (now - self.zero) // 1000

    def forget(self, now):
        """Power is lost; the neighbours ask again at once, and get what they had."""
        self.zero = now
        self.leases = {}

    def announcement(self, now):
        return wire.response(wire.OP_ANNOUNCE, 0, 0, self.epoch(now))

    def expire(self, now):
        self.leases = {key: one for key, one in self.leases.items() if one.expires > now}

    def answer(self, now, octets):
        """The answer to a request, which is checked like a peer would not dare to."""
        request = wire.parse_request(octets)
        assert request.client_ip == self.source
        if request.opcode == wire.OP_ANNOUNCE:
            return self.announcement(now)
        self.expire(now)
        result, lifetime, lease = self.decide(now, request)
        if lease is None:
            data, options = request.map, b""
        else:
            data, options = self.shown(request.map, lease)
        return wire.map_response(result, lifetime, self.epoch(now), data, options)

    def decide(self, now, request):
        """(result, lifetime, Lease or None)."""
        if self.refusal:
            return (*self.refusal, None)
        host = wire.find_option(request.options, wire.OPT_THIRD_PARTY) or self.source
        key = (host, request.map.protocol, request.map.internal_port)
        known = self.leases.get(key)
        self.check_distinct(key, request)
        if known and known.nonce != request.map.nonce:
            return wire.NOT_AUTHORIZED, -(-(known.expires - now) // 1000), None
        if request.lifetime == 0:
            self.leases.pop(key, None)
            return wire.SUCCESS, 0, None
        if known is None:
            result, known = self.choose(request)
            if known is None:
                return result, 30, None
        lifetime = min(request.lifetime, self.lifetime)
        self.leases[key] = known._replace(expires=now + lifetime * 1000)
        return wire.SUCCESS, lifetime, known

    def check_distinct(self, key, request):
        """A client's mappings never meet, so no request touches two of them (RFC 7753 6.3)."""
        size = self.asked_size(request)
        for other, lease in self.leases.items():
            same = other[0] == key[0] and (other[1] == key[1] or 0 in (other[1], key[1]))
            if same and other != key:
                # A refused or lost answer may leave a lease that its owner does not ask for.
                assert not overlap(key[2], size, other[2], lease.size), (key, other)

    @staticmethod
    def asked_size(request):
        option = wire.find_option(request.options, wire.OPT_PORT_SET)
        return wire.parse_port_set(option).size if option else 1

    def choose(self, request):
        """(result, Lease or None) for a new mapping; its end is not set yet."""
        if len(self.leases) >= self.most:
            return wire.NO_RESOURCES, None
        data = request.map
        size = min(self.size, self.asked_size(request))
        address = OUTSIDE_4 if wire.is_v4(data.external_ip) else OUTSIDE_6
        first = data.external_port
        if not self.is_free(first, size):
            if wire.find_option(request.options, wire.OPT_PREFER_FAILURE) is not None:
                return wire.CANNOT_PROVIDE_EXTERNAL, None
            first = self.find_room(size)
        internal = first if data.protocol == wire.PROTO_ALL else data.internal_port
        return wire.SUCCESS, Lease(data.nonce, address, first, size, internal, 0)

    def is_free(self, first, size):
        used = [(lease.first, lease.size) for lease in self.leases.values()]
        used += self.neighbours
        inside = first >= 1024 and first + size <= 65536
        return inside and not any(overlap(first, size, *other) for other in used)

    def find_room(self, size):
        while not self.is_free(self.next_first, size):
            self.next_first = self.next_first + STEP if self.next_first < 60000 else 1024
        return self.next_first

    def shown(self, data, lease):
        """(MapData, options) of a SUCCESS."""
        options = b""
        if lease.size > 1:
            options = wire.port_set_option(lease.size, lease.internal)
        shown = wire.MapData(
            data.nonce, data.protocol, data.internal_port, lease.first, lease.address
        )
        return shown, options

    def update(self, now, key, bare=False):
        """A Mapping Update for a lease; bare: without PORT_SET, as RFC 6887 14.2 would have it."""
        lease = self.leases[key]
        data, options = self.shown(wire.MapData(lease.nonce, key[1], key[2], 0, b""), lease)
        if bare:
            options = b""
        seconds = max(1, (lease.expires - now) // 1000)
        return wire.map_response(wire.SUCCESS, seconds, self.epoch(now), data, options)

    def move(self, key):
        """Other external ports for a lease."""
        lease = self.leases[key]
        self.leases[key] = lease._replace(first=self.find_room(lease.size))

    def neighbour_takes(self, first, size):
        """A neighbour gets ports, if nobody has them; True if so."""
        if self.is_free(first, size):
            self.neighbours.append((first, size))
            return True
        return False
