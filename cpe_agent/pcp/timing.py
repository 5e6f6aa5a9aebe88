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


# Verdicts on an epoch. LATE: behind by so little that an old datagram may have come late. BACK: no
# successor of the last one, which was such a datagram, but of those before.
FOLLOWS = "follows"
LATE = "late"
BACK = "back"
LOST = "lost"
LONGEST_WAY = 30000  # ms that a datagram, or an answer to it, may be on the way
ON_TIME = 2000  # ms; epochs are whole seconds, and RFC 6887 8.5 grants two


class Epoch:
    """What one server's epoch was when it was last heard (RFC 6887 8.5)."""

    def __init__(self):
        self.server = None  # seconds, as sent
        self.client = None  # our clock at that time, in seconds
        self.age = 0  # ms; the answer checked last was sent at least that long before
        self._ahead = None  # ms; the server's clock less ours, of the freshest answer
        self._behind_since = None  # ms; of the first answer in a row that was not on time

    def check(self, server, now):
        """Take note of an epoch in seconds, heard at now in ms; the verdict on it.

        Signed arithmetic, so that the second of grace backwards does not wrap to 2^32 - 1. Each
        epoch replaces the last one, whatever the verdict.
        """
        verdict = self._judge(server, now // 1000)
        self.server = server
        self.client = now // 1000
        ahead = server * 1000 - now
        if verdict == LOST and self._ahead is not None and abs(ahead - self._ahead) <= ON_TIME:
            verdict = BACK
        self.age = self._how_old(ahead, now, verdict == LOST)
        return verdict

    def _judge(self, server, client):
        if self.server is None or self._follows(server, client):
            return FOLLOWS
        behind = self.server + client - self.client - server
        return LATE if 0 <= behind <= LONGEST_WAY // 1000 else LOST

    def _how_old(self, ahead, now, lost):
        """By the freshest answer heard. What is behind it for longer than any datagram can be on
        the way is no old datagram: the server's clock is slow, or was set back."""
        if self._behind_since is not None and now > self._behind_since + LONGEST_WAY:
            lost = True
        if lost or self._ahead is None or ahead >= self._ahead - ON_TIME:
            self._ahead = ahead if lost or self._ahead is None else max(ahead, self._ahead)
            self._behind_since = None
            return 0
        if self._behind_since is None:
            self._behind_since = now
        return min(self._ahead - ahead, LONGEST_WAY)

    def _follows(self, server, client):
        if server < self.server - 1:
            return False
        client_delta = client - self.client
        server_delta = server - self.server
        return (
            client_delta + 2 >= server_delta - server_delta // 16
            and server_delta + 2 >= client_delta - client_delta // 16
        )
