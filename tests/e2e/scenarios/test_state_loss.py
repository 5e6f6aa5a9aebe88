"""The lwAFTR loses its state: the router asks for the same set, and gets it.

A neighbour takes the first set of the pool before the router asks, and loses it too. So a request
that suggests nothing would get another set afterwards.
"""

import time

import pytest

from tests.e2e.scenarios.home import POOL, held, requests
from tests.support.tshark import tshark_pcp_report

QUIET = 6  # s; longer than any wait before a recovery
BY_PCP_ALONE = "option icmp_recovery '0'"


def recover(home, lose):
    """Lose state by lose(); what the LAN host sees. Returns the outage in seconds."""
    before = home.status()
    assert held(before) == (POOL, 2048, 1024)
    stream = home.stream()
    lose()
    home.wait_bindings([held(before)])
    home.wait_status(lambda found: found["counts"]["renewals"] > before["counts"]["renewals"])
    time.sleep(1)
    after, seen = home.status(), home.measure(stream)
    assert held(after) == held(before)
    assert after["errors"] == []
    assert after["counts"]["reconfigurations"] == before["counts"]["reconfigurations"]
    assert after["store_writes"] == before["store_writes"]
    assert len(seen["ports"]) == 1  # the flow kept its port
    home.talk(after)
    print(f"outage: {seen['gap']} s")
    return seen["gap"]


def test_an_epoch_in_a_response_tells_it(home):
    home.begin(BY_PCP_ALONE, neighbour=True, fresh=False)

    def lose():
        home.lwaftr("forget", epoch_reset=True, announce=False)
        home.renew()

    gap = recover(home, lose)
    assert gap < 20


@pytest.mark.parametrize("way", ["unicast", "multicast"])
def test_an_announcement_tells_it(home, way):
    home.begin(BY_PCP_ALONE, neighbour=True, fresh=False)
    gap = recover(home, lambda: home.lwaftr("forget", epoch_reset=True, announce=way))
    assert gap < 20
    assert "lost its state" in home.log()


def test_icmp_unreachable_does_nothing_when_switched_off(home):
    home.begin(BY_PCP_ALONE, neighbour=True, fresh=False)
    stream = home.stream()
    home.messages()
    home.lwaftr("drop_binding")
    time.sleep(QUIET)
    assert requests(home.messages()) == []
    assert home.totals()["icmp6_sent"] > 0
    assert "ICMPv6" not in home.log()
    home.renew()  # by hand it comes back
    home.wait_bindings([held(home.status())])
    home.measure(stream)
    home.talk(home.status())


def test_icmp_unreachable_tells_that_the_binding_is_gone(home):
    home.begin(neighbour=True)
    gap = recover(home, lambda: home.lwaftr("drop_binding"))
    assert gap < 20
    assert "(ICMPv6 1/5)" in home.log()


def test_a_loss_without_an_epoch_jump_is_healed_by_traffic(home):
    home.begin(neighbour=True)
    gap = recover(home, lambda: home.lwaftr("forget", epoch_reset=False, announce=False))
    assert gap < 20


def test_icmp_unreachable_from_anybody_else_does_nothing(home):
    home.begin(neighbour=True)
    home.messages()
    home.probe("unreachable --source 2001:db8:c0de::1")
    time.sleep(QUIET)
    assert requests(home.messages()) == []
    assert "ICMPv6" not in home.log()
    home.probe("unreachable --source 2001:db8:ffff::1")  # the same, from the lwAFTR itself
    home.wait_request()
    assert "(ICMPv6 1/5)" in home.log()


def test_tshark_finds_no_fault_in_these_messages(home):
    report = tshark_pcp_report(home.lab.links["access"].pcap)
    assert report.malformed == []
    assert len(report.port_sets) > 10
