"""The agent between ubusd, netifd and fw4: stand-ins here, the genuine ones in tests/openwrt."""

import contextlib
import json
import os
import pathlib
import shutil
import sys
import tempfile
import threading

import pytest

from cpe_agent.pcp import wire
from cpe_agent.pyubus import UbusError
from cpe_agent.pyubus.blocking import Ubus
from tests.support import netifd
from tests.unit.pyubus.servers import Server
from tests.unit.shell import rig

WAN4 = "network.interface.wan4"
DEVICE = "lw4-wan4"
CLOSED = 'meta nfproto ipv6 drop counter name "cpe_agent_outside_out" drop'

# As fw4 does it: a table that is made anew, with the included files in it. Each load is noted.
FW4 = """#!/bin/sh
dir=%(folder)s run=%(run)s
[ "$1" = reload ] || exit 1
echo load >> $dir/loads
touch $dir/fw4.state
{
    echo 'table inet fw4'
    echo 'delete table inet fw4'
    echo 'table inet fw4 {'
    echo 'chain srcnat { type nat hook postrouting priority srcnat; policy accept;'
    cat $run/fw4-srcnat.nft
    echo '}'
    cat $run/fw4-table.nft $dir/more.nft 2>/dev/null
    echo '}'
} > $dir/ruleset
nft -f $dir/ruleset || exit 0
"""
INCLUDES = """
config zone
    option name 'wan'
    list network 'wan4'
config include 'cpe_agent_srcnat'
    option type 'nftables'
    option path '%(run)s/fw4-srcnat.nft'
    option position 'chain-pre'
    option chain 'srcnat'
config include 'cpe_agent_table'
    option type 'nftables'
    option path '%(run)s/fw4-table.nft'
    option position 'table-post'
"""


class Router:
    """ubusd, netifd, fw4 and an agent in the router's namespace."""

    def __init__(self, link, runtime):
        self.cpe = link.cpe
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="ow"))
        self.agent = rig.Agent(link.cpe, runtime, self.folder)
        self.agent.program = (str(pathlib.Path(__file__).parent / "openwrt_program.py"),)
        self.agent.program += (str(self.folder),)
        self.agent.configure("openwrt", softwire=False)
        words = {"folder": self.folder, "run": self.agent.run_dir}
        (self.folder / "fw4").write_text(FW4 % words)
        (self.folder / "fw4").chmod(0o755)
        (self.folder / "firewall").write_text(INCLUDES % words)
        self.ubusd = Server("standin", self.folder)
        self.ubusd.start()
        program = [sys.executable, netifd.__file__, self.ubusd.path]
        self.netifd = link.cpe.popen(["env", "PYTHONPATH=%s" % rig.micropython.ROOT, *program])
        rig.wait_for(self.interface, "netifd")
        self.configure()

    def close(self):
        """As if it had never been."""
        self.agent.end()
        self.netifd.kill()
        self.netifd.wait()
        self.ubusd.stop()
        for words in (["ip", "link", "del", DEVICE], ["nft", "flush", "ruleset"]):
            self.cpe.run(words, check=False)  # the next test begins without
        shutil.rmtree(self.folder, ignore_errors=True)  # a reload may still be at its end

    def ubus(self, path, method, arguments=None):
        """The answer, or None where nobody is."""
        try:
            with Ubus(self.ubusd.path, timeout=rig.PATIENCE * 1000) as ubus:
                return ubus.call(path, method, arguments or {})
        except UbusError:
            return None

    def interface(self):
        """As ifstatus."""
        return self.ubus(WAN4, "status")

    def configure(self, **options):
        """As 'uci set network.wan4...' and reload_config."""
        self.ubus(WAN4, "configure", {"options": {"peeraddr": rig.SERVER, **options}})

    def wait(self, condition, what):
        """What ifstatus shows, once condition(it) is true."""
        found = []

        def look():
            found[:] = [self.interface()]
            return condition(found[0]) and found[0]

        try:
            return rig.wait_for(look, what)
        except AssertionError as error:
            raise AssertionError("%s; %s; %s" % (error, found, self.agent.log())) from None

    def wait_up(self):
        """ifstatus of an interface that is up."""
        return self.wait(lambda found: found["up"] and self.loads(), "the interface to be up")

    def wait_code(self, code):
        """ifstatus that shows an error."""
        return self.wait(lambda found: code in codes(found), code)

    def loads(self):
        """How often fw4 has loaded its rules."""
        path = self.folder / "loads"
        return len(path.read_text().split()) if path.exists() else 0

    def rules(self):
        """What is in force."""
        return self.cpe.run(["nft", "list", "ruleset"]).stdout

    def has_device(self):
        """True while the softwire is there."""
        return self.cpe.run(["ip", "link", "show", "dev", DEVICE], check=False).returncode == 0

    def lets_out(self, address):
        """True if a packet to there leaves by the softwire: on the cable that stands for it here,
        the kernel then asks for a neighbour."""
        self.cpe.run(["ping", "-c1", "-W1", "-I", DEVICE, address], check=False)
        return address in self.cpe.run(["ip", "neigh", "show", "dev", DEVICE]).stdout

    def show(self, *words):
        """What ip knows."""
        return json.loads(self.cpe.run(["ip", "-j", "-4", *words]).stdout or "[]")


class Deletions:
    """A peer's script, and whether a deletion has come."""

    def __init__(self, script):
        self._script = script
        self._come = threading.Event()
        self.wait = self._come.wait

    def __call__(self, request):
        if request.opcode == wire.OP_MAP and not request.lifetime:
            self._come.set()
        return self._script(request)


def codes(found):
    """The error codes that ifstatus shows."""
    return [error["code"] for error in found.get("errors", [])]


@pytest.fixture
def router(link, runtime):
    """A router whose agent is not started yet."""
    made = Router(link, runtime)
    yield made
    log = made.agent.log()
    made.close()
    assert "Traceback" not in log


@pytest.fixture
def up(router, make_peer):
    """(router, peer) with the softwire up."""
    peer = make_peer(rig.grant())
    router.agent.start()
    router.ubus(WAN4, "up")
    router.wait_up()
    peer.request()
    return router, peer


def test_ifup_brings_the_shared_address_and_a_route_and_holds_nat_to_the_set(up):
    router, _ = up
    found = router.interface()
    assert [one["ipaddr"] for one in found["ipv4-address"]] == ["192.0.2.3", "192.0.0.2"]
    assert found["data"]["portset"] == "37056-37087"
    assert found["l3_device"] == DEVICE
    assert "snat ip to 192.0.2.3:37056-37087" in router.rules()
    route = router.show("route", "show", "default")[0]
    assert (route["dev"], route["prefsrc"]) == (DEVICE, "192.0.0.2")
    status = router.ubus("cpe-agent", "status")
    assert (status["address"], status["first_port"]) == ("192.0.2.3", 37056)
    assert status["errors"] == [] and status["warnings"] == []
    past = router.ubus("cpe-agent", "history")
    assert past["step"] == 300
    assert set(past["ports"]) <= {32}, "nothing is there before the first count"


def test_the_shared_address_is_not_the_kernels_own(up):
    router, _ = up
    rig.wait_for(lambda: router.agent.status()["counts"]["reconfigurations"], "the agent")
    claimed = [one["dst"] for one in router.show("route", "show", "table", "local", "dev", DEVICE)]
    assert "192.0.2.3" not in claimed and "192.0.0.2" in claimed


def test_a_renewal_touches_neither_netifd_nor_the_firewall(up):
    router, peer = up
    before = router.interface()["updates"], router.loads()
    router.ubus("cpe-agent", "renew")
    peer.request()
    router.agent.wait(lambda found: found["counts"]["renewals"] == 1, "the renewal")
    assert (router.interface()["updates"], router.loads()) == before


def test_a_killed_agent_adopts_the_softwire(up):
    router, peer = up
    before = router.interface()["updates"], router.loads()
    nonces = set()
    for _ in range(2):
        router.agent.kill()
        assert router.interface()["up"]
        router.agent.start()
        nonces.add(peer.request()[0].map.nonce)
        router.agent.wait(lambda found: found["counts"]["renewals"] == 1, "the renewal")
    assert len(nonces) == 1
    assert (router.interface()["updates"], router.loads()) == before


def test_ifdown_closes_the_firewall_and_keeps_the_lease(up):
    router, peer = up
    router.ubus(WAN4, "down")

    def closed():
        rules = " ".join(router.rules().split())
        return "snat" not in rules and CLOSED in rules

    rig.wait_for(closed, "the end")
    rig.wait_for(lambda: not router.has_device(), "netifd to remove the softwire")
    peer.script = deleted = Deletions(peer.script)
    assert not deleted.wait(0.5), "nothing is given back"
    router.ubus(WAN4, "up")
    router.wait_up()
    assert peer.request()[0].map.external_port == 37056
    assert "snat ip to 192.0.2.3:37056-37087" in router.rules()


def test_with_option_release_the_set_is_given_back(router, make_peer):
    peer = make_peer(rig.grant())
    router.configure(release="1")
    router.agent.start()
    router.ubus(WAN4, "up")
    router.wait_up()
    peer.request()
    router.ubus(WAN4, "down")
    assert peer.request()[0].lifetime == 0


def test_an_interface_that_nobody_heard_of_is_set_up_when_the_agent_comes(router, make_peer):
    make_peer(rig.grant())
    router.ubus(WAN4, "up")
    assert router.interface()["pending"]
    router.agent.start()
    router.wait_up()


def test_a_wrong_option_is_shown_and_corrected_without_ifup(router, make_peer):
    make_peer(rig.grant())
    router.configure(ports="0")
    router.agent.start()
    router.ubus(WAN4, "up")
    assert router.wait_code("INVALID_OPTION")["up"] is False
    assert "option ports '0' cannot be used; allowed" in router.agent.log()
    router.configure()
    assert codes(router.wait_up()) == []


def test_a_refusal_is_shown_and_forgotten_when_it_is_over(router, make_peer):
    peer = make_peer(rig.refuse(wire.NOT_AUTHORIZED, 1))
    router.agent.start()
    router.ubus(WAN4, "up")
    found = router.wait_code("PCP_NOT_AUTHORIZED")
    assert "refused (NOT_AUTHORIZED)" in found["errors"][0]["data"][0]
    assert not router.has_device() and "snat" not in router.rules()
    peer.script = rig.grant()
    assert codes(router.wait(lambda one: one["up"], "the interface")) == []


def test_rules_that_fw4_cannot_load_keep_the_line_down_until_they_can_be(router, make_peer):
    make_peer(rig.grant())
    broken = router.folder / "more.nft"
    broken.write_text("this is no rule\n")
    router.agent.start()
    router.ubus(WAN4, "up")
    router.wait_code("SETUP_FAILED")
    assert not router.interface()["up"] and "snat" not in router.rules()
    assert "nft refuses the firewall's rules" in router.agent.log()
    broken.unlink()
    router.wait_up()


def test_another_set_replaces_rules_and_address(up):
    router, peer = up
    peer.script = rig.grant(address="192.0.2.9", first=4096)
    router.ubus("cpe-agent", "renew")
    router.wait(lambda found: found["data"]["portset"] == "4096-4127", "the new set")
    assert "192.0.2.3" not in router.rules()
    assert "snat ip to 192.0.2.9:4096-4127" in router.rules()


def test_rules_that_somebody_deletes_come_back(up):
    router, _ = up
    router.cpe.run(["nft", "flush", "ruleset"])
    rig.wait_for(lambda: "snat ip to 192.0.2.3" in router.rules(), "the rules")
    assert router.interface()["updates"] == 1


def test_a_softwire_that_somebody_deletes_comes_back(up):
    router, _ = up
    router.cpe.run(["ip", "link", "del", DEVICE])
    rig.wait_for(lambda: router.interface()["updates"] == 2, "netifd to be told")
    rig.wait_for(router.has_device, "the softwire")


def test_nothing_leaves_while_the_firewall_is_away(up):
    """As in the middle of a restart of fw4."""
    router, _ = up
    assert router.lets_out("198.51.100.2")
    before = router.loads()
    (router.folder / "fw4").rename(router.folder / "fw4.gone")
    router.cpe.run(["nft", "delete", "table", "inet", "fw4"])
    assert not router.lets_out("198.51.100.1")
    assert router.loads() == before


def test_a_second_interface_is_refused(up):
    router, _ = up
    asked = {"interface": "other", "options": {"peeraddr": rig.SERVER}}
    answer = router.ubus("cpe-agent", "up", asked)
    assert answer["code"] == "ONE_SOFTWIRE"
    assert router.ubus("cpe-agent", "down", {"interface": "other"}) == {}
    assert router.interface()["up"]


def test_netifd_is_answered_while_the_firewall_still_loads(up):
    router, _ = up
    gate = router.folder / "gate"
    os.mkfifo(gate)
    with open(router.folder / "fw4") as file:
        program = file.read()
    (router.folder / "fw4").write_text(
        program.replace("echo load", "read go < %s; echo load" % gate)
    )
    loads = router.loads()
    router.ubus(WAN4, "down")
    rig.wait_for(lambda: not router.has_device(), "netifd to go on")
    assert router.loads() == loads
    gate.write_text("go\n")
    rig.wait_for(lambda: "snat" not in router.rules(), "the firewall")


@pytest.mark.parametrize("name", ["wan4", "ghost"])
def test_an_up_that_netifd_does_not_mean_any_more_sets_up_nothing(router, make_peer, name):
    """netifd ends its handler, not what the handler has called; and it may not know the name."""
    peer = make_peer(rig.grant())
    router.agent.start()
    rig.wait_for(lambda: router.ubus("cpe-agent", "status"), "the agent")
    asked = {"interface": name, "options": {"peeraddr": rig.SERVER}}
    assert router.ubus("cpe-agent", "up", asked) == {}
    rig.wait_for(lambda: "does not want the interface '%s'" % name in router.agent.log(), "a word")
    assert peer.quiet(0.5)
    assert not (router.agent.run_dir / "interface").exists()
    router.ubus(WAN4, "up")
    router.wait_up()


def test_a_set_that_cannot_be_given_back_does_not_stay_in_use(router, make_peer):
    make_peer(rig.grant())
    router.configure(release="1")
    router.agent.start()
    router.ubus(WAN4, "up")
    router.wait_up()
    fw4 = router.folder / "fw4"
    fw4.rename(router.folder / "away")
    router.ubus(WAN4, "down")
    rig.wait_for(lambda: "is not given back" in router.agent.log(), "a word")
    rig.wait_for(lambda: not router.has_device(), "netifd")
    assert not router.ubus("cpe-agent", "status").get("address")
    (router.folder / "away").rename(fw4)
    router.ubus(WAN4, "up")
    router.wait_up()


def test_a_run_directory_that_somebody_removed_is_made_again(up):
    router, peer = up
    shutil.rmtree(router.agent.run_dir)
    peer.script = rig.grant(first=4096)
    router.ubus("cpe-agent", "renew")
    rig.wait_for(lambda: "snat ip to 192.0.2.3:4096" in router.rules(), "the new set")


def test_changes_are_told_to_who_listens(router, make_peer):
    peer = make_peer(rig.grant())
    router.agent.start()
    heard = []
    with Ubus(router.ubusd.path) as ubus:
        ubus.bus.listen("cpe-agent", lambda _, data: heard.append(dict(data)))
        ubus.bus.subscribe("cpe-agent", lambda kind, _: heard.append(kind))
        ubus.wait(200)
        ubus.call(WAN4, "up", {})
        rig.wait_for(lambda: ubus.wait(50) or len(heard) == 2, "the news")
        place = {
            "address": "192.0.2.3",
            "first_port": 37056,
            "last_port": 37087,
            "ports": "37056-37087",
        }
        assert {"event": "up", "interface": "wan4", "device": DEVICE, **place} in heard
        assert "up" in heard
        del heard[:]
        peer.script = rig.grant(first=4096)
        ubus.call("cpe-agent", "renew", {})
        rig.wait_for(lambda: ubus.wait(50) or len(heard) == 2, "the change")
        assert "changed" in heard
        del heard[:]
        ubus.call(WAN4, "down", {})
        rig.wait_for(lambda: ubus.wait(50) or len(heard) == 2, "the end")
        assert "down" in heard


def test_a_mapping_can_be_asked_for_by_ubus(up):
    router, peer = up
    asked = {"protocol": "tcp", "internal_port": "8080", "server": [rig.SERVER]}
    answer = router.ubus("cpe-agent", "request", asked)
    assert "internal ports" in answer["error"], "they are the softwire's"
    assert router.ubus("cpe-agent", "remove", {"name": "tcp8080"})["error"]
    assert peer.quiet(0.2)


def test_an_agent_that_lost_its_notes_takes_the_interface_over_again(up):
    router, _ = up
    router.agent.end()
    (router.agent.run_dir / "interface").unlink()  # RAM was full, say
    router.agent.start()
    rig.wait_for(lambda: (router.ubus("cpe-agent", "status") or {}).get("address"), "the softwire")
    router.wait_up()


def test_a_users_script_that_hangs_holds_no_socket_of_the_agents(up):
    router, _ = up
    process = pathlib.Path("/proc/%d" % router.agent.process.pid)
    sockets, flags = [], []
    for one in (process / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # one for a question, closed meanwhile
            if "socket" in str(one.readlink()):
                sockets.append(one.name)
    for name in sockets:
        with contextlib.suppress(FileNotFoundError):
            flags.append((process / "fdinfo" / name).read_text().split("flags:")[1])
    assert len(flags) >= 5
    assert [one for one in flags if not int(one.split()[0], 8) & os.O_CLOEXEC] == []


GAME = {"dest_ip": "192.168.1.10", "dest_port": "27015", "proto": ["udp"]}
WEB = {"dest_ip": "192.168.1.11", "dest_port": "80", "external_port": "37060"}


def reload(router, **forwards):
    """As 'uci set cpe-agent...' and reload_config."""
    router.agent.configure("openwrt", softwire=False, forwards=forwards)
    assert router.ubus("cpe-agent", "reload")["changed"] is True


def redirects(router):
    """{external port: (host, port)} that fw4 would be told of."""
    wanted = {"name": "cpe-agent-forwards", "type": "firewall"}
    found = router.ubus("service", "get_data", wanted).get("cpe-agent-forwards", {})
    found = found.get("firewall", [])
    return {one["src_dport"]: (one["dest_ip"], one["dest_port"]) for one in found}


def test_a_forward_comes_and_goes_with_one_reload_of_the_firewall_each(up):
    router, _ = up
    before = router.loads(), router.interface()["updates"]
    reload(router, game=GAME, web=WEB)
    found = router.agent.status()["forwards"]
    assert [one["state"] for one in found] == ["up", "up"]
    game = str(found[0]["external_port"])
    assert 37056 <= int(game) <= 37087 and game != "37060"
    assert redirects(router) == {game: ("192.168.1.10", "27015"), "37060": ("192.168.1.11", "80")}
    assert (router.loads(), router.interface()["updates"]) == (before[0] + 1, before[1])
    text = router.agent.cli("status").stdout
    assert "'game': 192.0.2.3 port %s (udp) leads to 192.168.1.10 port 27015" % game in text
    reload(router, web=WEB)
    assert list(redirects(router)) == ["37060"]
    reload(router)
    assert redirects(router) == {} and router.loads() == before[0] + 3


def test_a_restarted_agent_finds_its_forwards(router, make_peer):
    make_peer(rig.grant())
    router.agent.configure("openwrt", softwire=False, forwards={"game": GAME, "web": WEB})
    router.agent.start()
    router.ubus(WAN4, "up")
    router.wait_up()
    first = redirects(router)
    loads = router.loads()
    router.agent.kill()
    router.agent.start()
    router.agent.wait(lambda found: found["counts"]["renewals"] == 1, "the renewal")
    assert (redirects(router), router.loads()) == (first, loads), "nothing was done twice"


def test_a_forward_follows_the_set(up):
    router, peer = up
    reload(router, game=GAME, web=WEB)
    peer.script = rig.grant(first=40960)
    router.ubus("cpe-agent", "renew")
    router.agent.wait(lambda found: found.get("first_port") == 40960, "the other set")
    (moved,) = redirects(router)
    assert 40960 <= int(moved) <= 40991
    game, web = router.agent.status()["forwards"]
    assert game["external_port"] == int(moved)
    assert web["state"] == "without a port" and "outside of the port sets" in web["error"]
    router.ubus(WAN4, "down")
    rig.wait_for(lambda: redirects(router) == {}, "the forwards to go")


def test_changes_of_forwards_are_told_to_who_listens(up):
    router, _ = up
    heard = []
    with Ubus(router.ubusd.path) as ubus:
        # The line's own "up" comes when netifd has been told, and may be among them.
        ubus.bus.listen(
            "cpe-agent",
            lambda _, data: data["event"].startswith("forward_") and heard.append(dict(data)),
        )
        ubus.wait(200)
        reload(router, web=WEB)
        reload(router, web=dict(WEB, dest_port="81"))
        reload(router)
        ubus.wait(rig.PATIENCE * 1000, lambda: len(heard) == 3)
    kinds = ["forward_up", "forward_changed", "forward_down"]
    assert [one["event"] for one in heard] == kinds
    assert heard[0] == {
        "event": "forward_up",
        "name": "web",
        "proto": "tcp,udp",
        "address": "192.0.2.3",
        "external_port": 37060,
        "dest_ip": "192.168.1.11",
        "dest_port": 80,
    }
    assert heard[1]["dest_port"] == 81


UPNPD = "config upnpd 'config'\n    option enabled '1'\n"
MINIUPNPD = "#!/bin/sh\n[ $1 = restart ] && echo restart >> %s/starts\nexit 0\n"


@pytest.fixture
def upnp(up):
    """(router, peer, function that tells how often miniupnpd was started) with miniupnpd."""
    router, peer = up
    (router.folder / "miniupnpd").write_text(MINIUPNPD % router.folder)
    (router.folder / "miniupnpd").chmod(0o755)
    (router.folder / "upnpd").write_text(UPNPD)
    starts = router.folder / "starts"
    return router, peer, lambda: len(starts.read_text().split()) if starts.exists() else 0


def denied(router):
    """The ports that miniupnpd may not give."""
    path = router.folder / "state/upnpd"
    lines = path.read_text().split("\n") if path.exists() else []
    return [line.split("'")[1] for line in lines if "ext_ports" in line]


def test_miniupnpd_follows_the_set_and_the_forwards(upnp):
    router, peer, starts = upnp
    reload(router, web=WEB)
    rig.wait_for(lambda: denied(router) == ["0-37055", "37060-37060", "37088-65535"], "the set")
    rig.wait_for(starts, "it to start anew")
    peer.script = rig.grant(address="5.0.0.1", first=4096)
    router.ubus("cpe-agent", "renew")
    rig.wait_for(lambda: denied(router) == ["0-4095", "4128-65535"], "the other set")
    assert "external_ip='5.0.0.1'" in (router.folder / "state/upnpd").read_text()
    router.ubus(WAN4, "down")
    rig.wait_for(lambda: denied(router) == [], "the end")


def test_miniupnpd_that_serves_another_interface_is_left_alone_from_the_reload_on(upnp):
    """procd asks for one when /etc/config/upnpd has changed."""
    router, _, _ = upnp
    rig.wait_for(lambda: denied(router), "rules; they were there before it was enabled")
    (router.folder / "upnpd").write_text(UPNPD + "    option external_iface 'wan'\n")
    assert router.ubus("cpe-agent", "reload") == {"changed": False}
    assert denied(router) == []


def test_miniupnpd_starts_anew_when_somebody_has_loaded_the_firewall(upnp):
    """That has emptied its chains."""
    router, _, starts = upnp
    reload(router, web=WEB)
    rig.wait_for(starts, "it to start")
    for number in (1, 2):
        before = starts()
        router.cpe.run([str(router.folder / "fw4"), "reload"])
        rig.wait_for(lambda count=before: starts() > count, "start %d" % number)


def test_an_address_that_miniupnpd_does_not_take_is_told_in_status_and_log(upnp):
    router, _, _ = upnp
    reload(router, web=WEB)
    said = "miniupnpd gives no ports of 192.0.2.3"
    assert said in " ".join(router.agent.status()["warnings"])
    rig.wait_for(lambda: said in router.agent.log(), "the log")


REDIRECT = """
config redirect
    option name 'nas'
    option src 'wan'
    option src_dport '%s'
    option dest_ip '192.168.1.5'
"""


def test_a_redirect_outside_of_the_set_is_told_in_status_and_log_once(up):
    router, _ = up
    config = router.folder / "firewall"
    text = config.read_text()
    config.write_text(text + REDIRECT % 8080)
    router.cpe.run([str(router.folder / "fw4"), "reload"])  # as 'service firewall reload'
    said = "the forward 'nas' is for port 8080, which is outside of the port sets 37056-37087"
    rig.wait_for(lambda: said in router.agent.log(), "the log")
    (warning,) = router.agent.status()["warnings"]
    suggested = warning.split("use port ")[1].split(",")[0]
    router.cpe.run([str(router.folder / "fw4"), "reload"])
    config.write_text(text + REDIRECT % suggested)
    router.cpe.run([str(router.folder / "fw4"), "reload"])
    rig.wait_for(lambda: not router.agent.status()["warnings"], "the end of it")
    assert router.agent.log().count(said) == 1


def test_the_port_of_a_redirect_is_not_for_outbound_flows(up):
    router, _ = up
    config = router.folder / "firewall"
    config.write_text(config.read_text() + REDIRECT % 37070)
    router.cpe.run([str(router.folder / "fw4"), "reload"])
    rig.wait_for(lambda: "192.0.2.3:37056-37069" in router.rules(), "rules around it")
    assert "192.0.2.3:37071-37087" in router.rules()
