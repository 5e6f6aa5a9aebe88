"""When to send: retransmission, renewal, and what an epoch tells. Pure; times are milliseconds."""

IRT = 3000  # initial retransmission time, RFC 6887 8.1.1
MRT = 1024000  # longest retransmission time
# Renewals are never closer than 4 s (RFC 6887 11.2.1); a little more, since a datagram leaves some
# milliseconds after it was decided on, and not always the same number of them.
RENEWAL_SPACING = 4050


def uniform(random_bytes, low, high):
    """An integer from low to high, both included, from four random octets."""
    return low + (int.from_bytes(random_bytes(4), "big") * (high - low + 1) >> 32)


def retransmission(previous, random_bytes):
    """The next retransmission time in ms; previous is None for the first (RFC 6887 8.1.1).

    The previous value is the jittered one, and every value gets its own jitter of a tenth.
    """
    base = IRT if previous is None else min(2 * previous, MRT)
    return base + uniform(random_bytes, -(base // 10), base // 10)


def renewal(granted, lifetime, after, random_bytes):
    """When to renew next, in ms, or None when no further renewal fits before the end.

    granted: when the grant came, ms. lifetime: seconds. after: the last send, ms; the answer is at
    least the spacing later. The windows are [1/2, 5/8], [3/4, 13/16], [7/8, 29/32] ... of the
    lifetime (RFC 6887 11.2.1); the first that begins after the last send is used.
    """
    total = lifetime * 1000
    remaining = total
    while remaining > RENEWAL_SPACING:
        remaining //= 2
        start = granted + total - remaining
        if start <= after:
            continue
        at = max(start + uniform(random_bytes, 0, remaining // 4), after + RENEWAL_SPACING)
        return at if at < granted + total else None
    return None


# Verdicts on an epoch. LATE: behind by so little that an old datagram may have come late.
FOLLOWS = "follows"
LATE = "late"
LOST = "lost"
_LATE = 30  # s


class Epoch:
    """What one server's epoch was when it was last heard (RFC 6887 8.5)."""

    def __init__(self):
        self.server = None  # seconds, as sent
        self.client = None  # our clock at that time, ms

    def check(self, server, now):
        """Take note of an epoch in seconds, heard at now in ms; the verdict on it.

        Signed arithmetic, so that the second of grace backwards does not wrap to 2^32 - 1.
        """
        verdict = self._judge(server, now // 1000)
        self.server = server
        self.client = now // 1000
        return verdict

    def _judge(self, server, client):
        if self.server is None or self._follows(server, client):
            return FOLLOWS
        behind = self.server + client - self.client - server
        return LATE if 0 <= behind <= _LATE else LOST

    def _follows(self, server, client):
        if server < self.server - 1:
            return False
        client_delta = client - self.client
        server_delta = server - self.server
        return (
            client_delta + 2 >= server_delta - server_delta // 16
            and server_delta + 2 >= client_delta - client_delta // 16
        )
