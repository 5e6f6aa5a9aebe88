"""growth.py: when one more port set is asked for, and when one is given back. Both runtimes."""

from cpe_agent import growth, history, portset
from cpe_agent.growth import CLOSE, GIVE_BACK, MORE, REOPEN

LIMITS = growth.Limits(3, 80, 40, 600000)
STEP = growth.INTERVAL


class Router:
    """Looks every ten seconds at sets of 100 ports."""

    def __init__(self, limits=LIMITS, sets=1):
        self.growth = growth.Growth(limits)
        self.sizes = dict.fromkeys(range(sets), 100)
        self.now = 0

    def look(self, *used):
        """used: ports in use of each set."""
        self.now += STEP
        closed = self.growth.closed
        needed = sum(count for number, count in enumerate(used) if number != closed)
        idle = [number for number, count in enumerate(used) if not count]
        return self.growth.look(self.now, self.sizes, needed, idle)

    def looks(self, count, *used):
        """Wishes of so many looks."""
        return [wish for wish in [self.look(*used) for _ in range(count)] if wish]


def test_a_set_that_stays_nearly_full_asks_for_one_more():
    router = Router()
    assert router.look(79) is None
    assert router.look(80) is None  # it may be a moment
    assert router.look(79) is None
    assert router.looks(2, 80) == [(MORE, None)]


def test_a_set_with_hardly_a_port_left_asks_at_once():
    assert Router().look(95) == (MORE, None)


def test_no_more_sets_than_allowed():
    assert Router(sets=3).looks(50, 100, 100, 100) == []
    assert Router(growth.Limits(1, 80, 40, 600000)).looks(50, 100) == []


def test_one_full_set_beside_an_empty_one_is_not_full():
    assert Router(sets=2).looks(50, 100, 0) == []


def test_who_is_refused_asks_less_and_less_often():
    router = Router()
    asked = []
    for _ in range(9000):  # 25 hours
        if router.look(100) == (MORE, None):
            asked.append(router.now)
            router.growth.refused(router.now, 0)
    waits = [after - before for before, after in zip(asked, asked[1:])]
    assert waits[0] >= 600000
    assert all(after >= 2 * before - 2 * STEP for before, after in zip(waits, waits[1:]))
    assert len(asked) < 10


def test_the_servers_own_wait_is_kept_where_it_is_longer():
    router = Router()
    router.growth.refused(0, 7200000)
    router.now = 7200000 - 2 * STEP
    assert router.look(100) is None
    assert router.look(100) == (MORE, None)


def test_a_grant_ends_the_longer_waits():
    router = Router()
    for _ in range(5):
        router.growth.refused(router.now, 0)
    router.growth.granted()
    router.growth.refused(router.now, 0)
    router.now += 600000
    assert router.look(100) == (MORE, None)


def test_the_newest_set_is_closed_when_the_others_would_do_for_long_enough():
    router = Router(sets=3)
    assert router.looks(60, 30, 30, 19) == []
    assert router.look(30, 30, 19) == (CLOSE, 2)


def test_a_short_busy_time_begins_the_wait_anew():
    router = Router(sets=2)
    assert router.looks(59, 20, 19) == []
    assert router.look(20, 20) is None  # 40 of the 100 that would be left
    assert router.looks(60, 20, 19) == []
    assert router.look(20, 19) == (CLOSE, 1)


def test_a_closed_set_is_given_back_when_its_last_flow_has_ended():
    router = Router(sets=2)
    assert router.looks(61, 10, 1) == [(CLOSE, 1)]
    assert router.looks(500, 10, 1) == []
    assert router.look(10, 0) == (GIVE_BACK, 1)


def test_a_closed_set_is_opened_again_rather_than_one_more_asked_for():
    router = Router(sets=2)
    assert router.looks(61, 10, 1) == [(CLOSE, 1)]
    assert router.look(85, 1) == (REOPEN, 1)
    assert router.look(85, 60) is None


def test_a_closed_set_that_the_server_ends_is_forgotten():
    router = Router(sets=2)
    router.looks(61, 10, 1)
    del router.sizes[1]
    assert router.look(95) == (MORE, None)


def test_the_first_set_is_never_closed():
    assert Router().looks(500, 0) == []


def test_without_a_set_there_is_nothing_to_say():
    router = Router()
    router.sizes = {}
    assert router.look() is None


def test_ports_are_counted_only_when_that_could_matter():
    worth = growth.is_worth_a_look
    assert not worth(LIMITS, {0: 100}, 79, growth.SLOW_INTERVAL)
    assert worth(LIMITS, {0: 100}, 80, STEP)
    assert not worth(LIMITS, {0: 100, 1: 100}, 79, STEP)
    assert worth(LIMITS, {0: 100, 1: 100}, 0, growth.SLOW_INTERVAL)


def test_ports_are_counted_for_each_step_of_the_history_all_the_same():
    assert growth.is_worth_a_look(LIMITS, {0: 100}, 0, None), "the first one"
    now, last, counted = 0, None, set()
    while now < 20 * history.STEP:
        since = None if last is None else now - last
        if growth.is_worth_a_look(LIMITS, {0: 100}, 0, since):
            last = now
            counted.add(now // history.STEP)
        now += growth.INTERVAL
    assert counted == set(range(20))


def test_load_that_swings_does_not_make_sets_come_and_go():
    """Six hours of load between empty and full, a quarter of an hour each: at most one set an hour
    comes, and what comes stays while the load comes back."""
    router = Router()
    changes = []
    for minute in range(360):
        busy = minute % 30 < 15
        for _ in range(6):
            share = 90 if busy and len(router.sizes) == 1 else 45 if busy else 5
            wish = router.look(*[share] * len(router.sizes))
            if wish is None:
                continue
            changes.append(wish[0])
            if wish[0] == MORE:
                router.sizes[max(router.sizes) + 1] = 100
            elif wish[0] == GIVE_BACK:
                del router.sizes[wish[1]]
    assert changes.count(MORE) == 1
    assert GIVE_BACK not in changes


def test_ports_that_somebody_is_reached_at_are_no_room_for_flows():
    one = portset.PortSet("192.0.2.3", 1024, 64)
    assert growth.room(one, ()) == 64
    assert growth.room(one, (1023, 1024, 1087, 1088)) == 62
    assert growth.room(one, tuple(range(1024, 1088))) == 1
