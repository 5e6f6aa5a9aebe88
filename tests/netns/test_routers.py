"""Default routers as the kernel's own tables have them, on both runtimes."""

import json
import sys
import time

import pytest

from tests.support import micropython
from tests.support.netns import Network

_ASK = """\
import sys
sys.path.insert(0, "%s")
from cpe_agent import address, routers
found = routers.default_router(int(sys.argv[1]), int(sys.argv[2]))
print("-" if found is None else "%%s %%d" %% (address.text(found.address), found.interface))
"""


@pytest.fixture(scope="module")
def links():
    with Network() as network:
        router, home = network.namespace("router"), network.namespace("home")
        for number, device in enumerate(("wan", "lte"), 1):
            network.link(router, "r%d" % number, home, device)
            home.put_address(device, "192.0.%d.2/24" % number)
            home.put_address(device, "2001:db8:%d::2/64" % number)
        yield router, home


@pytest.fixture
def home(links):
    """A router with two uplinks, wan and lte, and no routes but its own."""
    links[1].run(["ip", "route", "flush", "table", "all", "proto", "boot"])
    links[1].run(["ip", "-6", "route", "flush", "table", "all", "proto", "boot"])
    return links[1]


@pytest.fixture(params=["cpython", "micropython"])
def ask(request, home, tmp_path):
    """ask(family, device): 'address interface' of the default router, or '-'."""
    runtime = sys.executable if request.param == "cpython" else micropython.interpreter()
    program = tmp_path / "ask.py"
    program.write_text(_ASK % micropython.ROOT)

    def run(family, device=None):
        interface = index(home, device) if device else 0
        return home.run([runtime, str(program), str(family), str(interface)]).stdout.strip()

    return run


def index(home, device):
    listing = json.loads(home.run(["ip", "-j", "link", "show", "dev", device]).stdout)
    return listing[0]["ifindex"]


def route(home, family, words):
    home.run(["ip", "-%d" % family, "route", "add", *words.split()])


def wait_for_no_carrier(home):
    """Until the kernel has told its routes, which it does up to a second later."""
    end = time.monotonic() + 10
    while "linkdown" not in home.run(["ip", "route", "show", "default"]).stdout:
        assert time.monotonic() < end, "the kernel does not notice the missing carrier"
        time.sleep(0.05)


def test_without_a_default_route_there_is_no_router(home, ask):
    route(home, 4, "198.51.100.0/24 via 192.0.1.1 dev wan")
    route(home, 6, "2000::/3 via fe80::1 dev wan")
    assert ask(4) == "-"
    assert ask(6) == "-"


def test_each_family_has_its_own_router(home, ask):
    route(home, 4, "default via 192.0.1.1 dev wan")
    route(home, 6, "default via fe80::1 dev lte")
    assert ask(4) == "192.0.1.1 %d" % index(home, "wan")
    assert ask(6) == "fe80::1 %d" % index(home, "lte")


@pytest.mark.parametrize(
    "family, gateways", [(4, ("192.0.1.1", "192.0.2.1")), (6, ("fe80::1",) * 2)]
)
def test_the_lowest_metric_wins_and_an_interface_can_be_asked_alone(home, ask, family, gateways):
    route(home, family, "default via %s dev wan metric 2000" % gateways[0])
    route(home, family, "default via %s dev lte metric 300" % gateways[1])
    assert ask(family) == "%s %d" % (gateways[1], index(home, "lte"))
    assert ask(family, "wan") == "%s %d" % (gateways[0], index(home, "wan"))


def test_a_default_route_for_some_sources_counts(home, ask):
    route(home, 6, "default from 2001:db8:1::/64 via fe80::1 dev wan")
    assert ask(6) == "fe80::1 %d" % index(home, "wan")


def test_the_first_way_of_several_counts_and_one_that_has_no_link_does_not(home, ask):
    route(home, 4, "default nexthop via 192.0.1.1 dev wan nexthop via 192.0.2.1 dev lte")
    route(home, 6, "default nexthop via fe80::1 dev wan nexthop via fe80::2 dev lte")
    assert ask(4) == "192.0.1.1 %d" % index(home, "wan")
    assert ask(6) in ("fe80::1 %d" % index(home, "wan"), "fe80::2 %d" % index(home, "lte"))
    assert ask(6, "lte") == "fe80::2 %d" % index(home, "lte")


def test_routes_without_a_gateway_or_in_other_tables_or_that_refuse_do_not_count(home, ask):
    route(home, 4, "default dev wan")
    route(home, 6, "default dev wan")
    route(home, 4, "unreachable default metric 1")
    route(home, 4, "default via 192.0.1.1 dev wan table 100")
    route(home, 6, "default via fe80::1 dev wan table 100")
    assert ask(4) == "-"
    assert ask(6) == "-"


def test_a_router_behind_a_link_without_carrier_is_none(links, home, ask):
    route(home, 4, "default via 192.0.1.1 dev wan metric 1")
    route(home, 4, "default via 192.0.2.1 dev lte metric 2")
    links[0].run(["ip", "link", "set", "dev", "r1", "down"])
    try:
        wait_for_no_carrier(home)
        assert ask(4) == "192.0.2.1 %d" % index(home, "lte")
    finally:
        links[0].run(["ip", "link", "set", "dev", "r1", "up"])
