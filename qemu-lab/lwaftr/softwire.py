"""Data plane of the lab lwAFTR: RFC 7596 6.2 and 8.1, sans-IO.

Packets come in decapsulated, with the IPv6 source they had, and go out as actions for the
shell: encapsulating, fragmenting and reassembling outside is the kernel's part. A fragment that
comes before its first one is dropped, since nothing else tells its port.
"""

from collections import OrderedDict, namedtuple

from . import packets, peerfilter
from .bindings import protocol_name

# An IPv4 packet for the Internet.
ToInternet = namedtuple("ToInternet", ("packet",))
# An IPv4 packet to encapsulate to an lwB4 (16 octets), with the IPv6 traffic class.
ToSoftwire = namedtuple("ToSoftwire", ("client", "packet", "traffic_class"))
# An ICMPv6 message, checksum set, from our address to an IPv6 address (16 octets).
Icmp6 = namedtuple("Icmp6", ("client", "message"))
# Nothing leaves; why.
Drop = namedtuple("Drop", ("reason",))

SOURCE_FAILED_POLICY = 5  # ICMPv6 type 1 code (RFC 4443 3.1)

# Why a packet of a known lwB4 is outside its set.
OUTSIDE_REASONS = ("address", "port", "protocol", "icmp")
_COUNTERS = (
    "packets_inside_set",
    "packets_outside_set",
    "unknown_source",
    "malformed_outbound",
    "fragment_unknown_outbound",
    "hairpinned",
    "hairpin_refused",
    "hairpin_no_binding",
    "ttl_expired",
    "inbound",
    "inbound_no_binding",
    "inbound_refused",
    "inbound_filtered",
    "malformed_inbound",
    "fragment_unknown_inbound",
    "icmp6_sent",
    "icmp6_suppressed",
    "icmp4_sent",
    "icmp4_suppressed",
)


class _Violation(Exception):
    """An outbound packet that its sender has no right to send; reason as in OUTSIDE_REASONS."""

    def __init__(self, reason):
        super().__init__(reason)
        self.reason = reason


class _NoPort(Exception):
    """The packet tells no port; counter: which one counts it."""

    def __init__(self, counter):
        super().__init__(counter)
        self.counter = counter


class _Bucket:
    """Rate limit: so many a second, bursts of twice that."""

    def __init__(self, rate):
        self._rate = rate
        self._tokens = 2 * rate * 1000
        self._then = None

    def take(self, now_ms):
        if self._then is not None:
            grown = self._tokens + (now_ms - self._then) * self._rate
            self._tokens = min(2 * self._rate * 1000, grown)
        self._then = now_ms
        if self._tokens < 1000:
            return False
        self._tokens -= 1000
        return True


class _Fragments:
    """Ports of first fragments, for the ones that follow; bounded, oldest out first."""

    def __init__(self, entries, timeout_s):
        self._entries = entries
        self._timeout_ms = timeout_s * 1000
        self._known = OrderedDict()

    def __len__(self):
        return len(self._known)

    def remember(self, now_ms, key, value):
        self._known[key] = (now_ms + self._timeout_ms, value)
        self._known.move_to_end(key)
        if len(self._known) > self._entries:
            self._known.popitem(last=False)

    def find(self, now_ms, key):
        until, value = self._known.get(key, (0, None))
        return value if until > now_ms else None


class _Usage:
    """Source ports seen, a bitmap for each address and protocol; bounded in addresses."""

    def __init__(self, addresses):
        self._limit = addresses
        self._maps = {}

    def note(self, address, protocol, port):
        maps = self._maps.get(address)
        if maps is None:
            if len(self._maps) >= self._limit:
                return
            maps = self._maps[address] = {}
        bitmap = maps.get(protocol)
        if bitmap is None:
            bitmap = maps[protocol] = bytearray(8192)
        bitmap[port >> 3] |= 1 << (port & 7)

    def clear(self):
        self._maps.clear()

    def as_dict(self):
        """{address (integer): {protocol name: [[first, last], ...]}}."""
        return {
            address: {protocol_name(number): _runs(bitmap) for number, bitmap in maps.items()}
            for address, maps in self._maps.items()
        }


def _runs(bitmap):
    """Ranges [first, last] of the bits set."""
    runs = []
    for index, octet in enumerate(bitmap):
        for bit in range(8) if octet else ():
            if not octet >> bit & 1:
                continue
            port = index * 8 + bit
            if runs and runs[-1][1] == port - 1:
                runs[-1][1] = port
            else:
                runs.append([port, port])
    return runs


class Softwire:
    """The concentrator.

    config: config.DataPlaneConfig. bindings: the BindingTable. address: our IPv6 address, 16
    octets. pool: the IPv4 addresses (integers) that are ours, for hairpinning. now_ms is as
    for the PCP server.
    """

    def __init__(self, config, bindings, address, pool):
        self.config = config
        self.bindings = bindings
        self.address = address
        self.counters = dict.fromkeys(_COUNTERS, 0)
        self.outside = dict.fromkeys(OUTSIDE_REASONS, 0)
        self.usage = _Usage(config.usage_addresses)
        self._pool = frozenset(pool)
        self._ipv4 = _integer_address(config.ipv4_address)
        self._outbound = _Fragments(config.fragment_entries, config.fragment_timeout)
        self._inbound = _Fragments(config.fragment_entries, config.fragment_timeout)
        self._icmp6_rate = _Bucket(config.icmp6_rate)
        self._icmp4_rate = _Bucket(config.icmp6_rate)

    def reset_counters(self):
        """Set all counters to 0 and forget the ports used; bindings keep theirs."""
        self.counters = dict.fromkeys(_COUNTERS, 0)
        self.outside = dict.fromkeys(OUTSIDE_REASONS, 0)
        self.usage.clear()

    def from_softwire(self, now_ms, source, octets, traffic_class=0):
        """A decapsulated packet from an IPv6 source (16 octets); a list of actions."""
        packet = packets.parse(octets)
        if packet is None:
            return self._drop("malformed_outbound")
        try:
            binding, port, protocol = self._check(now_ms, source, packet)
        except _NoPort as error:
            return self._drop(error.counter)
        except _Violation as violation:
            return self._violated(now_ms, source, octets, traffic_class, violation.reason)
        self.counters["packets_inside_set"] += 1
        binding.packets_inside_set += 1
        binding.last_out_ms = now_ms
        self.usage.note(packet.src, protocol, port)
        if packet.dst in self._pool:
            return self._hairpin(now_ms, packet)
        return [ToInternet(packet.octets)]

    def from_internet(self, now_ms, octets):
        """A packet from the IPv4 Internet; a list of actions."""
        packet = packets.parse(octets)
        if packet is None:
            return self._drop("malformed_inbound")
        try:
            binding = self._destination(now_ms, packet)
        except _NoPort as error:
            return self._drop(error.counter)
        if binding is None:
            return self._unreachable(now_ms, packet, "inbound_no_binding")
        if binding.filters and not self._permitted(binding, packet):
            return self._drop("inbound_filtered")
        self.counters["inbound"] += 1
        return [self._encapsulate(binding, packet.octets, packet.tos)]

    # Outbound

    def _check(self, now_ms, source, packet):
        """(binding, port, protocol) that allow the packet. Raises _Violation or _NoPort."""
        mine = [b for b in self.bindings.of_client(source) if _alive(b, now_ms)]
        if not mine:
            raise _Violation("unknown_source")
        mine = [binding for binding in mine if binding.address == packet.src]
        if not mine:
            raise _Violation("address")
        port, protocol = self._source_port(now_ms, source, packet)
        mine = [binding for binding in mine if binding.first <= port <= binding.last]
        if not mine:
            raise _Violation("port")
        for binding in mine:
            if protocol is None or binding.protocol in (0, protocol):
                return binding, port, packets.ICMP if protocol is None else protocol
        raise _Violation("protocol")

    def _source_port(self, now_ms, source, packet):
        """(port, protocol) of the sender; protocol None for ICMP ids, which fit any set."""
        key = (source, packet.src, packet.dst, packet.protocol, packet.id)
        if not packet.first:
            return self._follow(now_ms, self._outbound, key, "fragment_unknown_outbound")
        if packet.protocol == packets.ICMP:
            found = _icmp_source(packet)
        elif packet.protocol in packets.PORT_PROTOCOLS:
            both = packets.ports(packet)
            if both is None:
                raise _NoPort("malformed_outbound")
            found = both[0], packet.protocol
        else:
            raise _Violation("protocol")
        if packet.more:
            self._outbound.remember(now_ms, key, found)
        return found

    @staticmethod
    def _follow(now_ms, fragments, key, counter):
        found = fragments.find(now_ms, key)
        if found is None:
            raise _NoPort(counter)
        return found

    def _violated(self, now_ms, source, octets, traffic_class, reason):
        if reason == "unknown_source":
            self.counters["unknown_source"] += 1
        else:
            self.counters["packets_outside_set"] += 1
            self.outside[reason] += 1
        actions = [Drop(reason)]
        if not self.config.icmp6_errors or not _may_answer(source):
            return actions
        if not self._icmp6_rate.take(now_ms):
            self.counters["icmp6_suppressed"] += 1
            return actions
        self.counters["icmp6_sent"] += 1
        message = packets.icmp6_unreachable(
            SOURCE_FAILED_POLICY, self.address, source, octets, traffic_class
        )
        return [*actions, Icmp6(source, message)]

    def _hairpin(self, now_ms, packet):
        """Between two of our lwB4s, or back to the same one; one hop, as through a router."""
        if not self.config.hairpinning:
            return self._drop("hairpin_refused")
        if packet.ttl < 2:
            return self._drop("ttl_expired")
        try:
            binding = self._destination(now_ms, packet)
        except _NoPort as error:
            return self._drop(error.counter)
        if binding is None:
            return self._drop("hairpin_no_binding")
        if binding.filters and not self._permitted(binding, packet):
            return self._drop("inbound_filtered")
        self.counters["hairpinned"] += 1
        return [self._encapsulate(binding, packets.decrement_ttl(packet), packet.tos)]

    # Inbound

    def _destination(self, now_ms, packet):
        """The binding a packet goes to, or None. Raises _NoPort."""
        key = (packet.src, packet.dst, packet.protocol, packet.id)
        if packet.first:
            found = self._destination_port(packet)
            if packet.more:
                self._inbound.remember(now_ms, key, found)
        else:
            found = self._follow(now_ms, self._inbound, key, "fragment_unknown_inbound")
        binding = self.bindings.lookup(packet.dst, *found)
        return binding if binding is not None and _alive(binding, now_ms) else None

    @staticmethod
    def _permitted(binding, packet):
        """Do the binding's filters let this packet in? (RFC 6887 13.3)

        ICMP has no port, and neither have later fragments: only their address counts. Errors come
        from any router on the way, so they always pass.
        """
        port = None
        if packet.protocol == packets.ICMP:
            if packet.first and packets.icmp_type(packet) in packets.ERROR_TYPES:
                return True
        elif packet.first:
            port = packets.ports(packet)[0]
        return peerfilter.permits(binding.filters, packet.src, port)

    def _destination_port(self, packet):
        if packet.protocol == packets.ICMP:
            return self._icmp_destination(packet)
        if packet.protocol not in packets.PORT_PROTOCOLS:
            raise _NoPort("inbound_refused")
        both = packets.ports(packet)
        if both is None:
            raise _NoPort("malformed_inbound")
        return both[1], packet.protocol

    def _icmp_destination(self, packet):
        """RFC 7596 8.1: echo by its id, errors by the quoted source port, nothing else."""
        kind = packets.icmp_type(packet)
        if kind in (packets.ECHO_REPLY, packets.ECHO_REQUEST) and self.config.icmp_echo:
            return packets.icmp_id(packet), None
        if kind in packets.ERROR_TYPES and self.config.icmp_errors:
            quote = packets.quoted(packet)
            if quote is not None and quote.src == packet.dst:
                protocol = None if quote.protocol == packets.ICMP else quote.protocol
                return quote.sport, protocol
        raise _NoPort("inbound_refused")

    def _unreachable(self, now_ms, packet, counter):
        """Drop; with ICMPv4 3/1 if that is wanted (RFC 7596 6.2, RFC 1122 3.2.2)."""
        actions = self._drop(counter)
        if not self.config.icmp4_unreachable or self._ipv4 is None or not packet.first:
            return actions
        if packet.protocol == packets.ICMP and packets.icmp_type(packet) in packets.ERROR_TYPES:
            return actions
        if not self._icmp4_rate.take(now_ms):
            self.counters["icmp4_suppressed"] += 1
            return actions
        self.counters["icmp4_sent"] += 1
        return [*actions, ToInternet(packets.icmp4_error(self._ipv4, packet, 3, 1))]

    @staticmethod
    def _encapsulate(binding, octets, tos):
        binding.packets_in += 1
        return ToSoftwire(binding.client, octets, tos)

    def _drop(self, counter):
        self.counters[counter] += 1
        return [Drop(counter)]


def _alive(binding, now_ms):
    """A binding ends with its lifetime, even before a timer has removed it (RFC 7596 6.1)."""
    return binding.expiry_ms is None or binding.expiry_ms > now_ms


def _icmp_source(packet):
    """(port, protocol) that an outbound ICMP message belongs to. Raises _Violation.

    An error quotes a packet that came in, so its quoted destination is the sender's.
    """
    kind = packets.icmp_type(packet)
    if kind is None:
        raise _NoPort("malformed_outbound")
    if kind in (packets.ECHO_REPLY, packets.ECHO_REQUEST):
        return packets.icmp_id(packet), None
    quote = packets.quoted(packet) if kind in packets.ERROR_TYPES else None
    if quote is None or quote.dst != packet.src:
        raise _Violation("icmp")
    return quote.dport, None if quote.protocol == packets.ICMP else quote.protocol


def _may_answer(source):
    """No ICMPv6 error goes to a multicast or unspecified source (RFC 4443 2.4)."""
    return source[0] != 0xFF and source != bytes(16)


def _integer_address(text):
    if not text:
        return None
    return int.from_bytes(bytes(int(part) for part in text.split(".")), "big")
