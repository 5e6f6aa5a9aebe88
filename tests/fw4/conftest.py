"""A home whose router has OpenWrt's own firewall, for the tests of this folder."""

import pytest

from tests.fw4 import openwrt
from tests.netns import topology


@pytest.fixture(scope="session")
def openwrt_root():
    """Path of OpenWrt's root file system."""
    path = openwrt.root()
    if path is None:
        pytest.skip("OPENWRT_ROOT is not set: no root file system with OpenWrt's fw4")
    return path


@pytest.fixture(scope="module")
def shared_home(openwrt_root):
    """One home for a module; see home."""
    with topology.Home() as made, openwrt.Router(made, openwrt_root) as router:
        made.router = router
        yield made


@pytest.fixture
def home(shared_home):
    """A home whose router, home.router, has the set 1024-2047 by fw4, and no flows yet."""
    router = shared_home.router
    router.configure()
    router.tell_interfaces()
    router.shell("fw4 -q restart")
    router.firewall.set_rules(openwrt.wanted(topology.OWN))
    router.reloads = 0
    shared_home.cpe.call("delete_flows", topology.SHARED, 1, 0)
    shared_home.inet.call("sniffed")
    shared_home.lan.call("sniffed")
    return shared_home
