"""Which external ports a new mapping gets, within the client's quota (RFC 7753 4.2, 6.1)."""

from cpe_agent.pcp import wire

from .allocation import StatefulPool, Wish
from .holds import Holds
from .mappings import Block
from .requests import Refused
from .stateless import StatelessPool


class Placement:
    """The pool, and what was freed a while ago.

    config: config.Config, read anew for each request. random_bytes: called with a count; only
    used with pool.order 'random'.
    """

    def __init__(self, config, random_bytes):
        self._config = config
        if config.pool.mode == "stateless":
            self._pool = StatelessPool(config.pool)
        else:
            self._pool = StatefulPool(config.pool, random_bytes)
        self._holds = Holds(self._pool)

    def reserve(self, address, first, size):
        """Keep ports, of a static binding, from being assigned."""
        self._pool.reserve(address, first, size)

    def find(self, now_ms, asked, blocks, limit):
        """(block, first external port, size) for a MapRequest. Raises Refused.

        blocks: the client's, in order. limit: ports that one set may have. A new block is out of
        the pool then.
        """
        low, high = asked.internal_range()
        size = min(asked.size, high - low + 1, limit)
        shared = self._shared(asked, blocks, size)
        if shared is not None:
            return shared
        policy = self._config.pcp
        left = policy.max_ports - sum(block.size for block in blocks)
        if len(blocks) >= policy.max_sets or left <= 0:
            raise Refused(wire.USER_EX_QUOTA)
        place = self._allocate(asked, blocks, min(size, left))
        if place is None:
            only = asked.options.prefer_failure
            raise Refused(wire.CANNOT_PROVIDE_EXTERNAL if only else wire.NO_RESOURCES)
        block = Block(*place)
        return block, block.first, block.size

    def other(self, client, block, address, port):
        """Another place as large as the block, taken out of the pool, or None.

        address, port: where, None and 0 for anywhere.
        """
        wish = Wish(block.size, address, port, home=address)
        place = self._pool.allocate(client, wish)
        if place is None:
            return None
        if place[2] == block.size and address in (None, place[0]) and port in (0, place[1]):
            return place
        self._pool.release(*place)
        return None

    def give_back(self, *place):
        """Undo other(): address, first, size."""
        self._pool.release(*place)

    def free(self, now_ms, client, nonce, place):
        """The last mapping on a place (address, first, size) has ended: hold it for its owner."""
        hold_ms = self._config.pcp.hold_time * 1000
        if hold_ms and self._pool.holds_freed:
            self._holds.add(client, nonce, place, now_ms + hold_ms)
        else:
            self._pool.release(*place)

    def expire(self, now_ms):
        """Give back to the pool what has been held long enough."""
        self._holds.expire(now_ms)

    def next_due(self):
        """When expire() has something to do (milliseconds), or None."""
        return self._holds.next_due()

    def _shared(self, asked, blocks, size):
        """(block, port, size) on ports that the client has for another protocol, or None.

        A request means them when it suggests them, or when its internal port is one that it used
        for them (the way to ask for UDP and TCP one by one, AMB-1) and what it suggests is taken.
        """
        open_blocks = [block for block in blocks if block.free_for(asked.protocol)]
        address, port = asked.suggestion()
        for block in open_blocks:
            if address in (None, block.address) and block.first <= port <= block.last:
                return block, port, min(size, block.last - port + 1)
        if not open_blocks or asked.options.prefer_failure or self._has(asked, blocks[0].address):
            return None
        for block in open_blocks:
            if any(m.internal_port == asked.data.internal_port for m in block.mappings):
                return block, block.first, min(size, block.size)
        return None

    def _has(self, asked, home):
        """Could the suggestion be met on the address that the client has already?"""
        address, port = asked.suggestion()
        if not port or address not in (None, home):
            return False
        held = self._holds.own(asked.client, asked.nonce, home, port)
        return held is not None or self._pool.has(home, port)

    def _allocate(self, asked, blocks, size):
        """(address, first, size) from the pool, or None."""
        address, port = asked.suggestion()
        held = self._holds.own(asked.client, asked.nonce, address, port)
        held_until = None
        if held is not None:
            held_until = held.due_ms
            self._holds.open(held)
            address, port = held.address, port or held.first
        wish = Wish(size, address, port, exact=asked.options.prefer_failure)
        wish.home = blocks[0].address if blocks else None
        low, high = asked.internal_range()
        if asked.options.parity:
            wish.parity = low % 2
        # Inside the range that was asked for if there is room: RFC 7753 4.2 wants many ports, too.
        room = high - max(low, self._config.pool.first_port) + 1 >= size
        identity = asked.protocol == wire.PROTO_ALL and not self.translates(asked.client)
        # A suggestion that is free counts for more (RFC 6887 11.3): it may be what was moved there.
        outside = not low <= port <= high and self._pool.has(address, port)
        if identity and room and not outside:
            wish.low, wish.high = low, high
        place = self._pool.allocate(asked.client, wish)
        if place is None and identity:
            wish.low, wish.high = 0, 65535
            place = self._pool.allocate(asked.client, wish)
        if held is not None:
            self._holds.close(held, held_until)
        return place

    def translates(self, client):
        """Is there a NAT44 in front of this client (16 octets), so that its ports are its own?"""
        translate = self._config.pcp.translate
        return translate == "all" or (translate == "ipv4" and wire.is_v4(client))
