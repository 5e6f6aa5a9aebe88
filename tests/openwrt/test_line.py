"""A user installs the package, writes an interface, and has a line: Show 1."""

from tests.e2e.scenarios.home import held
from tests.openwrt.router import DEVICE, LWAFTR, POOL, ROUTER


def test_an_interface_comes_up_with_address_tunnel_and_route(home):
    status = home.begin()
    found = home.ifstatus()
    assert found["proto"] == "lw4o6"
    assert found["l3_device"] == DEVICE
    assert found["data"]["portset"] == f"{status['first_port']}-{status['last_port']}"
    assert POOL in [one["address"] for one in found["ipv4-address"]]
    assert [(one["target"], one["mask"]) for one in found["route"]] == [("0.0.0.0", 0)]
    link = home.lab.cpe.check(f"ip -d link show {DEVICE}")
    assert f"ip6tnl ipip6 remote {LWAFTR} local {ROUTER}" in link
    assert home.lab.cpe.check("ip route show default").startswith(f"default dev {DEVICE}")


def test_fw4_shows_the_constraint_and_checks(home):
    status = home.begin(fresh=False)
    printed = home.lab.cpe.check("fw4 print", timeout=60)
    srcnat = printed[printed.index("chain srcnat {") :]
    included = srcnat[: srcnat.index("}")]
    assert "/var/run/cpe-agent/fw4-srcnat.nft" in included
    assert "/var/run/cpe-agent/fw4-table.nft" in printed
    home.lab.cpe.check("fw4 check", timeout=60)
    rules = home.rules()
    assert f"{POOL}:{status['first_port']}-{status['last_port']}" in rules
    assert "cpe_agent_outside_out" in home.lab.cpe.check("nft list table inet fw4")


def test_traffic_of_all_kinds_flows_and_stays_in_the_set(home):
    status = home.begin(fresh=False)
    before = home.outside()
    home.talk(status)
    assert home.outside() == before


def test_ubus_tells_the_set(home):
    home.begin(fresh=False)
    assert [held(home.status())] == home.bindings()
