"""Our rules inside OpenWrt's own, under real packets: the same as tests/netns asks of the table."""

import pytest

from cpe_agent import guards, portset
from tests.fw4 import openwrt
from tests.netns import topology
from tests.netns.test_nat import GRE, ICMP, TCP, UDP, UNREACHABLE, left, ports_as_seen, stray
from tests.netns.topology import IMPATIENCE, INTERNET, OWN, PATIENCE, ROUTER, SHARED

QUIET = dict.fromkeys(guards.COUNTERS, 0)


def count(home, guard):
    return home.router.firewall.counters()[guard]


@pytest.fixture(params=[0, 1], ids=["plain", "offload"])
def any_home(request, home):
    """A home with, and without, fw4's flow offloading."""
    if request.param and not home.router.offloads():
        pytest.skip("this kernel has no flowtables (nf_flow_table, nf_flow_table_inet)")
    home.router.configure(offload=request.param)
    assert "Error" not in home.router.shell("fw4 reload")[1]
    offloads = "flow add @ft" in "".join(home.router.chain("forward"))
    assert offloads == bool(request.param)
    return home


@pytest.mark.parametrize("host", ["lan", "cpe"])
def test_tcp_udp_and_ping_leave_inside_the_set(any_home, host):
    home, hand = any_home, getattr(any_home, host)
    for _ in range(3):
        peer = hand.call("talk", INTERNET[0], 80, PATIENCE).split()
        assert peer[0] == SHARED
        assert portset.contains(OWN, int(peer[1]))
    assert hand.call("ask_udp", [[INTERNET[0], 80]] * 9, 2, 10, PATIENCE)[1][8]
    assert hand.call("ping", INTERNET[0], 7, PATIENCE) == INTERNET[0]
    packets = left(home)
    assert {packet["protocol"] for packet in packets} == {TCP, UDP, ICMP}
    assert [packet for packet in packets if not topology.in_set(packet)] == []
    assert home.router.firewall.counters() == QUIET


def test_each_udp_socket_keeps_its_external_port_towards_everybody(any_home):
    answers = any_home.lan.call("ask_udp", [[a, 80] for a in INTERNET], 20, 10, PATIENCE)
    ports = [set(ports_as_seen(of_socket)) for of_socket in answers]
    assert [len(seen) for seen in ports] == [1] * 20
    assert len(set.union(*ports)) == 20


def test_a_protocol_without_ports_is_refused_and_counted(home):
    """The zone's masquerade would send it from the shared address."""
    before = count(home, "refused"), count(home, "outside_out")
    assert home.lan.call("send_protocol", INTERNET[0], GRE) is True
    assert home.cpe.call("send_protocol", INTERNET[0], GRE) is False
    assert home.lan.call("ping", INTERNET[0], 7, PATIENCE)
    assert [packet for packet in left(home) if packet["protocol"] == GRE] == []
    assert (count(home, "refused"), count(home, "outside_out")) == (before[0] + 1, before[1] + 1)
    (error,) = [packet for packet in home.lan.call("sniffed") if packet.get("type") == UNREACHABLE]
    assert (error["source"], error["about"]["protocol"]) == (ROUTER, GRE)


def test_what_the_set_is_not_for_is_not_masqueraded_either(home):
    home.router.firewall.set_rules(openwrt.wanted(OWN, protocol="udp"))
    assert home.lan.call("ask_udp", [[INTERNET[0], 80]], 1, 10, PATIENCE)[0][0]
    before = count(home, "refused")
    assert home.lan.call("talk", INTERNET[0], 80, PATIENCE) == "OSError"
    assert home.lan.call("ping", INTERNET[0], 7, IMPATIENCE) is None
    assert {packet["protocol"] for packet in left(home)} == {UDP}
    assert count(home, "refused") == before + 2


@pytest.mark.parametrize("port", [1, 1023, 2048 + 1024, 65535])
def test_inbound_outside_the_set_is_dropped_and_counted(home, port):
    before = count(home, "outside_in")
    stray(home, SHARED, port)
    assert count(home, "outside_in") == before + 1


def test_inbound_in_the_set_without_a_flow_does_not_circle(home):
    before = count(home, "looped")
    stray(home, SHARED, 1700)
    assert [packet for packet in left(home) if packet["protocol"] == UDP] == []
    assert count(home, "looped") == before + 1


def test_a_redirect_of_fw4_is_reached_from_everywhere(any_home):
    """From the Internet, by a neighbour on the same address, and from the LAN (reflection)."""
    home = any_home
    assert home.inet.call("talk", SHARED, 1500, PATIENCE).split()[0] == INTERNET[0]
    assert home.nei.call("talk", SHARED, 1500, PATIENCE).split()[0] == SHARED
    assert home.lan.call("talk", SHARED, 1500, PATIENCE).split()[0] == topology.ROUTER
    assert [packet for packet in left(home) if not topology.in_set(packet)] == []


@pytest.mark.parametrize("host", ["lan", "cpe"])
def test_a_neighbour_on_the_same_address_is_reached(any_home, host):
    peer = getattr(any_home, host).call("talk", SHARED, 2500, PATIENCE).split()
    assert peer[0] == SHARED
    assert portset.contains(OWN, int(peer[1]))


def test_an_exhausted_set_leaks_nothing_outside_it(home):
    few = portset.PortSet(SHARED, 1600, 4)
    home.router.firewall.set_rules(openwrt.wanted(few))
    ports = home.lan.call("connect_many", INTERNET[0], 80, 10, IMPATIENCE)
    assert sorted(ports) == [1600, 1601, 1602, 1603]
    packets = left(home)
    assert packets
    assert [packet for packet in packets if not topology.in_set(packet, few)] == []


def test_mss_is_lowered_both_ways(home):
    home.lan.call("talk", INTERNET[0], 80, PATIENCE)
    assert [packet["mss"] for packet in left(home) if "mss" in packet] == [1420]
    assert [p["mss"] for p in home.lan.call("sniffed") if "mss" in p] == [1420]


def test_without_a_set_nothing_enters_or_leaves(any_home):
    """Flows that were there before, too, and the router's own."""
    home = any_home
    home.lan.call("open_udp", "old", 0)
    home.inet.call("open_udp", "server", 9000)
    for _ in range(3):
        home.lan.call("send_udp", "old", INTERNET[0], 9000)
        peer = home.inet.call("receive_udp", "server", PATIENCE)
        home.inet.call("send_udp", "server", *peer)
        assert home.lan.call("receive_udp", "old", PATIENCE)
    left(home)
    assert home.router.firewall.set_rules(None) is True
    home.inet.call("send_udp", "server", *peer)
    home.lan.call("send_udp", "old", INTERNET[0], 9000)
    for host in (home.lan, home.cpe):
        assert host.call("talk", INTERNET[0], 80, IMPATIENCE) == "TimeoutError"
        assert host.call("send_protocol", INTERNET[0], GRE) is (host is home.lan)
    assert home.lan.call("talk", topology.ROUTER, 22, PATIENCE) == "ConnectionRefusedError"
    assert left(home) == []
    assert home.lan.call("receive_udp", "old", IMPATIENCE) is None
    for name, host in (("old", home.lan), ("server", home.inet)):
        host.call("close", name)
    found = home.router.firewall.counters()
    assert found["outside_out"] >= 5
    assert found["outside_in"] >= 1


def test_a_softwire_of_another_name_is_closed_too(home):
    """The set belongs to one interface; what else is called lw4-... has none."""
    home.router.configure(lambda text: text.replace("list network 'wan4'", "list device 'lw4-+'"))
    assert "Error" not in home.router.shell("fw4 reload")[1]
    assert home.lan.call("talk", INTERNET[0], 80, PATIENCE).split()[0] == SHARED
    left(home)
    home.cpe.ip(
        "link set %s down" % openwrt.DEVICE,
        "link set %s name lw4-other" % openwrt.DEVICE,
        "link set lw4-other up",
        "route add default dev lw4-other",
    )
    try:
        assert home.lan.call("talk", INTERNET[0], 80, IMPATIENCE) == "TimeoutError"
        assert home.cpe.call("talk", INTERNET[0], 80, IMPATIENCE) == "TimeoutError"
        assert left(home) == []
    finally:
        home.cpe.ip("link set lw4-other down", "link set lw4-other name " + openwrt.DEVICE)
        home.router.number_softwire()


def seconds_left(home):
    """Of a new UDP flow."""
    assert home.lan.call("ask_udp", [[INTERNET[1], 80]], 1, 10, PATIENCE)[0][0]
    text = home.cpe.namespace.run(["cat", "/proc/net/nf_conntrack"]).stdout
    (flow,) = [line.split() for line in text.splitlines() if INTERNET[1] in line]
    home.cpe.call("delete_flows", SHARED, 1, 0)
    return int(flow[4])


def test_idle_flows_live_as_the_option_says_also_after_a_reload_of_fw4(home):
    home.cpe.sysctl("net.netfilter.nf_conntrack_udp_timeout=10000")
    home.router.firewall.set_rules(openwrt.wanted(OWN, flow_timeouts="small"))
    assert 60 < seconds_left(home) <= 120
    assert "Error" not in home.router.shell("fw4 reload")[1]
    assert 60 < seconds_left(home) <= 120
    assert home.router.firewall.set_rules(openwrt.wanted(OWN)) is True
    assert seconds_left(home) > 120
