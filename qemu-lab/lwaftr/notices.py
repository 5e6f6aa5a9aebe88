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


class _Series:
    """A series of unsolicited ANNOUNCE still to be sent."""

    def __init__(self, groups, clients, repeats, now_ms):
        self.groups = groups
        self.clients = clients
        self.left = repeats
        self.gap = ANNOUNCE_GAP_MS
        self.due_ms = now_ms


class Announcements:
    """Who is told that the server may have lost state, and when.

    max_known: clients to remember for unicast; the longest unheard is forgotten first.
    """

    def __init__(self, max_known):
        self._max_known = max_known
        self._known = OrderedDict()
        self._series = None

    def __len__(self):
        return len(self._known)

    def heard(self, client, port):
        """Note where a client listens, and that it need not be told any more."""
        self._known[client] = port
        self._known.move_to_end(client)
        if len(self._known) > self._max_known:
            self._known.popitem(last=False)
        if self._series is not None:
            self._series.clients.pop(client, None)

    def start(self, now_ms, unicast, groups, repeats):
        """Begin a series in place of one under way; groups: multicast addresses."""
        clients = dict(self._known) if unicast else {}
        self._series = None
        if clients or groups:
            self._series = _Series(groups, clients, repeats, now_ms)

    def stop(self):
        """End the series."""
        self._series = None

    def next_due(self):
        """When a copy is to be sent (milliseconds), or None."""
        return None if self._series is None else self._series.due_ms

    def due(self, now_ms):
        """[(address, port)] that get a copy now."""
        series = self._series
        if series is None or series.due_ms > now_ms:
            return []
        targets = list(series.clients.items())
        targets += [(group, wire.CLIENT_PORT) for group in series.groups]
        series.left -= 1
        series.due_ms = now_ms + series.gap
        series.gap *= 2
        if not series.left or not targets:
            self._series = None
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
