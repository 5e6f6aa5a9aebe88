"""PCP messages in words."""

import pytest

from cpe_agent.pcp import wire
from tests.unit.lab_demo import demo_record
from tests.unit.lab_demo.demo_record import announce, entry, grant, request

import demo_messages  # isort: skip


def decode(data, direction="out", peer=demo_record.ROUTER):
    return demo_messages.decode(entry(7, 2500, direction, data, peer), 10.0)


@pytest.mark.parametrize(
    ("data", "meaning"),
    [
        (request(), "asks for up to 65535 ports"),
        (request(port=4096), "asks for ports from 4096 on of 0.0.0.0 again"),
        (request(lifetime=0), "gives the set back"),
        (grant(), "granted: ports 4096\u20135119 of 192.0.2.1 for 3600 s"),
        (grant(size=1), "granted: port 4096 of 192.0.2.1 for 3600 s"),
        (grant(result=wire.NO_RESOURCES), "refused: NO_RESOURCES; ask again in 3600 s"),
        (announce(3), "tells this client: my clock is at 3 s"),
        (wire.announce_request(demo_record.CLIENT), "asks whether the server is still the same"),
        (wire.request(wire.OP_PEER, 0, demo_record.CLIENT), "PEER"),
    ],
)
def test_each_message_has_a_meaning(data, meaning):
    assert decode(data)["meaning"] == meaning


def test_a_multicast_announcement_is_told_as_such():
    assert decode(announce(0), peer="ff02::1")["meaning"].startswith("tells everybody")


def test_fields_of_a_grant():
    found = decode(grant())
    assert found["at"] == 12.5
    assert (found["kind"], found["opcode"], found["result"]) == ("response", "MAP", "SUCCESS")
    assert (found["external_address"], found["external_port"]) == ("192.0.2.1", 4096)
    assert (found["set_size"], found["first_internal"], found["parity"]) == (1024, 4096, False)
    assert found["nonce"] == demo_record.NONCE.hex()
    assert bytes.fromhex(found["hex"]) == grant()


@pytest.mark.parametrize("data", [b"", b"\2", b"\2\1garbled", grant()[:40], b"\xff" * 1104])
def test_garbled_datagrams_are_told_and_kept(data):
    found = decode(data)
    assert found["kind"] == "unreadable"
    assert found["hex"] == data.hex()
    assert found["meaning"]
