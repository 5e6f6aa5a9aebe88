"""Which server is asked, and at which address: RFC 7488 3, RFC 6887 8.1, in virtual time."""

from cpe_agent.pcp import mapping, servers
from cpe_agent.pcp.client import Client
from cpe_agent.pcp.servers import Selection, Server, Target
from tests.unit.core.bench import NONCE, SOURCE, Dice, ends

NOW = 7000000  # ms; any time but zero
MINUTE = 60000


def at(number):
    """An address; the higher the number, the higher the address."""
    return bytes.fromhex("20010db8") + bytes(11) + bytes([number])


def server(*numbers):
    return Server(tuple(at(number) for number in numbers), servers.CONFIG, 0)


def middle(count):
    """random_bytes for no jitter at all."""
    return (b"\x80" + bytes(count))[:count]


def selection(*listed, **options):
    made = Selection(options.get("random_bytes", middle), options.get("sort", tuple))
    assert made.set(NOW, list(listed)) is bool(listed)
    return made


def asked(chosen):
    """The number of the address that is asked now, or None."""
    return chosen.current.address[15] if chosen.current else None


def wait(chosen):
    """Go to the timer's time; (ms, whether current changed)."""
    when = chosen.get_timer()
    return when, chosen.handle_timer(when)


def exhaust(chosen, now, how="gave_up"):
    """All addresses of a round, in the order in which they are asked, each failing at now."""
    order = []
    while chosen.current:
        order.append(asked(chosen))
        assert getattr(chosen, how)(now, chosen.current.address) is True
        assert len(order) < 100
    return order


# Lists


def test_the_best_kind_of_server_that_is_there_is_used_exclusively():
    router = Server((at(1),), servers.ROUTER, 2)
    aftr = Server((at(2),), servers.AFTR, 0)
    dhcpv4 = Server((at(3),), servers.DHCPV4, 2)
    dhcpv6 = Server((at(4),), servers.DHCPV6, 2)
    second = Server((at(5),), servers.DHCPV6, 2)
    config = Server((at(6),), servers.CONFIG, 0)
    assert servers.candidates([router, aftr, dhcpv4, dhcpv6, second, config]) == [config]
    assert servers.candidates([router, aftr, dhcpv4, dhcpv6, second]) == [dhcpv6, second, dhcpv4]
    assert servers.candidates([router, aftr, dhcpv4]) == [dhcpv4]
    assert servers.candidates([router, aftr]) == [aftr]
    assert servers.candidates([router]) == [router]
    assert servers.candidates([]) == []


def test_a_configured_name_without_an_address_keeps_the_default_router_out():
    unresolved = Server((), servers.CONFIG, 0)
    listed = servers.candidates([Server((at(1),), servers.ROUTER, 2), unresolved])
    assert listed == [unresolved]
    chosen = Selection(middle)
    assert chosen.set(NOW, listed) is False
    assert chosen.current is None and chosen.get_timer() is None


def test_a_server_has_one_identity_whatever_the_order_of_its_addresses():
    assert servers.identity(server(3, 1, 2)) == servers.identity(server(2, 3, 1)) == at(1)
    assert servers.identity(server()) is None


def test_a_known_identity_stays_when_addresses_come_and_go_around_it():
    assert servers.identity(server(1, 2, 3), (at(9), at(2), at(3))) == at(2)
    assert servers.identity(server(1, 2, 3), (at(9),)) == at(1)


def test_no_list_is_too_long():
    many = [server(*range(10 * high, 10 * high + 10)) for high in range(20)]
    order = exhaust(selection(*many), NOW)
    assert order == [10 * high + low for high in range(8) for low in range(8)]


def test_an_address_that_two_servers_have_is_asked_once():
    assert exhaust(selection(server(1, 2, 1), server(2, 3)), NOW) == [1, 2, 3]


# From one address to the next


def test_who_gives_up_an_address_goes_to_the_next_and_then_to_the_next_server():
    chosen = selection(server(1, 2), server(3))
    assert chosen.current == Target(server(1, 2), at(1))
    assert chosen.gave_up(NOW, at(1)) is True
    assert chosen.current == Target(server(1, 2), at(2))
    assert chosen.gave_up(NOW, at(2)) is True
    assert chosen.current == Target(server(3), at(3))


def test_a_hard_error_moves_at_once():
    chosen = selection(server(1, 2))
    assert chosen.unreachable(NOW, at(1)) is True
    assert asked(chosen) == 2


def test_one_address_alone_is_asked_for_ever():
    chosen = selection(server(1))
    for _ in range(20):
        assert chosen.gave_up(NOW, at(1)) is False
        assert chosen.unreachable(NOW, at(1)) is False
        assert chosen.refused_for_long(NOW, at(1), 1800) is False
        assert asked(chosen) == 1 and chosen.get_timer() is None


def test_after_a_silent_round_nobody_is_asked_for_a_quarter_of_an_hour():
    chosen = selection(server(1, 2), server(3))
    for start in (NOW, NOW + 15 * MINUTE, NOW + 30 * MINUTE):
        assert exhaust(chosen, start) == [1, 2, 3]
        assert chosen.handle_timer(start + 15 * MINUTE - 1) is False
        assert chosen.current is None
        assert wait(chosen) == (start + 15 * MINUTE, True)
        assert asked(chosen) == 1


def test_the_wait_between_rounds_is_spread_by_a_tenth():
    for value, minutes in ((0, 13.5), (255, 16.5)):
        chosen = selection(server(1, 2), random_bytes=ends(value))
        exhaust(chosen, NOW)
        assert chosen.get_timer() == NOW + minutes * MINUTE
    waits = set()
    for seed in range(50):
        chosen = selection(server(1, 2), random_bytes=Dice(seed))
        exhaust(chosen, NOW)
        waits.add(chosen.get_timer())
    assert len(waits) > 45


def test_after_hard_errors_alone_the_next_round_is_soon_and_then_later_and_later():
    chosen, now, waits = selection(server(1, 2)), NOW, []
    for _ in range(10):
        exhaust(chosen, now, "unreachable")
        when, changed = wait(chosen)
        assert changed and asked(chosen) == 1
        waits.append((when - now) // 1000)
        now = when
    assert waits == [10, 20, 40, 80, 160, 320, 640, 900, 900, 900]


def test_one_silent_address_makes_the_round_a_silent_one():
    chosen = selection(server(1, 2, 3))
    chosen.unreachable(NOW, at(1))
    chosen.gave_up(NOW, at(2))
    chosen.unreachable(NOW, at(3))
    assert chosen.get_timer() == NOW + 15 * MINUTE


def test_a_round_of_hard_errors_is_no_silent_one_because_the_last_one_was():
    chosen = selection(server(1, 2))
    exhaust(chosen, NOW)
    now = wait(chosen)[0]
    exhaust(chosen, now, "unreachable")
    assert chosen.get_timer() == now + 10000


def test_an_answer_makes_the_waits_after_hard_errors_short_again():
    chosen, now = selection(server(1, 2)), NOW
    for _ in range(5):
        exhaust(chosen, now, "unreachable")
        now = wait(chosen)[0]
    chosen.answered_by(now, at(1))
    exhaust(chosen, now, "unreachable")
    assert chosen.get_timer() == now + 10000


def test_each_round_begins_with_a_fresh_sort():
    orders = [(1, 2), (2, 1), (1, 2)]

    def sort(addresses):
        return tuple(at(number) for number in orders[0])

    chosen = selection(server(1, 2), sort=sort)
    assert exhaust(chosen, NOW) == [1, 2]
    orders.pop(0)
    now = wait(chosen)[0]
    assert exhaust(chosen, now) == [2, 1]
    orders.pop(0)
    now = wait(chosen)[0]
    assert asked(chosen) == 1


def test_reports_about_another_address_change_nothing():
    chosen = selection(server(1, 2), server(3))
    assert chosen.gave_up(NOW, at(2)) is False
    assert chosen.unreachable(NOW, at(3)) is False
    assert chosen.refused_for_long(NOW, at(3), 1800) is False
    assert asked(chosen) == 1
    empty = Selection(middle)
    assert empty.current is None and not empty.answered and empty.get_timer() is None
    assert empty.gave_up(NOW, at(1)) is False and empty.answered_by(NOW, at(1)) is False
    assert empty.restart(NOW) is False and empty.switch(NOW) is False
    assert empty.handle_timer(NOW) is False and empty.probes() == []


def talk(chosen, end):
    """(ms, number of the address, octets) of all that is sent when nobody ever answers."""
    sent, now, target, client = [], NOW, None, None
    while now <= end:
        if chosen.current != target:
            target, client = chosen.current, None
        if target and client is None:
            client = Client(target.address, SOURCE, Dice(3))
            one = mapping.Mapping(mapping.wish(17, 50000, 100, 3600), NONCE)
            client.add(one)
            one.start(now)
        if client:
            client.handle_timer(now)
            kinds = [event.kind for event in client.events()]
            if mapping.GAVE_UP in kinds and chosen.gave_up(now, target.address):
                continue  # before the fifth request is sent
            sent += [(now, target.address[15], octets) for octets in client.datagrams()]
        chosen.handle_timer(now)
        if chosen.current == target:
            timers = [chosen.get_timer(), client.get_timer() if client else None]
            now = min([at for at in timers if at is not None])
    return sent


def test_each_dead_address_is_asked_four_times_in_three_quarters_of_a_minute_each_round():
    sent = talk(selection(server(1, 2), random_bytes=Dice(2)), NOW + 35 * MINUTE)
    assert [number for _, number, _ in sent] == [1, 1, 1, 1, 2, 2, 2, 2] * 3
    for start in range(0, 24, 4):
        times = [when for when, _, _ in sent[start : start + 4]]
        gaps = [after - before for before, after in zip(times, times[1:])]
        assert 2700 <= gaps[0] <= 3300, gaps
        assert 1.79 * gaps[0] <= gaps[1] <= 2.21 * gaps[0], gaps
        assert 1.79 * gaps[1] <= gaps[2] <= 2.21 * gaps[1], gaps
    for start in (0, 8, 16):
        assert 31000 <= sent[start + 4][0] - sent[start][0] <= 62000
    for last, following in ((7, 8), (15, 16)):
        # The fourth request's own patience, then the wait.
        assert 13.5 * MINUTE <= sent[following][0] - sent[last][0] <= 17.2 * MINUTE


def test_all_addresses_of_a_server_get_the_same_octets():
    sent = talk(selection(server(1, 2), random_bytes=Dice(2)), NOW + 5 * MINUTE)
    assert len({octets for _, _, octets in sent}) == 1


# Who has answered


def test_an_answer_keeps_the_address_and_late_answers_of_others_are_no_answers():
    chosen = selection(server(1, 2))
    chosen.gave_up(NOW, at(1))
    assert chosen.answered_by(NOW, at(1)) is False and not chosen.answered
    assert chosen.answered_by(NOW, at(2)) is True and chosen.answered
    assert asked(chosen) == 2


def test_when_the_one_that_answered_falls_silent_all_are_asked_and_it_comes_last():
    chosen = selection(server(1, 2), server(3))
    chosen.gave_up(NOW, at(1))
    chosen.answered_by(NOW, at(2))
    later = NOW + 100 * MINUTE
    assert exhaust(chosen, later) == [2, 1, 3, 2]
    assert chosen.get_timer() == later + 15 * MINUTE


def test_one_that_answers_and_is_unreachable_in_turn_does_not_make_us_ask_without_pause():
    chosen, asks, now = selection(server(1), server(2)), 0, NOW
    while now < NOW + 10 * MINUTE:
        if asked(chosen) == 1:
            chosen.answered_by(now, at(1))
        if chosen.current:
            asks += 1
            chosen.unreachable(now, chosen.current.address)
        else:
            now = wait(chosen)[0]
    assert asks <= 125, asks  # two for each ten seconds, and those of the first round


def test_a_changed_list_keeps_the_one_that_answered():
    chosen = selection(server(1, 2))
    chosen.answered_by(NOW, at(1))
    assert chosen.set(NOW, [server(9), server(2, 1, 4)]) is False
    assert chosen.current == Target(server(2, 1, 4), at(1)) and chosen.answered


def test_a_list_without_the_current_one_moves_to_its_first():
    chosen = selection(server(1, 2))
    chosen.answered_by(NOW, at(1))
    assert chosen.set(NOW, [server(5), server(2)]) is True
    assert asked(chosen) == 5 and not chosen.answered
    assert chosen.set(NOW, []) is True
    assert chosen.current is None and chosen.get_timer() is None
    assert chosen.set(NOW, [server(2)]) is True
    assert asked(chosen) == 2


def test_who_is_left_alone_is_asked_although_it_failed_before():
    chosen = selection(server(1), server(2))
    chosen.gave_up(NOW, at(1))
    assert chosen.set(NOW, [server(1)]) is True
    assert asked(chosen) == 1


def test_an_empty_list_ends_the_wait_between_rounds():
    chosen = selection(server(1, 2))
    exhaust(chosen, NOW)
    assert chosen.set(NOW, []) is False
    assert chosen.get_timer() is None


def test_who_comes_back_into_the_list_is_new():
    chosen = selection(server(1), server(2), server(3))
    exhaust(chosen, NOW)
    assert chosen.set(NOW, [server(2), server(3)]) is False
    assert chosen.set(NOW, [server(2), server(3), server(1)]) is True
    assert asked(chosen) == 1


def test_one_alone_that_fell_silent_gives_way_to_a_new_and_better_one():
    chosen = selection(server(1))
    chosen.answered_by(NOW, at(1))
    assert chosen.gave_up(NOW, at(1)) is False
    assert chosen.set(NOW, [server(2), server(1)]) is True
    assert asked(chosen) == 2


def test_a_new_and_better_server_is_asked_at_once_while_nobody_has_answered():
    chosen = selection(server(1), server(2))
    chosen.gave_up(NOW, at(1))
    assert chosen.set(NOW, [server(3), server(1), server(2)]) is True
    assert asked(chosen) == 3
    assert exhaust(chosen, NOW) == [3, 2]


def test_the_same_addresses_in_another_order_change_nothing():
    chosen = selection(server(1, 2, 3))
    chosen.gave_up(NOW, at(1))
    for order in ((3, 2, 1), (1, 3, 2), (2, 1, 3), (3, 1, 2)):
        assert chosen.set(NOW, [server(*order)]) is False
        assert asked(chosen) == 2


def test_a_new_server_ends_the_wait_between_rounds():
    chosen = selection(server(1), server(2))
    exhaust(chosen, NOW)
    assert chosen.set(NOW + 1, [server(1), server(2)]) is False
    assert chosen.get_timer() == NOW + 15 * MINUTE
    assert chosen.set(NOW + 1, [server(1), server(2), server(3)]) is True
    assert asked(chosen) == 3


# Refusals


def test_a_long_refusal_passes_the_turn_to_another_server_and_not_to_another_address():
    chosen = selection(server(1, 2), server(3))
    chosen.answered_by(NOW, at(1))
    assert chosen.refused_for_long(NOW, at(1), 299) is False
    assert chosen.refused_for_long(NOW, at(1), 300) is True
    assert asked(chosen) == 3


def test_a_server_that_refused_is_left_out_for_that_time():
    chosen = selection(server(1, 2), server(3), server(4))
    chosen.refused_for_long(NOW, at(1), 3600)
    assert exhaust(chosen, NOW) == [3, 4]
    now = NOW
    for _ in range(3):
        now = wait(chosen)[0]
        assert exhaust(chosen, now) == [3, 4]
    assert now == NOW + 45 * MINUTE
    assert wait(chosen) == (NOW + 60 * MINUTE, True)
    assert asked(chosen) == 1


def test_when_all_refuse_the_first_one_whose_time_is_over_is_asked():
    chosen = selection(server(1), server(2))
    assert chosen.refused_for_long(NOW, at(1), 3600) is True
    assert chosen.refused_for_long(NOW, at(2), 600) is True
    assert chosen.current is None
    assert wait(chosen) == (NOW + 10 * MINUTE, True)
    assert asked(chosen) == 2


def test_one_that_fails_after_its_refusal_is_over_is_left_alone_for_a_quarter_of_an_hour():
    chosen = selection(server(1), server(2))
    chosen.refused_for_long(NOW, at(1), 600)
    chosen.gave_up(NOW, at(2))
    now = wait(chosen)[0]
    assert now == NOW + 10 * MINUTE and asked(chosen) == 1
    chosen.gave_up(now, at(1))
    assert chosen.get_timer() == now + 15 * MINUTE


def test_news_from_the_network_do_not_shorten_refusals_nor_wake_us_in_vain():
    chosen = selection(server(1), server(2))
    chosen.refused_for_long(NOW, at(1), 3600)
    chosen.refused_for_long(NOW, at(2), 3600)
    assert chosen.restart(NOW + 20000) is False
    assert chosen.get_timer() == NOW + 60 * MINUTE


def test_a_refusal_outlives_a_list_that_changes_and_changes_back():
    chosen = selection(server(1), server(2))
    chosen.refused_for_long(NOW, at(1), 3600)
    chosen.set(NOW + MINUTE, [server(2)])
    chosen.set(NOW + 2 * MINUTE, [server(1), server(2)])
    assert exhaust(chosen, NOW + 2 * MINUTE) == [2]
    chosen.set(NOW + 60 * MINUTE, [server(3)])
    chosen.set(NOW + 60 * MINUTE, [server(1), server(2)])
    assert asked(chosen) == 1


def test_refusals_by_ever_new_servers_are_forgotten_when_they_are_too_many():
    chosen = Selection(middle)
    for number in range(2, 200):
        chosen.set(NOW, [server(number), server(1)])
        chosen.refused_for_long(NOW, at(number), 3600)
    chosen.set(NOW, [server(2), server(1)])
    assert asked(chosen) == 2
    chosen.set(NOW, [server(199), server(1)])
    assert asked(chosen) == 1


def test_no_refusal_is_believed_for_more_than_a_day():
    chosen = selection(server(1), server(2))
    chosen.refused_for_long(NOW, at(1), 0xFFFFFFFF)
    chosen.refused_for_long(NOW, at(2), 0xFFFFFFFF)
    assert chosen.get_timer() == NOW + 86400 * 1000


def test_a_new_server_is_asked_although_the_only_other_one_has_refused():
    chosen = selection(server(1))
    chosen.answered_by(NOW, at(1))
    assert chosen.refused_for_long(NOW, at(1), 3600) is False
    assert chosen.set(NOW, [server(1), server(2)]) is True
    assert asked(chosen) == 2


def test_a_refusal_long_after_the_last_round_gives_those_a_turn_who_failed_then():
    chosen = selection(server(1), server(2))
    chosen.gave_up(NOW, at(1))
    chosen.answered_by(NOW, at(2))
    assert chosen.refused_for_long(NOW + 60 * MINUTE, at(2), 600) is True
    assert asked(chosen) == 1
    soon = selection(server(1), server(2))
    soon.gave_up(NOW, at(1))
    assert soon.refused_for_long(NOW + MINUTE, at(2), 600) is True
    assert soon.current is None


# News from the network


def test_a_changed_network_ends_the_wait_between_rounds():
    chosen = selection(server(1), server(2))
    exhaust(chosen, NOW)
    assert chosen.restart(NOW + MINUTE) is True
    assert asked(chosen) == 1


def test_news_without_end_do_not_make_us_ask_without_end():
    chosen, asks = selection(server(1), server(2)), 0
    for now in range(NOW, NOW + MINUTE, 100):
        asks += len(exhaust(chosen, now, "unreachable"))
        chosen.restart(now)
        chosen.handle_timer(now)
    assert asks <= 14, asks


def test_news_disturb_nobody_who_is_being_asked_and_give_the_failed_another_turn():
    chosen = selection(server(1, 2, 3))
    chosen.gave_up(NOW, at(1))
    assert chosen.restart(NOW) is False
    assert exhaust(chosen, NOW) == [2, 1, 3]


# Better servers


def serving_second():
    chosen = selection(server(1, 2), server(3), server(4))
    chosen.gave_up(NOW, at(1))
    chosen.gave_up(NOW, at(2))
    chosen.gave_up(NOW, at(3))
    chosen.answered_by(NOW, at(4))
    return chosen


def probed(chosen):
    return [target.address[15] for target in chosen.probes()]


def test_the_better_servers_are_probed_every_quarter_of_an_hour():
    chosen = serving_second()
    for count in (1, 2, 3):
        assert wait(chosen) == (NOW + 15 * count * MINUTE, False)
        assert probed(chosen) == [1, 2, 3]
        assert probed(chosen) == []
    assert asked(chosen) == 4


def test_the_best_server_probes_nobody_and_neither_does_who_has_no_answer():
    chosen = selection(server(1, 2), server(3))
    chosen.gave_up(NOW, at(1))
    chosen.answered_by(NOW, at(2))
    assert chosen.get_timer() is None
    assert chosen.handle_timer(NOW + 60 * MINUTE) is False and chosen.probes() == []
    chosen.gave_up(NOW, at(2))
    chosen.gave_up(NOW, at(1))
    assert asked(chosen) == 3 and chosen.get_timer() is None


def test_who_answers_a_probe_is_told_once_and_becomes_current_by_a_switch_alone():
    chosen = serving_second()
    now = wait(chosen)[0]
    assert chosen.probe_answered(now, at(3)) is True
    assert chosen.better.address == at(3)
    assert chosen.probe_answered(now, at(3)) is False
    assert asked(chosen) == 4 and chosen.answered
    assert chosen.switch(now) is True
    assert asked(chosen) == 3 and not chosen.answered and chosen.better is None
    assert exhaust(chosen, now) == [3, 4]


def test_a_better_one_is_told_once_however_many_probes_it_answers():
    chosen = serving_second()
    now = wait(chosen)[0]
    assert chosen.probe_answered(now, at(3)) is True
    now = wait(chosen)[0]
    assert chosen.probe_answered(now, at(3)) is False
    assert chosen.better.address == at(3)
    assert chosen.probe_answered(now, at(2)) is True
    assert chosen.better.address == at(2)


def test_a_switch_gives_all_others_another_turn():
    chosen = selection(server(1), server(2), server(3))
    chosen.gave_up(NOW, at(1))
    chosen.gave_up(NOW, at(2))
    chosen.answered_by(NOW, at(3))
    now = wait(chosen)[0]
    chosen.probe_answered(now, at(1))
    assert chosen.switch(now) is True
    assert exhaust(chosen, now) == [1, 2, 3]


def test_a_better_one_that_leaves_the_list_or_ranks_lower_now_is_none_any_more():
    chosen = serving_second()
    now = wait(chosen)[0]
    chosen.probe_answered(now, at(3))
    chosen.set(now, [server(1, 2), server(4), server(3)])
    assert chosen.probe_answered(now, at(2)) is True
    chosen.set(now, [server(4), server(1)])
    assert chosen.better is None and chosen.switch(now) is False
    assert chosen.probe_answered(now, at(1)) is False
    assert asked(chosen) == 4


def test_a_better_one_that_falls_silent_again_is_none_any_more():
    chosen = serving_second()
    now = wait(chosen)[0]
    chosen.probe_answered(now, at(3))
    wait(chosen)
    assert chosen.better.address == at(3)
    now = wait(chosen)[0]
    assert chosen.better is None and chosen.switch(now) is False
    assert chosen.probe_answered(now, at(3)) is True


def test_an_answer_to_a_probe_that_comes_when_nobody_is_asked_any_more_changes_nothing():
    chosen = serving_second()
    now = wait(chosen)[0]
    exhaust(chosen, now)
    assert chosen.probe_answered(now, at(1)) is False
    assert chosen.current is None and chosen.better is None


def test_only_answers_to_a_probe_tell_of_a_better_server():
    chosen = serving_second()
    assert chosen.probe_answered(NOW, at(1)) is False
    now = wait(chosen)[0]
    assert chosen.probe_answered(now, at(4)) is False
    assert chosen.probe_answered(now, at(9)) is False
    assert chosen.better is None


def test_who_refused_is_not_probed_meanwhile():
    chosen = selection(server(1), server(2))
    chosen.refused_for_long(NOW, at(1), 1200)
    chosen.answered_by(NOW, at(2))
    wait(chosen)
    assert probed(chosen) == []
    wait(chosen)
    assert probed(chosen) == [1]


def test_a_new_and_better_server_is_probed_at_once_while_another_serves():
    chosen = selection(server(1))
    chosen.answered_by(NOW, at(1))
    assert chosen.set(NOW, [server(2), server(1), server(3)]) is False
    assert wait(chosen) == (NOW, False)
    assert probed(chosen) == [2]
    assert chosen.probe_answered(NOW, at(2)) is True


def test_probes_are_spread_by_a_tenth():
    for value, minutes in ((0, 13.5), (255, 16.5)):
        chosen = selection(server(1), server(2), random_bytes=ends(value))
        chosen.gave_up(NOW, at(1))
        chosen.answered_by(NOW, at(2))
        assert chosen.get_timer() == NOW + minutes * MINUTE
