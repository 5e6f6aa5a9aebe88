"""Host names to addresses without stopping the loop, as getaddrinfo() would (RFC 1035 4.2.1, 7).

Pure: nameservers(), Lookup, Name, order(); shell: Resolver. Addresses are 16 octets, times ms.
Names are asked as they are: no search list, no hosts file. On OpenWrt resolv.conf names dnsmasq,
which knows both.
"""

from cpe_agent import address, dns, net
from cpe_agent.pcp import servers, timing, wire

MAX_NAMES = 16
MAX_NAMESERVERS = 3  # as many as C libraries use

_PATIENCE = (2000, 4000, 8000)  # ms that each name server gets in a round; a round for each
_RETRY = 5000  # ms after a failure; doubled up to
_RETRY_MOST = 300000
_TTL_LEAST = 60  # s; a server's address is no news every second
_CONFIG_LARGEST = 16384  # octets of resolv.conf that are looked at
_NOTHING = "the name has no usable address"
_LOCALHOST = wire.V4_PREFIX + bytes([127, 0, 0, 1])
_LOOPBACK = bytes(15) + b"\x01"


def nameservers(text):
    """Addresses of the name servers in the text of a resolv.conf; this host if it names none.

    Those with a zone (fe80::1%wan) are left out.
    """
    found = []
    for line in text.split("\n"):
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            try:
                found.append(address.octets(words[1]))
            except ValueError:
                pass
    return tuple(found[:MAX_NAMESERVERS]) or (_LOCALHOST,)


class Lookup:
    """One question, A or AAAA, put to one name server after the other.

    query: (name server, octets) that should be under way, or None when the question is settled;
    each comes from a socket, and so a port, of its own (RFC 5452 9.2). answer: dns.Answer, or None.
    failure: why there is no answer, or None.
    """

    def __init__(self, now, name, kind, asked, random_bytes):
        """asked: addresses of name servers, at least one."""
        self.kind = kind
        self.query = None
        self.answer = None
        self.failure = None
        self.deadline = None
        self._name = name
        self._random_bytes = random_bytes
        self._identifier = None
        self._left = [(server, patience) for patience in _PATIENCE for server in asked]
        self._ask(now)

    def handle_timer(self, now):
        """Ask the next name server if this one has been silent for too long."""
        if self.query is not None and now >= self.deadline:
            self.lost(now, "no name server answers")

    def lost(self, now, why):
        """The query did not get through, or was refused: ask the next name server."""
        self.failure = why
        self._ask(now)

    def receive(self, now, data, sender, port):
        """Take in one datagram that came to the query's socket. Never raises."""
        if self.query is None or (sender, port) != (self.query[0], dns.PORT):
            return
        try:
            self.answer = dns.parse(data, self._name, self.kind, self._identifier)
        except dns.Foreign:
            return
        except dns.Failure as error:
            self.lost(now, str(error))
            return
        self.query = self.failure = None

    def _ask(self, now):
        if not self._left:
            self.query = None
            return
        server, patience = self._left.pop(0)
        self._identifier = int.from_bytes(self._random_bytes(2), "big")
        self.query = server, dns.query(self._name, self.kind, self._identifier)
        self.deadline = now + patience


class Name:
    """One name, kept resolved: asked for again when its addresses are too old, or failed.

    addresses: IPv6 before IPv4; kept while nobody can tell better ones (RFC 8767). error: why
    there are none, or no fresh ones, or None. A kind alone that fails is no error, since a dnsmasq
    that is not online refuses what it does not know itself; but it is asked for again soon.
    """

    def __init__(self, name, asked, random_bytes):
        """asked() gives the name servers' addresses when a question begins."""
        self.name = name
        self.addresses = ()
        self.error = None
        self.lookups = ()
        self._asked = asked
        self._random_bytes = random_bytes
        self._again_at = None
        self._found = {dns.AAAA: (), dns.A: ()}
        self._retry = _RETRY
        self._failed = False  # a question of the last round

    def begin(self, now):
        """Ask."""
        asked = self._asked()
        kinds = (dns.AAAA, dns.A)
        self.lookups = [Lookup(now, self.name, kind, asked, self._random_bytes) for kind in kinds]
        self._again_at = None

    def restart(self, now):
        """The network changed: what failed may work now."""
        if self._failed and self._again_at is not None:
            self._retry = _RETRY
            self._again_at = now

    def get_timer(self):
        """When handle_timer is due, in ms, or None."""
        if self._again_at is not None:
            return self._again_at
        deadlines = [lookup.deadline for lookup in self.lookups if lookup.query is not None]
        return min(deadlines, default=None)

    def handle_timer(self, now):
        """Do what is due at now (ms)."""
        if self._again_at is not None and now >= self._again_at:
            self.begin(now)
        for lookup in self.lookups:
            lookup.handle_timer(now)

    def conclude(self, now):
        """Take over what the lookups have found; True if addresses or error have changed.

        To be called after anything has happened to the lookups.
        """
        before = (self.addresses, self.error)
        for lookup in self.lookups:
            if lookup.query is not None:
                # IPv4 addresses wait until it is known whether there are better ones.
                break
            if lookup.answer is not None:
                usable = [one for one in lookup.answer.addresses if servers.is_unicast(one)]
                self._found[lookup.kind] = tuple(usable[: servers.MAX_ADDRESSES])
            self.addresses = self._found[dns.AAAA] + self._found[dns.A]
        else:
            self._settle(now)
        return (self.addresses, self.error) != before

    def _settle(self, now):
        """All lookups have ended: say what is wrong, and plan when to ask again."""
        if self._again_at is not None:
            return
        failures = [lookup.failure for lookup in self.lookups if lookup.failure]
        answers = [lookup.answer for lookup in self.lookups if lookup.answer]
        ttls = [answer.ttl for answer in answers if answer.addresses]
        self.error = None
        if not ttls:
            self.error = failures[0] if failures else _NOTHING
        elif not self.addresses:
            self.error = _NOTHING
        self._failed = bool(failures or self.error)
        if self._failed:
            spread = timing.uniform(self._random_bytes, -(self._retry // 10), self._retry // 10)
            self._again_at = now + self._retry + spread
            self._retry = min(2 * self._retry, _RETRY_MOST)
        else:
            self._again_at = now + max(_TTL_LEAST, min(ttls)) * 1000
            self._retry = _RETRY


# RFC 6724 2.1: (prefix, its length, precedence, label), those that fit less well further down.
_POLICY = (
    (_LOOPBACK, 128, 50, 0),
    (wire.V4_PREFIX, 96, 35, 4),
    (bytes(12), 96, 1, 3),
    (b"\x20\x01\x00\x00", 32, 5, 5),
    (b"\x20\x02", 16, 30, 2),
    (b"\x3f\xfe", 16, 1, 12),
    (b"\xfe\xc0", 10, 1, 11),
    (b"\xfc", 7, 3, 13),
)
_ALL_OTHERS = (40, 1)
_LINK_LOCAL = 2
_SITE_LOCAL = 5
_GLOBAL = 14
_SUBNET = 64  # bits that rule 9 compares at most; none of them differ between IPv4 addresses


def order(addresses, source_of):
    """Addresses of one server as a tuple, the best to ask first (RFC 7488 3, RFC 6724 6).

    source_of(address): what the kernel would send from, 16 octets, or None if it cannot: such
    addresses come last. Rules 1, 2, 5, 6, 8, 9 and 10; 3, 4 and 7 need what the kernel does not
    tell about sources: deprecated, home and tunnelled addresses.
    """
    keys = []
    for index, one in enumerate(addresses):
        keys.append((_rank(one, source_of(one)), index, one))
    return tuple(key[2] for key in sorted(keys))


def _rank(destination, source):
    """Sorts destinations: lower is better."""
    if source is None:
        return (1,)
    precedence, label = _policy(destination)
    scope = _scope(destination)
    return (
        0,
        scope != _scope(source),
        label != _policy(source)[1],
        -precedence,
        scope,
        -min(_common(destination, source), _SUBNET),
    )


def _policy(one):
    for prefix, length, precedence, label in _POLICY:
        if _common(one, prefix + bytes(16 - len(prefix))) >= length:
            return precedence, label
    return _ALL_OTHERS


def _scope(one):
    """RFC 6724 3.1 and 3.2, for unicast."""
    if wire.is_v4(one):
        return _LINK_LOCAL if one[12] == 127 or one[12:14] == b"\xa9\xfe" else _GLOBAL
    if one[0] == 0xFE and one[1] & 0x80:
        return _SITE_LOCAL if one[1] & 0x40 else _LINK_LOCAL
    return _LINK_LOCAL if one == _LOOPBACK else _GLOBAL


def _common(one, other):
    """Leading bits that are equal in both."""
    bits = 0
    for left, right in zip(one, other):
        if left == right:
            bits += 8
            continue
        different = left ^ right
        while not different & 0x80:
            different <<= 1
            bits += 1
        break
    return bits


class Resolver:
    """All names that the agent asks for, over the sockets of its loop."""

    def __init__(self, poller, now, random_bytes, on_change, resolv_conf="/etc/resolv.conf"):
        """poller: net.Poller. now(): ms. on_change(name) is called when addresses or error of a
        name have changed, but never while it is being added."""
        self._poller = poller
        self._now = now
        self._random_bytes = random_bytes
        self._on_change = on_change
        self._resolv_conf = resolv_conf
        self._names = {}
        self._sockets = {}  # (name, kind): (socket, query that it carries)

    def add(self, name):
        """Keep a name resolved from now on. Raises ValueError if it is no host name, or if there
        are too many."""
        if name in self._names:
            return
        if not dns.is_name(name):
            raise ValueError("%s is not a host name" % name)
        if len(self._names) >= MAX_NAMES:
            raise ValueError("more than %d host names" % MAX_NAMES)
        entry = self._names[name] = Name(name, self._nameservers, self._random_bytes)
        entry.begin(self._now())
        self._carry(entry)
        entry.conclude(self._now())

    def remove(self, name):
        """Forget a name."""
        if self._names.pop(name, None):
            for kind in (dns.AAAA, dns.A):
                self._close((name, kind))

    def addresses(self, name):
        """What a name stands for, as far as is known: tuple, IPv6 before IPv4."""
        return self._names[name].addresses if name in self._names else ()

    def error(self, name):
        """Why a name has no fresh addresses, or None."""
        return self._names[name].error if name in self._names else None

    def restart(self):
        """The network changed: ask again for what has failed."""
        for entry in self._names.values():
            entry.restart(self._now())

    def get_timer(self):
        """When handle_timer is due, in ms, or None."""
        timers = [entry.get_timer() for entry in self._names.values()]
        return min([at for at in timers if at is not None], default=None)

    def handle_timer(self, now):
        """Do what is due at now (ms)."""
        for entry in list(self._names.values()):
            at = entry.get_timer()
            if at is not None and now >= at:
                entry.handle_timer(now)
                self._progress(entry)

    def _nameservers(self):
        try:
            with open(self._resolv_conf) as file:
                return nameservers(file.read(_CONFIG_LARGEST))
        except (OSError, ValueError):
            return nameservers("")

    def _progress(self, entry):
        self._carry(entry)
        if entry.conclude(self._now()):
            self._on_change(entry.name)

    def _carry(self, entry):
        """Let exactly those queries be under way that should be."""
        for lookup in entry.lookups:
            key = (entry.name, lookup.kind)
            while self._sockets.get(key, (None, None))[1] is not lookup.query:
                self._close(key)
                if lookup.query is not None:
                    self._send(key, entry, lookup)

    def _send(self, key, entry, lookup):
        server, octets = lookup.query
        local = wire.ANY_V4 if wire.is_v4(server) else wire.ANY_V6
        sock = None
        try:
            sock = net.request_socket(local, server, dns.PORT)
            sock.send(octets)
        except OSError as error:
            if sock:
                sock.close()
            lookup.lost(self._now(), _unreachable(error))
            return
        self._sockets[key] = sock, lookup.query
        self._poller.add(sock, lambda ready: self._on_datagram(ready, entry, lookup))

    def _on_datagram(self, sock, entry, lookup):
        try:
            received = net.receive(sock)
        except OSError as error:
            lookup.lost(self._now(), _unreachable(error))
        else:
            if received:
                lookup.receive(self._now(), *received)
        self._progress(entry)

    def _close(self, key):
        sock, _ = self._sockets.pop(key, (None, None))
        if sock:
            self._poller.remove(sock)


def _unreachable(error):
    return "no name server can be reached: %s" % error
