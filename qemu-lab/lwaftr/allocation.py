"""The pool of ports: first fit, the suggestion first.

Ports belong to one client for all protocols: a set asked for UDP and later for TCP is one set.
External UDP 5350 and 5351 are never assigned (RFC 6887 11.3); as a protocol-0 set holds UDP
too, no set of any protocol contains them.
"""

import bisect

NEVER_ASSIGNED = (5350, 5351)
# A certain port, or a place in a certain range, is looked for on so many addresses.
_LOOKS = 64


class Wish:
    """What a client asks of the pool.

    size: ports, 1 or more. address, port: its suggestion, None and 0 if none. home: the
    address that it has already (RFC 7753 6.1). low, high: external ports allowed. parity: 0 or
    1 for the first port, None for either. exact: the suggestion or nothing.
    """

    __slots__ = ("address", "exact", "high", "home", "low", "parity", "port", "size")

    def __init__(
        self, size, address=None, port=0, home=None, low=0, high=65535, parity=None, exact=False
    ):
        self.size = size
        self.address = address
        self.port = port
        self.home = home
        self.low = low
        self.high = high
        self.parity = parity
        self.exact = exact


class _Runs:
    """The free ports of one address as disjoint runs, ordered. longest: length of the longest."""

    __slots__ = ("_lengths", "ends", "longest", "starts")

    def __init__(self, runs):
        self.starts = [first for first, _ in runs]
        self.ends = [last for _, last in runs]
        self.longest = 0
        # How many runs of each length: single ports may leave tens of thousands of runs.
        self._lengths = {}
        for first, last in runs:
            self._come(last - first + 1)

    def _come(self, length):
        self._lengths[length] = self._lengths.get(length, 0) + 1
        self.longest = max(self.longest, length)

    def _go(self, length):
        self._lengths[length] -= 1
        if not self._lengths[length]:
            del self._lengths[length]
            if length == self.longest:
                self.longest = max(self._lengths, default=0)

    def free_from(self, port):
        """How many ports are free from this one on."""
        index = bisect.bisect_right(self.starts, port) - 1
        return max(0, self.ends[index] - port + 1) if index >= 0 else 0

    def take(self, first, size):
        """Mark ports as used; they are free and in one run."""
        last = first + size - 1
        index = bisect.bisect_right(self.starts, first) - 1
        start, end = self.starts[index], self.ends[index]
        pieces = [(start, first - 1), (last + 1, end)]
        pieces = [(low, high) for low, high in pieces if low <= high]
        self.starts[index : index + 1] = [low for low, _ in pieces]
        self.ends[index : index + 1] = [high for _, high in pieces]
        for low, high in pieces:
            self._come(high - low + 1)
        self._go(end - start + 1)

    def give(self, first, size):
        """Mark ports as free; they were used."""
        last = first + size - 1
        index = bisect.bisect_right(self.starts, first)
        if index > 0 and self.ends[index - 1] == first - 1:
            index -= 1
            first = self._swallow(index)[0]
        if index < len(self.starts) and self.starts[index] == last + 1:
            last = self._swallow(index)[1]
        self.starts.insert(index, first)
        self.ends.insert(index, last)
        self._come(last - first + 1)

    def _swallow(self, index):
        """Take one run out; (first, last)."""
        first, last = self.starts.pop(index), self.ends.pop(index)
        self._go(last - first + 1)
        return first, last

    def fit(self, wish, align):
        """(first, size) for a wish, as large as possible up to its size; None if nothing is."""
        best = None
        for step in (align if wish.size >= align else 1, 1):
            for start, end in zip(self.starts, self.ends):
                found = _fit_run(max(start, wish.low), min(end, wish.high), wish, step)
                if found and found[1] == wish.size:
                    return found
                if found and step == 1 and (best is None or found[1] > best[1]):
                    best = found
        return best


def _fit_run(low, high, wish, step):
    """(first, size) of the best place in one run, or None."""
    first = -(-low // step) * step
    if wish.parity is not None and first % 2 != wish.parity:
        # A single port of the wrong parity beats none (RFC 7753 4.2: MAY preserve).
        first += 1 if first < high else 0
    if first > high:
        return None
    return first, min(wish.size, high - first + 1)


class _Longest:
    """Longest free run of every address in a tree, to find one that fits in O(log n)."""

    def __init__(self, lengths):
        self._leaves = 1
        while self._leaves < len(lengths):
            self._leaves *= 2
        self._tree = [0] * (2 * self._leaves)
        self._tree[self._leaves : self._leaves + len(lengths)] = lengths
        for node in range(self._leaves - 1, 0, -1):
            self._tree[node] = max(self._tree[2 * node], self._tree[2 * node + 1])

    def set(self, index, length):
        node = index + self._leaves
        self._tree[node] = length
        while node > 1:
            node //= 2
            self._tree[node] = max(self._tree[2 * node], self._tree[2 * node + 1])

    def first(self, length):
        """Index of the first address with a run that long, or None."""
        if not 0 < length <= self._tree[1]:
            return None
        node = 1
        while node < self._leaves:
            node *= 2
            if self._tree[node] < length:
                node += 1
        return node - self._leaves

    def best(self):
        """The longest run of all."""
        return self._tree[1]


def port_runs(first, last):
    """The assignable runs [(first, last)] of a port range."""
    runs = []
    low = first
    for port in NEVER_ASSIGNED:
        if low <= port <= last:
            if low < port:
                runs.append((low, port - 1))
            low = port + 1
    if low <= last:
        runs.append((low, last))
    return runs


class StatefulPool:
    """The ports of all addresses.

    With order 'random' the address is chosen at random while there is room: the shape of a
    pool that has been in use for long.
    """

    holds_freed = True

    def __init__(self, config, random_bytes):
        runs = port_runs(config.first_port, config.last_port)
        self._addresses = list(config.addresses)
        self._index = {address: index for index, address in enumerate(self._addresses)}
        self._free = [_Runs(runs) for _ in self._addresses]
        self._longest = _Longest([free.longest for free in self._free])
        self._start = 0
        self._range = (config.first_port, config.last_port)
        self._align = config.align or natural_align(config.set_size)
        self._random_bytes = random_bytes if config.order == "random" else None

    def allocate(self, client, wish):
        """(address, first, size) taken out of the pool, or None if nothing is left.

        The client's octets play no part here.
        """
        found = self._suggested(wish)
        if found is None or (found[2] < wish.size and not wish.exact):
            other = None if wish.exact else self._anywhere(wish)
            if other is not None and (found is None or other[2] > found[2]):
                found = other
        if found is None or (wish.exact and found[2] < wish.size):
            return None
        self._take(*found)
        return found

    def release(self, address, first, size):
        """Put ports back that allocate() or reserve() took."""
        index = self._index[address]
        self._free[index].give(first, size)
        self._longest.set(index, self._free[index].longest)

    def reserve(self, address, first, size):
        """Take the free ones of these ports out; the runs taken, as (address, first, size)."""
        taken = []
        index = self._index.get(address)
        port = first
        while index is not None and port < first + size:
            length = min(self._free[index].free_from(port), first + size - port)
            if length:
                self._take(address, port, length)
                taken.append((address, port, length))
            port += max(length, 1)
        return taken

    def _take(self, address, first, size):
        index = self._index[address]
        self._free[index].take(first, size)
        self._longest.set(index, self._free[index].longest)

    def has(self, address, port):
        """Is a port free? address None stands for any."""
        return bool(port) and self._with_port(address, port, _LOOKS) is not None

    def _suggested(self, wish):
        if not wish.port or not wish.low <= wish.port <= wish.high:
            return None
        if wish.parity is not None and wish.port % 2 != wish.parity:
            return None
        address = wish.address
        if address not in self._index and not wish.exact:
            # Some clients suggest their own address: the port is what they want.
            address = None
        if None not in (wish.home, address) and wish.home != address:
            return None
        address = wish.home if address is None else address
        limit = len(self._addresses) if wish.exact else _LOOKS
        index = self._with_port(address, wish.port, limit)
        if index is None:
            return None
        length = self._free[index].free_from(wish.port)
        length = min(length, wish.size, wish.high - wish.port + 1)
        return self._addresses[index], wish.port, length

    def _with_port(self, address, port, limit):
        """Index of an address where a port is free, or None; address None: of the first ones."""
        if address is not None:
            index = self._index.get(address)
            free = index is not None and self._free[index].free_from(port)
            return index if free else None
        for index in range(min(limit, len(self._addresses))):
            if self._free[index].free_from(port):
                return index
        return None

    def _anywhere(self, wish):
        found = self._on(self._index.get(wish.home), wish)
        limited = wish.low > self._range[0] or wish.high < self._range[1]
        if found is not None or (limited and wish.home is not None):
            # Its own address counts for more than the range (RFC 7753 6.1).
            return found
        found = self._on(self._index.get(wish.address), wish)
        if found is not None and found[2] == wish.size:
            return found
        if limited:
            return self._constrained(wish)
        index = self._random_index(wish.size)
        if index is None:
            index = self._longest.first(min(wish.size, self._longest.best()))
        return self._on(index, wish)

    def _random_index(self, size):
        if self._random_bytes is None:
            return None
        for _ in range(8):
            index = int.from_bytes(self._random_bytes(4), "big") % len(self._addresses)
            if self._free[index].longest >= size:
                return index
        return None

    def _constrained(self, wish):
        """Best place inside low to high, on a few addresses from where the last search ended."""
        best = None
        for _ in range(min(_LOOKS, len(self._addresses))):
            found = self._on(self._start, wish)
            if found is not None and found[2] == wish.size:
                return found
            if found is not None and (best is None or found[2] > best[2]):
                best = found
            self._start = (self._start + 1) % len(self._addresses)
        return best

    def _on(self, index, wish):
        place = None if index is None else self._free[index].fit(wish, self._align)
        return None if place is None else (self._addresses[index], *place)


def natural_align(set_size):
    """What full sets are aligned to: their size if it is a power of two."""
    return set_size if set_size & (set_size - 1) == 0 else 1
