"""Where the shared address lives: the experiment behind docs/shared-address.md, and its upkeep."""

import pathlib
import sys

import pytest

from tests.netns import places, topology
from tests.netns.topology import INNER, OWN, SHARED

DOCUMENT = pathlib.Path(__file__).parents[2] / "docs/shared-address.md"


@pytest.mark.parametrize("place", [place for place, _ in places.PLACES])
def test_what_works_with_the_address_there(place):
    with topology.Home() as home:
        places.prepare(home, place)
        assert places.measure(home, places.EXPECTED[place]) == places.EXPECTED[place]


def test_the_document_shows_what_was_measured():
    assert places.table(places.EXPECTED) in DOCUMENT.read_text()


def local_table(home):
    return home.cpe.namespace.run(["ip", "route", "show", "table", "local"]).stdout


def addresses(home):
    return home.cpe.namespace.run(["ip", "-4", "-br", "addr", "show", "dev", "lw4o6"]).stdout


def test_the_router_does_not_claim_the_shared_address(home):
    assert SHARED not in local_table(home)
    assert INNER in local_table(home)
    assert addresses(home).split()[2:] == [SHARED + "/32", INNER + "/32"]


def test_the_plan_again_changes_nothing(home):
    assert home.cpe.call("apply", topology.wanted(OWN)) is False


DISTURBANCES = {
    "link down and up": ["link set lw4o6 down", "link set lw4o6 up"],
    "local table entry": ["route add table local local %s dev lw4o6" % SHARED],
    "shared address deleted": ["addr del %s/32 dev lw4o6" % SHARED],
    "inner address deleted": ["addr del %s/32 dev lw4o6" % INNER],
    "all addresses flushed": ["addr flush dev lw4o6"],
    "a foreign address": ["addr add 10.9.9.9/32 dev lw4o6"],
    "default route deleted": ["route del default dev lw4o6"],
    "default route without a source": [
        "route del default dev lw4o6",
        "route add default dev lw4o6",
    ],
}


@pytest.mark.parametrize("what", sorted(DISTURBANCES))
def test_the_plan_again_repairs(home, what):
    home.cpe.ip(*DISTURBANCES[what])
    assert home.cpe.call("apply", topology.wanted(OWN)) is True
    assert SHARED not in local_table(home)
    assert sorted(addresses(home).split()[2:]) == [INNER + "/32", SHARED + "/32"]
    assert home.lan.call("talk", SHARED, 2500, topology.PATIENCE).split()[0] == SHARED
    assert home.cpe.call("talk", SHARED, 2500, topology.PATIENCE).split()[0] == SHARED
    assert home.cpe.call("apply", topology.wanted(OWN)) is False


def test_after_all_addresses_were_flushed_tools_see_the_public_address_first(home):
    home.cpe.ip("addr flush dev lw4o6")
    home.cpe.call("apply", topology.wanted(OWN))
    assert addresses(home).split()[2] == SHARED + "/32"


def test_the_table_is_put_back_after_somebody_deleted_it(home):
    home.cpe.nft("delete table ip cpe_agent")
    assert home.cpe.call("apply", topology.wanted(OWN)) is True
    assert home.lan.call("talk", topology.INTERNET[0], 80, topology.PATIENCE).split()[0] == SHARED


def test_neighbours_are_reached_under_a_strict_reverse_path_filter_too(home):
    home.cpe.sysctl("net.ipv4.conf.lw4o6.rp_filter=1")
    try:
        assert home.lan.call("talk", SHARED, 2500, topology.PATIENCE).split()[0] == SHARED
        assert home.nei.call("talk", SHARED, 1500, topology.PATIENCE).split()[0] == SHARED
    finally:
        home.cpe.sysctl("net.ipv4.conf.lw4o6.rp_filter=0")


def test_programs_of_the_router_cannot_bind_the_shared_address(home):
    """A limit that docs/shared-address.md names."""
    program = "import socket; socket.socket().bind(('%s', 1700))" % SHARED
    done = home.cpe.namespace.run([sys.executable, "-c", program], check=False)
    assert "Cannot assign requested address" in done.stderr
