"""The provider gives the home another IPv6 prefix while a softwire is in use.

The lwAFTR has moved the set before: who suggested nothing from the new address would get another.
"""

import pytest

from tests.e2e.scenarios.home import LWAFTR, POOL, ROUTER, held, requests
from tests.support.tshark import tshark_pcp_report

OLD_GATEWAY = "2001:db8:c0de::1"
NEW_ROUTER = "2001:db8:cafe::2"
NEW_GATEWAY = "2001:db8:cafe::1"
FIRST_PORT = 40960
LIFETIME = 30  # s; the shortest that leaves time to look before the lease ends

ADD_NEW = f"""
ip addr add {NEW_ROUTER}/64 dev eth0 nodad
ip route add default via {NEW_GATEWAY} dev eth0 metric 512
ip route del default via {OLD_GATEWAY} dev eth0
"""
DEPRECATE_OLD = f"ip addr change {ROUTER}/64 dev eth0 preferred_lft 0 valid_lft 3600"
REMOVE_OLD = f"ip addr del {ROUTER}/64 dev eth0"
OLD_AGAIN = f"""
ip addr del {ROUTER}/64 dev eth0
ip addr add {ROUTER}/64 dev eth0 nodad
ip route add default via {OLD_GATEWAY} dev eth0
ip route del default via {NEW_GATEWAY} dev eth0
ip addr del {NEW_ROUTER}/64 dev eth0
"""


@pytest.fixture
def in_use(home):
    """A line in use, on a set that is not the first of the pool; the old prefix comes back."""

    def begin(**options):
        home.begin(**options)
        home.lwaftr("update", client=ROUTER, address=POOL, first_port=FIRST_PORT)
        before = home.wait_status(lambda found: found.get("first_port") == FIRST_PORT)
        home.talk(before)
        home.messages()
        return before

    home.lab.isp.run(f"ip addr add {NEW_GATEWAY}/64 dev eth0 nodad")
    yield begin
    home.lab.cpe.run(OLD_AGAIN)


def moved(home):
    """Status when the line is in use from the new address."""
    return home.wait_status(lambda found: found["source"] == NEW_ROUTER and found["mtu"])


def asked_by(messages):
    """(sender, is it a deletion) of each MAP request, without repetitions."""
    found = [(one.address, one.octets[4:8] == b"\0" * 4) for one in requests(messages)]
    return list(dict.fromkeys(found))


def ends(home):
    """The addresses of the softwire, (remote, local)."""
    shown = home.lab.cpe.check("ip -d link show lw4o6").split()
    return shown[shown.index("remote") + 1], shown[shown.index("local") + 1]


def assert_only_the_bindings_sent(home):
    """Nothing left from a set that was given back, nor from an address before it had its own."""
    totals = home.totals()
    assert (totals["packets_outside_set"], totals["unknown_source"]) == (0, 0)


def test_a_deprecated_prefix_gives_the_set_back_and_gets_it_from_the_new_one(home, in_use):
    before = in_use()
    assert ends(home) == (LWAFTR, ROUTER)
    stream = home.stream()
    home.lab.cpe.check(f"{ADD_NEW}{DEPRECATE_OLD}")
    after = moved(home)
    assert held(after) == held(before) == (POOL, FIRST_PORT, before["size"])
    assert ends(home) == (LWAFTR, NEW_ROUTER)
    assert (home.bindings(ROUTER), home.bindings(NEW_ROUTER)) == ([], [held(after)])
    assert asked_by(home.messages()) == [(ROUTER, True), (NEW_ROUTER, False)]
    home.talk(after)
    seen = home.measure(stream)
    print(f"outage of a UDP flow when the prefix is deprecated: {seen['gap']} s")
    assert seen["gap"] < 20
    assert_only_the_bindings_sent(home)
    # Some time later the old address ends. The line does not depend on it any more.
    home.lab.cpe.check(REMOVE_OLD)
    home.renew()
    later = home.wait_renewed(after)
    assert held(later) == held(after)
    assert later["counts"]["reconfigurations"] == after["counts"]["reconfigurations"]
    home.talk(later)


def test_a_prefix_that_is_gone_leaves_the_old_mapping_to_its_end(home, in_use):
    before = in_use(pcp={"lifetime_min": 1, "lifetime_max": LIFETIME})
    stream = home.stream()
    home.lab.cpe.check(f"{ADD_NEW}{REMOVE_OLD}")
    after = moved(home)
    # The server knows a stranger, who cannot speak for the old mapping: another set.
    assert held(after) != held(before)
    assert ends(home) == (LWAFTR, NEW_ROUTER)
    home.talk(after)
    home.measure(stream)
    assert asked_by(home.messages()) == [(NEW_ROUTER, False)]
    assert home.bindings(NEW_ROUTER) == [held(after)]
    assert_only_the_bindings_sent(home)
    home.wait_bindings([], client=ROUTER, timeout=2 * LIFETIME)
    home.talk(home.wait_up())


def test_a_silent_server_cannot_hold_the_move_up(home, in_use):
    before = in_use()
    home.lwaftr("fault", silence=True)
    home.lab.cpe.check(f"{ADD_NEW}{DEPRECATE_OLD}")
    home.wait_status(lambda found: found["source"] == NEW_ROUTER)
    assert not home.has_softwire()
    home.lwaftr("fault", silence=False)
    after = moved(home)
    assert held(after) != held(before)  # it never heard the deletion
    home.talk(after)
    assert home.bindings(NEW_ROUTER) == [held(after)]
    assert_only_the_bindings_sent(home)


def test_tshark_finds_no_fault_in_these_messages(home):
    report = tshark_pcp_report(home.lab.links["access"].pcap)
    assert report.malformed == []
    assert len(report.port_sets) > 5
