"""The PCP server's explicit mappings (RFC 6887 11), and the blocks of ports that they share."""

from cpe_agent.pcp import wire

INFINITE = 0xFFFFFFFF


class Block:
    """External ports that one client owns; mappings of different protocols may share them."""

    __slots__ = ("address", "first", "mappings", "size")

    def __init__(self, address, first, size):
        self.address = address
        self.first = first
        self.size = size
        self.mappings = []

    @property
    def last(self):
        """Last port."""
        return self.first + self.size - 1

    @property
    def place(self):
        """(address, first port, size)."""
        return self.address, self.first, self.size

    @property
    def static(self):
        """Is it the administrator's?"""
        return any(mapping.static for mapping in self.mappings)

    def free_for(self, protocol):
        """True if none of the mappings here is for this protocol or for all."""
        return not any(same_protocol(m.protocol, protocol) for m in self.mappings)


class Mapping:
    """One explicit mapping. due_ms is its expiry, None for a static one.

    low, high: the internal range that was asked for; internal: first internal port mapped.
    translated: a NAT44 between them; otherwise internal and external ports are one where they
    may be. peer: (address, port) of the last request, to where Mapping Updates go;
    internal_port: its internal port. update: the series of notices.MappingUpdates, or None.
    """

    __slots__ = (
        "binding",
        "block",
        "client",
        "description",
        "due_ms",
        "external",
        "filters",
        "high",
        "internal",
        "internal_port",
        "low",
        "nonce",
        "peer",
        "prefer_failure",
        "protocol",
        "size",
        "static",
        "third_party",
        "translated",
        "update",
    )

    def __init__(self, client, nonce, protocol, block, external, size):
        self.client = client
        self.nonce = nonce
        self.protocol = protocol
        self.block = block
        self.external = external
        self.size = size
        self.low, self.high = 0, 65535
        self.internal = self.internal_port = external
        self.peer = self.update = None
        self.due_ms = None
        self.binding = None
        self.filters = ()
        self.description = b""
        self.static = self.translated = self.prefer_failure = self.third_party = False

    def meets(self, protocol, low, high):
        """Does an internal range touch this mapping? (RFC 7753 4.4.1)"""
        inside = self.internal <= high and low <= self.internal + self.size - 1
        return inside and same_protocol(self.protocol, protocol)

    def place_internal(self):
        """Set the first internal port of a new mapping: the external one, or the one asked for.

        An lwAFTR translates no ports: internal = external (AMB-5), unless that lies outside of
        what was asked for, where RFC 7753 4.2 forbids it, or cannot be told, as of a single port,
        whose answer bears no First Internal Port.
        """
        self.internal = self.external if self._may_be_alike() else self.low

    def follow_external(self, others):
        """Let the internal ports follow the external ones, which were moved.

        others: the client's mappings. Where the new ports would meet theirs the old ones stay,
        since internal ports never overlap (RFC 7753 6.3).
        """
        last = self.external + self.size - 1
        taken = any(
            other.meets(self.protocol, self.external, last) for other in others if other is not self
        )
        if self._may_be_alike() and not taken:
            self.internal = self.external

    def _may_be_alike(self):
        inside = self.low <= self.external and self.external + self.size - 1 <= self.high
        return inside and self.size > 1 and not self.translated

    def remaining(self, now_ms):
        """Seconds of life left, rounded up; 2^32-1 for a static mapping (RFC 6887 11.3)."""
        if self.static:
            return INFINITE
        return max(0, -(-(self.due_ms - now_ms) // 1000))


def same_protocol(one, other):
    """Do two protocol numbers meet? 0 stands for all."""
    return wire.PROTO_ALL in (one, other) or one == other


class MappingTable:
    """All mappings by client; a client has few, by its quota."""

    def __init__(self):
        self._by_client = {}
        self._count = 0

    def __len__(self):
        return self._count

    def __iter__(self):
        for entries in self._by_client.values():
            yield from entries

    def clear(self):
        """Take all out."""
        self._by_client.clear()
        self._count = 0

    def add(self, mapping):
        """Enter a mapping, here and in its block."""
        mapping.block.mappings.append(mapping)
        self._by_client.setdefault(mapping.client, []).append(mapping)
        self._count += 1

    def remove(self, mapping):
        """Take a mapping out, here and of its block."""
        entries = self._by_client[mapping.client]
        entries.remove(mapping)
        if not entries:
            del self._by_client[mapping.client]
        mapping.block.mappings.remove(mapping)
        self._count -= 1

    def of_client(self, client):
        """The client's mappings, oldest first."""
        return self._by_client.get(client, ())

    def blocks(self, client):
        """The client's blocks, each once, in order of their mappings."""
        return list(dict.fromkeys(mapping.block for mapping in self.of_client(client)))

    def touched(self, asked):
        """The mappings that a requests.MapRequest meets, by first internal port (part G)."""
        low, high = asked.internal_range()
        entries = self.of_client(asked.client)
        found = [mapping for mapping in entries if mapping.meets(asked.protocol, low, high)]
        if len(found) > 1:
            found.sort(key=lambda mapping: (mapping.internal, mapping.protocol))
        return found
