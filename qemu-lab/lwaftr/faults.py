"""Injected faults: what a bad path or a bad server does to PCP datagrams.

What changes the server's decisions (refuse, fewer_ports, ignore_port_set) the server core reads
itself; here is what happens to datagrams. All faults live in one config.Faults, which can be
changed at any time. With a seeded random source and the same input the outcome is the same.
"""

import heapq
from collections import namedtuple

# A datagram to send; other_port: not from the PCP server's port.
Send = namedtuple("Send", ("data", "address", "port", "other_port"))

# A response that is overtaken waits this long when nothing follows it.
REORDER_MS = 200
_RESPONSE_BIT = 0x80
_NONCE = slice(24, 36)


class FaultyServer:
    """A PcpServer behind faults; used as the server itself is.

    server: PcpServer. rng: a random.Random. Answers are Send tuples.
    """

    def __init__(self, server, rng):
        self.server = server
        self.faults = server.faults
        self._rng = rng
        self._queue = []
        self._count = 0
        # What happened, for the control socket.
        self.counters = dict.fromkeys(
            ("lost", "duplicated", "delayed", "reordered", "garbled", "wrong_nonce", "other_port"),
            0,
        )

    def receive(self, now_ms, data, source, source_port):
        """Handle one datagram (PcpServer.receive); what can be sent at once."""
        for _ in range(self._copies()):
            self.send(now_ms, self.server.receive(now_ms, data, source, source_port))
        return self._due(now_ms)

    def handle_timer(self, now_ms):
        """What is due: the server's own, and datagrams that were held back."""
        self.send(now_ms, self.server.handle_timer(now_ms))
        return self._due(now_ms)

    def get_timer(self):
        """When handle_timer() has something to do (milliseconds), or None."""
        dues = [self.server.get_timer(), self._queue[0][0] if self._queue else None]
        return min((due for due in dues if due is not None), default=None)

    def send(self, now_ms, outgoing):
        """Pass datagrams of the server through the faults; handle_timer() hands them out."""
        for datagram in outgoing:
            for _ in range(self._copies()):
                self._enqueue(now_ms, datagram)

    def _happens(self, percent, counter):
        if not percent or self._rng.random() * 100 >= percent:
            return False
        self.counters[counter] += 1
        return True

    def _copies(self):
        faults = self.faults
        if faults.silence or self._happens(faults.loss, "lost"):
            return 0
        return 2 if self._happens(faults.duplicate, "duplicated") else 1

    def _enqueue(self, now_ms, datagram):
        faults = self.faults
        data = self._spoil(datagram.data)
        other = self._happens(faults.other_port, "other_port")
        delay = 0
        if faults.delay_max:
            delay = self._rng.randint(faults.delay_min, faults.delay_max)
            self.counters["delayed"] += 1
        if self._happens(faults.reorder, "reordered"):
            delay += REORDER_MS
        send = Send(data, datagram.address, datagram.port, other)
        self._count += 1
        heapq.heappush(self._queue, (now_ms + delay, self._count, send))

    def _spoil(self, data):
        faults = self.faults
        is_map = len(data) >= _NONCE.stop and data[1] == _RESPONSE_BIT | 1
        if is_map and self._happens(faults.wrong_nonce, "wrong_nonce"):
            wrong = bytes(octet ^ 0xFF for octet in data[_NONCE])
            data = data[: _NONCE.start] + wrong + data[_NONCE.stop :]
        if self._happens(faults.garble, "garbled"):
            data = self._garble(data)
        return data

    def _garble(self, data):
        """Flip, cut or append octets."""
        spoiled = bytearray(data)
        for _ in range(self._rng.randint(1, 8)):
            spoiled[self._rng.randrange(len(spoiled))] ^= self._rng.randint(1, 255)
        kind = self._rng.randrange(3)
        if kind == 1:
            del spoiled[self._rng.randrange(len(spoiled)) :]
        elif kind == 2:
            spoiled += bytes(self._rng.randrange(256) for _ in range(self._rng.randint(1, 64)))
        return bytes(spoiled)

    def _due(self, now_ms):
        out = []
        while self._queue and self._queue[0][0] <= now_ms:
            out.append(heapq.heappop(self._queue)[2])
        return out
