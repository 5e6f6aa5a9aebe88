"""A boot, and a cut of the power: the same ports, and no moment in which packets can leave."""

from tests.e2e.scenarios.home import PATIENCE, held
from tests.openwrt.router import DEVICE


def test_the_same_ports_after_a_reboot_and_nothing_left_outside_meanwhile(home):
    status = home.begin()
    before = home.outside()
    stream = home.stream(interval=0.2)  # the LAN asks on, all the time
    home.lab.cpe.reboot()
    home.lab.wait_boot()
    after = home.wait_up(timeout=4 * PATIENCE)
    assert held(after) == held(status)
    home.talk(after)
    home.measure(stream)
    assert home.outside() == before


def test_the_same_ports_after_a_power_cut(home):
    status = home.begin(fresh=False)
    home.lab.cpe.check("sync")
    before = home.outside()
    home.lab.cpe.reset(wait=False)
    home.lab.wait_boot()
    after = home.wait_up(timeout=4 * PATIENCE)
    assert held(after) == held(status)
    home.talk(after)
    assert home.outside() == before


def test_the_firewall_is_closed_before_the_agent_knows_a_set(home):
    """The server is silent, so no set is known: what has the softwire's name cannot send."""
    home.begin(running=False, wait=False)
    home.lab.cpe.check("sync")
    home.lab.cpe.reset(wait=False)
    home.lab.wait_boot()
    assert home.is_closed()
    home.begin_lwaftr()
    home.lwaftr("fault", silence=True)
    before = home.outside()
    home.lab.cpe.check(
        f"ip -6 tunnel add {DEVICE} mode ipip6 local 2001:db8:c0de::2 remote 2001:db8:ffff::1 "
        f"dev eth1; ip link set {DEVICE} up; ip route add 198.51.100.1 dev {DEVICE}"
    )
    home.lan_probe("talk --timeout 2")
    home.lab.cpe.run("ping -c 2 -W 1 198.51.100.1")
    assert home.outside() == before
    assert home.totals()["unknown_source"] == 0
    home.lab.cpe.check(f"ip link del {DEVICE}")
