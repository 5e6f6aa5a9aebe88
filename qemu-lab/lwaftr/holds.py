"""Freed ports, kept for their last owner before they go to anyone else (RFC 6887 15)."""

from .timers import DeadlineQueue


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
            inside = hold.first <= port < hold.first + hold.size
            if not port or (inside and address in (None, hold.address)):
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
