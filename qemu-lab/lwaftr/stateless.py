"""Port sets that are a function of the client's address alone."""

import bisect
import ipaddress

from .allocation import natural_align, port_runs


class StatelessPool:
    """The set is a function of the client's address alone (the case of RFC 7753 5.2).

    The bits of the client's address from the end of client_prefix to client_prefix_end are
    the number of its set, counted through the ports of the first address, then of the next.
    Clients outside the prefix, or with a number past the end, get nothing. Freed sets need no
    waiting time, for nobody else can ever get them.
    """

    holds_freed = False

    def __init__(self, config):
        self._addresses = list(config.addresses)
        self._index = {address: index for index, address in enumerate(self._addresses)}
        self._size = config.set_size
        self._starts = _slots(config.first_port, config.last_port, config.set_size)
        network = ipaddress.IPv6Network(config.client_prefix)
        self._network = int(network.network_address) >> (128 - network.prefixlen)
        self._length = network.prefixlen
        self._end = config.client_prefix_end
        self._taken = {}

    def number(self, client):
        """Number of the client's set, or None if it has none."""
        value = int.from_bytes(client, "big")
        if value >> (128 - self._length) != self._network:
            return None
        number = value >> (128 - self._end) & ((1 << (self._end - self._length)) - 1)
        return number if number < len(self._starts) * len(self._addresses) else None

    def allocate(self, client, wish):
        """(address, first, size) of the client's set, or None; the suggestion is not needed.

        Two addresses can have one number, when they differ in other bits only: the first holds
        it until its lifetime ends.
        """
        number = self.number(client)
        if number is None or number in self._taken:
            return None
        index, slot = divmod(number, len(self._starts))
        address, first = self._addresses[index], self._starts[slot]
        last = min(first + self._size - 1, wish.high)
        first = max(first, wish.low)
        size = min(wish.size, last - first + 1)
        if size < 1 or (wish.exact and (wish.address, wish.port) != (address, first)):
            return None
        self._taken[number] = (address, first, size)
        return address, first, size

    def has(self, address, port):
        """No place is for those who suggest it."""
        return False

    def release(self, address, first, size):
        """Forget who holds the set of these ports."""
        slot = bisect.bisect_right(self._starts, first) - 1
        self._taken.pop(self._index[address] * len(self._starts) + slot, None)

    def reserve(self, address, first, size):
        """Keep every set that these ports touch from being assigned."""
        if address in self._index:
            base = self._index[address] * len(self._starts)
            for slot, start in enumerate(self._starts):
                if start < first + size and first < start + self._size:
                    self._taken[base + slot] = (address, start, self._size)
        return []


def _slots(first, last, size):
    """First ports of the fixed sets in a range: multiples of size if it is a power of two."""
    starts = []
    step = natural_align(size)
    for low, high in port_runs(first, last):
        start = -(-low // step) * step
        while start + size - 1 <= high:
            starts.append(start)
            start += size
    return starts
