"""A second port set from the lab's lwAFTR: the LAN uses both, and both come back after losses."""

from tests.e2e.scenarios.home import POOL, held

TRIES = 25  # a flow is in the one set or the other by a hash


def one_more(home):
    """Status with an additional set."""
    home.lab.cpe.check("cpe-agent more")
    return home.wait_status(lambda found: len(additional(found)) == 1)


def additional(found):
    return [held_by(one) for one in found["additional_sets"] if "address" in one]


def held_by(one):
    return one["address"], one["first_port"], one["size"]


def sets_used(home, found):
    """Which sets new flows of the LAN are seen in, once both are, or after some tries."""
    sets = [held(found), *additional(found)]
    used = set()
    for _ in range(TRIES):
        seen = home.talk()
        for address, port in (seen["tcp"], seen["udp"]):
            assert address == POOL
            used |= {one for one in sets if one[1] <= port < one[1] + one[2]}
        if len(used) == len(sets):
            break
    return used


def outside(home):
    return home.lwaftr("counters")["outside_set"]


def test_one_more_set_ends_no_flow_and_serves_new_ones(home):
    home.begin()
    before = outside(home)
    connection = home.connection()
    found = one_more(home)
    assert home.still_carries(connection)
    connection.stop()
    (second,) = additional(found)
    assert sorted(home.bindings()) == sorted([held(found), second])
    assert sets_used(home, found) == {held(found), second}
    assert outside(home) == before


def test_an_lwaftr_that_lost_its_state_gives_both_again(home):
    home.begin()
    found = one_more(home)
    sets = sorted([held(found), *additional(found)])
    home.lwaftr("forget", epoch_reset=True, announce="unicast")
    home.wait_bindings(sets)
    after = home.wait_up()
    assert sorted([held(after), *additional(after)]) == sets
    assert len(sets_used(home, after)) == 2


def test_a_killed_agent_goes_on_with_both(home):
    home.begin()
    found = one_more(home)
    home.stop_agent()
    home.lab.cpe.check("rm -rf /var/run/cpe-agent")  # as after a power cut, but for the line
    home.start_agent()
    after = home.wait_status(lambda now: now.get("state") == "up" and additional(now))
    assert (held(after), additional(after)) == (held(found), additional(found))
    assert len(home.bindings()) == 2


def test_release_gives_both_back(home):
    home.begin()
    one_more(home)
    home.lab.cpe.check("cpe-agent release", timeout=60)
    home.wait_bindings([])
    assert not home.has_softwire()
