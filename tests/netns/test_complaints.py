"""What people complain of with other routers, and ours in the same run (docs/nat.md has the list).

The others' rules stand where ours were, without our guards: their packets are what is looked at.
"""

import contextlib

import pytest

from cpe_agent import own_table
from tests.bench.nat import ways
from tests.netns import topology
from tests.netns.packets import ICMP, UDP, datagram, packet
from tests.netns.test_icmp import mtu
from tests.netns.test_nat import left, ports_as_seen
from tests.netns.topology import INTERNET, LAN_HOST, OWN, PATIENCE, SHARED

SERVER = 9005
PORT = 40000  # of the LAN's host; no other test has flows from it
GAME = 1300  # octets of a datagram of a game's
OPENWRT_MTU = 1280  # of its softwires, where nobody sets another
HEADERS = 28  # octets of IPv4 and UDP

# What masquerade does with the address that OpenWrt gives to its softwire.
_MASQUERADE = 'oifname "lw4o6" snat ip to %s' % SHARED


@contextlib.contextmanager
def others_rules(home, text):
    """One of bench's ways in place of our source NAT, for a while."""
    ours = topology.wanted(OWN)["nat"]
    chains = "".join(
        "flush chain %s %s\n" % (own_table.NAME, name) for name in ("srcnat", "guard_out")
    )
    name = text.split("{")[0].strip()
    home.cpe.nft(chains + text.replace('oifname "lw4o6" meta nfproto ipv4 masquerade', _MASQUERADE))
    try:
        yield
    finally:
        home.cpe.nft("delete %s\n%s" % (name, ours))
        home.cpe.call("delete_flows", SHARED, 1, 0)


def test_ping_leaves_outside_the_set_with_the_protocols_rules_and_not_with_ours(home):
    """openwrt/openwrt#25191: fw4 leaves out the rules for ICMP. No lwAFTR lets that pass."""

    def pings():
        for identifier in (7, 20000):
            home.lan.call("ping", INTERNET[0], identifier, PATIENCE)
        return [topology.in_set(one) for one in left(home) if one["protocol"] == ICMP]

    with others_rules(home, ways.in_sequence((OWN,))):
        assert pings() == [False, False]
    assert pings() == [True, True]


def test_numbered_ports_make_a_strict_nat_and_ours_do_not(home):
    """openwrt/openwrt#11972: with the next port for each flow, no friend of a game finds us."""

    def endpoints():
        answers = home.lan.call("ask_udp", [[a, 80] for a in INTERNET], 10, 10, PATIENCE)
        return [len(set(ports_as_seen(seen))) for seen in answers]

    with others_rules(home, ways.numbered((OWN,))):
        assert endpoints() == [len(INTERNET)] * 10
    assert endpoints() == [1] * 10


@pytest.fixture
def server(home):
    home.inet.call("open_udp", "game", SERVER)
    yield
    home.inet.call("close", "game")


def pieces(home, octets):
    """In how many packets a datagram of so many octets comes to a server, who gets it whole."""
    whole = packet(LAN_HOST, INTERNET[0], UDP, datagram(PORT, SERVER, bytes(octets)))
    home.lan.call("send_packets", [whole])
    assert home.inet.call("receive_udp", "game", PATIENCE)[0] == SHARED
    return len([one for one in left(home) if one["protocol"] == UDP])


def test_a_games_datagram_is_not_fragmented(home, server):
    """openwrt/openwrt#24766: with an MTU of 1280 it is, and its server does not answer."""
    with mtu(home.cpe, "lw4o6", OPENWRT_MTU):
        assert pieces(home, GAME) == 2
    with mtu(home.cpe, "lw4o6", topology.wanted(OWN)["mtu"]):
        assert pieces(home, GAME) == 1


def test_a_packet_of_the_softwires_full_mtu_passes_whole_and_a_larger_one_in_fragments(
    home, server
):
    largest = topology.wanted(OWN)["mtu"]
    with mtu(home.cpe, "lw4o6", largest):
        assert pieces(home, largest - HEADERS) == 1
        assert pieces(home, largest - HEADERS + 1) == 2
        assert pieces(home, 1500 - HEADERS) == 2
