"""Judges a capture of the access link: did every packet leave from ports that were the router's?

What was the router's is read from the same capture: the lwAFTR's PCP answers, in the order of the
wire. When the lwAFTR has moved a set, packets of the old one are on their way still, and the router
cannot know before it is told. So they count as "late", up to its first packet from the new set:
from then on its rules are the new ones, and a packet of the old set is a leak.

No clock, and no I/O but reading the file: the same capture always gets the same verdict.
"""

import struct
from collections import Counter, namedtuple

from cpe_agent.pcp import wire

ICMP, TCP, UDP, DCCP, SCTP = 1, 6, 17, 33, 132
_PCP_PORT = 5351
_IPV6, _INNER = 14, 54  # offsets in a frame: after Ethernet, and after Ethernet and IPv6
_IPIP, _FRAGMENT = 4, 44  # next headers
_ECHO = (0, 8)
_ICMP_ERRORS = (3, 11, 12)  # what a NAT has to pass (RFC 5508 4)
_WITH_PORTS = (TCP, UDP, DCCP, SCTP)  # that Linux translates
_KEPT = 20  # leaks that are described

UDP_FRAGMENTS, ICMP_ECHO, ICMP_ERROR = "UDP in fragments", "ICMP echo", "ICMP errors"
_KINDS = {TCP: "TCP", UDP: "UDP", DCCP: "DCCP", SCTP: "SCTP"}

# Address 4 octets, first and last port.
Ports = namedtuple("Ports", ("address", "first", "last"))
# kind: for the table. address: 4 octets. port: of the sender, or an echo's identifier.
Sender = namedtuple("Sender", ("kind", "address", "port"))


def is_in(sender, ports):
    return sender.address == ports.address and ports.first <= sender.port <= ports.last


class Judge:
    """router, lwaftr: IPv6 addresses, 16 octets."""

    def __init__(self, router, lwaftr):
        self.passed = Counter()  # {kind: packets that left from the router's ports}
        self.late = 0  # packets of a set that was being moved
        self.leaks = 0
        self.described = []  # the first leaks
        self.grants = 0  # answers that changed the sets
        self._out = router + lwaftr
        self._back = lwaftr + router
        self._sets = {}  # {nonce of a mapping: Ports}
        self._going = {}  # {nonce: [Ports] that it had before}
        self._fragments = {}  # {addresses, protocol and identification: Sender}

    def see(self, number, octets):
        """The next frame of the wire. number: for descriptions."""
        ends = octets[_IPV6 + 8 : _IPV6 + 40]
        if octets[12:14] != b"\x86\xdd" or ends not in (self._out, self._back):
            return
        kind = octets[_IPV6 + 6]
        if ends == self._back:
            if kind == UDP and octets[_INNER : _INNER + 2] == struct.pack(">H", _PCP_PORT):
                self._answer(octets[_INNER + 8 :])
        elif kind == _IPIP:
            self._packet(number, octets[_INNER:])
        elif kind == _FRAGMENT:
            # The softwire's MTU leaves room for the header around, so nobody makes fragments of it.
            self._leak(number, "a fragment of the softwire itself")

    # What the router is told

    def _answer(self, octets):
        try:
            answer = wire.parse_response(octets)
        except wire.WireError:
            return
        if answer.opcode != wire.OP_MAP or answer.result:
            return
        mapping = answer.map.nonce  # each has its own; its internal port may change
        old = self._sets.get(mapping)
        if not answer.lifetime:
            # The router gave it back, and had to stop before it said so.
            self._sets.pop(mapping, None)
            self._going.pop(mapping, None)
            return
        new = _ports(answer)
        if new == old:
            return
        self.grants += 1
        self._sets[mapping] = new
        if old:
            self._going.setdefault(mapping, []).append(old)

    # What it sends

    def _packet(self, number, packet):
        try:
            sender = self._sender(packet)
        except (IndexError, struct.error):
            sender = "a packet without a whole header"
        if not isinstance(sender, Sender):
            self._leak(number, "%s: %s" % (sender, packet[:28].hex()))
            return
        for mapping, ports in self._sets.items():
            if is_in(sender, ports):
                self.passed[sender.kind] += 1
                if self._going:
                    self._going.pop(mapping, None)  # the rules are the new ones
                return
        if any(is_in(sender, ports) for old in self._going.values() for ports in old):
            self.late += 1
            return
        address = ".".join(str(octet) for octet in sender.address)
        self._leak(number, "%s from %s:%d" % (sender.kind, address, sender.port))

    def _sender(self, packet):
        """Sender, or what is wrong, as text."""
        payload = (packet[0] & 15) * 4
        (fragment,) = struct.unpack_from(">H", packet, 6)
        protocol, address = packet[9], packet[12:16]
        key = packet[12:20] + packet[9:10] + packet[4:6]
        if fragment & 0x1FFF:
            return self._fragments.get(key, "a fragment whose first one was never there")
        if protocol in _WITH_PORTS:
            kind = UDP_FRAGMENTS if fragment and protocol == UDP else _KINDS[protocol]
            found = Sender(kind, address, *struct.unpack_from(">H", packet, payload))
        elif protocol == ICMP:
            found = _of_icmp(packet, payload, address)
        else:
            return "protocol %d" % protocol
        if fragment & 0x2000:
            self._fragments[key] = found
        return found

    def _leak(self, number, text):
        self.leaks += 1
        if len(self.described) < _KEPT:
            self.described.append("frame %d: %s" % (number, text))


def _ports(answer):
    size = 1
    octets = wire.find_option(answer.options, wire.OPT_PORT_SET)
    if octets is not None:
        size = wire.parse_port_set(octets).size
    first = answer.map.external_port
    return Ports(answer.map.external_ip[12:], first, first + size - 1)


def _of_icmp(packet, payload, address):
    kind = packet[payload]
    if kind in _ECHO:
        return Sender(ICMP_ECHO, address, *struct.unpack_from(">H", packet, payload + 4))
    if kind not in _ICMP_ERRORS:
        return "ICMP type %d" % kind
    quoted = packet[payload + 8 :]
    if quoted[16:20] != address:
        return "an ICMP error about somebody else's packet"
    at = (quoted[0] & 15) * 4
    if quoted[9] in _WITH_PORTS:
        return Sender(ICMP_ERROR, address, *struct.unpack_from(">H", quoted, at + 2))
    if quoted[9] == ICMP and quoted[at] in _ECHO:
        return Sender(ICMP_ERROR, address, *struct.unpack_from(">H", quoted, at + 4))
    return "an ICMP error about protocol %d" % quoted[9]


def frames(path):
    """Frames of a pcap file that QEMU wrote, in the order of the wire."""
    with open(path, "rb") as capture:
        magic = capture.read(24)[:4]
        order = "<" if magic == b"\xd4\xc3\xb2\xa1" else ">"
        while len(head := capture.read(16)) == 16:
            kept = struct.unpack(order + "8xI4x", head)[0]
            octets = capture.read(kept)
            if len(octets) < kept:
                return  # QEMU is writing it
            yield octets


def judge(path, router, lwaftr):
    """Judge of a whole capture."""
    found = Judge(router, lwaftr)
    for number, octets in enumerate(frames(path), 1):
        found.see(number, octets)
    return found
