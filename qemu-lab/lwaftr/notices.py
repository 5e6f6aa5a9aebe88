"""What the server says unasked: ANNOUNCE (RFC 6887 14.1.3) and Mapping Updates (14.2).

Both say when something is to be sent, and where; the octets are the server's, since each copy
bears the epoch of its own time.
"""

from collections import OrderedDict

from cpe_agent.pcp import wire

from .timers import DeadlineQueue

ALL_NODES = bytes.fromhex("ff02" + "00" * 13 + "01")
ALL_HOSTS = wire.V4_PREFIX + bytes([224, 0, 0, 1])
ANNOUNCE_GAP_MS = 250  # then doubled, RFC 6887 14.1.3
UPDATE_GAPS_MS = (250, 500)  # RFC 6887 14.2
_LATE_MS = 20  # a timer that is served so late costs nothing of the pace


class _Told:
    """Who is told by a series of ANNOUNCE: copies left, and when the last one left."""

    __slots__ = ("address", "due_ms", "left", "port", "sent_ms")

    def __init__(self, address, port, left, now_ms):
        self.address = address
        self.port = port
        self.left = left
        self.due_ms = now_ms
        self.sent_ms = None

    def sent(self, now_ms):
        """Note a copy, and when the next is due: each gap at least twice the one before."""
        gap = ANNOUNCE_GAP_MS if self.sent_ms is None else 2 * (now_ms - self.sent_ms)
        self.sent_ms = now_ms
        self.left -= 1
        self.due_ms = now_ms + max(gap, ANNOUNCE_GAP_MS) if self.left else None


class Announcements:
    """Who is told that the server may have lost state, and when.

    max_known: clients to remember for unicast; the longest unheard is forgotten first. pace:
    announcements a second, 0 for no limit; who has not been told yet comes before all repeats.
    """

    def __init__(self, max_known, pace=0):
        self._max_known = max_known
        self._interval_us = 1000000 // pace if pace else 0
        self._known = OrderedDict()
        self.stop()

    def __len__(self):
        return len(self._known)

    def heard(self, client, port):
        """Note where a client listens, and that it need not be told any more."""
        self._known[client] = port
        self._known.move_to_end(client)
        if len(self._known) > self._max_known:
            self._known.popitem(last=False)
        told = self._series.pop(client, None)
        if told is not None:
            told.due_ms = None

    def start(self, now_ms, unicast, groups, repeats):
        """Begin a series in place of one under way: the clients known, the longest unheard first,
        then groups, which are multicast addresses."""
        self.stop()
        self._free_us = now_ms * 1000
        targets = list(self._known.items()) if unicast else []
        targets += [(group, wire.CLIENT_PORT) for group in groups]
        for address, port in targets:
            told = _Told(address, port, repeats, now_ms)
            self._series[address] = told
            self._queue.push(told)

    def stop(self):
        """End the series."""
        self._series = {}  # address: _Told
        self._queue = DeadlineQueue()
        self._free_us = 0  # when the pace allows the next copy

    def next_due(self):
        """When a copy is to be sent (milliseconds), or None."""
        due = self._queue.next_due()
        return None if due is None else max(due, -(-self._free_us // 1000))

    def due(self, now_ms):
        """[(address, port)] that get a copy now."""
        targets = []
        while self._free_us <= now_ms * 1000:
            told = self._queue.pop_due(now_ms)
            if told is None:
                break
            targets.append((told.address, told.port))
            self._free_us = max(self._free_us, (now_ms - _LATE_MS) * 1000) + self._interval_us
            told.sent(now_ms)
            if told.left:
                self._queue.push(told)
            else:
                del self._series[told.address]
        return targets


class _Update:
    """Copies of a Mapping Update still to be sent for a mapping."""

    __slots__ = ("due_ms", "gaps", "mapping")

    def __init__(self, mapping, now_ms):
        self.mapping = mapping
        self.gaps = list(UPDATE_GAPS_MS)
        self.due_ms = now_ms + self.gaps.pop(0)


class MappingUpdates:
    """Which mappings' news are still to be repeated; one series for each mapping."""

    def __init__(self):
        self.clear()

    def clear(self):
        """Send nothing more."""
        self._queue = DeadlineQueue()
        self._gone = {}

    def start(self, now_ms, mapping, gone=False):
        """Repeat the news of a mapping; the caller sends the first copy.

        gone: the mapping has ended, so only heard() can find it.
        """
        self.stop(mapping)
        mapping.update = _Update(mapping, now_ms)
        self._queue.push(mapping.update)
        if gone:
            self._gone[_name(mapping)] = mapping

    def stop(self, mapping):
        """The client knows, or the mapping has ended."""
        if mapping.update is not None:
            mapping.update.due_ms = None
            mapping.update = None
        if self._gone:
            self._gone.pop(_name(mapping), None)

    def heard(self, asked):
        """Stop the news of a mapping that is gone when its client asks for it again."""
        if self._gone:
            name = asked.client, asked.nonce, asked.protocol, asked.data.internal_port
            mapping = self._gone.get(name)
            if mapping is not None:
                self.stop(mapping)

    def next_due(self):
        """When a copy is to be sent (milliseconds), or None."""
        return self._queue.next_due()

    def due(self, now_ms):
        """The mappings of which a copy is to be sent now, in order of time."""
        mappings = []
        while True:
            update = self._queue.pop_due(now_ms)
            if update is None:
                return mappings
            mappings.append(update.mapping)
            if update.gaps:
                update.due_ms = now_ms + update.gaps.pop(0)
                self._queue.push(update)
            else:
                self.stop(update.mapping)


def _name(mapping):
    return mapping.client, mapping.nonce, mapping.protocol, mapping.internal_port
