"""ICMP through the agent's NAT, both ways: echo, errors with what they quote, traceroute, and path
MTU discovery (RFC 5508, RFC 1191)."""

import contextlib

import pytest

from cpe_agent import portset
from tests.netns import topology
from tests.netns.packets import (
    ECHO_REPLY,
    ECHO_REQUEST,
    ICMP,
    UDP,
    UNDIVIDED,
    datagram,
    echo,
    error,
    packet,
    with_option,
)
from tests.netns.topology import AFTR, IMPATIENCE, INTERNET, LAN_HOST, PATIENCE, ROUTER, SHARED

UNREACHABLE = 3
NOWHERE = "203.0.113.9"  # the aftr says so


@pytest.fixture
def nowhere(home):
    home.aftr.ip("route replace unreachable %s/32" % NOWHERE)
    return home


@pytest.fixture(autouse=True)
def forgetful(home):
    """What hosts have learned of a path's MTU is another test's."""
    yield
    for hand in (home.lan, home.cpe, home.inet):
        hand.ip("route flush cache")


@contextlib.contextmanager
def mtu(hand, device, octets, before=1500):
    """A link with another MTU for a while."""
    hand.ip("link set %s mtu %d" % (device, octets))
    try:
        yield
    finally:
        hand.ip("link set %s mtu %d" % (device, before))


def errors(hand):
    """ICMP errors that have arrived there."""
    echoes = ECHO_REQUEST, ECHO_REPLY
    heard = [one for one in hand.call("sniffed") if one["protocol"] == ICMP]
    return [one for one in heard if one["type"] not in echoes]


def ends(one):
    return one["source"], one["destination"]


def test_ping_from_the_lan_is_answered_from_any_identifier(home):
    for identifier in (0, 1, 1023, 1500, 40000, 65535):
        assert home.lan.call("ping", INTERNET[0], identifier, PATIENCE) == INTERNET[0]
    seen = [one for one in home.inet.call("sniffed") if one["protocol"] == ICMP]
    assert len(seen) == 6
    assert [one for one in seen if not topology.in_set(one)] == []


def test_ping_keeps_its_identifier_towards_everybody(home):
    """RFC 5508 REQ-1: the mapping does not depend on the remote host."""
    for address in INTERNET:
        assert home.lan.call("ping", address, 7, PATIENCE) == address
    seen = [one for one in home.inet.call("sniffed") if one["protocol"] == ICMP]
    assert len(seen) == len(INTERNET)
    assert len({one["port"] for one in seen}) == 1


def test_ping_from_outside_is_not_answered_but_counted(home, dropped):
    """The address is shared: nobody knows whom it is for. Nothing circles."""
    assert home.inet.call("ping", SHARED, 1500, IMPATIENCE) is None
    assert home.inet.call("ping", SHARED, 9000, IMPATIENCE) is None
    assert dropped() == {"looped": 1, "outside_in": 1}


@pytest.mark.parametrize("kind", ["udp", "tcp", "icmp"])
def test_errors_from_beyond_reach_the_host_as_its_own(nowhere, dropped, kind):
    """RFC 5508 REQ-4: what the error quotes is translated back, too."""
    if kind == "udp":
        own = nowhere.lan.call("open_udp", "asking", 0)
        nowhere.lan.call("send_udp", "asking", NOWHERE, 9)
    elif kind == "tcp":
        assert nowhere.lan.call("talk", NOWHERE, 9, PATIENCE) == "OSError", "no route to host"
    else:
        own = 77
        assert nowhere.lan.call("ping", NOWHERE, own, IMPATIENCE) is None
    assert nowhere.lan.call("talk", INTERNET[0], 80, PATIENCE)
    heard = errors(nowhere.lan)
    assert heard
    for one in heard:
        assert (one["type"], *ends(one)) == (UNREACHABLE, AFTR, LAN_HOST)
        assert ends(one["about"]) == (LAN_HOST, NOWHERE)
        assert kind == "tcp" or one["about"]["port"] == own
    if kind == "udp":
        nowhere.lan.call("close", "asking")
    assert dropped() == {}


def test_errors_from_beyond_end_no_flow(nowhere):
    """RFC 4787 REQ-10, RFC 5382 REQ-10."""
    nowhere.inet.call("open_udp", "peer", 9100)
    nowhere.lan.call("open_udp", "own", 0)
    nowhere.lan.call("send_udp", "own", INTERNET[0], 9100)
    peer = nowhere.inet.call("receive_udp", "peer", PATIENCE)
    about = packet(peer[0], INTERNET[0], UDP, datagram(peer[1], 9100, b""))
    said = error(UNREACHABLE, 1, about)
    nowhere.inet.call("send_packets", [packet(INTERNET[1], SHARED, ICMP, said)])
    nowhere.inet.call("send_udp", "peer", *peer)
    assert nowhere.lan.call("receive_udp", "own", PATIENCE) == [INTERNET[0], 9100]
    assert len(errors(nowhere.lan)) == 1, "it came through from any address"
    nowhere.lan.call("close", "own")
    nowhere.inet.call("close", "peer")


def test_an_error_about_a_flow_that_is_not_ours_goes_nowhere(home, dropped):
    said = error(UNREACHABLE, 1, packet(SHARED, INTERNET[0], UDP, datagram(1600, 9, b"")))
    home.inet.call("send_packets", [packet(INTERNET[0], SHARED, ICMP, said)])
    assert home.lan.call("talk", INTERNET[0], 80, PATIENCE)
    assert errors(home.lan) == []
    assert dropped() == {"looped": 1}


def test_an_error_with_a_wrong_checksum_is_dropped(home):
    """RFC 5508 REQ-3."""
    home.inet.call("open_udp", "peer", 9101)
    home.lan.call("open_udp", "own", 0)
    home.lan.call("send_udp", "own", INTERNET[0], 9101)
    port = home.inet.call("receive_udp", "peer", PATIENCE)[1]
    said = error(UNREACHABLE, 1, packet(SHARED, INTERNET[0], UDP, datagram(port, 9101, b"")))
    wrong = said[:-1] + bytes([said[-1] ^ 1])
    for body in (wrong, said):
        home.inet.call("send_packets", [packet(INTERNET[0], SHARED, ICMP, body)])
    assert home.lan.call("talk", INTERNET[0], 80, PATIENCE)
    assert len(errors(home.lan)) == 1
    home.lan.call("close", "own")
    home.inet.call("close", "peer")


def test_an_error_about_a_packet_with_options_is_translated_back(home):
    """RFC 5508 REQ-4: options of the quoted packet are stepped over."""
    home.inet.call("open_udp", "peer", 9102)
    own = home.lan.call("open_udp", "own", 0)
    home.lan.call("send_udp", "own", INTERNET[0], 9102)
    port = home.inet.call("receive_udp", "peer", PATIENCE)[1]
    plain = packet(SHARED, INTERNET[0], UDP, datagram(port, 9102, b""))
    said = error(UNREACHABLE, 1, "47" + plain[2:40] + "01" * 8 + plain[40:])
    home.inet.call("send_packets", [packet(INTERNET[0], SHARED, ICMP, said)])
    assert home.lan.call("talk", INTERNET[0], 80, PATIENCE)
    (heard,) = errors(home.lan)
    assert (ends(heard["about"]), heard["about"]["port"]) == ((LAN_HOST, INTERNET[0]), own)
    home.lan.call("close", "own")
    home.inet.call("close", "peer")


@pytest.mark.parametrize("kind", ["udp", "icmp"])
def test_errors_of_a_lan_host_leave_with_the_shared_address_and_the_sets_port(home, dropped, kind):
    """RFC 5508 REQ-5. The host's flow is there; what it is sent, it does not want."""
    if kind == "udp":
        home.inet.call("open_udp", "server", 9001)
        own = home.lan.call("open_udp", "quiet", 0)
        home.lan.call("send_udp", "quiet", INTERNET[0], 9001)
        port = home.inet.call("receive_udp", "server", PATIENCE)[1]
        home.inet.call("close", "server")
        about = packet(INTERNET[0], LAN_HOST, UDP, datagram(9001, own, b""))
        home.lan.call("close", "quiet")
    else:
        assert home.lan.call("ping", INTERNET[0], 7, PATIENCE)
        (asked,) = [one for one in home.inet.call("sniffed") if one["protocol"] == ICMP]
        port = asked["port"]
        about = packet(INTERNET[0], LAN_HOST, ICMP, echo(ECHO_REPLY, 7))
    said = error(UNREACHABLE, 3, about)
    home.lan.call("send_packets", [packet(LAN_HOST, INTERNET[0], ICMP, said)])
    assert home.lan.call("talk", INTERNET[0], 80, PATIENCE)
    (heard,) = errors(home.inet)
    assert ends(heard) == (SHARED, INTERNET[0])
    assert ends(heard["about"]) == (INTERNET[0], SHARED)
    assert heard["about"]["to" if kind == "udp" else "port"] == port
    assert dropped() == {}


@pytest.mark.parametrize("kind", ["plain", "with an IP option"])
def test_an_error_about_a_packet_leaves(home, kind):
    home.inet.call("open_udp", "server", 9007)
    own = home.lan.call("open_udp", "quiet", 0)
    home.lan.call("send_udp", "quiet", INTERNET[0], 9007)
    assert home.inet.call("receive_udp", "server", PATIENCE)
    about = packet(INTERNET[0], LAN_HOST, UDP, datagram(9007, own, b""))
    about = about if kind == "plain" else with_option(about)
    home.lan.call(
        "send_packets", [packet(LAN_HOST, INTERNET[0], ICMP, error(UNREACHABLE, 3, about))]
    )
    assert home.lan.call("talk", INTERNET[0], 80, PATIENCE)
    assert len(errors(home.inet)) == 1
    for hand, name in ((home.inet, "server"), (home.lan, "quiet")):
        hand.call("close", name)


@pytest.mark.parametrize("kind", ["udp", "icmp"])
def test_errors_about_flows_of_a_set_that_is_gone_do_not_leave(home, kind):
    """Between another set's rules and the end of the old set's flows there is a moment, which the
    soak has met (docs/soak.md)."""
    if kind == "udp":
        home.inet.call("open_udp", "server", 9006)
        own = home.lan.call("open_udp", "quiet", 0)
        home.lan.call("send_udp", "quiet", INTERNET[0], 9006)
        assert home.inet.call("receive_udp", "server", PATIENCE)
        home.inet.call("close", "server")
        home.lan.call("close", "quiet")
        about = packet(INTERNET[0], LAN_HOST, UDP, datagram(9006, own, b""))
    else:
        assert home.lan.call("ping", INTERNET[0], 7, PATIENCE)
        about = packet(INTERNET[0], LAN_HOST, ICMP, echo(ECHO_REPLY, 7))
    other = portset.PortSet(SHARED, 4096, topology.OWN.size)
    home.cpe.nft(topology.wanted(other)["nat"])
    said = error(UNREACHABLE, 3, about)
    home.lan.call("send_packets", [packet(LAN_HOST, INTERNET[0], ICMP, said)])
    assert home.lan.call("talk", INTERNET[0], 80, PATIENCE)
    assert errors(home.inet) == []


@pytest.mark.parametrize("kind", ["udp", "icmp", "tcp"])
def test_traceroute_shows_every_hop(home, dropped, kind):
    port = 80 if kind == "tcp" else 33434  # nobody listens there: the end says so
    found = home.lan.call("trace", kind, INTERNET[0], port, 3, PATIENCE)
    assert found == [ROUTER, AFTR, INTERNET[0]]
    assert dropped() == {}


@pytest.mark.parametrize("kind", ["udp", "icmp", "tcp"])
def test_traceroute_by_the_router_itself_shows_every_hop(home, kind):
    port = 80 if kind == "tcp" else 33434
    found = home.cpe.call("trace", kind, INTERNET[0], port, 2, PATIENCE)
    assert found == [AFTR, INTERNET[0]]


@pytest.mark.parametrize("host", ["lan", "cpe"])
def test_a_smaller_mtu_beyond_the_softwire_is_found(home, dropped, host):
    """Fragmentation needed, from a router behind the lwAFTR: it reaches who sent the packet."""
    hand = getattr(home, host)
    with mtu(home.aftr, "w0", 1300):
        assert hand.call("path_mtu", INTERNET[1], 80, PATIENCE) == [1500, 1300]
    assert dropped() == {}


def test_the_router_tells_the_softwires_own_mtu(home):
    """RFC 4787 REQ-13. A packet that may not be fragmented and does not fit is answered."""
    with mtu(home.cpe, "lw4o6", topology.wanted(topology.OWN)["mtu"]):
        assert home.lan.call("path_mtu", INTERNET[2], 80, PATIENCE) == [1500, 1460]


def test_the_router_tells_the_internet_the_lans_mtu(home):
    """The router's own error bears the shared address, and quotes the packet as it came."""
    home.inet.call("open_udp", "server", 9002)
    home.lan.call("open_udp", "asking", 0)
    home.lan.call("send_udp", "asking", INTERNET[0], 9002)
    peer = home.inet.call("receive_udp", "server", PATIENCE)
    large = packet(INTERNET[0], SHARED, UDP, datagram(9002, peer[1], bytes(1400)), flag=UNDIVIDED)
    with mtu(home.cpe, "br-lan", 1300):
        home.inet.call("send_packets", [large])
        assert home.lan.call("talk", INTERNET[0], 80, PATIENCE)
    (heard,) = errors(home.inet)
    assert ends(heard) == (SHARED, INTERNET[0])
    assert ends(heard["about"]) == (INTERNET[0], SHARED)
    assert heard["about"]["to"] == peer[1]
    home.lan.call("close", "asking")
    home.inet.call("close", "server")


def test_tcp_finds_a_smaller_mtu_beyond_without_the_clamp(home):
    home.cpe.call("apply", topology.wanted(topology.OWN, mss_clamp="0"))
    home.inet.call("count_octets", 9003)
    with mtu(home.aftr, "w0", 1300):
        assert home.lan.call("upload", INTERNET[3], 9003, 200000, PATIENCE) == 200000
    (told,) = {ends(one["about"]) for one in errors(home.lan)}
    assert told == (LAN_HOST, INTERNET[3])
