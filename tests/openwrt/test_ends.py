"""How a line ends: `ifdown`, the end of its lease, and the package's removal: Show 3."""

from tests.e2e.scenarios.home import LWAFTR, PATIENCE, held
from tests.openwrt.router import DEVICE, INTERFACE


def test_ifdown_removes_tunnel_route_and_rules_and_keeps_the_set(home):
    status = home.begin(fresh=False)
    home.lab.cpe.check(f"ifdown {INTERFACE}", timeout=30)
    home.wait_nothing_left()
    assert home.bindings() == [held(status)]
    home.lab.cpe.check("fw4 check", timeout=60)
    home.lab.cpe.check(f"ifup {INTERFACE}", timeout=30)
    after = home.wait_up()
    assert held(after) == held(status)
    home.talk(after)


def test_ifdown_with_option_release_gives_the_set_back(home):
    home.begin(options={"release": "1"})
    home.lab.cpe.check(f"ifdown {INTERFACE}", timeout=30)
    home.wait_bindings([])
    home.wait_nothing_left()
    home.lab.cpe.check(f"ifup {INTERFACE}", timeout=30)
    home.talk(home.wait_up())


def test_an_uplink_that_goes_takes_the_line_along_and_brings_it_back(home):
    status = home.begin()
    home.lab.cpe.check("ifdown wan6", timeout=30)
    home.wait_nothing_left()
    home.lab.cpe.check("ifup wan6", timeout=30)
    after = home.wait_up()
    assert held(after) == held(status)
    home.talk(after)


def test_the_interface_deleted_from_the_config_leaves_nothing(home):
    home.begin(fresh=False)
    home.lab.cpe.check(f"uci delete network.{INTERFACE}; uci commit network")
    home.lab.cpe.check("ubus call network reload", timeout=30)
    home.wait_nothing_left()


def test_removal_leaves_the_system_as_it_was_before(home):
    """The interface's section is the user's, and stays."""
    home.begin()
    cpe = home.lab.cpe
    home.remove()
    assert home.bindings() == []
    cpe.wait_until(f"! ip link show {DEVICE}", PATIENCE)
    assert not home.routes_by_softwire()
    assert "lw4-" not in cpe.check("nft list ruleset")
    assert home.agent() is None
    assert "cpe-agent" not in cpe.check("ubus list")
    # opkg leaves empty folders.
    files = "find / -xdev -path /mnt -prune -o -type f -name '*cpe[-_]agent*' -print"
    assert cpe.check(files) == ""
    assert cpe.run("ls /var/run/cpe-agent /etc/cpe-agent /lib/netifd/proto/lw4o6.sh").stdout == ""
    assert LWAFTR in cpe.check(f"uci get network.{INTERFACE}.peeraddr")
    cpe.check(f"uci delete network.{INTERFACE}; uci commit network")
    assert cpe.check("uci export") == home.exported
    cpe.check("fw4 check", timeout=60)
