"""A queue of deadlines whose entries may move or vanish."""

import heapq


class DeadlineQueue:
    """Items with a due_ms attribute, in order of time.

    Setting an item's due_ms to another time (and pushing it again), or to None, takes the old
    entry back. Stale entries are swept before they outnumber the live ones, so the memory is
    bounded by twice the live items.
    """

    def __init__(self):
        self._heap = []
        self._count = 0
        self._sweep_at = 64

    def push(self, item):
        """Enter an item at its due_ms (milliseconds)."""
        self._count += 1
        heapq.heappush(self._heap, (item.due_ms, self._count, item))
        if len(self._heap) > self._sweep_at:
            self._heap = [entry for entry in self._heap if entry[2].due_ms == entry[0]]
            heapq.heapify(self._heap)
            self._sweep_at = 2 * len(self._heap) + 64

    def next_due(self):
        """Time of the first live item, or None."""
        while self._heap:
            due, _, item = self._heap[0]
            if item.due_ms == due:
                return due
            heapq.heappop(self._heap)
        return None

    def pop_due(self, now_ms):
        """The next item that is due, taken out with due_ms None; None if there is none."""
        due = self.next_due()
        if due is None or due > now_ms:
            return None
        item = heapq.heappop(self._heap)[2]
        item.due_ms = None
        return item
