"""What goes wrong is named in ifstatus and the log, and mends itself when its cause goes: Show 4."""

import pytest

from tests.e2e.scenarios.home import PATIENCE
from tests.openwrt.router import INTERFACE, OPTIONS

NO_RESOURCES = 8
WRONG_OPTIONS = {
    "ports": "many",
    "mtu": "100",
    "lifetime": "-1",
    "peeraddr": "192.0.2.1",
    "inner_address": "fe80::1",
}


@pytest.mark.parametrize("option", WRONG_OPTIONS)
def test_a_wrong_option_is_named_until_it_is_mended(home, option):
    home.begin(options={option: WRONG_OPTIONS[option]}, wait=False)
    found = home.wait_code("INVALID_OPTION")
    assert not found["up"]
    home.wait_log(f"option {option}")
    assert home.is_nothing_left()
    right = OPTIONS.get(option)
    change = (
        f"set network.{INTERFACE}.{option}={right}"
        if right
        else f"delete network.{INTERFACE}.{option}"
    )
    home.lab.cpe.check(f"uci {change}; uci commit network; ubus call network reload")
    assert home.wait_up()
    assert home.ifstatus().get("errors", []) == []


def test_a_silent_server_is_named_and_the_line_comes_when_it_answers(home):
    home.begin(running=False, wait=False)
    found = home.wait_code("NO_ANSWER", timeout=3 * PATIENCE)
    assert not found["up"]
    home.wait_log("no answer")
    assert home.is_nothing_left()
    home._begin_lwaftr({})
    home.talk(home.wait_up(timeout=3 * PATIENCE))
    assert home.ifstatus().get("errors", []) == []


def test_a_refusing_server_is_named_and_the_line_comes_when_it_grants(home):
    home.begin(wait=False, faults={"refuse": NO_RESOURCES, "refuse_lifetime": 5})
    found = home.wait_code("NO_RESOURCES")
    assert not found["up"]
    home.wait_log("NO_RESOURCES")
    assert home.is_nothing_left()
    home.lwaftr("fault", refuse=0)
    home.talk(home.wait_up())
    assert home.ifstatus().get("errors", []) == []


def test_an_agent_that_is_not_there_is_named_and_the_line_comes_with_it(home):
    home.begin(wait=False)
    home.lab.cpe.check(f"ifdown {INTERFACE}; /etc/init.d/cpe-agent stop; ifup {INTERFACE}")
    home.wait_code("NO_AGENT", timeout=2 * PATIENCE)
    assert home.is_nothing_left()
    home.lab.cpe.check("/etc/init.d/cpe-agent start", timeout=30)
    home.talk(home.wait_up(timeout=2 * PATIENCE))


def test_an_interface_in_no_zone_is_told(home):
    home.begin(options={"zone": None}, wait=False)
    home.wait_ifstatus(lambda found: found["up"])
    found = home.wait_status(lambda found: found.get("state") == "up")
    assert any("zone" in warning for warning in found["warnings"]), found["warnings"]
