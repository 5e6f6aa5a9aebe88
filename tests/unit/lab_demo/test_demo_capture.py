"""The second count of packets inside and outside of the set, made from the wire."""

import struct

import demo_capture
import pytest
from demo_capture import ICMP, TCP, UDP

ROUTER, LWAFTR = "2001:db8:c0de::2", "2001:db8:ffff::1"
OWN = {"address": "192.0.2.1", "first_port": 4096, "size": 1024}
AFTR_OCTETS = bytes.fromhex("20010db8ffff00000000000000000001")
ROUTER_OCTETS = bytes.fromhex("20010db8c0de00000000000000000002")


def ipv4(protocol, payload, source=(192, 0, 2, 1), offset=0):
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, offset, 64, protocol, 0)
    return head + bytes(source) + bytes((198, 51, 100, 1)) + payload


def frame(payload, source=ROUTER_OCTETS, target=AFTR_OCTETS, following=4):
    outer = struct.pack("!IHBB", 6 << 28, len(payload), following, 64) + source + target
    return bytes(12) + b"\x86\xdd" + outer + payload


def ports(source, target=80):
    return struct.pack("!HHHH", source, target, 8, 0)


def echo(ident, kind=8):
    return struct.pack("!BBHHH", kind, 0, 0, ident, 1)


def icmp_error(port):
    """An error about a packet that came in to a port of ours."""
    return struct.pack("!BBHI", 3, 3, 0, 0) + ipv4(UDP, ports(53, port), (198, 51, 100, 1))


def capture(tmp_path, frames, order="<"):
    path = tmp_path / "access.pcap"
    data = struct.pack(f"{order}IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    for number, one in enumerate(frames):
        data += struct.pack(f"{order}IIII", 100 + number // 2, 500000, len(one), len(one)) + one
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("packet", "verdict"),
    [
        (ipv4(TCP, ports(4096)), "inside_set"),
        (ipv4(UDP, ports(5119)), "inside_set"),
        (ipv4(UDP, ports(5120)), "outside_set"),
        (ipv4(TCP, ports(4095)), "outside_set"),
        (ipv4(ICMP, echo(4100)), "inside_set"),
        (ipv4(ICMP, echo(4100, kind=0)), "inside_set"),
        (ipv4(ICMP, echo(61000)), "outside_set"),
        (ipv4(ICMP, icmp_error(4100)), "inside_set"),
        (ipv4(ICMP, icmp_error(80)), "outside_set"),
        (ipv4(TCP, ports(4096), source=(192, 0, 0, 2)), "outside_set"),
        (ipv4(UDP, bytes(8), offset=185), "fragments"),
    ],
)
def test_verdicts(tmp_path, packet, verdict):
    found = demo_capture.summary(capture(tmp_path, [frame(packet)]), ROUTER, OWN)
    expected = {"inside_set": 0, "outside_set": 0, "fragments": 0, verdict: 1}
    assert {key: found[key] for key in expected} == expected
    assert found["per_second"] == [(100, 1, 0)]


def test_a_destination_options_header_is_passed_over(tmp_path):
    options = struct.pack("!BBBBI", 4, 0, 4, 1, 0)
    path = capture(tmp_path, [frame(options + ipv4(TCP, ports(4096)), following=60)])
    assert demo_capture.summary(path, ROUTER, OWN)["inside_set"] == 1


def test_only_the_routers_packets_are_judged(tmp_path):
    there = frame(ipv4(TCP, ports(80)), AFTR_OCTETS, ROUTER_OCTETS)
    neighbour = frame(ipv4(TCP, ports(80)), bytes(16))
    found = demo_capture.summary(capture(tmp_path, [there, neighbour, b"\0" * 14]), ROUTER, OWN)
    assert (found["inside_set"], found["outside_set"]) == (0, 0)
    assert found["per_second"] == [(100, 0, 1)]


@pytest.mark.parametrize("order", ["<", ">"])
def test_times_of_pcp_datagrams(tmp_path, order):
    datagram = struct.pack("!HHHH", 5351, 50000, 12, 0) + b"data"
    other = struct.pack("!HHHH", 53, 50000, 12, 0) + b"data"
    frames = [frame(one, following=17) for one in (other, other, datagram, datagram)]
    assert demo_capture.pcp_times(capture(tmp_path, frames, order)) == {b"data": 101.5}


def test_something_else_than_a_capture_is_refused(tmp_path):
    path = tmp_path / "text"
    path.write_text("this is no capture at all")
    with pytest.raises(ValueError, match="no pcap"):
        list(demo_capture.frames(path))
