"""The simulator's clock, and its network: datagrams that are lost, late, doubled and reordered."""

import heapq

SECOND = 1000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR


class Timeline:
    """What happens when. Times are ms."""

    def __init__(self):
        self.now = 0
        self._queue = []
        self._number = 0
        self._wakes = {}

    def at(self, when, action, *arguments):
        """Call action(now, *arguments) at that time; what is past happens next."""
        self._number += 1
        heapq.heappush(self._queue, (when, self._number, action, arguments))

    def wake(self, sleeper, due):
        """Call sleeper.handle_timer(now) at due, or sooner: it looks what is due by itself.

        A wake-up that is planned for an earlier time stays, so that a timer which is moved on
        with every exchange does not fill the queue.
        """
        if due is None:
            return
        planned = self._wakes.get(sleeper)
        if planned is None or due < planned:
            self._wakes[sleeper] = due
            self.at(due, self._on_wake, sleeper, due)

    def _on_wake(self, now, sleeper, due):
        if self._wakes.get(sleeper) == due:
            del self._wakes[sleeper]
            sleeper.handle_timer(now)

    def run(self, end):
        """Everything up to that time."""
        queue = self._queue
        while queue and queue[0][0] <= end:
            when, _, action, arguments = heapq.heappop(queue)
            if when > self.now:
                self.now = when
            action(self.now, *arguments)
        self.now = end


class Weather:
    """What the network does to datagrams. loss, duplicate: chances; delay: longest way in ms."""

    GOOD = (0.0, 50, 0.0)

    def __init__(self, chance):
        self._chance = chance
        self.loss, self.delay, self.duplicate = self.GOOD
        self.datagrams = 0

    def turn(self, loss, delay, duplicate):
        """Change it."""
        self.loss, self.delay, self.duplicate = loss, delay, duplicate

    def ways(self):
        """Delays in ms of the copies of one datagram that arrive."""
        self.datagrams += 1
        random = self._chance.random
        copies = 2 if self.duplicate and random() < self.duplicate else 1
        return [
            1 + int(random() * self.delay)
            for _ in range(copies)
            if not self.loss or random() >= self.loss
        ]
