"""The way to a server, as the kernel would go it, also where routes are for some sources only:
OpenWrt's default routes for IPv6 are."""

import sys

import pytest

from tests.support import micropython
from tests.support.netns import Network

SERVER = "2001:db8:ffff::1"
_ASK = """\
import sys
sys.path.insert(0, "%s")
from cpe_agent import address, netlink
try:
    path = netlink.path_to(address.octets(sys.argv[1]))
    print(path.device, path.mtu, address.text(path.source))
except OSError as error:
    print("no way", error.args[0])
"""
# What the kernel itself does when it sends.
_KERNEL = """\
import socket, sys
sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
sock.connect((sys.argv[1], 5351))
print(sock.getsockname()[0])
"""


@pytest.fixture
def home():
    """A router with an uplink and a LAN, and no routes but its own."""
    with Network() as network:
        outside, home = network.namespace("outside"), network.namespace("home")
        for device in ("wan", "lan"):
            network.link(outside, "to_" + device, home, device)
        home.put_address("wan", "2001:db8:1::2/64")
        home.put_address("lan", "2001:db8:2::1/64")
        home.put_address("lan", "fd00::1/64")
        yield home


@pytest.fixture(params=["cpython", "micropython"])
def ask(request, home, tmp_path):
    """ask(server): device, MTU and source of the way, as words."""
    runtime = sys.executable if request.param == "cpython" else micropython.interpreter()
    program = tmp_path / "ask.py"
    program.write_text(_ASK % micropython.ROOT)
    return lambda server=SERVER: home.run([runtime, str(program), server]).stdout.strip()


def kernels_source(home):
    return home.run([sys.executable, "-c", _KERNEL, SERVER]).stdout.strip()


def change(home, words):
    home.run(["ip", "-6", "address", *words.split()])


def default_from(home, prefix, device="wan"):
    words = "default from %s via fe80::1 dev %s" % (prefix, device)
    home.run(["ip", "-6", "route", "add", *words.split()])


def test_a_route_for_the_uplinks_own_address(home, ask):
    default_from(home, "2001:db8:1::/64")
    assert ask() == "wan 1500 2001:db8:1::2"
    assert kernels_source(home) == "2001:db8:1::2"


def test_a_route_for_a_delegated_prefix_alone(home, ask):
    """The uplink has no address for it, so that of the LAN is used, as by the kernel."""
    default_from(home, "2001:db8:2::/56")
    change(home, "del 2001:db8:1::2/64 dev wan")
    assert ask() == "wan 1500 2001:db8:2::1"
    assert kernels_source(home) == "2001:db8:2::1"


def test_the_uplinks_own_address_comes_before_the_lans(home, ask):
    default_from(home, "2001:db8:1::/64")
    default_from(home, "2001:db8:2::/56")
    assert ask() == "wan 1500 2001:db8:1::2"


def test_a_deprecated_address_comes_last_and_a_unique_local_one_too(home, ask):
    default_from(home, "2001:db8:1::/64")
    default_from(home, "2001:db8:2::/56")
    default_from(home, "fd00::/8")
    change(home, "change 2001:db8:1::2/64 dev wan preferred_lft 0")
    assert ask() == "wan 1500 2001:db8:2::1"
    change(home, "del 2001:db8:2::1/64 dev lan")
    assert ask() == "wan 1500 2001:db8:1::2", "before one that nobody outside knows"


def test_an_address_that_no_route_is_for_is_none(home, ask):
    assert ask() == "no way 101"
    default_from(home, "2001:db8:9::/64")
    assert ask() == "no way 101"
