"""Requirements on the lab's lwAFTR that no test of its own shows (docs/conformance.md)."""

import struct

from lwaftr import packets
from lwaftr.bindings import Binding, BindingTable
from lwaftr.config import DataPlaneConfig
from lwaftr.softwire import Softwire, ToInternet, ToSoftwire

ROUTER = bytes.fromhex("20010db8000000000000000000000001")
LAB = bytes.fromhex("20010db8ffff00000000000000000001")
SHARED, PEER = 0xC0000203, 0xC6336401
FIN, RST = 0x01, 0x04
NOW = 1000


def segment(source, destination, ports, flags):
    head = struct.pack(">HHIIBBHHH", *ports, 1, 1, 5 << 4, flags, 1000, 0, 0)
    return packets.ipv4(source, destination, packets.TCP, head)


def test_a_reset_leaves_the_binding():
    """RFC 6887 15.1: a mapping lives as long as its lifetime, whatever its connections do."""
    bindings = BindingTable()
    bindings.add(Binding(ROUTER, SHARED, 2048, 1024, 0, expiry_ms=NOW + 5000))
    plane = Softwire(DataPlaneConfig(), bindings, LAB, [SHARED])
    for flags in (FIN, RST):
        out = segment(SHARED, PEER, (2048, 80), flags)
        back = segment(PEER, SHARED, (80, 2048), flags)
        assert plane.from_softwire(NOW, ROUTER, out) == [ToInternet(out)]
        assert plane.from_internet(NOW, back) == [ToSoftwire(ROUTER, back, 0)]
    late = segment(PEER, SHARED, (80, 2048), 0)
    assert plane.from_internet(NOW + 4999, late) == [ToSoftwire(ROUTER, late, 0)]
    assert [one.expiry_ms for one in bindings] == [NOW + 5000]
