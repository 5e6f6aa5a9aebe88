"""PCP server core of the lab lwAFTR: RFC 6887, RFC 7753 4.2 and 4.4.1.

Sans-IO. Times are integer milliseconds of a clock that never runs backwards, addresses are 16
octets (IPv4 as ::ffff:a.b.c.d), and what is to be sent comes back as Outgoing tuples.

What it leaves out, on purpose: PEER (UNSUPP_OPCODE); FILTER and THIRD_PARTY (UNSUPP_OPTION, as
for any mandatory option that is not implemented); wildcards without PORT_SET (UNSUPP_PROTOCOL,
since a shared address can never be given whole).
"""

import struct
from collections import OrderedDict, namedtuple

from cpe_agent.pcp import wire

from .allocation import Holds, Wish, make_pool
from .bindings import Binding, BindingTable
from .config import packed
from .timers import DeadlineQueue

# A datagram to send: octets, 16 octets of address, UDP port.
Outgoing = namedtuple("Outgoing", ("data", "address", "port"))

ALL_NODES = bytes.fromhex("ff02" + "00" * 13 + "01")
INFINITE = 0xFFFFFFFF
ANNOUNCE_GAP_MS = 250  # then doubled, RFC 6887 14.1.3
UPDATE_GAPS_MS = (250, 500)  # RFC 6887 14.2

_SHORT_ERRORS = (wire.NETWORK_FAILURE, wire.NO_RESOURCES, wire.USER_EX_QUOTA)
_PROTOCOLS = (wire.PROTO_ALL, wire.PROTO_TCP, wire.PROTO_UDP)


class _Refused(Exception):
    """The request is answered with a result code; unparsed: it could not be read (AMB-25)."""

    def __init__(self, code, lifetime=None, unparsed=False):
        super().__init__(code)
        self.code = code
        self.lifetime = lifetime
        self.unparsed = unparsed


# What the options of a MAP request come to. size: None without (usable) PORT_SET.
_Options = namedtuple("_Options", ("size", "parity", "prefer_failure"))


class _MapRequest:
    """A MAP request that has passed all checks of its form."""

    __slots__ = ("client", "data", "lifetime", "nonce", "octets", "options", "port", "protocol")

    def __init__(self, octets, request, options, source, port):
        self.octets = octets
        self.data = request.map
        self.lifetime = request.lifetime
        self.options = options
        self.client = source
        self.port = port
        self.protocol = request.map.protocol
        self.nonce = request.map.nonce

    @property
    def size(self):
        return self.options.size or 1

    def internal_range(self):
        """Internal ports asked for, never past 65535 (AMB-9).

        Protocol 0 with port 0 means all of them: RFC 6887 11.1 gives the port no meaning there.
        """
        low = self.data.internal_port
        if self.protocol == wire.PROTO_ALL and low == 0:
            return 0, 65535
        return low, min(low + self.size - 1, 65535)

    def suggestion(self):
        """(address, port), None and 0 for what is not suggested."""
        address = self.data.external_ip
        if not wire.is_v4(address) or address == wire.ANY_V4:
            return None, self.data.external_port
        return int.from_bytes(address[12:], "big"), self.data.external_port


class Block:
    """External ports that one client owns; mappings of different protocols may share them."""

    __slots__ = ("address", "first", "mappings", "size")

    def __init__(self, address, first, size):
        self.address = address
        self.first = first
        self.size = size
        self.mappings = []

    @property
    def last(self):
        """Last port."""
        return self.first + self.size - 1

    def free_for(self, protocol):
        """True if none of the mappings here is for this protocol or for all."""
        return not any(_same_protocol(m.protocol, protocol) for m in self.mappings)


class Mapping:
    """One explicit mapping (RFC 6887 11). due_ms is its expiry, None for a static one.

    low, high: the internal range that was asked for; internal: first internal port mapped.
    internal_port, peer_port: of the last request, to where Mapping Updates go.
    """

    __slots__ = (
        "binding",
        "block",
        "client",
        "due_ms",
        "external",
        "high",
        "internal",
        "internal_port",
        "low",
        "nonce",
        "peer_port",
        "protocol",
        "size",
        "static",
        "update",
    )

    def __init__(self, client, nonce, protocol, block, external, size):
        self.client = client
        self.nonce = nonce
        self.protocol = protocol
        self.block = block
        self.external = external
        self.size = size
        self.low, self.high = 0, 65535
        self.internal = self.internal_port = external
        self.peer_port = 0
        self.due_ms = None
        self.static = False
        self.binding = None
        self.update = None

    def meets(self, protocol, low, high):
        """Does an internal range touch this mapping? (RFC 7753 4.4.1)"""
        inside = self.internal <= high and low <= self.internal + self.size - 1
        return inside and _same_protocol(self.protocol, protocol)

    def place_internal(self):
        """Set the first internal port from the external one.

        An lwAFTR translates no ports: internal = external (AMB-5), unless that lies outside of
        what was asked for, where RFC 7753 4.2 forbids it, or cannot be told, as of a single port,
        whose answer bears no First Internal Port.
        """
        inside = self.low <= self.external and self.external + self.size - 1 <= self.high
        self.internal = self.external if inside and self.size > 1 else self.low

    def remaining(self, now_ms):
        """Seconds of life left, rounded up; 2^32-1 for a static mapping (RFC 6887 11.3)."""
        if self.static:
            return INFINITE
        return max(0, -(-(self.due_ms - now_ms) // 1000))


class _Update:
    """Copies of a Mapping Update still to be sent for a mapping."""

    __slots__ = ("due_ms", "gaps", "mapping")

    def __init__(self, mapping, now_ms):
        self.mapping = mapping
        self.gaps = list(UPDATE_GAPS_MS)
        self.due_ms = now_ms + self.gaps.pop(0)


class _Announcements:
    """A series of unsolicited ANNOUNCE still to be sent."""

    def __init__(self, multicast, clients, repeats, now_ms):
        self.multicast = multicast
        self.clients = clients
        self.left = repeats
        self.gap = ANNOUNCE_GAP_MS
        self.due_ms = now_ms


def _same_protocol(one, other):
    return wire.PROTO_ALL in (one, other) or one == other


class PcpServer:
    """One PCP server with its allocations.

    config: config.Config. bindings: the BindingTable that the data plane reads. random_bytes:
    called with a count; only used with pool.order 'random'. faults: config.Faults, by default
    the configuration's. now_ms: start of the server; the epoch counts from it.
    """

    def __init__(self, config, bindings=None, random_bytes=None, faults=None, now_ms=0):
        self.config = config
        self.bindings = BindingTable() if bindings is None else bindings
        self.faults = config.faults if faults is None else faults
        self._random_bytes = random_bytes
        self._epoch_start_ms = now_ms - config.pcp.epoch_start * 1000
        self._known = OrderedDict()
        self._series = None
        self._clear()

    def _clear(self):
        self.bindings.clear()
        self._mappings = {}
        self._expiry = DeadlineQueue()
        self._updates = DeadlineQueue()
        self._pool = make_pool(self.config.pool, self._random_bytes)
        self._holds = Holds(self._pool)
        for entry in self.config.static:
            self._install_static(entry)

    # Input

    def receive(self, now_ms, data, source, source_port):
        """Handle one datagram; the answers, none for what RFC 6887 8.2 drops."""
        self._expire(now_ms)
        if len(data) < 2 or data[1] & wire.RESPONSE_BIT:
            return []
        try:
            answers = self._answer(now_ms, data, source, source_port)
        except _Refused as refusal:
            answers = [self._error(now_ms, data, refusal)]
        return [Outgoing(answer, source, source_port) for answer in answers]

    def handle_timer(self, now_ms):
        """Expire what is due; Mapping Updates and announcements that are due."""
        self._expire(now_ms)
        out = []
        while True:
            update = self._updates.pop_due(now_ms)
            if update is None:
                break
            out.append(self._update_copy(now_ms, update.mapping))
            if update.gaps:
                update.due_ms = now_ms + update.gaps.pop(0)
                self._updates.push(update)
            else:
                update.mapping.update = None
        return out + self._announce_due(now_ms)

    def get_timer(self):
        """When handle_timer() has something to do (milliseconds), or None."""
        dues = [self._expiry.next_due(), self._holds.next_due(), self._updates.next_due()]
        if self._series is not None:
            dues.append(self._series.due_ms)
        return min((due for due in dues if due is not None), default=None)

    # Administration

    def epoch(self, now_ms):
        """Epoch Time in seconds (RFC 6887 8.5)."""
        return (now_ms - self._epoch_start_ms) // 1000 & 0xFFFFFFFF

    def mappings(self):
        """All mappings, those of one client together."""
        for entries in self._mappings.values():
            yield from entries

    def known_clients(self):
        """Number of clients that announcements go to."""
        return len(self._known)

    def mapping_count(self):
        """Number of mappings."""
        return sum(len(entries) for entries in self._mappings.values())

    def announce(self, now_ms, unicast=True, multicast=True):
        """Start a series of unsolicited ANNOUNCE (RFC 6887 14.1.3); its first copies.

        unicast: to every client known, until it is heard again. multicast: to ff02::1. A
        series under way ends.
        """
        clients = dict(self._known) if unicast else {}
        self._series = None
        if clients or multicast:
            repeats = self.config.pcp.announce_repeats
            self._series = _Announcements(multicast, clients, repeats, now_ms)
        return self._announce_due(now_ms)

    def forget(self, now_ms, epoch_reset=True, announce=False):
        """Lose all dynamic mappings, bindings and holds; the announcements to send.

        epoch_reset False breaks RFC 6887 8.5 on purpose. announce: True for both ways,
        'unicast', 'multicast' or False. Known clients are remembered.
        """
        self._clear()
        if epoch_reset:
            self._epoch_start_ms = now_ms
        self._series = None
        if not announce:
            return []
        return self.announce(now_ms, announce != "multicast", announce != "unicast")

    def drop_binding(self, client):
        """Take a client's bindings out of the table, keep its PCP state; how many.

        The client's next renewal puts them back.
        """
        dropped = self.bindings.of_client(client)
        for binding in dropped:
            self.bindings.remove(binding)
        return len(dropped)

    def move(self, now_ms, client, address=None, port=0):
        """Give a client other ports and tell it by Mapping Updates (RFC 6887 14.2).

        address (an integer), port: where to, for its first set; otherwise wherever there is
        room. Returns the first copies; LookupError if it has no dynamic set, or if there is no
        room.
        """
        self._expire(now_ms)
        blocks = self._blocks(client)
        blocks = [block for block in blocks if not any(m.static for m in block.mappings)]
        if not blocks:
            raise LookupError("the client has no dynamic set")
        places = []
        for block in blocks:
            place = self._find_other(client, block, address, port)
            if place is None:
                for found in places:
                    self._pool.release(*found)
                raise LookupError("no room for a set of %d ports there" % block.size)
            places.append(place)
            address, port = place[0], 0
        out = []
        for block, place in zip(blocks, places):
            out.extend(self._move_block(now_ms, client, block, place))
        return out

    # Requests

    def _answer(self, now_ms, data, source, port):
        """The order of RFC 6887 8.2. Raises _Refused."""
        if data[0] != wire.VERSION:
            raise _Refused(wire.UNSUPP_VERSION)
        if len(data) < wire.HEADER_LENGTH:
            return []
        opcode = data[1]
        too_short = opcode == wire.OP_MAP and len(data) < wire.HEADER_LENGTH + wire.MAP_LENGTH
        if too_short or len(data) > wire.MAX_LENGTH or len(data) % 4:
            raise _Refused(wire.MALFORMED_REQUEST, unparsed=True)
        if data[8:24] != source:
            raise _Refused(wire.ADDRESS_MISMATCH)
        if opcode not in (wire.OP_ANNOUNCE, wire.OP_MAP):
            raise _Refused(wire.UNSUPP_OPCODE)
        if opcode == wire.OP_MAP and not self.config.pcp.enabled:
            raise _Refused(wire.UNSUPP_OPCODE)
        try:
            request = wire.parse_request(data)
        except wire.OptionError:
            raise _Refused(wire.MALFORMED_OPTION, unparsed=True) from None
        if opcode == wire.OP_ANNOUNCE:
            return self._solicited_announce(now_ms, request)
        return self._map(now_ms, data, request, source, port)

    def _solicited_announce(self, now_ms, request):
        if any(code < wire.OPTIONAL_BIT for code, _ in request.options):
            raise _Refused(wire.UNSUPP_OPTION)
        return [wire.response(wire.OP_ANNOUNCE, wire.SUCCESS, 0, self.epoch(now_ms))]

    def _map(self, now_ms, data, request, source, port):
        options = self._read_options(request, source)
        asked = _MapRequest(data, request, options, source, port)
        self._check_form(asked)
        if self.faults.refuse:
            raise _Refused(self.faults.refuse, self.faults.refuse_lifetime)
        touched = self._touched(asked)
        if touched:
            return self._refresh(now_ms, asked, touched)
        if asked.lifetime == 0:
            return [self._deleted(now_ms, asked)]
        mapping = self._create(now_ms, asked)
        self._remember(source, port)
        return [self._success(now_ms, mapping, asked.data)]

    def _read_options(self, request, source):
        """Options in order of appearance (RFC 6887 7.3, RFC 7753 4.2, AMB-20)."""
        size = None
        parity = prefer_failure = False
        for code, octets in request.options:
            if code == wire.OPT_PORT_SET and not self.faults.ignore_port_set:
                if size is not None:
                    raise _Refused(wire.MALFORMED_OPTION)
                size, parity = _port_set(octets, request.lifetime)
            elif code == wire.OPT_PREFER_FAILURE:
                if octets or prefer_failure or request.lifetime == 0:
                    raise _Refused(wire.MALFORMED_OPTION)
                prefer_failure = True
            elif code == wire.OPT_THIRD_PARTY:
                raise _Refused(_third_party(octets, source))
            elif code < wire.OPTIONAL_BIT:
                raise _Refused(wire.UNSUPP_OPTION)
        if prefer_failure and (size is not None or request.map.external_port == 0):
            raise _Refused(wire.MALFORMED_OPTION)
        return _Options(size, parity, prefer_failure)

    def _check_form(self, asked):
        """Protocol and internal port (RFC 6887 11.3, 15.1; AMB-1)."""
        if asked.protocol not in _PROTOCOLS:
            raise _Refused(wire.UNSUPP_PROTOCOL)
        internal_port = asked.data.internal_port
        if asked.protocol == wire.PROTO_ALL and internal_port and self.config.pcp.strict:
            raise _Refused(wire.MALFORMED_REQUEST)
        if asked.lifetime == 0 or internal_port:
            return
        # A wildcard has to be granted whole or not at all; PORT_SET says that less will do.
        policy = self.config.pcp
        if asked.protocol or asked.options.size is None or not policy.wildcard_sets:
            raise _Refused(wire.UNSUPP_PROTOCOL)

    # Refresh and deletion (part G of the checklist; RFC 7753 4.4.1)

    def _touched(self, asked):
        low, high = asked.internal_range()
        found = [
            mapping
            for mapping in self._mappings.get(asked.client, ())
            if mapping.meets(asked.protocol, low, high)
        ]
        return sorted(found, key=lambda mapping: (mapping.internal, mapping.protocol))

    def _refresh(self, now_ms, asked, touched):
        """Each mapping is treated as if it had its own request; one answer for each."""
        answers = []
        for mapping in touched:
            shown = asked.data
            if len(touched) > 1:
                # Of several answers each names its own mapping (AMB-8).
                shown = shown._replace(internal_port=mapping.internal, protocol=mapping.protocol)
            try:
                answers.append(self._refresh_one(now_ms, asked, mapping, shown))
            except _Refused as refusal:
                answer = self._error(now_ms, asked.octets, refusal)
                answers.append(_rename(answer, shown))
        return answers

    def _refresh_one(self, now_ms, asked, mapping, shown):
        """The answer for one mapping; shown: the MapData to take its name from."""
        if mapping.static:
            if asked.lifetime == 0:
                raise _Refused(wire.NOT_AUTHORIZED)
            self._install_binding(mapping)
            return self._success(now_ms, mapping, shown)
        if asked.nonce != mapping.nonce:
            raise _Refused(wire.NOT_AUTHORIZED, mapping.remaining(now_ms))
        external = mapping.external + asked.data.internal_port - mapping.internal
        if asked.options.prefer_failure and asked.suggestion() != (mapping.block.address, external):
            raise _Refused(wire.CANNOT_PROVIDE_EXTERNAL)
        self._remember(asked.client, asked.port)
        self._stop_update(mapping)
        mapping.peer_port = asked.port
        if asked.lifetime == 0:
            return self._delete(now_ms, asked, mapping, shown)
        mapping.internal_port = shown.internal_port
        self._set_expiry(mapping, now_ms + self._clamp(asked.lifetime) * 1000)
        self._install_binding(mapping)
        return self._success(now_ms, mapping, shown)

    def _delete(self, now_ms, asked, mapping, shown):
        """Delete, or shorten to what traffic leaves; both copy the suggestion (15.1)."""
        option = self._set_option(mapping.size, mapping.internal)
        left = self._idle_left(now_ms, mapping)
        if left:
            self._set_expiry(mapping, min(mapping.due_ms, now_ms + left * 1000))
            left = mapping.remaining(now_ms)
        else:
            self._remove(now_ms, mapping)
        return wire.map_response(wire.SUCCESS, left, self.epoch(now_ms), shown, option)

    def _idle_left(self, now_ms, mapping):
        """Seconds before a mapping with traffic may go (RFC 6887 15, AMB-14)."""
        idle = self.config.pcp.delete_idle
        last = None if mapping.binding is None else mapping.binding.last_out_ms
        if not idle or last is None:
            return 0
        return max(0, -(-(last + idle * 1000 - now_ms) // 1000))

    def _deleted(self, now_ms, asked):
        """The answer for a mapping that is not there, equal to the one that deleted it."""
        option = self._set_option(asked.size, asked.data.internal_port)
        return wire.map_response(wire.SUCCESS, 0, self.epoch(now_ms), asked.data, option)

    # Creation

    def _create(self, now_ms, asked):
        block, external, size = self._place(now_ms, asked)
        mapping = Mapping(asked.client, asked.nonce, asked.protocol, block, external, size)
        mapping.low, mapping.high = asked.internal_range()
        mapping.place_internal()
        mapping.internal_port = asked.data.internal_port
        mapping.peer_port = asked.port
        block.mappings.append(mapping)
        self._mappings.setdefault(asked.client, []).append(mapping)
        self._set_expiry(mapping, now_ms + self._clamp(asked.lifetime) * 1000)
        # RFC 7596 6.1: the entry exists before the answer leaves.
        self._install_binding(mapping)
        return mapping

    def _place(self, now_ms, asked):
        """(block, first external port, size) for a new mapping. Raises _Refused."""
        limit = self.config.pool.set_size
        if self.faults.fewer_ports:
            limit = min(limit, self.faults.fewer_ports)
        low, high = asked.internal_range()
        size = min(asked.size, high - low + 1, limit)
        blocks = self._blocks(asked.client)
        shared = self._share(asked, blocks, size)
        if shared is not None:
            return shared
        policy = self.config.pcp
        left = policy.max_ports - sum(block.size for block in blocks)
        if len(blocks) >= policy.max_sets or left <= 0:
            raise _Refused(wire.USER_EX_QUOTA)
        place = self._allocate(now_ms, asked, blocks, min(size, left))
        if place is None:
            code = wire.NO_RESOURCES
            if asked.options.prefer_failure:
                code = wire.CANNOT_PROVIDE_EXTERNAL
            raise _Refused(code)
        block = Block(*place)
        return block, block.first, block.size

    def _blocks(self, client):
        """The client's blocks, each once, in order of their mappings."""
        return list(dict.fromkeys(mapping.block for mapping in self._mappings.get(client, ())))

    def _share(self, asked, blocks, size):
        """Put a second protocol on ports that the client has, if it means them; or None.

        It means them when it suggests them, or when its internal port is one that it used for
        them (the way to ask for UDP and TCP one by one, AMB-1).
        """
        address, port = asked.suggestion()
        for block in blocks:
            suggested = address == block.address and block.first <= port <= block.last
            same = any(m.internal_port == asked.data.internal_port for m in block.mappings)
            if not block.free_for(asked.protocol) or not (suggested or same):
                continue
            first = port if suggested else block.first
            if asked.options.prefer_failure and not suggested:
                continue
            return block, first, min(size, block.last - first + 1)
        return None

    def _allocate(self, now_ms, asked, blocks, size):
        """(address, first, size) from the pool, or None."""
        address, port = asked.suggestion()
        held = self._holds.own(asked.client, asked.nonce, address, port)
        held_until = None
        if held is not None:
            held_until = held.due_ms
            self._holds.open(held)
            if not port:
                address, port = held.address, held.first
        wish = Wish(size, address, port, exact=asked.options.prefer_failure)
        wish.home = blocks[0].address if blocks else None
        low, high = asked.internal_range()
        if asked.options.parity:
            wish.parity = low % 2
        # Inside the range that was asked for if there is room: RFC 7753 4.2 wants many ports, too.
        room = high - max(low, self.config.pool.first_port) + 1 >= size
        if asked.protocol == wire.PROTO_ALL and room:
            wish.low, wish.high = low, high
        place = self._pool.allocate(asked.client, wish)
        if place is None and asked.protocol == wire.PROTO_ALL:
            wish.low, wish.high = 0, 65535
            place = self._pool.allocate(asked.client, wish)
        if held is not None:
            self._holds.close(held, held_until)
        return place

    def _clamp(self, lifetime):
        return max(self.config.pcp.lifetime_min, min(lifetime, self.config.pcp.lifetime_max))

    # State

    def _set_expiry(self, mapping, due_ms):
        if mapping.due_ms != due_ms:
            mapping.due_ms = due_ms
            self._expiry.push(mapping)
        if mapping.binding is not None:
            mapping.binding.expiry_ms = due_ms

    def _install_binding(self, mapping):
        """Enter the mapping's binding if it is not in the table."""
        if mapping.binding is not None and mapping.binding in self.bindings:
            return
        mapping.binding = Binding(
            mapping.client,
            mapping.block.address,
            mapping.external,
            mapping.size,
            mapping.protocol,
            mapping.due_ms,
        )
        self.bindings.add(mapping.binding)

    def _install_static(self, entry):
        client = packed(entry.client)
        address = int.from_bytes(packed(entry.address)[12:], "big")
        self._pool.reserve(address, entry.first_port, entry.size)
        block = Block(address, entry.first_port, entry.size)
        mapping = Mapping(client, b"", wire.PROTO_ALL, block, entry.first_port, entry.size)
        mapping.static = True
        block.mappings.append(mapping)
        self._mappings.setdefault(client, []).append(mapping)
        self._install_binding(mapping)

    def _expire(self, now_ms):
        while True:
            mapping = self._expiry.pop_due(now_ms)
            if mapping is None:
                break
            self._remove(now_ms, mapping)
        self._holds.expire(now_ms)

    def _remove(self, now_ms, mapping):
        mapping.due_ms = None
        self._stop_update(mapping)
        self.bindings.remove(mapping.binding)
        entries = self._mappings[mapping.client]
        entries.remove(mapping)
        if not entries:
            del self._mappings[mapping.client]
        block = mapping.block
        block.mappings.remove(mapping)
        if not block.mappings:
            place = (block.address, block.first, block.size)
            self._free(now_ms, mapping.client, mapping.nonce, place)

    def _free(self, now_ms, client, nonce, place):
        hold_ms = self.config.pcp.hold_time * 1000
        if hold_ms and self._pool.holds_freed:
            self._holds.add(client, nonce, place, now_ms + hold_ms)
        else:
            self._pool.release(*place)

    def _remember(self, client, port):
        """Note where a client listens, for announcements; the longest unheard is forgotten."""
        self._known[client] = port
        self._known.move_to_end(client)
        if len(self._known) > self.config.pcp.max_known_clients:
            self._known.popitem(last=False)
        if self._series is not None:
            self._series.clients.pop(client, None)

    # Notifications

    def _find_other(self, client, block, address, port):
        """Another place as large as the block, taken out of the pool, or None."""
        wish = Wish(block.size, address, port, home=address)
        place = self._pool.allocate(client, wish)
        if place is None or (place[2] == block.size and port in (0, place[1])):
            return place
        self._pool.release(*place)
        return None

    def _move_block(self, now_ms, client, block, place):
        old = (block.address, block.first, block.size)
        shift = place[1] - block.first
        block.address, block.first = place[:2]
        out = []
        for mapping in block.mappings:
            self.bindings.remove(mapping.binding)
            mapping.external += shift
            mapping.place_internal()
            self._install_binding(mapping)
            out.append(self._start_update(now_ms, mapping))
        self._free(now_ms, client, block.mappings[0].nonce, old)
        return out

    def _start_update(self, now_ms, mapping):
        self._stop_update(mapping)
        mapping.update = _Update(mapping, now_ms)
        self._updates.push(mapping.update)
        return self._update_copy(now_ms, mapping)

    @staticmethod
    def _stop_update(mapping):
        if mapping.update is not None:
            mapping.update.due_ms = None
            mapping.update = None

    def _update_copy(self, now_ms, mapping):
        name = wire.MapData(mapping.nonce, mapping.protocol, mapping.internal_port, 0, b"")
        data = self._success(now_ms, mapping, name, self.config.pcp.update_port_set)
        return Outgoing(data, mapping.client, mapping.peer_port)

    def _announce_due(self, now_ms):
        series = self._series
        if series is None or series.due_ms > now_ms:
            return []
        data = wire.response(wire.OP_ANNOUNCE, wire.SUCCESS, 0, self.epoch(now_ms))
        out = [Outgoing(data, client, port) for client, port in series.clients.items()]
        if series.multicast:
            out.append(Outgoing(data, ALL_NODES, wire.CLIENT_PORT))
        series.left -= 1
        series.due_ms = now_ms + series.gap
        series.gap *= 2
        if not series.left or not out:
            self._series = None
        return out

    # Answers

    def _success(self, now_ms, mapping, shown, with_set=True):
        """SUCCESS for a mapping; nonce, protocol and internal port are those of shown."""
        data = shown._replace(
            external_port=mapping.external,
            external_ip=wire.V4_PREFIX + mapping.block.address.to_bytes(4, "big"),
        )
        option = self._set_option(mapping.size, mapping.internal) if with_set else b""
        lifetime = mapping.remaining(now_ms)
        return wire.map_response(wire.SUCCESS, lifetime, self.epoch(now_ms), data, option)

    def _set_option(self, size, first_internal):
        """PORT_SET for more than one port (RFC 7753 4.2), else nothing."""
        if size < 2 or self.faults.ignore_port_set:
            return b""
        return wire.port_set_option(size, first_internal)

    def _error(self, now_ms, data, refusal):
        """RFC 6887 8.2: the request copied, up to 1100 octets, padded to a multiple of 4."""
        body = bytes(data[: wire.MAX_LENGTH]).ljust(wire.HEADER_LENGTH, b"\0")
        body += b"\0" * (-len(body) % 4)
        lifetime = refusal.lifetime
        if lifetime is None:
            short = refusal.code in _SHORT_ERRORS
            lifetime = self.config.pcp.error_short if short else self.config.pcp.error_long
        # RFC 6887 7.2: the end of the Client IP when the request could not be parsed.
        reserved = body[12:24] if refusal.unparsed else b"\0" * 12
        epoch = self.epoch(now_ms)
        tail = body[wire.HEADER_LENGTH :]
        return wire.response(data[1], refusal.code, lifetime, epoch, tail, reserved)


def _port_set(octets, lifetime):
    """(size, parity) of a PORT_SET option; a delete's size 0 counts as 1 (AMB-20)."""
    if lifetime == 0 and octets[:2] == b"\0\0" and len(octets) == wire.PORT_SET_LENGTH:
        return 1, False
    try:
        option = wire.parse_port_set(octets)
    except wire.OptionError:
        raise _Refused(wire.MALFORMED_OPTION) from None
    return option.size, option.parity


def _third_party(octets, source):
    """Result code for THIRD_PARTY, which is prohibited here (RFC 6887 13.1)."""
    if len(octets) != 16:
        return wire.MALFORMED_OPTION
    return wire.MALFORMED_REQUEST if octets == source else wire.UNSUPP_OPTION


def _rename(answer, shown):
    """A MAP answer under another mapping's protocol and internal port."""
    port = struct.pack(">H", shown.internal_port)
    return answer[:36] + bytes([shown.protocol]) + answer[37:40] + port + answer[42:]
