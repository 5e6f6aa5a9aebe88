"""What the captures say: IPv4 packets inside the softwire, counted without the lwAFTR's help.

The lwAFTR counts packets inside and outside of the port set; the same count made from the wire
keeps it honest. Times are seconds since 1970, as in the pcap file.
"""

import ipaddress
import struct
from collections import Counter, namedtuple

ETHERTYPE_IPV6 = 0x86DD
IPV4_IN_IPV6, ICMP, TCP, UDP = 4, 1, 6, 17
PROTOCOL_NAMES = {ICMP: "icmp", TCP: "tcp", UDP: "udp"}
EXTENSION_HEADERS = (0, 43, 60)  # hop-by-hop, routing, destination options
ECHO_TYPES = (0, 8)
PCP_PORTS = (5350, 5351)

# An IPv4 packet in the softwire. source, target: of the IPv6 packet around it. port: the one that
# belongs to the sender's set (source port, echo id, or the quoted destination port of an ICMP
# error); None in a fragment that is not the first.
Inner = namedtuple("Inner", "time source target protocol address port")


def frames(path):
    """(time, octets) of every frame in a classic pcap file, such as QEMU writes."""
    with open(path, "rb") as source:
        head = source.read(24)
        if len(head) < 24 or head[:4] not in (b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\xc3\xd4"):
            raise ValueError(f"{path} is no pcap file with microseconds")
        order = "<" if head[0] == 0xD4 else ">"
        while len(head := source.read(16)) == 16:
            seconds, micros, kept, _ = struct.unpack(f"{order}IIII", head)
            yield seconds + micros / 1e6, source.read(kept)


def _ipv6(frame):
    """(source, target, next header, payload) of an IPv6 frame, or None."""
    if len(frame) < 54 or struct.unpack_from("!H", frame, 12)[0] != ETHERTYPE_IPV6:
        return None
    following, at = frame[20], 54
    while following in EXTENSION_HEADERS and at + 8 <= len(frame):
        following, at = frame[at], at + 8 + 8 * frame[at + 1]
    addresses = [str(ipaddress.IPv6Address(frame[start : start + 16])) for start in (22, 38)]
    return addresses[0], addresses[1], following, frame[at:]


def _sender_port(protocol, payload):
    """The port or id of the sender's set in a first fragment, or None."""
    if len(payload) < 8:
        return None
    if protocol in (TCP, UDP):
        return struct.unpack_from("!H", payload)[0]
    if protocol == ICMP and payload[0] in ECHO_TYPES:
        return struct.unpack_from("!H", payload, 4)[0]
    if protocol == ICMP and len(payload) >= 36:
        quoted = payload[8:]
        return struct.unpack_from("!H", quoted, 4 * (quoted[0] & 15) + 2)[0]
    return None


def inner_packets(path):
    """Every IPv4 packet that a softwire carries in a capture; Inner tuples."""
    for time, frame in frames(path):
        outer = _ipv6(frame)
        if outer is None or outer[2] != IPV4_IN_IPV6 or len(outer[3]) < 20:
            continue
        packet = outer[3]
        offset = struct.unpack_from("!H", packet, 6)[0] & 0x1FFF
        payload = packet[4 * (packet[0] & 15) :]
        port = None if offset else _sender_port(packet[9], payload)
        address = str(ipaddress.IPv4Address(packet[12:16]))
        yield Inner(time, outer[0], outer[1], packet[9], address, port)


def pcp_times(path):
    """{datagram: time of its first appearance} of the PCP messages in a capture."""
    found = {}
    for time, frame in frames(path):
        outer = _ipv6(frame)
        if outer and outer[2] == UDP and len(outer[3]) >= 8:
            ports = struct.unpack_from("!HH", outer[3])
            if any(port in PCP_PORTS for port in ports):
                found.setdefault(bytes(outer[3][8:]), time)
    return found


def summary(path, router, port_set):
    """Count what `router` (IPv6 text) sent and received through its softwire.

    port_set: {"address", "first_port", "size"}. "per_second" has one (second, sent, received)
    for each second with traffic.
    """
    first, last = port_set["first_port"], port_set["first_port"] + port_set["size"] - 1
    count, sent, received = Counter(), Counter(), Counter()
    for packet in inner_packets(path):
        second = int(packet.time)
        if packet.source == router:
            sent[second] += 1
            count[_verdict(packet, port_set["address"], first, last)] += 1
        elif packet.target == router:
            received[second] += 1
    seconds = sorted(set(sent) | set(received))
    return {
        "inside_set": count["inside"],
        "outside_set": count["outside"],
        "fragments": count["fragment"],
        "per_second": [(second, sent[second], received[second]) for second in seconds],
    }


def _verdict(packet, address, first, last):
    if packet.address != address:
        return "outside"
    if packet.port is None:
        return "fragment"
    return "inside" if first <= packet.port <= last else "outside"
