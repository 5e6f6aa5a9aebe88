"""What leaves a running TCP connection, and the softwire, unharmed: Show 2."""

import pytest

from tests.e2e.scenarios.home import PATIENCE, POOL, ROUTER, held, requests
from tests.openwrt.router import DEVICE, INTERFACE

LAN_ADDRESS = "192.168.77.1"


class Watch:
    """A TCP connection from the LAN, and all that must not change while something happens."""

    def __init__(self, home):
        self.home = home
        self.status = home.begin(fresh=False)
        self.softwire = home.softwire()
        self.connection = home.connection(seconds=240)
        self.outside = home.outside()
        home.hotplug_calls()

    def check(self):
        """The connection carries, all is as before, and nothing left outside of the set."""
        home, now = self.home, self.home.wait_up()
        assert held(now) == held(self.status)
        assert home.still_carries(self.connection)
        assert home.softwire() == self.softwire
        home.talk(now)
        assert home.outside() == self.outside

    def end(self):
        self.connection.stop()


@pytest.fixture
def watch(home):
    found = Watch(home)
    yield found
    found.end()


def test_a_restart_of_the_agent(home, watch):
    old = home.agent()
    home.lab.cpe.check("/etc/init.d/cpe-agent restart", timeout=60)
    home.wait_other_agent(old)
    watch.check()


def test_a_killed_agent(home, watch):
    old = home.agent()
    loads = home.firewall_loads()
    home.lab.cpe.check(f"kill -9 {old}")
    after = home.wait_other_agent(old)
    watch.check()
    assert after["counts"]["reconfigurations"] == 0
    assert home.firewall_loads() == loads
    assert home.hotplug_calls() == []


@pytest.mark.parametrize("command", ["fw4 reload", "/etc/init.d/firewall restart"])
def test_the_firewall_loaded_anew(home, watch, command):
    loads = home.firewall_loads()
    home.lab.cpe.check(command, timeout=60)
    assert home.firewall_loads() != loads  # it was
    watch.check()


def test_the_firewall_stopped_and_started_has_the_constraint_again(home):
    status = home.begin(fresh=False)
    rules = home.rules()
    home.lab.cpe.check("service firewall stop; service firewall start", timeout=90)
    assert home.rules() == rules
    home.wait_up()
    before = home.outside()
    home.talk(status)
    assert home.outside() == before


def test_a_network_reload_after_a_change_to_another_interface(home, watch):
    """openwrt/openwrt#12119."""
    home.lab.uci(
        "network.other=interface",
        "network.other.proto=static",
        "network.other.device=br-lan",
        f"network.other.ipaddr={LAN_ADDRESS}/24",
    )
    home.lab.cpe.check("uci commit network; ubus call network reload", timeout=60)
    home.lab.cpe.wait_until(f"ip addr show br-lan | grep -q {LAN_ADDRESS}", PATIENCE)
    watch.check()
    home.lab.cpe.check("uci delete network.other; uci commit network; ubus call network reload")
    home.lab.cpe.wait_until(f"! ip addr show br-lan | grep -q {LAN_ADDRESS}", PATIENCE)
    watch.check()


def test_a_renewal_is_no_news_to_netifd_and_to_the_firewall(home, watch):
    loads = home.firewall_loads()
    cpe = home.lab.cpe
    updates = cpe.spawn("ubus subscribe network.interface")
    home.messages()
    home.renew()
    home.wait_renewed(watch.status)
    assert len(requests(home.messages())) == 1
    assert home.firewall_loads() == loads
    watch.check()
    assert home.hotplug_calls() == []
    updates.stop()
    assert INTERFACE not in updates.stdout()


def test_a_changed_set_is_news_to_both(home):
    """The counters of the test above do count."""
    home.begin(fresh=False)
    loads = home.firewall_loads()
    updates = home.lab.cpe.spawn("ubus subscribe network.interface")
    home.hotplug_calls()
    home.lwaftr("update", client=ROUTER, address=POOL, first_port=40960)
    home.wait_status(lambda found: found.get("first_port") == 40960)
    after = home.wait_up()
    home.talk(after)
    assert home.firewall_loads() != loads
    updates.stop()
    assert INTERFACE in updates.stdout()
    assert "40960" in home.rules()


@pytest.mark.parametrize("service", ["rpcd", "log"])
def test_a_restart_of_another_client_of_ubusd(home, watch, service):
    home.lab.cpe.check(f"/etc/init.d/{service} restart", timeout=60)
    watch.check()


def test_a_restart_of_ubusd_itself(home, watch):
    loads = home.firewall_loads()
    home.lab.cpe.check("killall ubusd")
    home.lab.cpe.wait_until("ubus list cpe-agent", PATIENCE)
    watch.check()
    assert home.firewall_loads() == loads


def test_the_tunnel_deleted_by_somebody_comes_back(home):
    status = home.begin(fresh=False)
    home.lab.cpe.check(f"ip link del {DEVICE}")
    home.lab.cpe.wait_until(f"ip route | grep -q 'default dev {DEVICE}'", PATIENCE)
    after = home.wait_up()
    assert held(after) == held(status)
    home.talk(after)
