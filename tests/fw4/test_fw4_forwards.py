"""'config forward' on OpenWrt: what fw4 makes of it, under real packets."""

import pytest

from cpe_agent import portset
from tests.fw4 import openwrt
from tests.netns import topology
from tests.netns.topology import IMPATIENCE, INTERNET, LAN_HOST, OWN, PATIENCE, ROUTER, SHARED

OTHER = portset.PortSet(SHARED, 1024, 512)
WEB = {"dest_ip": LAN_HOST, "dest_port": "80"}
OWN_PORT = 8022  # where the router itself listens
LOGIN = {"dest_port": str(OWN_PORT)}


@pytest.fixture(scope="module", autouse=True)
def servers(shared_home):
    shared_home.cpe.call("serve", OWN_PORT)


@pytest.fixture
def forwarded(home):
    """(home, external port of WEB, of LOGIN)."""
    placed = topology.placed(OWN, WEB, LOGIN)
    assert home.router.firewall.set_rules(openwrt.wanted(OWN, placed), openwrt.WHERE) is True
    yield home, placed[0].port, placed[1].port
    home.router.firewall.set_rules(openwrt.wanted(OWN), openwrt.WHERE)


def problems(home, placed):
    wanted = openwrt.wanted(OWN, placed)
    return home.router.firewall.problems(*openwrt.WHERE, plan=wanted)


def test_a_forward_is_reached_from_everywhere(forwarded):
    """From the Internet, by a neighbour on the same address, and from the LAN (reflection)."""
    home, port, _ = forwarded
    for hand, seen in ((home.inet, INTERNET[0]), (home.nei, SHARED), (home.lan, ROUTER)):
        assert hand.call("talk", SHARED, port, PATIENCE).split()[0] == seen
        assert hand.call("ask_udp", [[SHARED, port]], 1, 10, PATIENCE)[0][0].split()[0] == seen
    packets = home.inet.call("sniffed")
    assert [packet for packet in packets if not topology.in_set(packet)] == []


def test_the_router_itself_is_reached_by_its_inner_address(forwarded):
    home, _, port = forwarded
    assert home.inet.call("talk", SHARED, port, PATIENCE).split()[0] == INTERNET[0]
    assert home.nei.call("talk", SHARED, port, PATIENCE).split()[0] == SHARED
    assert home.lan.call("talk", SHARED, port, PATIENCE).split()[0] in (LAN_HOST, ROUTER)


def test_what_a_server_sends_leaves_by_the_port_that_it_is_reached_at(home):
    """RFC 4787 REQ-1."""
    placed = topology.placed(OWN, {"dest_ip": LAN_HOST, "dest_port": "27015"})
    home.router.firewall.set_rules(openwrt.wanted(OWN, placed), openwrt.WHERE)
    seen = "%s %d" % (SHARED, placed[0].port)
    for address in INTERNET[:2]:
        assert home.lan.call("talk", address, 80, PATIENCE, 27015) == seen
    assert home.lan.call("talk", INTERNET[0], 80, PATIENCE, 27016) != seen


def test_each_load_of_the_firewall_is_noticed(home):
    """Each empties miniupnpd's chains."""
    seen = []
    for command in ("true", "fw4 reload", "fw4 restart", "fw4 reload"):
        home.router.shell(command)
        seen.append(home.router.firewall.load())
        assert home.router.firewall.load() == seen[-1]
    assert len(set(seen)) == len(seen)


def test_one_reload_and_none_when_nothing_has_changed(home):
    router, placed = home.router, topology.placed(OWN, WEB)
    for number in (1, 1):
        router.firewall.set_rules(openwrt.wanted(OWN, placed), openwrt.WHERE)
        assert router.reloads == number
    router.restart_agent()
    assert router.firewall.set_rules(openwrt.wanted(OWN, placed), openwrt.WHERE) is False
    router.firewall.set_rules(openwrt.wanted(OTHER, topology.placed(OTHER, WEB)), openwrt.WHERE)
    assert router.reloads == 2, "a new set and its forwards are one reload"
    assert router.firewall.gone == [(SHARED, placed[0].port)]


@pytest.mark.parametrize("end", ["removed", "down"])
def test_a_forward_that_is_gone_is_not_reached(forwarded, end):
    home, port, _ = forwarded
    plan = openwrt.wanted(OWN) if end == "removed" else None
    home.router.firewall.set_rules(plan, openwrt.WHERE)
    assert home.inet.call("talk", SHARED, port, IMPATIENCE) == "TimeoutError"
    assert home.router.data.read() == []
    if plan:
        assert home.inet.call("talk", SHARED, 1500, PATIENCE).split()[0] == INTERNET[0]


def test_the_firewalls_own_restart_keeps_it(forwarded):
    home, port, _ = forwarded
    home.router.shell("fw4 restart")
    assert home.inet.call("talk", SHARED, port, PATIENCE).split()[0] == INTERNET[0]


def test_fw4_takes_them_all_and_says_nothing_but_where_they_lead(forwarded):
    home, _, _ = forwarded
    placed = topology.placed(OWN, WEB, LOGIN)
    assert problems(home, placed) == []
    said = [line for line in home.router.shell("fw4 check")[1].split("\n") if "forwards" in line]
    assert [line for line in said if "does not specify a destination, assuming" not in line] == []


def test_one_that_fw4_has_not_taken_is_told(forwarded):
    home, _, _ = forwarded
    placed = topology.placed(OWN, WEB, LOGIN, {"dest_ip": LAN_HOST, "dest_port": "1700"})
    (found,) = problems(home, placed)
    assert "fw4 has not taken the forward of port 1700" in found


def test_the_port_of_a_users_own_redirect_is_known(home):
    assert home.router.firewall.taken(openwrt.WHERE, (OWN,)) == (1500,)
