"""What goes wrong is named in ifstatus and in the log, and mends itself with its cause: Show 4."""

import pytest

from tests.e2e.scenarios.home import PATIENCE
from tests.openwrt.router import INTERFACE, codes

NO_RESOURCES = 8
WRONG_OPTIONS = {
    "ports": "many",
    "mtu": "100",
    "lifetime": "-1",
    "inner_address": "fe80::1",
}


@pytest.mark.parametrize("option", WRONG_OPTIONS)
def test_a_wrong_option_is_named_until_it_is_mended(home, option):
    home.begin(options={option: WRONG_OPTIONS[option]}, wait=False)
    found = home.wait_code("INVALID_OPTION")
    assert not found["up"]
    home.wait_log(f"option {option}")
    assert home.is_nothing_left()
    name = f"network.{INTERFACE}.{option}"
    home.lab.cpe.check(f"uci delete {name}; uci commit network; ubus call network reload")
    assert home.wait_up()
    assert codes(home.ifstatus()) == []


def texts(found):
    """What ifstatus says of its errors, for people."""
    return " ".join(" ".join(error.get("data", [])) for error in found["errors"])


def test_an_aftr_without_an_address_is_named(home):
    home.begin(options={"peeraddr": "aftr.invalid"}, wait=False)
    home.wait_code("AFTR_DNS_FAIL")
    assert home.is_nothing_left()


@pytest.mark.parametrize("way", ["no server", "silence"])
def test_a_silent_server_is_named_and_the_line_comes_when_it_answers(home, way):
    gone = way == "no server"
    home.begin(running=not gone, wait=False, faults=None if gone else {"silence": True})
    found = home.wait_code("PCP_SILENT", timeout=3 * PATIENCE)
    assert not found["up"]
    assert "check" in texts(found)
    home.wait_log("still asking; check")
    assert home.is_nothing_left()
    if gone:
        home.begin_lwaftr()
    else:
        home.lwaftr("fault", silence=False)
    home.talk(home.wait_up(timeout=4 * PATIENCE))
    assert codes(home.ifstatus()) == []


def test_a_refusing_server_is_named_and_the_line_comes_when_it_grants(home):
    home.begin(wait=False, faults={"refuse": NO_RESOURCES, "refuse_lifetime": 5})
    found = home.wait_code("PCP_NO_RESOURCES")
    assert not found["up"]
    assert "it has no ports left" in texts(found)
    home.wait_log("it has no ports left")
    assert home.is_nothing_left()
    home.lwaftr("fault", refuse=0)
    home.talk(home.wait_up())
    assert codes(home.ifstatus()) == []


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
