"""PCP server core of the lab lwAFTR: RFC 6887, RFC 7753 4.2 and 4.4.1.

Sans-IO. Times are integer milliseconds of a clock that never runs backwards, addresses are 16
octets (IPv4 as ::ffff:a.b.c.d), and what is to be sent comes back as Outgoing tuples.

What it leaves out, on purpose: PEER (UNSUPP_OPCODE), and wildcards without PORT_SET
(UNSUPP_PROTOCOL, since a shared address can never be given whole).
"""

from collections import namedtuple

from cpe_agent.pcp import wire

from . import peerfilter
from .bindings import Binding, BindingTable
from .config import packed
from .mappings import Block, Mapping, MappingTable
from .notices import ALL_HOSTS, ALL_NODES, Announcements, MappingUpdates
from .placement import Placement
from .requests import Refused, read_map, rename
from .timers import DeadlineQueue

# A datagram to send: octets, 16 octets of address, UDP port.
Outgoing = namedtuple("Outgoing", ("data", "address", "port"))

_SHORT_ERRORS = (wire.NETWORK_FAILURE, wire.NO_RESOURCES, wire.USER_EX_QUOTA)


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
        self._announcements = Announcements(config.pcp.max_known_clients, config.pcp.announce_pace)
        self._updates = MappingUpdates()
        self._table = MappingTable()
        self._clear()

    def _clear(self):
        self.bindings.clear()
        self._table.clear()
        self._updates.clear()
        self._expiry = DeadlineQueue()
        self._placement = Placement(self.config, self._random_bytes)
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
        except Refused as refusal:
            answers = [self._error(now_ms, data, refusal)]
        return [Outgoing(answer, source, source_port) for answer in answers]

    def handle_timer(self, now_ms):
        """Expire what is due; Mapping Updates and announcements that are due."""
        self._expire(now_ms)
        out = [self._update_copy(now_ms, mapping) for mapping in self._updates.due(now_ms)]
        return out + self._announce_due(now_ms)

    def get_timer(self):
        """When handle_timer() has something to do (milliseconds), or None."""
        sources = (self._expiry, self._placement, self._updates, self._announcements)
        dues = [source.next_due() for source in sources]
        return min((due for due in dues if due is not None), default=None)

    # Administration

    def epoch(self, now_ms):
        """Epoch Time in seconds (RFC 6887 8.5)."""
        return (now_ms - self._epoch_start_ms) // 1000 & 0xFFFFFFFF

    def mappings(self):
        """All mappings, those of one client together."""
        return iter(self._table)

    def known_clients(self):
        """Number of clients that announcements go to."""
        return len(self._announcements)

    def mapping_count(self):
        """Number of mappings."""
        return len(self._table)

    def announce(self, now_ms, unicast=True, multicast=True):
        """Start a series of unsolicited ANNOUNCE (RFC 6887 14.1.3); the copies that go at once.

        unicast: to every client known, until it is heard again. multicast: to ff02::1, and
        224.0.0.1 where IPv4 is served; with pcp.announce_pace, when all of those have been told. A
        series under way ends.
        """
        groups = self._groups() if multicast else ()
        self._announcements.start(now_ms, unicast, groups, self.config.pcp.announce_repeats)
        return self._announce_due(now_ms)

    def _groups(self):
        server = self.config.server
        families = {":" in address for address in (server.address, server.address4) if address}
        groups = {True: ALL_NODES, False: ALL_HOSTS}
        return [groups[family] for family in sorted(families, reverse=True)]

    def forget(self, now_ms, epoch_reset=True, announce=False):
        """Lose all dynamic mappings, bindings and holds; the announcements to send.

        epoch_reset False breaks RFC 6887 8.5 on purpose. announce: True for both ways,
        'unicast', 'multicast' or False. Known clients are remembered.
        """
        self._clear()
        if epoch_reset:
            self._epoch_start_ms = now_ms
        self._announcements.stop()
        if not announce:
            return []
        return self.announce(now_ms, announce != "multicast", announce != "unicast")

    def switch(self, now_ms, map_opcode=None, port_set=None, announce=True):
        """Turn MAP or PORT_SET on or off while running; the announcements to send.

        None leaves a switch as it is. When PORT_SET comes or goes, the mappings are forgotten, so
        that clients ask anew and get what is possible now (RFC 7753 4.3). announce: as forget()'s.
        """
        policy = self.config.pcp
        if map_opcode is not None:
            policy.enabled = map_opcode
        if port_set is None or port_set == policy.port_set:
            return []
        policy.port_set = port_set
        return self.forget(now_ms, announce=announce)

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
        room. A mapping of PREFER_FAILURE ends instead, with CANNOT_PROVIDE_EXTERNAL. Returns the
        first copies; LookupError if it has no dynamic set, or if there is no room.
        """
        self._expire(now_ms)
        blocks = [block for block in self._table.blocks(client) if not block.static]
        if not blocks:
            raise LookupError("the client has no dynamic set")
        places = []
        for block in blocks:
            place = self._placement.other(client, block, address, port)
            if place is None:
                for found in places:
                    self._placement.give_back(*found)
                raise LookupError("no room for a set of %d ports there" % block.size)
            places.append(place)
            address, port = place[0], 0
        out = []
        for block, place in zip(blocks, places):
            out.extend(self._move_block(now_ms, client, block, place))
        return out

    # Requests

    def _answer(self, now_ms, data, source, port):
        """The order of RFC 6887 8.2. Raises Refused."""
        if data[0] != wire.VERSION:
            raise Refused(wire.UNSUPP_VERSION)
        if len(data) < wire.HEADER_LENGTH:
            return []
        opcode = data[1]
        too_short = opcode == wire.OP_MAP and len(data) < wire.HEADER_LENGTH + wire.MAP_LENGTH
        if too_short or len(data) > wire.MAX_LENGTH or len(data) % 4:
            raise Refused(wire.MALFORMED_REQUEST, unparsed=True)
        if data[8:24] != source:
            raise Refused(wire.ADDRESS_MISMATCH)
        if opcode not in (wire.OP_ANNOUNCE, wire.OP_MAP):
            raise Refused(wire.UNSUPP_OPCODE)
        if opcode == wire.OP_MAP and not self.config.pcp.enabled:
            raise Refused(wire.UNSUPP_OPCODE)
        try:
            request = wire.parse_request(data)
        except wire.OptionError:
            raise Refused(wire.MALFORMED_OPTION, unparsed=True) from None
        if opcode == wire.OP_ANNOUNCE:
            return self._solicited_announce(now_ms, request)
        return self._map(now_ms, data, request, source, port)

    def _solicited_announce(self, now_ms, request):
        if any(code < wire.OPTIONAL_BIT for code, _ in request.options):
            raise Refused(wire.UNSUPP_OPTION)
        return [self._announcement(now_ms)]

    def _map(self, now_ms, data, request, source, port):
        asked = read_map(self.config.pcp, self._knows_port_set(), data, request, source, port)
        if self.faults.refuse:
            raise Refused(self.faults.refuse, self.faults.refuse_lifetime)
        self._updates.heard(asked)
        touched = self._table.touched(asked)
        if touched:
            return self._refresh(now_ms, asked, touched)
        if asked.lifetime == 0:
            return [self._deleted(now_ms, asked)]
        mapping = self._create(now_ms, asked)
        self._announcements.heard(source, port)
        return [self._success(now_ms, mapping, asked.data, asked.options.echo)]

    def _knows_port_set(self):
        return self.config.pcp.port_set and not self.faults.ignore_port_set

    # Refresh and deletion (part G of the checklist; RFC 7753 4.4.1)

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
            except Refused as refusal:
                answer = self._error(now_ms, asked.octets, refusal)
                answers.append(rename(answer, shown.protocol, shown.internal_port))
        return answers

    def _refresh_one(self, now_ms, asked, mapping, shown):
        """The answer for one mapping; shown: the MapData to take its name from."""
        if mapping.static:
            return self._show_static(now_ms, asked, mapping, shown)
        if asked.nonce != mapping.nonce:
            raise Refused(wire.NOT_AUTHORIZED, mapping.remaining(now_ms))
        self._check_place(asked, mapping)
        filters = self._merged_filters(asked, mapping)
        self._announcements.heard(asked.source, asked.port)
        self._updates.stop(mapping)
        mapping.peer = asked.source, asked.port
        if asked.lifetime == 0:
            return self._delete(now_ms, asked, mapping, shown)
        mapping.internal_port = shown.internal_port
        self._apply_options(asked.options, mapping, filters)
        self._set_expiry(mapping, now_ms + self._clamp(asked.lifetime) * 1000)
        self._install_binding(mapping)
        return self._success(now_ms, mapping, shown, asked.options.echo)

    def _show_static(self, now_ms, asked, mapping, shown):
        """A static mapping is confirmed, but is the administrator's alone to change."""
        self._check_place(asked, mapping)
        if asked.lifetime == 0 or asked.options.filters:
            raise Refused(wire.NOT_AUTHORIZED)
        self._install_binding(mapping)
        return self._success(now_ms, mapping, shown, asked.options.echo)

    @staticmethod
    def _check_place(asked, mapping):
        """PREFER_FAILURE wants the place that it suggests (RFC 6887 13.2). Raises Refused."""
        external = mapping.external + asked.data.internal_port - mapping.internal
        wanted = asked.options.prefer_failure
        if wanted and not asked.suggests(mapping.block.address, external):
            raise Refused(wire.CANNOT_PROVIDE_EXTERNAL)

    def _merged_filters(self, asked, mapping):
        """The mapping's filters after this request (RFC 6887 13.3). Raises Refused."""
        if not asked.options.filters:
            return mapping.filters
        filters = peerfilter.merge(mapping.filters, asked.options.filters)
        if len(filters) > self.config.pcp.max_filters:
            raise Refused(wire.EXCESSIVE_REMOTE_PEERS)
        return filters

    @staticmethod
    def _apply_options(options, mapping, filters):
        mapping.third_party = options.third_party is not None
        mapping.prefer_failure = options.prefer_failure
        mapping.filters = filters
        if mapping.binding is not None:
            mapping.binding.filters = filters
        if options.description is not None:
            mapping.description = options.description

    def _delete(self, now_ms, asked, mapping, shown):
        """Delete, or shorten to what traffic leaves; both copy the suggestion (15.1)."""
        option = self._set_option(mapping.size, mapping.internal) + asked.options.echo
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
        option = self._set_option(asked.size, asked.data.internal_port) + asked.options.echo
        return wire.map_response(wire.SUCCESS, 0, self.epoch(now_ms), asked.data, option)

    # Creation

    def _create(self, now_ms, asked):
        limit = self.config.pool.set_size
        if self.faults.fewer_ports:
            limit = min(limit, self.faults.fewer_ports)
        blocks = self._table.blocks(asked.client)
        block, external, size = self._placement.find(now_ms, asked, blocks, limit)
        mapping = Mapping(asked.client, asked.nonce, asked.protocol, block, external, size)
        mapping.low, mapping.high = asked.internal_range()
        mapping.translated = self._placement.translates(asked.client)
        mapping.place_internal()
        mapping.internal_port = asked.data.internal_port
        mapping.peer = asked.source, asked.port
        self._apply_options(asked.options, mapping, peerfilter.merge((), asked.options.filters))
        self._table.add(mapping)
        self._set_expiry(mapping, now_ms + self._clamp(asked.lifetime) * 1000)
        # RFC 7596 6.1: the entry exists before the answer leaves.
        self._install_binding(mapping)
        return mapping

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
        mapping.binding.filters = mapping.filters
        self.bindings.add(mapping.binding)

    def _install_static(self, entry):
        client = packed(entry.client)
        address = int.from_bytes(packed(entry.address)[12:], "big")
        self._placement.reserve(address, entry.first_port, entry.size)
        block = Block(address, entry.first_port, entry.size)
        mapping = Mapping(client, b"", wire.PROTO_ALL, block, entry.first_port, entry.size)
        mapping.static = True
        self._table.add(mapping)
        self._install_binding(mapping)

    def _expire(self, now_ms):
        while True:
            mapping = self._expiry.pop_due(now_ms)
            if mapping is None:
                break
            self._remove(now_ms, mapping)
        self._placement.expire(now_ms)

    def _remove(self, now_ms, mapping):
        mapping.due_ms = None
        self._updates.stop(mapping)
        self.bindings.remove(mapping.binding)
        self._table.remove(mapping)
        if not mapping.block.mappings:
            self._placement.free(now_ms, mapping.client, mapping.nonce, mapping.block.place)

    # Notifications

    def _move_block(self, now_ms, client, block, place):
        """Move what is on a block; the first copies of the Mapping Updates."""
        moved = list(block.mappings)
        nonce, old = moved[0].nonce, block.place
        stays = [mapping for mapping in moved if not mapping.prefer_failure]
        if not stays:
            self._placement.give_back(*place)
        for mapping in moved:
            if mapping.prefer_failure:
                self._remove(now_ms, mapping)
        if stays:
            self._placement.free(now_ms, client, nonce, old)
            shift = place[1] - block.first
            block.address, block.first = place[:2]
            for mapping in stays:
                self.bindings.remove(mapping.binding)
                mapping.external += shift
                mapping.follow_external(self._table.of_client(client))
                self._install_binding(mapping)
        for mapping in moved:
            self._updates.start(now_ms, mapping, gone=mapping.prefer_failure)
        return [self._update_copy(now_ms, mapping) for mapping in moved]

    def _update_copy(self, now_ms, mapping):
        """A Mapping Update: mandatory options, and PORT_SET if it is wanted (AMB-3)."""
        name = wire.MapData(mapping.nonce, mapping.protocol, mapping.internal_port, 0, wire.ANY_V4)
        echo = wire.option(wire.OPT_THIRD_PARTY, mapping.client) if mapping.third_party else b""
        if mapping.prefer_failure:
            name = self._with_external(name, mapping)
            echo += wire.option(wire.OPT_PREFER_FAILURE)
            data = wire.map_response(
                wire.CANNOT_PROVIDE_EXTERNAL,
                self.config.pcp.error_long,
                self.epoch(now_ms),
                name,
                echo,
            )
        else:
            echo += b"".join(map(peerfilter.option, mapping.filters))
            data = self._success(now_ms, mapping, name, echo, self.config.pcp.update_port_set)
        return Outgoing(data, *mapping.peer)

    def _announcement(self, now_ms):
        return wire.response(wire.OP_ANNOUNCE, wire.SUCCESS, 0, self.epoch(now_ms))

    def _announce_due(self, now_ms):
        targets = self._announcements.due(now_ms)
        data = self._announcement(now_ms)
        return [Outgoing(data, address, port) for address, port in targets]

    # Answers

    @staticmethod
    def _with_external(name, mapping):
        """MapData with the mapping's external address and first port."""
        address = wire.V4_PREFIX + mapping.block.address.to_bytes(4, "big")
        return name._replace(external_port=mapping.external, external_ip=address)

    def _success(self, now_ms, mapping, shown, echo, with_set=True):
        """SUCCESS for a mapping; nonce, protocol and internal port are those of shown."""
        data = self._with_external(shown, mapping)
        option = self._set_option(mapping.size, mapping.internal) if with_set else b""
        lifetime = mapping.remaining(now_ms)
        return wire.map_response(wire.SUCCESS, lifetime, self.epoch(now_ms), data, option + echo)

    def _set_option(self, size, first_internal):
        """PORT_SET for more than one port (RFC 7753 4.2), else nothing."""
        if size < 2 or not self._knows_port_set():
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
