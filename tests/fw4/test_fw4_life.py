"""What the user and fw4 do to our rules: reloads, restarts, mistakes in the config."""

import pathlib
from concurrent import futures

import pytest

from cpe_agent import portset, uci
from cpe_agent.backends import BackendError, fw4
from tests.fw4 import openwrt
from tests.netns import topology
from tests.netns.test_nat import UDP
from tests.netns.topology import IMPATIENCE, INTERNET, OWN, PATIENCE, SHARED

OTHER = portset.PortSet(SHARED, 4096, 256)


def in_order(router):
    """True if fw4's own check passes, and our NAT rules come before all others."""
    code, output = router.shell("fw4 check")
    assert "Ruleset passes nftables check." in output
    rules = router.chain("srcnat")
    marked = [at for at, rule in enumerate(rules) if 'comment "cpe-agent ' in rule]
    return code == 0 and marked == [0]


def port_seen(home):
    return int(home.lan.call("talk", INTERNET[0], 80, PATIENCE).split()[1])


def test_the_same_set_again_reloads_nothing(home):
    """A renewal, or a restarted agent."""
    router = home.router
    assert router.firewall.set_rules(openwrt.wanted(OWN)) is False
    router.restart_agent()
    assert router.firewall.set_rules(openwrt.wanted(OWN)) is False
    assert router.reloads == 0
    assert in_order(router)


def test_a_changed_set_reloads_once_and_holds(home):
    assert home.router.firewall.set_rules(openwrt.wanted(OTHER)) is True
    assert home.router.reloads == 1
    assert home.router.firewall.in_force(openwrt.wanted(OTHER))
    assert not home.router.firewall.in_force(openwrt.wanted(OWN))
    assert "192.0.2.3:4096-4351" in "".join(home.router.chain("cpe_agent_translate"))
    assert "1024-2047" not in "".join(home.router.chain("cpe_agent_guard_in"))


@pytest.mark.parametrize(
    "command", ["fw4 reload", "fw4 restart", "fw4 flush; fw4 start", "fw4 stop; fw4 -q start"]
)
def test_the_firewalls_own_commands_keep_the_rules_and_the_flows(home, command):
    """'service firewall' runs these; on OpenWrt 'flush' is its stop."""
    home.lan.call("open_udp", "game", 0)
    home.inet.call("open_udp", "server", 9000)
    seen = set()
    for _ in range(2):
        home.lan.call("send_udp", "game", INTERNET[0], 9000)
        seen.add(tuple(home.inet.call("receive_udp", "server", PATIENCE)))
        home.router.shell(command)
    home.inet.call("send_udp", "server", *seen.pop())
    assert home.lan.call("receive_udp", "game", PATIENCE)
    assert seen == set(), "the flow kept its port"
    for name, host in (("game", home.lan), ("server", home.inet)):
        host.call("close", name)
    assert in_order(home.router)
    assert portset.contains(OWN, port_seen(home))
    # A flush takes the last guard along, which is no business of fw4's.
    assert home.router.firewall.set_rules(openwrt.wanted(OWN)) is ("flush" in command)


@pytest.mark.parametrize("command", ["reload", "restart"])
def test_a_reload_or_restart_lets_nothing_out(home, command):
    """fw4 reloads its rules in one transaction. A restart deletes them first, and on any other
    router with fw4 new flows then leave as they come; the last guard is no table of fw4's."""
    five = "for n in 1 2 3 4 5; do fw4 -q %s; done" % command
    with futures.ThreadPoolExecutor() as pool:
        ends = pool.submit(home.router.shell, five)
        while not ends.done():
            home.lan.call("ask_udp", [[INTERNET[0], 81]], 20, 10, 0.001)
    packets = [packet for packet in home.inet.call("sniffed") if packet["protocol"] == UDP]
    assert packets
    assert [packet for packet in packets if not topology.in_set(packet)] == []


def test_a_reload_keeps_the_counters(home):
    home.lan.call("send_protocol", INTERNET[0], 47)
    home.lan.call("ping", INTERNET[0], 7, PATIENCE)
    assert home.router.firewall.counters()["refused"] == 1
    home.router.firewall.set_rules(openwrt.wanted(OTHER))
    assert home.router.firewall.counters()["refused"] == 1


def test_a_stopped_firewall_is_told(home):
    home.router.shell("fw4 flush")
    assert not home.router.firewall.in_force(openwrt.wanted(OWN))
    assert home.router.firewall.counters() == {}
    with pytest.raises(BackendError, match="'service firewall start'"):
        home.router.firewall.set_rules(openwrt.wanted(OTHER))
    (found,) = home.router.firewall.problems(openwrt.DEVICE, openwrt.NAME)
    assert "'service firewall start'" in found
    home.router.firewall.set_rules(None)
    home.router.shell("fw4 start")
    assert home.router.firewall.problems(openwrt.DEVICE, openwrt.NAME) == []
    assert home.router.firewall.in_force(None)
    assert home.lan.call("talk", INTERNET[0], 80, IMPATIENCE) == "TimeoutError"


def test_a_users_mistake_is_told_in_nfts_words_and_the_old_set_stays(home):
    home.router.write("user.nft", "oifname lan snap to nowhere\n")
    include = "config include\n option type nftables\n option path '%s/user.nft'\n"
    include += " option position 'chain-post'\n option chain 'forward'\n"
    home.router.configure(lambda text: text + include % home.router.dir)
    assert home.router.shell("fw4 reload")[0] == 0, "fw4 takes it for a success"
    with pytest.raises(BackendError, match=r"'fw4 check' shows it.*Error: syntax error"):
        home.router.firewall.set_rules(openwrt.wanted(OTHER))
    assert home.router.firewall.in_force(openwrt.wanted(OWN))
    assert portset.contains(OWN, port_seen(home))
    home.router.configure()
    home.router.shell("fw4 restart")
    assert home.router.firewall.in_force(openwrt.wanted(OWN)), "the last good files were put back"
    assert home.router.firewall.set_rules(openwrt.wanted(OTHER)) is True


def test_what_nft_would_refuse_never_reaches_fw4(home):
    bad = openwrt.wanted(OWN)._replace(device='lw4-"; drop')
    with pytest.raises(BackendError, match="nft refuses our rules: Error"):
        home.router.firewall.set_rules(bad)
    assert home.router.reloads == 0
    assert home.router.firewall.set_rules(openwrt.wanted(OWN)) is False
    assert in_order(home.router)


def test_a_boot_without_a_set_is_closed(home):
    """The package's files are those that None makes; fw4 finds them when it starts."""
    made = fw4.fragments(None)
    home.router.write(fw4.SOURCE_NAT, made.source_nat)
    home.router.write(fw4.CHAINS, made.chains)
    home.router.shell("fw4 restart")
    assert home.router.firewall.in_force(None)
    assert home.cpe.call("talk", INTERNET[0], 80, IMPATIENCE) == "TimeoutError"
    home.router.firewall.set_rules(None)
    assert home.router.firewall.set_rules(None) is False
    assert home.router.reloads == 0


_ON_THE_ROUTER = """
from cpe_agent.backends.fw4 import Firewall
firewall = Firewall("%s")
before = firewall.in_force(None)
print(before, firewall.set_rules(None), firewall.set_rules(None), firewall.in_force(None))
print(sorted(firewall.counters()), firewall.problems("%s", "%s"))
"""


def test_it_is_the_same_on_the_routers_own_runtime(home):
    """With OpenWrt's shell, and the paths that are the defaults."""
    if home.router.shell("command -v micropython")[0]:
        pytest.skip("this root file system has no MicroPython")
    names = home.router.dir, openwrt.DEVICE, openwrt.NAME
    home.router.write("life.py", _ON_THE_ROUTER % names)
    code, output = home.router.shell(
        "MICROPYPATH=.frozen:/usr/lib/cpe-agent micropython %s/life.py" % home.router.dir
    )
    guards = "['looped', 'outside_in', 'outside_out', 'over_limit', 'refused']"
    assert (code, output) == (0, "False True False True\n%s []\n" % guards)
    assert home.lan.call("talk", INTERNET[0], 80, IMPATIENCE) == "TimeoutError"


FAULTS = [
    ("'cpe_agent_srcnat'", "'cpe_agent_srcnat'\n option enabled '0'"),
    ("'cpe_agent_srcnat'", "'cpe_agent_srcnat'\n option enabled 'no'"),
    ("option chain 'srcnat'", ""),
    ("option chain 'srcnat'", "option chain 'dstnat'"),
    ("'chain-pre'", "'chain-post'"),
    ("'table-post'", "'ruleset-post'"),
    ("option type 'nftables'", "option type 'script'"),
    ("fw4-srcnat.nft", "none.nft"),
    ("include 'cpe_agent_table'", "exclude 'cpe_agent_table'"),
]
FINE = [
    ("'chain-pre'", "'chain-prepend'"),
    ("'chain-pre'", "'Chain-Pre'"),
    ("'table-post'", "'table-append'"),
    ("'table-post'", "'table-postpend'"),
    ("option position 'table-post'", ""),
    ("include 'cpe_agent_table'", "include"),
    ("option type 'nftables'", "option type 'NFT'"),
]


@pytest.mark.parametrize("change", FAULTS + FINE)
def test_what_we_say_of_the_includes_is_what_fw4_makes_of_them(home, change):
    """Where we see no fault our rules are in force and come first, and only there."""
    router = home.router
    router.firewall.set_rules(None)
    router.configure(lambda text: text.replace(*change))
    sections = uci.parse(pathlib.Path(router.dir, "config").read_text())
    found = fw4.include_problems(sections, router.dir)
    assert bool(found) == (change in FAULTS)
    if not found:
        assert router.firewall.set_rules(openwrt.wanted(OWN)) is True
        assert in_order(router)
        return
    try:
        router.firewall.set_rules(openwrt.wanted(OWN))
    except BackendError as refused:
        assert found[0] in str(refused) or "nft refuses" in str(refused)
    else:
        assert not in_order(router)


ZONES = [  # what stands for the interface, the zone that netifd tells, and is it in one
    ("list network 'wan4'", None, True),
    ("option network 'wan wan4'", None, True),
    ("list device 'lw4-wan4'", None, True),
    ("list device 'lw4-+'", None, True),
    ("list device 'lw4-wan40'", None, False),
    ("list network 'wan'", None, False),
    ("list network 'wan'", "wan", True),
    ("list network 'wan'", "dmz", False),
    ("list network 'wan4'\n option enabled '0'", None, False),
]


@pytest.mark.parametrize(("line", "zone", "covered"), ZONES)
def test_what_we_say_of_the_zone_is_what_fw4_makes_of_it(home, line, zone, covered):
    router = home.router
    router.configure(lambda text: text.replace("list network 'wan4'", line))
    router.tell_interfaces(zone)
    router.shell("fw4 -q reload")
    text = pathlib.Path(router.dir, "config").read_text()
    found = fw4.zone_problems(uci.parse(text), openwrt.DEVICE, openwrt.NAME, zone or "")
    assert (found == []) is covered
    answer = home.lan.call("talk", INTERNET[0], 80, PATIENCE)
    assert answer.split()[0] == (SHARED if covered else "ConnectionRefusedError")
