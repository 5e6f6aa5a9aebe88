"""How full the port sets are, counted from the kernel's table of flows.

What a port "in use" is: an external port that at least one flow has, however many places it serves.
Such ports run out for a UDP socket that has to keep its own (RFC 4787 REQ-1). But a port serves
again towards another place, so what runs out for connections is the ports towards one place: hence
the flows of the most crowded destination stand beside it.

Cost, measured with 16 000 flows and MicroPython on a server's core: 1.4 us a flow until it is read,
1.9 to count it; 52 ms together. On the lab's emulated router, 23 times as slow, 480 ms, in steps of
10 to 16. Only a dump is exact, and knows hosts; so cheap questions come first: no set can have more
ports in use than the table has flows (table_use), and flows that found no free port are counted by
the kernel (flows_lost). Its filters for dumps (CTA_FILTER, Linux 5.8) are not used: they leave out
rows, but nothing of a row, and nearly all IPv4 flows of such a router are wanted; it would take two
passes, for flows that went out and for those that came in; and where few rows pass, one read walks
the whole table: 5 ms, where a read here is 0.1.

Layouts are those of the kernel's nfnetlink_conntrack.h.
"""

import struct
from array import array

from cpe_agent import net, netlink, portset

TCP, UDP, ICMP, OTHER = 0, 1, 2, 3
NAMES = ("tcp", "udp", "icmp", "other")
_WITH_PORTS = (TCP, UDP, ICMP)
_IPPROTO_ICMP = 1
_INDEX = {6: TCP, 17: UDP, _IPPROTO_ICMP: ICMP}

_NETFILTER = 12  # NETLINK_NETFILTER
_AF_INET = 2
_HEADER = net.NATIVE + "IHHII"
# Length and type. MicroPython has room for a tuple of two in one block of its heap; for larger ones
# it searches the heap for two, which made a flow cost half as much again.
_HEADER_START = net.NATIVE + "IH"
_FLAGS = 6 if net.NATIVE == "<" else 7  # where the lower octet of a header's flags is
_INT = net.NATIVE + "i"
_CT_NEW = 0x100  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW: a row of the answer
_CT_GET = 0x101
_CT_GET_STATS_CPU = 0x104
_CT_GET_STATS = 0x105
_REQUEST_DUMP = 0x301
_DUMP = 0x300
_ERROR, _DONE, _OVERRUN = 2, 3, 4
_INTERRUPTED = 0x10  # NLM_F_DUMP_INTR

_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY = 1, 2
_CTA_TUPLE_IP, _CTA_TUPLE_PROTO = 1, 2
_CTA_IP_V4_SRC, _CTA_IP_V4_DST = 1, 2
_CTA_PROTO_NUM, _CTA_PROTO_SRC_PORT, _CTA_PROTO_DST_PORT, _CTA_PROTO_ICMP_ID = 1, 2, 3, 4
_STATS_ENTRIES, _STATS_MAX = 1, 2
_STATS_INSERT_FAILED = 9
_NESTED = 0x8000

# Where things are in a row as the kernel writes it for a protocol with ports (RFC 768 or 9293) and
# for ICMP. Both tuples are alike, one behind the other; offsets are from a tuple's begin.
_ORIG = 20
_SOURCE, _DESTINATION, _PROTOCOL, _SOURCE_PORT, _PORT = 12, 20, 32, 40, 48
_PORTS_LENGTH = 52
_ICMP_ID, _ICMP_LENGTH = 40, 60

_REST = 255  # so many hosts are told apart, the first ones seen; all later ones have this number
_BUCKETS = 4093  # a prime; see _count
_AT_ONCE = 8192  # octets for one read, 45 rows
_SLICE = 10  # ms for one step
_LONGEST = 10000  # ms for a dump
_SHARE = 100  # a dump's time is at most one part of so many


def request():
    """A message that asks for all IPv4 flows."""
    payload = struct.pack("BBH", _AF_INET, 0, 0)
    return struct.pack(_HEADER, 16 + len(payload), _CT_GET, _REQUEST_DUMP, 1, 0) + payload


def _begin(kind, length):
    """How a tuple of that length begins: three nested headers, up to the source address."""
    words = (length, kind | _NESTED, 20, _CTA_TUPLE_IP | _NESTED, 8, _CTA_IP_V4_SRC)
    return struct.pack(net.NATIVE + "6H", *words)


_PORTS_ORIG = _begin(_CTA_TUPLE_ORIG, _PORTS_LENGTH)
_PORTS_REPLY = _begin(_CTA_TUPLE_REPLY, _PORTS_LENGTH)
_ICMP_ORIG = _begin(_CTA_TUPLE_ORIG, _ICMP_LENGTH)
_ICMP_REPLY = _begin(_CTA_TUPLE_REPLY, _ICMP_LENGTH)


class Census:
    """Counts flows as their octets come, without keeping them.

    sets: portset.PortSet of IPv4. Takes 53 000 octets, 25 000 more for each further address of the
    sets, and up to 21 000 for hosts. Nothing that it is fed raises, or makes it grow beyond that.
    """

    def __init__(self, sets):
        self.sets = list(sets)
        self.done = False  # the kernel said that this was all
        self.errno = 0  # of the kernel's refusal
        self.faults = 0  # parts that could not be read, or said to be incomplete
        self._addresses = [portset.octets(one.address) for one in self.sets]
        self._ports = [[0] * len(self.sets) for _ in _WITH_PORTS]
        self._outside = 0
        self._hosts = {}  # 4 octets: index
        self._host_flows = array("I", bytes(4 * 256))
        self._host_ports = array("I", bytes(4 * 256))
        # Of each protocol: flows, the maximum of its crowd, votes for its place, the place.
        self._tallies = [[0, 0, 0, None] for _ in NAMES]
        # Flows by bucket of their destination. One table for all protocols would not do: any place
        # of one shares its bucket with some of another.
        crowds = [array("H", bytes(2 * _BUCKETS)) for _ in _WITH_PORTS]
        # {address: {protocol number: (tally, a bit for each port that was seen, crowd, protocol)}}
        self._counters = {address: {} for address in self._addresses}
        for address in self._counters:
            for number, protocol in _INDEX.items():
                one = (self._tallies[protocol], bytearray(8192), crowds[protocol], protocol)
                self._counters[address][number] = one

    def feed(self, data):
        """Count what one datagram (bytes) of the kernel's answer says. True when that is all."""
        offset, end = 0, len(data)
        while offset + 16 <= end and not self.done:
            length, kind = struct.unpack_from(_HEADER_START, data, offset)
            if length < 16 or offset + length > end:
                break
            if data[offset + _FLAGS] & _INTERRUPTED:
                self.faults += 1
            if kind == _CT_NEW:
                self._row(data, offset, length)
            else:
                self._control(kind, data, offset, length)
            offset += (length + 3) & ~3
        if offset < end and not self.done:
            self.faults += 1
        return self.done

    def _control(self, kind, data, offset, length):
        if kind == _OVERRUN:
            self.faults += 1
        if kind in (_DONE, _ERROR):
            self.done = True
            if length >= 20:
                self.errno = -struct.unpack_from(_INT, data, offset + 16)[0]
            elif kind == _ERROR:
                self.faults += 1

    def _row(self, data, offset, length):
        """Rows of the two usual forms are read where they are, since taking all attributes apart
        takes ten times as long."""
        orig = offset + _ORIG
        if length >= 124 and data.startswith(_PORTS_ORIG, orig):
            reply = orig + _PORTS_LENGTH
            if data.startswith(_PORTS_REPLY, reply):
                self._sides(data, orig, reply, _PORT)
                return
        elif length >= 140 and data.startswith(_ICMP_ORIG, orig):
            reply = orig + _ICMP_LENGTH
            # A tuple of TCP in a zone is as long.
            if data.startswith(_ICMP_REPLY, reply) and data[orig + _PROTOCOL] == _IPPROTO_ICMP:
                self._sides(data, orig, reply, _ICMP_ID)
                return
        self._unusual(data[offset + 20 : offset + length])

    def _sides(self, data, orig, reply, port):
        """The shared address is the destination of what comes back, or, if the flow came in, of its
        first packet. Towards a neighbour who shares the address it is both: the former counts."""
        outer, inner = reply, orig
        counters = self._counters.get(data[reply + _DESTINATION : reply + _DESTINATION + 4])
        if counters is None:
            counters = self._counters.get(data[orig + _DESTINATION : orig + _DESTINATION + 4])
            if counters is None:
                return
            outer, inner = orig, reply
        host = self._hosts.get(data[inner + _SOURCE : inner + _SOURCE + 4])
        if host is None:
            host = self._new_host(data[inner + _SOURCE : inner + _SOURCE + 4])
        self._host_flows[host] += 1
        counter = counters.get(data[outer + _PROTOCOL])
        if counter is None:
            self._tallies[OTHER][0] += 1
        else:
            self._count(data, outer, outer + port, host, counter)

    def _new_host(self, address):
        if len(self._hosts) >= _REST:
            return _REST
        index = self._hosts[address] = len(self._hosts)
        return index

    def _count(self, data, outer, at, host, counter):
        """Count a flow, its external port if that is seen for the first time, and the flow again
        for its destination, in one of some buckets, which strangers may share.

        The bucket is a linear sum modulo a prime, which spreads addresses that differ little; small
        enough for integers that need no memory where they have 31 bits. MicroPython's own hash put
        5000 destinations into 1700 buckets.
        """
        tally, seen, crowd, protocol = counter
        tally[0] += 1
        bit = 1 << (data[at + 1] & 7)
        spot = data[at] << 5 | data[at + 1] >> 3
        if not seen[spot] & bit:
            seen[spot] |= bit
            self._own(data, outer, data[at] << 8 | data[at + 1], host, protocol)
        at = outer + _SOURCE
        spot = (data[at] << 8 | data[at + 1]) * 31 + (data[at + 2] << 8 | data[at + 3]) * 1009
        if protocol != ICMP:
            spot += (data[outer + _SOURCE_PORT] << 8 | data[outer + _SOURCE_PORT + 1]) * 7
        spot %= _BUCKETS
        flows = crowd[spot]
        if flows < 65535:
            crowd[spot] = flows + 1
            if flows >= tally[1]:
                tally[1] = flows + 1
                self._vote(tally, protocol, data, outer)

    def _own(self, data, outer, port, host, protocol):
        """Count a port for its set and for the host."""
        address = data[outer + _DESTINATION : outer + _DESTINATION + 4]
        for number, one in enumerate(self.sets):
            if portset.contains(one, port) and self._addresses[number] == address:
                self._ports[protocol][number] += 1
                self._host_ports[host] += 1
                return
        self._outside += 1

    def _vote(self, tally, protocol, data, outer):
        """Who raised the maximum most often, by majority vote (Boyer and Moore): the last one to do
        it may be a stranger in the bucket."""
        end = outer + (_PROTOCOL + 1 if protocol == ICMP else _SOURCE_PORT + 2)
        where = data[outer:end]
        if where == tally[3]:
            tally[2] += 1
        elif tally[2]:
            tally[2] -= 1
        else:
            tally[2:] = [1, where]

    def _unusual(self, row):
        """A row in another form: a protocol without ports, or attributes that are not known."""
        found = netlink.attributes(row, 0)
        orig = _as_usual(found.get(_CTA_TUPLE_ORIG, b""))
        reply = _as_usual(found.get(_CTA_TUPLE_REPLY, b""))
        if orig and reply:
            self._sides(orig + reply, 0, len(orig), _PORT)
        else:
            self.faults += 1

    def summary(self, top=8):
        """What was counted, as plain values.

        protocols: for each of NAMES the flows, and but for 'other' the ports in use of each set (in
        the order of sets) and the most crowded destination. Its flows are never fewer than there
        are, and more by the strangers in its bucket: a 4093rd of all flows on average.
        hosts: the top ones by ports in use, then by flows. A port that several hosts share counts
        for the one that was seen first, so that the sum is what is in use. rest: all other hosts.
        outside: ports in use of no set. whole: False if the count may have missed some.
        """
        ranked = self._ranked()
        return {
            "protocols": {NAMES[number]: self._of(number) for number in range(len(NAMES))},
            "hosts": ranked[:top],
            "rest": self._others(ranked[top:]),
            "outside": self._outside,
            "whole": self.done and not self.errno and not self.faults,
        }

    def _of(self, protocol):
        flows, most, _, where = self._tallies[protocol]
        found = {"flows": flows}
        if protocol != OTHER:
            found["ports"] = list(self._ports[protocol])
        if where:
            found["crowded"] = {"address": portset.dotted(where[_SOURCE : _SOURCE + 4])}
            if protocol != ICMP:
                port = where[_SOURCE_PORT] << 8 | where[_SOURCE_PORT + 1]
                found["crowded"]["port"] = port
            found["crowded"]["flows"] = most
        return found

    def _ranked(self):
        ports, flows = self._host_ports, self._host_flows
        order = [(-ports[index], -flows[index], host) for host, index in self._hosts.items()]
        return [
            {"address": portset.dotted(host), "ports": -ports, "flows": -flows}
            for ports, flows, host in sorted(order)
        ]

    def _others(self, hosts):
        return {
            "ports": sum([one["ports"] for one in hosts]) + self._host_ports[_REST],
            "flows": sum([one["flows"] for one in hosts]) + self._host_flows[_REST],
        }


def _as_usual(octets):
    """A tuple's attributes in the usual form, or None if there is no IPv4 in it."""
    parts = netlink.attributes(octets, 0)
    ip = netlink.attributes(parts.get(_CTA_TUPLE_IP, b""), 0)
    protocol = netlink.attributes(parts.get(_CTA_TUPLE_PROTO, b""), 0)
    source, destination = ip.get(_CTA_IP_V4_SRC, b""), ip.get(_CTA_IP_V4_DST, b"")
    number = protocol.get(_CTA_PROTO_NUM, b"")
    if len(source) != 4 or len(destination) != 4 or len(number) != 1:
        return None
    ports = [protocol.get(kind, b"\0\0") for kind in (_CTA_PROTO_SRC_PORT, _CTA_PROTO_DST_PORT)]
    if number[0] == _IPPROTO_ICMP:
        ports = [b"\0\0", protocol.get(_CTA_PROTO_ICMP_ID, b"")]
    if len(ports[0]) != 2 or len(ports[1]) != 2:
        return None
    head = bytes(_SOURCE) + source + bytes(4) + destination + bytes(8) + number + bytes(7)
    return head + ports[0] + bytes(6) + ports[1] + bytes(2)


def needed(found, numbers):
    """How many ports the flows of a summary need, for the protocol that needs most. numbers: of the
    sets that count.

    For UDP that is its ports in use: a socket that has to keep its port needs one that nobody has.
    For the others it is the flows to one destination, each of which needs a port of its own. Their
    ports in use say little: the kernel takes any port that is free towards a flow's destination, so
    that all of them are soon in use, with room for thousands of flows.
    """
    protocols = found["protocols"]
    counts = [sum([protocols["udp"]["ports"][number] for number in numbers])]
    for name in ("tcp", "icmp"):
        counts.append(protocols[name].get("crowded", {"flows": 0})["flows"])
    return max(counts)


def fullness(found, sets):
    """How full the sets are by a summary, in percent of all their ports."""
    total = sum([one.size for one in sets])
    return min(100, needed(found, range(len(sets))) * 100 // total) if total else 0


def pause(spent):
    """ms until the next dump after one that has spent so many, so that counting takes one hundredth
    of the time, even on a slow core with a full table."""
    return max(10000, spent * _SHARE)


# The shell


class Dump:
    """A count in progress. It has a socket to wait for, and a step to take when it can be read; or
    after a while without that, so that it ends."""

    def __init__(self, sets, clock):
        """clock: has now() in ms."""
        self.census = Census(sets)
        self.spent = 0  # ms in step()
        self.error = ""  # why it ended early
        self.sock = None  # None when it has ended
        self._clock = clock
        self._begun = clock.now()
        try:
            self.sock = net.netlink_socket(_NETFILTER)
            self.sock.setblocking(False)
            self.sock.send(request())
        except OSError as error:
            self._end("cannot ask for the flows: %s" % error)

    def step(self):
        """Read for up to 10 ms. True when the dump has ended; the socket is closed then. Never
        raises."""
        begun = now = self._clock.now()
        while self.sock and now - begun < _SLICE and self._read(now):
            now = self._clock.now()
        self.spent += self._clock.now() - begun
        return self.sock is None

    def _read(self, now):
        """One datagram. False if none waits, or if that was the end."""
        if now - self._begun > _LONGEST:
            return self._end("the flows were not counted in %d s" % (_LONGEST // 1000))
        try:
            data = self.sock.recv(_AT_ONCE)
        except OSError as error:
            if error.args[0] == net.EAGAIN:
                return False
            return self._end("cannot read the flows: %s" % error)
        if self.census.feed(data):
            return self._end(self._refusal())
        if not data:
            return self._end("the kernel's answer stops without an end")
        return True

    def _refusal(self):
        errno = self.census.errno
        return "the kernel does not tell the flows: error %d" % errno if errno else ""

    def _end(self, error):
        self.error = error
        self.close()
        return False

    def close(self):
        """End it now. May be called twice."""
        if self.sock:
            self.sock.close()
            self.sock = None


def table_use():
    """(flows in the kernel's table, of all kinds; how many it may have), or None if it does not
    tell. A question of 10 us: no set has more ports in use than there are flows."""
    answer = _ask(_CT_GET_STATS, 0)
    found = netlink.attributes(answer[0], 4) if answer else {}
    numbers = [_number(found.get(kind)) for kind in (_STATS_ENTRIES, _STATS_MAX)]
    return None if None in numbers else tuple(numbers)


def flows_lost():
    """Flows that found no free port since boot, or None if the kernel does not tell.

    It is insert_failed of all CPUs, which conntrack -S and /proc/net/stat/nf_conntrack show: the
    kernel tries a few hundred ports, keeps the last, and drops the packet for the conflict. Each
    retransmission counts again; so do, rarely, two packets of one flow that race, on any interface.
    """
    answer = _ask(_CT_GET_STATS_CPU, _DUMP)
    counts = [_number(netlink.attributes(one, 4).get(_STATS_INSERT_FAILED)) for one in answer]
    counts = [count for count in counts if count is not None]
    return sum(counts) if counts else None


def _ask(kind, flags):
    try:
        return netlink.ask(_NETFILTER, kind, flags, struct.pack("BBH", _AF_INET, 0, 0))
    except OSError:
        return []


def _number(octets):
    return struct.unpack(">I", octets)[0] if octets and len(octets) == 4 else None
