"""Which ports a client gets: first fit from a pool, or a function of its address.

Ports belong to one client for all protocols: a set asked for UDP and later for TCP is one set.
External UDP 5350 and 5351 are never assigned (RFC 6887 11.3); as a protocol-0 set holds UDP
too, no set of any protocol contains them.
"""

import bisect
import ipaddress

from .timers import DeadlineQueue

NEVER_ASSIGNED = (5350, 5351)


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
    """The free ports of one address as disjoint runs, ordered."""

    __slots__ = ("ends", "longest", "starts")

    def __init__(self, runs):
        self.starts = [first for first, _ in runs]
        self.ends = [last for _, last in runs]
        self._measure()

    def _measure(self):
        lengths = (end - start + 1 for start, end in zip(self.starts, self.ends))
        self.longest = max(lengths, default=0)

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
        self._measure()

    def give(self, first, size):
        """Mark ports as free; they were used."""
        last = first + size - 1
        index = bisect.bisect_right(self.starts, first)
        if index > 0 and self.ends[index - 1] == first - 1:
            index -= 1
            first = self.starts[index]
            del self.starts[index], self.ends[index]
        if index < len(self.starts) and self.starts[index] == last + 1:
            last = self.ends[index]
            del self.starts[index], self.ends[index]
        self.starts.insert(index, first)
        self.ends.insert(index, last)
        self._measure()

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
    """First fit, the suggestion first.

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
        self._range = (config.first_port, config.last_port)
        self._align = config.align or _natural_align(config.set_size)
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

    def _suggested(self, wish):
        index = self._index.get(wish.address)
        if index is None or not wish.port or wish.home not in (None, wish.address):
            return None
        if not wish.low <= wish.port <= wish.high:
            return None
        if wish.parity is not None and wish.port % 2 != wish.parity:
            return None
        length = self._free[index].free_from(wish.port)
        length = min(length, wish.size, wish.high - wish.port + 1)
        return (wish.address, wish.port, length) if length else None

    def _anywhere(self, wish):
        for address in (wish.home, wish.address):
            found = self._on(self._index.get(address), wish)
            if found is not None and (address == wish.home or found[2] == wish.size):
                return found
        if wish.low > self._range[0] or wish.high < self._range[1]:
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
        """Best place inside low to high; looks at every address, but at no client."""
        best = None
        for index in range(len(self._addresses)):
            found = self._on(index, wish)
            if found is not None and found[2] == wish.size:
                return found
            if found is not None and (best is None or found[2] > best[2]):
                best = found
        return best

    def _on(self, index, wish):
        place = None if index is None else self._free[index].fit(wish, self._align)
        return None if place is None else (self._addresses[index], *place)


def _natural_align(set_size):
    return set_size if set_size & (set_size - 1) == 0 else 1


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
    step = _natural_align(size)
    for low, high in port_runs(first, last):
        start = -(-low // step) * step
        while start + size - 1 <= high:
            starts.append(start)
            start += size
    return starts


def make_pool(config, random_bytes):
    """The pool that the configuration asks for."""
    if config.mode == "stateless":
        return StatelessPool(config)
    return StatefulPool(config, random_bytes)


class Hold:
    """Ports that were freed and are kept for their last owner until due_ms."""

    __slots__ = ("address", "client", "due_ms", "first", "nonce", "size")

    def __init__(self, client, nonce, address, first, size, due_ms):
        self.client = client
        self.nonce = nonce
        self.address = address
        self.first = first
        self.size = size
        self.due_ms = due_ms


class Holds:
    """Freed ports wait here before anyone else gets them (RFC 6887 15).

    The same client, known by address and nonce, gets its own back at once.
    """

    def __init__(self, pool):
        self._pool = pool
        self._queue = DeadlineQueue()
        self._by_client = {}

    def add(self, client, nonce, place, due_ms):
        """Keep place, an (address, first, size) that is out of the pool, until due_ms."""
        hold = Hold(client, nonce, *place, due_ms)
        self._by_client.setdefault(client, []).append(hold)
        self._queue.push(hold)

    def expire(self, now_ms):
        """Give back to the pool what has waited long enough."""
        while True:
            hold = self._queue.pop_due(now_ms)
            if hold is None:
                return
            self._drop(hold)

    def next_due(self):
        """When the next hold ends (milliseconds), or None."""
        return self._queue.next_due()

    def own(self, client, nonce, address, port):
        """The held ports that this client may take back, or None.

        Its suggestion picks among several; without one the newest is taken.
        """
        for hold in reversed(self._by_client.get(client, ())):
            if hold.nonce != nonce:
                continue
            suggested = hold.address == address and hold.first <= port < hold.first + hold.size
            if suggested or not port:
                return hold
        return None

    def open(self, hold):
        """Give one hold back to the pool before its time."""
        hold.due_ms = None
        self._drop(hold)

    def close(self, hold, due_ms):
        """Hold again what its owner left of it."""
        for place in self._pool.reserve(hold.address, hold.first, hold.size):
            self.add(hold.client, hold.nonce, place, due_ms)

    def _drop(self, hold):
        entries = self._by_client[hold.client]
        entries.remove(hold)
        if not entries:
            del self._by_client[hold.client]
        self._pool.release(hold.address, hold.first, hold.size)
