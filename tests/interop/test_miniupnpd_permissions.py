"""The genuine miniupnpd with our permission rules: hosts of the LAN get ports of the set alone."""

import sys

import pytest

from cpe_agent import portset, upnp

OWN = portset.PortSet("5.0.0.1", 40960, 64)
FORWARDED = (40960, 41000)  # of the user's forwards
# NAT-PMP (RFC 6886 3.3): the port that a host gets for one that it suggests, or its refusal.
_CLIENT = """
import socket, struct, sys
server = "198.51.100.1", 5351
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(5)
for port in map(int, sys.argv[1:]):
    sock.sendto(struct.pack(">BBHHHI", 0, 1, 0, 3000 + port % 999, port, 3600), server)
    found = struct.unpack(">BBHIHHI", sock.recv(99))
    print(found[5] if found[2] == 0 else "refused")
"""


def rules(ranges):
    """What OpenWrt's init script makes of 'perm_rule' sections, and its default rules behind."""
    lines = ["deny %d-%d 0.0.0.0/0 0-65535 #" % one for one in ranges]
    lines += ["allow 1024-65535 0.0.0.0/0 1024-65535 #", "deny 0-65535 0.0.0.0/0 0-65535 #"]
    return "\n".join(lines)


@pytest.fixture
def ask(home, miniupnpd):
    def ask_for(ranges, *ports):
        """The ports that a host gets for those that it suggests."""
        miniupnpd.start(rules(ranges))
        words = [sys.executable, "-c", _CLIENT, *map(str, ports)]
        return home.run(words, timeout=60).stdout.split()

    return ask_for


def test_every_suggestion_ends_in_the_set(ask):
    own = [str(port) for port in range(OWN.first, OWN.first + OWN.size)]
    found = ask(upnp.denied((OWN,), FORWARDED), 40970, 30000, 50000, 40960, 41000)
    assert found[0] == "40970"
    assert set(found) <= set(own) - set(map(str, FORWARDED))
    assert len(set(found)) == 5


def test_without_a_port_left_nobody_gets_one(ask):
    assert ask([(0, 65535)], 40970) == ["refused"]
