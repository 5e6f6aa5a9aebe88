"""The agent's NAT rules under real packets: what leaves, what enters, and what does not."""

import pytest

from cpe_agent import guards, own_table, portset
from cpe_agent.backends import kernel
from tests.netns import packets, topology
from tests.netns.topology import (
    AFTR,
    IMPATIENCE,
    INNER,
    INTERNET,
    LAN_HOST,
    OWN,
    PATIENCE,
    ROUTER,
    SHARED,
)

TCP, UDP, ICMP, GRE, ESP = 6, 17, 1, 47, 50
UNREACHABLE = 3


def count(home, guard):
    return home.cpe.call("counters")[guard]


def left(home):
    """What came out of the softwire. All of it: what the aftr itself sends now comes after it."""
    assert home.aftr.call("talk", INTERNET[0], 80, PATIENCE).split()[0] == AFTR
    return [packet for packet in home.inet.call("sniffed") if packet["source"] != AFTR]


def stray(home, address, port):
    """Send a datagram from the Internet, and wait until it has been dealt with."""
    home.inet.call("open_udp", "stray", 0)
    home.inet.call("send_udp", "stray", address, port)
    home.inet.call("close", "stray")
    assert home.inet.call("talk", SHARED, 1500, PATIENCE).split()[0] == INTERNET[0]


def ports_as_seen(answers):
    return [int(text.split()[1]) for text in answers]


@pytest.mark.parametrize("host", ["lan", "cpe"])
def test_tcp_udp_and_ping_leave_inside_the_set(home, host):
    hand = getattr(home, host)
    peer = hand.call("talk", INTERNET[0], 80, PATIENCE).split()
    assert peer[0] == SHARED
    assert portset.contains(OWN, int(peer[1]))
    assert hand.call("ask_udp", [[INTERNET[0], 80]], 1, 10, PATIENCE)[0][0]
    assert hand.call("ping", INTERNET[0], 7, PATIENCE) == INTERNET[0]
    packets = left(home)
    assert {packet["protocol"] for packet in packets} == {TCP, UDP, ICMP}
    assert [packet for packet in packets if not topology.in_set(packet)] == []
    assert home.cpe.call("counters") == dict.fromkeys(guards.COUNTERS, 0)


def test_udp_larger_than_the_mtu_passes_both_ways(home):
    """The ports are in the first fragment alone."""
    answer = home.lan.call("ask_udp", [[INTERNET[0], 80]], 1, 4000, PATIENCE)[0][0]
    assert answer.split()[2] == "4000"
    assert any(packet.get("fragment") for packet in left(home))


def test_each_udp_socket_keeps_its_external_port_towards_everybody(home):
    """Endpoint-independent mapping (RFC 4787 REQ-1): games and calls live on it."""
    answers = home.lan.call("ask_udp", [[a, 80] for a in INTERNET], 20, 10, PATIENCE)
    ports = [set(ports_as_seen(of_socket)) for of_socket in answers]
    assert [len(seen) for seen in ports] == [1] * 20
    assert len(set.union(*ports)) == 20


def test_icmp_errors_of_a_lan_host_pass(home):
    inner = home.lan.call("open_udp", "quiet", 0)
    home.inet.call("open_udp", "server", 9000)
    home.lan.call("send_udp", "quiet", INTERNET[0], 9000)
    peer = home.inet.call("receive_udp", "server", PATIENCE)
    home.lan.call("close", "quiet")
    home.inet.call("send_udp", "server", *peer)
    home.inet.call("close", "server")
    (error,) = [packet for packet in left(home) if packet["protocol"] == ICMP]
    assert (error["type"], error["source"]) == (UNREACHABLE, SHARED)
    assert error["about"]["destination"] == SHARED, "the quoted packet is translated back too"
    assert inner


@pytest.mark.parametrize("protocol", [GRE, ESP])
def test_a_protocol_without_ports_is_refused_and_counted(home, protocol):
    """Where an address is shared it cannot be translated. Its sender is told so at once."""
    before = count(home, "refused"), count(home, "outside_out")
    assert home.lan.call("send_protocol", INTERNET[0], protocol) is True
    assert home.cpe.call("send_protocol", INTERNET[0], protocol) is False
    assert home.lan.call("ping", INTERNET[0], 7, PATIENCE)
    assert [packet for packet in left(home) if packet["protocol"] == protocol] == []
    assert (count(home, "refused"), count(home, "outside_out")) == (before[0] + 1, before[1] + 1)
    (error,) = [p for p in home.lan.call("sniffed") if p.get("type") == UNREACHABLE]
    assert (error["source"], error["about"]["protocol"]) == (ROUTER, protocol)


def test_a_protocol_without_ports_passes_where_the_address_is_not_shared(home):
    before = home.cpe.call("counters")
    home.cpe.call("apply", topology.wanted(portset.PortSet(SHARED, 1, 65535)))
    assert home.lan.call("send_protocol", INTERNET[0], ESP) is True
    (packet,) = [packet for packet in left(home) if packet["protocol"] == ESP]
    assert packet["source"] == SHARED
    assert home.inet.call("send_protocol", SHARED, ESP) is True
    assert home.inet.call("talk", SHARED, 1500, PATIENCE).split()[0] == INTERNET[0]
    assert [p["source"] for p in home.lan.call("sniffed") if p["protocol"] == ESP] == [INTERNET[0]]
    assert home.cpe.call("counters") == before


@pytest.mark.skipif(packets.SCTP not in kernel.protocols(), reason="the kernel knows no SCTP")
def test_sctp_leaves_inside_the_set(home):
    first, before = packets.sctp_init(36412, 80), home.cpe.call("counters")
    assert home.lan.call("send_protocol", INTERNET[0], packets.SCTP, first.hex()) is True
    assert home.cpe.call("send_protocol", INTERNET[0], packets.SCTP, first.hex()) is True
    seen = [packet for packet in left(home) if packet["protocol"] == packets.SCTP]
    assert len(seen) == 2 and all(topology.in_set(packet) for packet in seen)
    assert home.cpe.call("counters") == before


@pytest.mark.parametrize("port", [1, 1023, 2048 + 1024, 65535])
def test_inbound_outside_the_set_is_dropped_and_counted(home, port):
    before = count(home, "outside_in")
    stray(home, SHARED, port)
    assert count(home, "outside_in") == before + 1


def test_inbound_for_another_address_is_dropped_and_counted(home):
    before = count(home, "outside_in")
    home.aftr.ip("route replace %s/32 dev t1" % LAN_HOST)
    stray(home, LAN_HOST, 1500)
    assert count(home, "outside_in") == before + 1
    assert [p for p in home.lan.call("sniffed") if p["protocol"] == UDP] == []


def test_a_flow_inside_the_home_lets_nobody_in_by_the_softwire(home):
    """Who writes the lwAFTR's address into a packet can write any other into it."""
    home.aftr.ip("route replace %s/32 dev t1" % ROUTER, "route replace %s/32 dev t1" % LAN_HOST)
    home.cpe.call("open_udp", "service", 5353)
    home.lan.call("open_udp", "client", 5000)
    home.lan.call("send_udp", "client", ROUTER, 5353)
    assert home.cpe.call("receive_udp", "service", PATIENCE) == [LAN_HOST, 5000]
    home.cpe.call("send_udp", "service", LAN_HOST, 5000)
    assert home.lan.call("receive_udp", "client", PATIENCE) == [ROUTER, 5353]
    before = count(home, "outside_in")
    question = packets.datagram(5000, 5353, b"forged")
    answer = packets.datagram(5353, 5000, b"forged")
    forged = [packets.packet(LAN_HOST, ROUTER, UDP, question)]
    forged.append(packets.packet(ROUTER, LAN_HOST, UDP, answer))
    home.aftr.call("send_packets", forged)
    assert home.cpe.call("receive_udp", "service", IMPATIENCE) is None
    assert home.lan.call("receive_udp", "client", IMPATIENCE) is None
    for hand, name in ((home.cpe, "service"), (home.lan, "client")):
        hand.call("close", name)
    assert count(home, "outside_in") == before + 2


def test_nobody_outside_lowers_the_routers_path_mtu(home):
    home.aftr.ip("route replace %s/32 dev t1" % INNER)
    before = count(home, "outside_in")
    about = packets.packet(INNER, INTERNET[4], ICMP, packets.echo(packets.ECHO_REPLY, 5))
    said = packets.error(UNREACHABLE, 4, about)
    said = packets.summed(said[:6] + (600).to_bytes(2, "big") + said[8:])
    home.aftr.call("send_packets", [packets.packet(INTERNET[3], INNER, ICMP, said)])
    assert home.lan.call("talk", INTERNET[0], 80, PATIENCE)
    assert count(home, "outside_in") == before + 1
    assert "mtu" not in home.cpe.namespace.run(["ip", "route", "get", INTERNET[4]]).stdout


def test_inbound_in_the_set_without_a_flow_is_taken_along_by_no_other_way(home):
    before = count(home, "looped")
    home.cpe.ip("route add %s/32 via %s dev br-lan" % (SHARED, LAN_HOST))
    try:
        stray(home, SHARED, 1700)
    finally:
        home.cpe.ip("route del %s/32 dev br-lan" % SHARED)
    assert [p for p in home.lan.call("sniffed") if p["destination"] == SHARED] == []
    assert count(home, "looped") == before + 1


def test_sets_of_nft_go_with_the_port_sets_that_they_were_for(home):
    for first in (1024, 4096, 8192):
        wanted = topology.wanted(portset.PortSet(SHARED, first, 256), host_limit=str(first))
        home.cpe.call("apply", wanted)
    listing = home.cpe.namespace.run(
        ["nft", "-t", "list", "sets", "table", *own_table.NAME.split()]
    )
    names = [line.split()[1] for line in listing.stdout.split("\n") if "\tset " in line]
    assert sorted(names) == ["hosts_8192", "room_8192_128", "room_8320_128"]


def test_inbound_in_the_set_without_a_flow_does_not_circle(home):
    before = count(home, "looped")
    stray(home, SHARED, 1700)
    assert [packet for packet in left(home) if packet["protocol"] == UDP] == []
    assert count(home, "looped") == before + 1


def test_a_forward_to_somewhere_outside_makes_no_relay(home):
    """Whoever it were for would see the home as the source."""
    before = count(home, "looped")
    forward = "ip daddr %s tcp dport 1501 dnat to %s:80" % (SHARED, INTERNET[0])
    home.cpe.nft(
        "table ip relay { chain dstnat { type nat hook prerouting priority dstnat; %s; }; }\n"
        % forward
    )
    assert home.inet.call("talk", SHARED, 1501, IMPATIENCE) == "TimeoutError"
    home.cpe.nft("delete table ip relay\n")
    assert [packet for packet in left(home) if packet["protocol"] == TCP] == []
    assert count(home, "looped") > before


def test_answers_for_a_lan_that_is_away_are_not_sent_back(home):
    """Their way is the default route then, and they would leave as if they were ours."""
    home.lan.call("open_udp", "game", 0)
    home.lan.call("send_udp", "game", SHARED, 1800)
    left(home)
    before = count(home, "looped")
    home.cpe.namespace.run(["ip", "link", "set", "br-lan", "down"])
    ports = range(OWN.first, OWN.first + OWN.size)  # one of them is the game's
    answers = [
        packets.packet(SHARED, SHARED, UDP, packets.datagram(1800, port, b"")) for port in ports
    ]
    home.inet.call("send_packets", answers)
    left(home)
    home.cpe.namespace.run(["ip", "link", "set", "br-lan", "up"])
    home.lan.call("close", "game")
    assert count(home, "looped") == before + OWN.size
    assert home.lan.call("talk", INTERNET[0], 80, PATIENCE)


def test_a_forward_is_reached_from_outside(home):
    assert home.inet.call("talk", SHARED, 1500, PATIENCE).split()[0] == INTERNET[0]
    assert [packet for packet in left(home) if not topology.in_set(packet)] == []


def test_a_set_of_one_port_carries_one_flow_to_each_place(home):
    one = portset.PortSet(SHARED, 1500, 1)
    home.cpe.call("apply", topology.wanted(one))
    (answers,) = home.lan.call("ask_udp", [[a, 80] for a in INTERNET], 1, 10, PATIENCE)
    assert set(ports_as_seen(answers)) == {1500}
    assert home.lan.call("ping", INTERNET[0], 7, PATIENCE) == INTERNET[0]
    home.lan.call("ask_udp", [[INTERNET[0], 80]], 3, 10, 0.2)
    home.cpe.call("ask_udp", [[INTERNET[0], 80]], 1, 10, 0.2)
    packets = left(home)
    assert len(packets) >= 6
    assert [packet for packet in packets if not topology.in_set(packet, one)] == []


def test_an_exhausted_set_leaks_nothing_outside_it(home):
    few = portset.PortSet(SHARED, 1600, 4)
    home.cpe.call("apply", topology.wanted(few))
    ports = home.lan.call("connect_many", INTERNET[0], 80, 10, IMPATIENCE)
    assert sorted(ports) == [1600, 1601, 1602, 1603]
    answers = home.lan.call("ask_udp", [[INTERNET[0], 80]], 6, 10, 0.2)
    assert len([1 for (answer,) in answers if answer]) == 4
    packets = left(home)
    assert {packet["protocol"] for packet in packets} == {TCP, UDP}
    assert [packet for packet in packets if not topology.in_set(packet, few)] == []


def test_ping_leaves_inside_of_one_of_several_sets(home):
    half = OWN.size // 2
    sets = [portset.PortSet(SHARED, OWN.first + at, half) for at in (0, half)]
    home.cpe.call("apply", topology.wanted(*sets))
    before = home.cpe.call("counters")
    for identifier in range(1, 21):
        assert home.lan.call("ping", INTERNET[0], identifier, PATIENCE) == INTERNET[0]
    seen = {packet["port"] for packet in left(home)}
    assert all([one for one in seen if portset.contains(own, one)] for own in sets)
    assert home.cpe.call("counters") == before


def test_a_host_has_no_more_flows_than_the_option_allows(home):
    home.cpe.call("apply", topology.wanted(OWN, host_limit="5"))
    answers = home.lan.call("ask_udp", [[INTERNET[0], 80]], 9, 10, PATIENCE)
    assert [bool(answer) for (answer,) in answers] == [True] * 5 + [False] * 4
    assert count(home, "over_limit") == 4
    assert home.lan.call("talk", INTERNET[0], 80, PATIENCE) == "ConnectionRefusedError"
    assert home.cpe.call("talk", INTERNET[0], 80, PATIENCE).split()[0] == SHARED  # no host's


def test_mss_is_lowered_both_ways(home):
    home.lan.call("talk", INTERNET[0], 80, PATIENCE)
    assert [packet["mss"] for packet in left(home) if "mss" in packet] == [1420]
    assert [p["mss"] for p in home.lan.call("sniffed") if "mss" in p] == [1420]


def test_mss_is_left_alone_when_the_option_says_so(home):
    home.cpe.call("apply", topology.wanted(OWN, mss_clamp="0"))
    home.lan.call("talk", INTERNET[0], 80, PATIENCE)
    assert [packet["mss"] for packet in left(home) if "mss" in packet] == [1460]


def test_with_protocol_udp_no_tcp_and_no_ping_leaves(home):
    home.cpe.call("apply", topology.wanted(OWN, protocol="udp"))
    before = count(home, "refused")
    assert home.lan.call("ask_udp", [[INTERNET[0], 80]], 1, 10, PATIENCE)[0][0]
    assert home.lan.call("talk", INTERNET[0], 80, PATIENCE) == "OSError"
    assert home.lan.call("ping", INTERNET[0], 7, IMPATIENCE) is None
    assert {packet["protocol"] for packet in left(home)} == {UDP}
    assert count(home, "refused") == before + 2


def test_after_the_set_is_gone_nothing_enters_or_leaves():
    """RFC 7596 5.2. The softwire goes with it, and its flows."""
    with topology.Home() as other:  # the softwire is deleted here, so not in the shared home
        other.cpe.call("apply", topology.wanted(OWN))
        assert other.lan.call("talk", INTERNET[0], 80, PATIENCE).split()[0] == SHARED
        assert other.cpe.call("apply", None) is True
        assert other.lan.call("talk", INTERNET[0], 80, IMPATIENCE) == "OSError"
        links = other.cpe.namespace.run(["ip", "-br", "link"]).stdout
        assert "lw4o6" not in links
        assert other.cpe.namespace.run(["nft", "list", "tables"]).stdout == ""
        assert other.cpe.call("delete_flows", SHARED, 1, 0) == 0
        assert other.cpe.call("apply", None) is False
