"""Homes in namespaces for the tests of this folder."""

import pytest

from tests.netns import topology


@pytest.fixture(scope="module")
def shared_home():
    """One home for a module; see home."""
    with topology.Home() as made:
        made.cpe.nft(topology.forward_text(1500, topology.LAN_HOST + ":80"))
        yield made


@pytest.fixture
def home(shared_home):
    """A home whose router has the set 1024-2047 by the agent's own backend, and no flows yet."""
    shared_home.cpe.call("apply", topology.wanted(topology.OWN))
    shared_home.cpe.call("delete_flows", topology.SHARED, 1, 0)
    shared_home.inet.call("sniffed")
    shared_home.lan.call("sniffed")
    return shared_home


@pytest.fixture
def dropped(home):
    """dropped(): {guard: packets} that it has dropped since the test began; none are left out."""
    before = home.cpe.call("counters")

    def since():
        now = home.cpe.call("counters")
        return {name: now[name] - before[name] for name in now if now[name] != before[name]}

    return since
