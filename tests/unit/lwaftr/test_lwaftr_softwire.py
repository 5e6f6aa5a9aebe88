"""The data plane: RFC 7596 6.2 and 8.1."""

import random
import struct

import pytest
from lwaftr import packets
from lwaftr.bindings import Binding, BindingTable
from lwaftr.config import DataPlaneConfig
from lwaftr.peerfilter import Filter
from lwaftr.softwire import Drop, Icmp6, Softwire, ToInternet, ToSoftwire
from lwaftr_helpers import client_address

LAB = bytes.fromhex("20010db8ffff00000000000000000001")
ALICE, BOB, STRANGER = client_address(1), client_address(2), client_address(3)
SHARED = 0xC0000203
PEER = 0xC6336401
NOW = 1000


def make_plane(**config):
    """Alice has 192.0.2.3:2048-3071 for all protocols, Bob 3072-4095."""
    bindings = BindingTable()
    bindings.add(Binding(ALICE, SHARED, 2048, 1024, 0))
    bindings.add(Binding(BOB, SHARED, 3072, 1024, 0))
    return Softwire(DataPlaneConfig(**config), bindings, LAB, [SHARED])


def udp(sport, dport, src=SHARED, dst=PEER, data=b"data", **header):
    segment = struct.pack(">HHHH", sport, dport, 8 + len(data), 0) + data
    return packets.ipv4(src, dst, packets.UDP, segment, **header)


def tcp(sport, dport, src=SHARED, dst=PEER):
    return packets.ipv4(src, dst, packets.TCP, struct.pack(">HH16x", sport, dport))


def icmp(kind, rest, src=SHARED, dst=PEER, code=0):
    message = bytearray(struct.pack(">BBH", kind, code, 0) + rest)
    message[2:4] = packets.checksum(message).to_bytes(2, "big")
    return packets.ipv4(src, dst, packets.ICMP, bytes(message))


def echo(kind, ident, **addresses):
    return icmp(kind, struct.pack(">HH", ident, 1), **addresses)


def error(quoted, **addresses):
    return icmp(3, bytes(4) + quoted[:28], code=4, **addresses)


def toward(client, packet, tos=0):
    return [ToSoftwire(client, packet, tos)]


@pytest.mark.parametrize(
    "packet",
    [
        udp(2048, 53),
        udp(3071, 53, tos=0xB8),
        tcp(2500, 80),
        echo(8, 2100),
        echo(0, 2100),
        # Alice complains about a packet that she got on port 2500.
        error(udp(53, 2500, src=PEER, dst=SHARED)),
        error(echo(8, 2500, src=PEER, dst=SHARED)),
    ],
)
def test_inside_the_set_is_forwarded_unchanged(packet):
    plane = make_plane()
    assert plane.from_softwire(NOW, ALICE, packet) == [ToInternet(packet)]
    assert plane.counters["packets_inside_set"] == 1
    assert plane.counters["packets_outside_set"] == 0


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (udp(2047, 53), "port"),
        (udp(3072, 53), "port"),
        (tcp(80, 80), "port"),
        (echo(8, 5), "port"),
        (udp(2048, 53, src=SHARED + 1), "address"),
        (packets.ipv4(0xC0000002, PEER, packets.UDP, bytes(8)), "address"),
        (packets.ipv4(SHARED, PEER, 47, bytes(8)), "protocol"),
        (icmp(13, struct.pack(">HH12x", 2048, 1)), "icmp"),
        (error(udp(53, 2500, src=PEER, dst=SHARED + 1)), "icmp"),
        (error(udp(53, 3500, src=PEER, dst=SHARED)), "port"),
        (error(udp(2500, 53)), "icmp"),
    ],
)
def test_outside_the_set_is_dropped_and_told(packet, reason):
    plane = make_plane()
    drop, told = plane.from_softwire(NOW, ALICE, packet)
    assert drop == Drop(reason)
    assert isinstance(told, Icmp6) and told.client == ALICE
    assert plane.counters["packets_outside_set"] == 1
    assert plane.outside[reason] == 1
    assert plane.counters["packets_inside_set"] == 0


def test_the_sender_is_checked_too():
    plane = make_plane()
    drop, _ = plane.from_softwire(NOW, BOB, udp(2048, 53))
    assert drop == Drop("port")
    drop, told = plane.from_softwire(NOW, STRANGER, udp(2048, 53))
    assert drop == Drop("unknown_source") and told.client == STRANGER
    assert plane.counters["unknown_source"] == 1
    assert plane.counters["packets_outside_set"] == 1


def test_icmpv6_error_is_well_formed():
    packet = udp(80, 53, data=bytes(2000))
    _, told = make_plane().from_softwire(NOW, ALICE, packet, traffic_class=0xB8)
    message = told.message
    assert message[:2] == b"\1\5"
    assert len(message) == 1280 - 40
    quoted = message[8:]
    assert struct.unpack_from(">IHBB", quoted) == (0x6B800000, len(packet), 4, 64)
    assert quoted[8:24] == ALICE and quoted[24:40] == LAB
    assert quoted[40:] == packet[: len(quoted) - 40]
    pseudo = LAB + ALICE + struct.pack(">II", len(message), 58)
    assert packets.checksum(pseudo + message) == 0


def test_icmpv6_errors_are_limited_in_rate():
    plane = make_plane(icmp6_rate=10)
    sent = sum(len(plane.from_softwire(NOW, ALICE, udp(80, 53))) - 1 for _ in range(1000))
    assert sent == 20
    assert plane.counters["icmp6_suppressed"] == 980
    sent = sum(
        len(plane.from_softwire(NOW + step, ALICE, udp(80, 53))) - 1 for step in range(1, 1001)
    )
    assert sent == 10


def test_icmpv6_errors_can_be_switched_off():
    plane = make_plane(icmp6_errors=False)
    assert plane.from_softwire(NOW, ALICE, udp(80, 53)) == [Drop("port")]
    assert len(make_plane().from_softwire(NOW, b"\xff" + bytes(15), udp(80, 53))) == 1


def test_bindings_of_one_protocol():
    bindings = BindingTable()
    bindings.add(Binding(ALICE, SHARED, 2048, 1024, 17))
    plane = Softwire(DataPlaneConfig(), bindings, LAB, [SHARED])
    assert plane.from_softwire(NOW, ALICE, udp(2048, 53)) == [ToInternet(udp(2048, 53))]
    assert plane.from_softwire(NOW, ALICE, tcp(2048, 53))[0] == Drop("protocol")
    assert plane.from_internet(NOW, tcp(53, 2048, PEER, SHARED)) == [Drop("inbound_no_binding")]
    reply = echo(0, 2048, src=PEER, dst=SHARED)
    assert plane.from_internet(NOW, reply) == toward(ALICE, reply)


def test_expired_binding_counts_for_nothing():
    bindings = BindingTable()
    bindings.add(Binding(ALICE, SHARED, 2048, 1024, 0, expiry_ms=5000))
    plane = Softwire(DataPlaneConfig(), bindings, LAB, [SHARED])
    assert plane.from_softwire(4999, ALICE, udp(2048, 53)) == [ToInternet(udp(2048, 53))]
    assert plane.from_softwire(5000, ALICE, udp(2048, 53))[0] == Drop("unknown_source")
    inbound = udp(53, 2048, PEER, SHARED)
    assert plane.from_internet(4999, inbound) == toward(ALICE, inbound)
    assert plane.from_internet(5000, inbound) == [Drop("inbound_no_binding")]


@pytest.mark.parametrize(
    ("packet", "client"),
    [
        (udp(53, 2048, PEER, SHARED), ALICE),
        (udp(53, 4095, PEER, SHARED), BOB),
        (tcp(53, 3072, PEER, SHARED), BOB),
        (echo(8, 2050, src=PEER, dst=SHARED), ALICE),
        (echo(0, 3080, src=PEER, dst=SHARED), BOB),
        (error(udp(2048, 53), src=0xC6336409, dst=SHARED), ALICE),
        (error(tcp(3100, 53), src=0xC6336409, dst=SHARED), BOB),
        (error(echo(8, 2100), src=PEER, dst=SHARED), ALICE),
    ],
)
def test_inbound(packet, client):
    plane = make_plane()
    assert plane.from_internet(NOW, packet) == toward(client, packet)
    assert plane.counters["inbound"] == 1


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (udp(53, 2047, PEER, SHARED), "inbound_no_binding"),
        (udp(53, 2048, PEER, SHARED + 1), "inbound_no_binding"),
        (echo(8, 9, src=PEER, dst=SHARED), "inbound_no_binding"),
        (error(udp(53, 2048), src=PEER, dst=SHARED), "inbound_no_binding"),
        (error(udp(2048, 53, src=PEER), src=PEER, dst=SHARED), "inbound_refused"),
        (icmp(13, bytes(16), src=PEER, dst=SHARED), "inbound_refused"),
        (icmp(3, bytes(8), src=PEER, dst=SHARED), "inbound_refused"),
        (packets.ipv4(PEER, SHARED, 47, bytes(30)), "inbound_refused"),
        (packets.ipv4(PEER, SHARED, 17, b"\0"), "malformed_inbound"),
        (b"\x45\0", "malformed_inbound"),
        (b"", "malformed_inbound"),
        (udp(53, 2048, PEER, SHARED)[:10] + b"\0\0" + bytes(30), "malformed_inbound"),
    ],
)
def test_inbound_dropped(packet, reason):
    plane = make_plane()
    assert plane.from_internet(NOW, packet) == [Drop(reason)]
    assert plane.counters[reason] == 1


def test_icmp_policy():
    plane = make_plane(icmp_echo=False, icmp_errors=False)
    ping = echo(8, 2050, src=PEER, dst=SHARED)
    assert plane.from_internet(NOW, ping) == [Drop("inbound_refused")]
    complaint = error(udp(2048, 53), src=PEER, dst=SHARED)
    assert plane.from_internet(NOW, complaint) == [Drop("inbound_refused")]


def test_icmpv4_unreachable():
    plane = make_plane(icmp4_unreachable=True, ipv4_address="192.0.2.254")
    stray = udp(53, 1999, PEER, SHARED)
    drop, told = plane.from_internet(NOW, stray)
    assert drop == Drop("inbound_no_binding")
    packet = packets.parse(told.packet)
    assert (packet.src, packet.dst, packet.protocol) == (0xC00002FE, PEER, packets.ICMP)
    assert packet.octets[20:22] == b"\3\1" and packet.octets[28:] == stray[:28]
    assert packets.checksum(packet.octets[20:]) == 0
    complaint = error(udp(1999, 53), src=PEER, dst=SHARED)
    assert len(plane.from_internet(NOW, complaint)) == 1


def test_hairpin_between_two_and_to_oneself():
    plane = make_plane()
    for port, client in ((3072, BOB), (2050, ALICE)):
        packet = udp(2048, port, dst=SHARED, ttl=10, tos=0x20)
        ((receiver, octets, traffic_class),) = plane.from_softwire(NOW, ALICE, packet)
        assert (receiver, traffic_class) == (client, 0x20)
        hop = packets.parse(octets)
        assert hop is not None and hop.ttl == 9
        assert octets[12:] == packet[12:]
    assert plane.counters["hairpinned"] == 2
    ping = echo(8, 3080, dst=SHARED)
    assert plane.from_softwire(NOW, ALICE, ping)[0] == Drop("port")


def test_icmp_errors_and_fragments_are_hairpinned():
    plane = make_plane()
    complaint = error(udp(3072, 2048, dst=SHARED), dst=SHARED)
    (action,) = plane.from_softwire(NOW, ALICE, complaint)
    assert action.client == BOB
    for piece in fragments(2048, 3072, SHARED, SHARED):
        (action,) = plane.from_softwire(NOW, ALICE, piece)
        assert action.client == BOB


def test_filters_hold_for_hairpinned_packets_and_fragments():
    plane = make_plane()
    (bob,) = plane.bindings.of_client(BOB)
    bob.filters = (Filter(SHARED, 32, 2048),)
    good, bad = udp(2048, 3100, dst=SHARED), udp(2049, 3100, dst=SHARED)
    assert plane.from_softwire(NOW, ALICE, good)[0].client == BOB
    assert plane.from_softwire(NOW, ALICE, bad) == [Drop("inbound_filtered")]
    # A later fragment has no port: its address has to do.
    for source, passes in ((SHARED, True), (PEER, False)):
        first = udp(2048, 3100, src=source, dst=SHARED, fragment=0x2000, ident=7)
        rest = packets.ipv4(source, SHARED, packets.UDP, bytes(8), fragment=2, ident=7)
        plane.from_internet(NOW, first)
        assert (plane.from_internet(NOW, rest) == toward(BOB, rest)) is passes


def test_hairpin_errors():
    plane = make_plane()
    assert plane.from_softwire(NOW, ALICE, udp(2048, 9, dst=SHARED)) == [Drop("hairpin_no_binding")]
    last = udp(2048, 3072, dst=SHARED, ttl=1)
    assert plane.from_softwire(NOW, ALICE, last) == [Drop("ttl_expired")]
    plane = make_plane(hairpinning=False)
    packet = udp(2048, 3072, dst=SHARED)
    assert plane.from_softwire(NOW, ALICE, packet) == [Drop("hairpin_refused")]


def fragments(sport, dport, src, dst, ident=7):
    """A UDP packet in three fragments."""
    whole = udp(sport, dport, src, dst, data=bytes(40))[20:]
    return [
        packets.ipv4(src, dst, 17, whole[at : at + 16], ident=ident, fragment=flag | at // 8)
        for at, flag in ((0, 0x2000), (16, 0x2000), (32, 0))
    ]


def test_fragments_follow_the_first():
    plane = make_plane()
    for piece in fragments(2048, 53, SHARED, PEER):
        assert plane.from_softwire(NOW, ALICE, piece) == [ToInternet(piece)]
    for piece in fragments(53, 3072, PEER, SHARED):
        assert plane.from_internet(NOW, piece) == toward(BOB, piece)
    first, second, _ = fragments(80, 53, SHARED, PEER, ident=8)
    assert plane.from_softwire(NOW, ALICE, first)[0] == Drop("port")
    assert plane.from_softwire(NOW, ALICE, second)[0] == Drop("port")


def test_fragments_without_a_first_are_dropped():
    plane = make_plane(fragment_timeout=30)
    first, second, _ = fragments(2048, 53, SHARED, PEER)
    unknown = [Drop("fragment_unknown_outbound")]
    assert plane.from_softwire(NOW, ALICE, second) == unknown
    plane.from_softwire(NOW, ALICE, first)
    assert plane.from_softwire(NOW + 30000, ALICE, second) == unknown
    # Another sender cannot ride on Alice's first fragment.
    assert plane.from_softwire(NOW, BOB, second) == unknown
    assert plane.from_internet(NOW, fragments(53, 2048, PEER, SHARED)[1]) == [
        Drop("fragment_unknown_inbound")
    ]


def test_fragment_state_is_bounded():
    plane = make_plane(fragment_entries=10)
    for ident in range(1000):
        plane.from_softwire(NOW, ALICE, fragments(2048, 53, SHARED, PEER, ident)[0])
    late = fragments(2048, 53, SHARED, PEER, 999)[1]
    assert plane.from_softwire(NOW, ALICE, late) == [ToInternet(late)]
    early = fragments(2048, 53, SHARED, PEER, 0)[1]
    assert plane.from_softwire(NOW, ALICE, early) == [Drop("fragment_unknown_outbound")]
    assert len(plane._outbound) == 10


def test_used_ports_and_counters_of_a_binding():
    plane = make_plane(usage_addresses=1)
    for port in (2048, 2049, 2050, 3000, 80):
        plane.from_softwire(NOW, ALICE, udp(port, 53))
    plane.from_softwire(NOW, ALICE, tcp(2060, 53))
    plane.from_softwire(NOW, ALICE, echo(8, 2070))
    assert plane.usage.as_dict() == {
        SHARED: {
            "udp": [[2048, 2050], [3000, 3000]],
            "tcp": [[2060, 2060]],
            "icmp": [[2070, 2070]],
        }
    }
    (binding,) = plane.bindings.of_client(ALICE)
    assert (binding.packets_inside_set, binding.last_out_ms) == (6, NOW)
    plane.from_internet(NOW, udp(53, 2048, PEER, SHARED))
    assert binding.packets_in == 1


def test_trailing_octets_are_cut_off():
    plane = make_plane()
    packet = udp(2048, 53)
    assert plane.from_softwire(NOW, ALICE, packet + bytes(6)) == [ToInternet(packet)]


def test_random_packets_never_get_through():
    rng = random.Random(7596)
    plane = make_plane()
    seeds = [udp(2048, 53), tcp(2500, 80), echo(8, 2100), error(udp(53, 2500, PEER, SHARED))]
    for _ in range(20000):
        packet = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(0, 4)):
            packet[rng.randrange(len(packet))] = rng.randrange(256)
        if rng.random() < 0.2:
            del packet[rng.randint(0, len(packet)) :]
        if rng.random() < 0.7 and len(packet) >= 20:
            header = (packet[0] & 15) * 4
            packet[10:12] = b"\0\0"
            packet[10:12] = packets.checksum(packet[:header]).to_bytes(2, "big")
        source = rng.choice((ALICE, ALICE, BOB, STRANGER))
        for action in plane.from_softwire(NOW, source, bytes(packet)):
            if isinstance(action, (ToInternet, ToSoftwire)):
                assert source in (ALICE, BOB)
                assert packets.parse(action.packet).src == SHARED
        plane.from_internet(NOW, bytes(packet))
        plane.from_softwire(NOW, ALICE, rng.randbytes(rng.randint(0, 60)))
