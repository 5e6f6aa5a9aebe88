"""The soak's judge finds what left from ports that were not the router's, and nothing else."""

import struct

from cpe_agent.pcp import wire
from tests.e2e.soak import judge
from tests.support import pcap

ROUTER, LWAFTR = (bytes.fromhex("20010db8" + "00" * 11 + octet) for octet in ("02", "01"))
SHARED, LAN, PLACE = b"\xc0\0\2\3", b"\xc0\xa8\1\x0a", b"\xc6\x33\x64\1"
TCP, UDP, GRE, SCTP, UDPLITE = 6, 17, 47, 132, 136
NONCE, OTHER_NONCE = b"n" * 12, b"o" * 12
FIRST, SECOND = 1024, 40960  # first ports of sets
MORE = 0x2000


def grant(first, size=1024, lifetime=3600, nonce=NONCE, internal=1):
    """An answer of the lwAFTR's, as a frame."""
    data = wire.MapData(nonce, 0, internal, first, wire.V4_PREFIX + SHARED)
    option = wire.port_set_option(size, first)
    octets = wire.map_response(0, lifetime, 7, data, option)
    return pcap.frame(LWAFTR, wire.SERVER_PORT, ROUTER, 40000, octets)


def packet(payload, protocol=UDP, source=SHARED, fragment=0, ident=1):
    """A packet in the softwire, as a frame."""
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), ident, fragment, 64, protocol, 0)
    inner = head + source + PLACE + payload
    outer = struct.pack(">IHBB", 6 << 28, len(inner), 4, 64) + ROUTER + LWAFTR
    return bytes(12) + b"\x86\xdd" + outer + inner


def ports(port, to=53):
    return struct.pack(">HHI", port, to, 0)


def error(quoted_protocol, quoted_port, to=SHARED, kind=3):
    """What the router says about a packet that came to one of its ports."""
    head = struct.pack(">BBHHHBBH", 0x45, 0, 28, 1, 0, 64, quoted_protocol, 0) + PLACE + to
    return struct.pack(">BBHI", kind, 3, 0, 0) + head + struct.pack(">HHI", 9, quoted_port, 0)


def verdict(*frames):
    found = judge.Judge(ROUTER, LWAFTR)
    for number, frame in enumerate(frames, 1):
        found.see(number, frame)
    return found


def test_packets_of_the_set_pass_and_are_counted_by_kind():
    echo = struct.pack(">BBHHH", 8, 0, 0, 1500, 1)
    found = verdict(
        grant(FIRST),
        packet(ports(1024)),
        packet(ports(2047), TCP),
        packet(ports(1234), SCTP),
        packet(echo, 1),
        packet(error(UDP, 1100), 1),
        packet(ports(1030), UDP, fragment=MORE, ident=5),
        packet(b"the rest", UDP, fragment=1, ident=5),
    )
    assert (found.leaks, found.late, found.described) == (0, 0, [])
    assert found.passed == {
        "UDP": 1,
        "TCP": 1,
        "SCTP": 1,
        "ICMP echo": 1,
        "ICMP errors": 1,
        "UDP in fragments": 2,
    }


def test_everything_else_is_a_leak():
    frames = [
        packet(ports(2048)),
        packet(ports(1023), TCP),
        packet(ports(1500), UDP, LAN),
        packet(ports(1500), GRE),
        packet(ports(1500), UDPLITE),
        packet(struct.pack(">BBHHH", 8, 0, 0, 7, 1), 1),
        packet(struct.pack(">BBHHH", 13, 0, 0, 1500, 1), 1),
        packet(error(UDP, 3000), 1),
        packet(error(UDP, 1500, LAN), 1),
        packet(b"a fragment", UDP, fragment=1, ident=9),
        packet(b"\x04", TCP),
    ]
    found = verdict(grant(FIRST), *frames)
    assert (found.leaks, found.late, +found.passed) == (len(frames), 0, {})
    assert found.described[0] == "frame 2: UDP from 192.0.2.3:2048"


def test_without_a_grant_nothing_may_leave():
    assert verdict(packet(ports(1024))).leaks == 1


def test_the_old_set_is_late_until_the_first_packet_of_the_new_one():
    found = verdict(
        grant(FIRST),
        packet(ports(1024)),
        grant(SECOND),
        packet(ports(1024)),
        packet(ports(1024)),
        packet(ports(SECOND)),
        packet(ports(1024)),
    )
    assert (found.passed["UDP"], found.late, found.leaks) == (2, 2, 1)
    assert found.described == ["frame 7: UDP from 192.0.2.3:1024"]


def test_a_set_that_was_given_back_is_nobodys_at_once():
    found = verdict(grant(FIRST), grant(FIRST, lifetime=0), packet(ports(1024)))
    assert (found.late, found.leaks) == (0, 1)


def test_each_mapping_has_a_set_of_its_own():
    other = {"nonce": OTHER_NONCE}
    found = verdict(
        grant(FIRST),
        grant(4096, **other),
        packet(ports(1024)),
        packet(ports(4096)),
        grant(SECOND),
        packet(ports(4096)),  # says nothing about the first mapping
        packet(ports(1024)),
        grant(4096, lifetime=0, **other),
        packet(ports(4096)),
    )
    assert (found.passed["UDP"], found.late, found.leaks) == (3, 1, 1)


def test_a_mapping_whose_internal_port_changes_is_the_same_one():
    found = verdict(grant(FIRST), grant(SECOND, internal=40960), packet(ports(SECOND)))
    assert (found.passed["UDP"], found.leaks) == (1, 0)
    gone = grant(SECOND, lifetime=0, internal=7)
    found = verdict(grant(FIRST), grant(SECOND, internal=40960), gone, packet(ports(1024)))
    assert (found.late, found.leaks) == (0, 1)


def test_a_renewal_changes_nothing_and_other_packets_do_not_count():
    backwards = packet(ports(9))[:22] + LWAFTR + ROUTER + packet(ports(9))[54:]
    found = verdict(grant(FIRST), grant(FIRST), backwards, bytes(60), b"", packet(ports(1024)))
    assert (found.grants, found.passed["UDP"], found.leaks) == (1, 1, 0)


def test_a_capture_that_is_still_written_is_read_to_its_last_whole_frame(tmp_path):
    path = tmp_path / "access.pcap"
    pcap.write(path, [(0, grant(FIRST)), (1, packet(ports(1024))), (2, packet(ports(1024)))])
    path.write_bytes(path.read_bytes()[:-1])
    found = judge.judge(path, ROUTER, LWAFTR)
    assert (found.passed["UDP"], found.leaks) == (1, 0)
