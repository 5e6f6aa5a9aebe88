"""Trouble on the router: failing tools, wrong config, damaged files, an uplink that moves."""

import pytest

from tests.e2e.scenarios.home import POOL, ROUTER, held
from tests.support.tshark import tshark_pcp_report

UPLINK = (
    "ip addr add 2001:db8:c0de::2/64 dev eth0 nodad; "
    "ip route add default via 2001:db8:c0de::1 dev eth0"
)
SHORT = {"lifetime_min": 1, "lifetime_max": 25}

NO_NFT = "#!/bin/sh\necho 'nft: out of order' >&2\nexit 1\n"
# Breaks one line of the batch that makes the softwire; everything else works.
BAD_IP = """#!/bin/sh
for last; do :; done
if grep -q '^link add' "$last" 2>/dev/null; then
    sed '%ds/^/no /' "$last" > /tmp/broken.batch
    exec /tmp/ip.good -batch /tmp/broken.batch
fi
exec /tmp/ip.good "$@"
"""


def break_tool(home, path, text):
    """Put a script in a program's place; mend() takes it away."""
    home.lab.cpe.put("/tmp/broken", text, mode=0o755)
    home.lab.cpe.check(f"cp {path} /tmp/ip.good; mount --bind /tmp/broken {path}")


def mend(home, path):
    home.lab.cpe.check(f"umount {path}")


def assert_nothing_is_left(home):
    assert not home.has_softwire()
    assert home.lab.cpe.check("ip route show default") == ""


def test_nft_that_fails_leaves_nothing_half_done(home):
    home.begin(wait=False, faults={"silence": True})
    break_tool(home, "/usr/sbin/nft", NO_NFT)
    home.lwaftr("fault", silence=False)
    failed = home.wait_error("out of order", "trying again in")
    assert_nothing_is_left(home)
    assert "out of order" in home.log()
    assert failed["mtu"] is None
    mend(home, "/usr/sbin/nft")
    home.talk(home.wait_up())
    assert "the network is as it should be again" in home.log()


@pytest.mark.parametrize("line", [2, 6])
def test_ip_that_fails_half_way_leaves_nothing_half_done(home, line):
    home.begin(wait=False, faults={"silence": True})
    break_tool(home, "/usr/bin/ip", BAD_IP % line)
    home.lwaftr("fault", silence=False)
    home.wait_error("'ip ", "failed", "trying again in")
    mend(home, "/usr/bin/ip")
    assert_nothing_is_left(home)
    home.talk(home.wait_up())


def test_a_change_that_fails_is_made_up_for(home):
    before = home.begin()
    break_tool(home, "/usr/sbin/nft", NO_NFT)
    home.lwaftr("update", client=ROUTER, address=POOL, first_port=40960)
    home.wait_error("out of order")
    mend(home, "/usr/sbin/nft")
    # The old set's line as it was, or none: never the new address behind the old rules.
    rules = home.lab.cpe.run("nft list ruleset").stdout
    assert "40960" not in rules
    assert not home.has_softwire() or f"snat to {POOL}:1024-2047" in rules
    after = home.wait_up()
    assert held(after) == (POOL, 40960, before["size"])
    home.talk(after)


def test_a_foreign_default_route_in_the_way_is_named(home):
    home.begin(wait=False, faults={"silence": True})
    home.lab.cpe.check("ip route add default via 192.168.1.10 dev eth1")
    home.lwaftr("fault", silence=False)
    home.wait_error("default route", "metric")
    home.lab.cpe.check("ip route del default via 192.168.1.10 dev eth1")
    home.talk(home.wait_up())


def test_a_wrong_config_after_a_power_cut_leaves_the_last_good_one_in_force(home):
    before = home.begin()
    home.configure("option mtu 'large'")
    home.lab.cpe.reset()
    found = home.wait_status(lambda found: found["state"] == "up" and found["mtu"])
    [error] = found["errors"]
    for part in ("option mtu 'large'", "allowed: 1280 to 65535 or 'auto'", "last good"):
        assert part in error
    assert held(found) == held(before)
    home.talk(found)
    home.configure()
    home.lab.cpe.check("cpe-agent reload")
    home.talk(home.wait_up())


def test_a_damaged_state_file_is_set_aside_and_the_line_comes_back(home):
    home.begin(pcp=SHORT)
    home.stop_agent()
    home.lab.cpe.check("head -c 60 /dev/urandom > /etc/cpe-agent/state; sync")
    home.messages()
    home.lab.cpe.reset()
    home.wait_log("cannot be trusted")
    assert "it is kept as /etc/cpe-agent/state.bad" in home.log()
    home.talk(home.wait_up())


def test_a_cut_state_file_costs_the_rest_of_the_old_mapping(home):
    home.begin(pcp=SHORT, fresh=False)
    home.stop_agent()
    cut = "head -c 30 /etc/cpe-agent/state > /tmp/cut; cat /tmp/cut > /etc/cpe-agent/state"
    home.lab.cpe.check(f"{cut}; rm /var/run/cpe-agent/lease; ip link del lw4o6")
    home.start_agent()
    home.wait_log("cannot be trusted")
    home.wait_error("NOT_AUTHORIZED", "made with another nonce", "cures itself")
    home.talk(home.wait_up())


def test_an_uplink_that_goes_and_comes_back(home):
    before = home.begin()
    home.lab.cpe.check("ip link set eth0 down")
    home.wait_error("no route to the PCP server", "check the WAN interface")
    home.lab.cpe.check(f"ip link set eth0 up; {UPLINK}")
    after = home.wait_up()
    assert held(after) == held(before)
    home.talk(after)
    # Announcements are still heard.
    home.lwaftr("forget", epoch_reset=True, announce="multicast")
    home.wait_renewed(after)
    home.talk(home.wait_up())


def test_tshark_finds_no_fault_in_these_messages(home):
    report = tshark_pcp_report(home.lab.links["access"].pcap)
    assert report.malformed == []
    assert len(report.port_sets) > 10
