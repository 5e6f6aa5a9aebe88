"""backends/miniupnpd.py: what is written for OpenWrt's miniupnpd, and when it is started anew."""

import subprocess
import types

import pytest

from cpe_agent import portset
from cpe_agent.backends.miniupnpd import Miniupnpd
from tests.fw4 import openwrt
from tests.unit.shell import rig

SET = portset.PortSet("5.0.0.1", 1024, 1024)
CONFIG = """
config upnpd 'config'
    option enabled '1'
config perm_rule
    option action 'allow'
    option ext_ports '1024-65535'
"""
INIT = "#!/bin/sh\n[ $1 != running ] || exit 0\necho $1 >> %s\n"


def plan(*reserved, port_set=SET):
    return types.SimpleNamespace(port_sets=(port_set,), reserved=reserved, address=port_set.address)


class Router:
    """Files of a router with miniupnpd."""

    def __init__(self, folder):
        self.folder = folder
        self.config = folder / "config"
        self.state = folder / "state/upnpd"
        self._log = folder / "log"
        self.config.mkdir()
        (self.config / "upnpd").write_text(CONFIG)
        self.init = folder / "init"
        self.init.write_text(INIT % self._log)
        self.init.chmod(0o755)
        self.make()

    def make(self):
        """An agent, as after a restart."""
        paths = [str(path) for path in (self.config / "upnpd", self.state, self.init)]
        self.service = Miniupnpd("wan4", *paths)

    def follow(self, *reserved, reloaded=False, load=""):
        self.service.follow(plan(*reserved), reloaded, lambda: load)

    def restarts(self, count):
        """Wait for so many of them, and for no more."""
        rig.wait_for(lambda: self._restarts() == count, "%d restarts" % count)
        return True

    def _restarts(self):
        return self._log.read_text().count("restart") if self._log.exists() else 0


@pytest.fixture
def router(tmp_path):
    return Router(tmp_path)


def test_it_is_started_anew_only_when_something_has_changed(router):
    router.follow()
    assert "ext_ports='2048-65535'" in router.state.read_text()
    assert router.restarts(1)
    router.follow()
    router.make()
    router.follow()
    router.follow(1500)
    assert "ext_ports='1500-1500'" in router.state.read_text()
    assert router.restarts(2)


def test_a_reload_of_the_firewall_has_emptied_its_chains(router):
    router.follow(reloaded=True)
    assert router.restarts(1)
    router.follow(reloaded=True)
    assert router.restarts(2)


def test_so_has_a_load_that_somebody_else_has_asked_for(router):
    """netifd's hotplug scripts do that when the softwire has come up, and after us."""
    router.follow(reloaded=True, load="handle 7")
    assert router.restarts(1)
    router.follow(load="handle 7")
    router.follow(load="handle 9")
    assert router.restarts(2)
    router.make()
    router.follow(load="handle 11")  # nobody knows whether there was one
    router.follow(load="handle 13")
    assert router.restarts(3)


def test_an_additional_set_is_not_given_away(router):
    """It goes when it is not needed, and hosts would not hear of it."""
    router.follow()
    before = router.state.read_text()
    more = SET._replace(first=8192)
    both = types.SimpleNamespace(port_sets=(SET, more), reserved=(), address=SET.address)
    router.service.follow(both, False, str)
    assert router.state.read_text() == before


def test_the_address_follows(router):
    router.follow()
    assert "external_ip='5.0.0.1'" in router.state.read_text()
    moved = plan(port_set=SET._replace(address="5.0.0.9"))
    router.service.follow(moved, False, str)
    assert "external_ip='5.0.0.9'" in router.state.read_text()
    assert router.restarts(2)


def test_where_nothing_can_be_written_that_is_told(router):
    router.state.parent.write_text("no directory")
    router.follow()
    (found,) = router.service.problems(plan())
    assert found.startswith("miniupnpd may give ports outside of the port sets: ")
    router.state.parent.unlink()
    router.follow()
    assert router.service.problems(plan()) == []
    assert router.restarts(1)


def test_without_a_set_all_is_as_the_user_wrote_it(router):
    router.state.parent.mkdir()
    router.state.write_text("upnpd.mine='perm_rule'\n")
    router.follow()
    router.service.follow(None, True, str)
    assert router.state.read_text() == "upnpd.mine='perm_rule'\n"
    router.state.unlink()
    router.follow()
    router.service.follow(None, True, str)
    assert list(router.state.parent.iterdir()) == []


def test_it_is_left_alone_where_it_serves_others(router):
    other = CONFIG.replace("'1'", "'1'\n    option external_iface 'wan'", 1)
    (router.config / "upnpd").write_text(other)
    router.follow(reloaded=True)
    assert not router.state.exists()
    (router.config / "upnpd").write_text(CONFIG)
    router.follow()
    assert router.restarts(1)


def test_where_it_is_off_or_not_installed_the_rules_are_there_before_it_starts(router):
    (router.config / "upnpd").unlink()
    router.follow()
    assert "ext_ports='2048-65535'" in router.state.read_text()
    before = router.state.read_text()
    (router.config / "upnpd").write_text(CONFIG.replace("'1'", "'0'", 1))
    router.follow(reloaded=True)
    (router.config / "upnpd").write_text(CONFIG)
    router.follow()
    assert router.state.read_text() == before


def test_what_is_no_config_is_no_reason_to_stumble(router):
    (router.config / "upnpd").write_text("config 'unfinished\n")
    router.follow(reloaded=True)
    assert router.service.problems(plan()) == []


def test_openwrts_uci_puts_our_rules_before_the_users(router):
    """As rc.common loads a service's config."""
    root = openwrt.root()
    if root is None:
        pytest.skip("OPENWRT_ROOT is not set: no uci of OpenWrt")
    router.follow(1500)
    words = ["chroot", root, "/sbin/uci", "-c", "/mnt/config", "-P", "/mnt/state", "-S", "-n"]
    mount = 'mount --bind %s %s/mnt && exec "$@"' % (router.folder, root)
    words = ["unshare", "-m", "sh", "-c", mount, "sh", *words, "export", "upnpd"]
    shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    ports = [line.split("'")[1] for line in shown.split("\n") if "ext_ports" in line]
    assert ports == ["0-1023", "1500-1500", "2048-65535", "1024-65535"]
    assert shown.index("option action 'allow'") > shown.rindex("cpe_agent_2")
    assert "option external_ip '5.0.0.1'" in shown and "option use_stun '0'" in shown
