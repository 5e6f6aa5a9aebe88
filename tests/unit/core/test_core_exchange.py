"""Asking, being granted, renewing, expiring: what a peer sees and what the router then holds."""

from cpe_agent.pcp import client as c
from cpe_agent.pcp import mapping as m
from cpe_agent.pcp import wire
from cpe_agent.portset import PortSet
from tests.unit.core import vectors
from tests.unit.core.bench import Bench, Dice, success

SET = PortSet("192.0.2.3", 37056, 32)
MAX = m.wish(0, 1, 65535, 3600)
LONGEST_WAY = 60  # s; more than an answer is on its way


def near(value, low, high):
    assert low <= value <= high, (value, low, high)


def test_the_first_request_is_the_one_of_rfc_7753_5_1():
    bench = Bench().start()
    assert [octets for _, octets in bench.sent] == [vectors.E1]


def test_the_first_request_for_everything_is_the_one_of_rfc_7753_5_2():
    assert Bench(MAX).start().sent[0][1] == vectors.E3
    assert Bench(m.wish(0, 0, 65535, 3600)).start().sent[0][1] == vectors.E15


def test_the_grant_of_rfc_7753_5_1_is_held_and_renewed_by_its_own_values():
    bench = Bench().start()
    bench.receive(vectors.E2)
    assert bench.kinds() == [m.GRANTED] and bench.held() == SET
    assert bench.mapping.state == m.HELD
    bench.run_to_send()
    assert bench.sent[1][1] == vectors.E6


def test_the_grant_of_rfc_7753_5_2_is_renewed_as_a_wish_for_everything():
    bench = Bench(MAX).start()
    bench.receive(vectors.E4)
    assert bench.held() == PortSet("192.0.2.5", 26624, 2048)
    assert bench.mapping.grant.first_internal == 26624
    request = bench.run_to_send()
    assert (request.map.external_port, request.map.external_ip[12:]) == (26624, b"\xc0\0\2\5")
    assert bench.sent_size() == 65535


def test_a_partial_grant_with_other_internal_ports_is_renewed_by_its_size():
    bench = Bench(MAX).granted(size=32, first=37056, first_internal=1)
    bench.run_to_send()
    assert bench.sent_size() == 32
    assert bench.last().map.internal_port == 1


def test_a_narrowed_mapping_leaves_the_other_internal_ports_to_others():
    bench = Bench(MAX).granted(size=2048, first=26624, first_internal=26624)
    assert bench.mapping.narrow()
    bench.run_to_send()
    assert (bench.last().map.internal_port, bench.sent_size()) == (26624, 2048)
    bench.add(m.wish(0, 1024, 2048, 3600))  # no Overlap


def test_a_narrowed_mapping_hears_of_a_move_under_its_name_of_before():
    """The server has not been asked by the new internal port yet."""
    bench = Bench(MAX).granted(size=2048, first=26624, first_internal=26624)
    assert bench.mapping.narrow()
    bench.run(LONGEST_WAY)
    bench.answer(size=2048, first=40960, first_internal=40960, internal_port=1)
    assert bench.held() == PortSet("192.0.2.3", 40960, 2048)
    assert m.CHANGED in bench.kinds()
    bench.run_to_send()
    assert (bench.last().map.internal_port, bench.sent_size()) == (40960, 2048)
    bench.answer(size=2048, first=40960, first_internal=40960)
    bench.run(LONGEST_WAY)
    bench.answer(size=2048, first=26624, first_internal=26624, internal_port=1)
    assert bench.held().first == 40960, "that name is nobody's any more"


def test_the_internal_ports_of_a_narrowed_mapping_follow_those_of_the_server():
    bench = Bench(MAX).granted(size=2048, first=26624, first_internal=26624)
    assert bench.mapping.narrow()
    bench.run_to_send()
    bench.answer(size=2048, first=26624, first_internal=26624)
    bench.run(LONGEST_WAY)
    bench.answer(size=2048, first=40960, first_internal=40960)
    bench.answer(size=2048, first=40960, first_internal=40960, internal_port=26624)  # its copy
    bench.run_to_send()
    assert (bench.last().map.internal_port, bench.sent_size()) == (40960, 2048)
    assert bench.kinds().count(m.CHANGED) == 1


def test_a_narrowed_mapping_of_one_port_never_asks_for_the_whole_address():
    bench = Bench(MAX).granted(size=1, first=26624, first_internal=1)
    assert bench.mapping.narrow()
    bench.run_to_send()
    assert (bench.last().map.internal_port, bench.sent_size()) == (1, 2)


def test_what_cannot_be_narrowed_is_left_as_it_is():
    bench = Bench(MAX).start()
    assert not bench.mapping.narrow()  # nothing is held
    bench = Bench(m.wish(0, 0, 65535, 3600)).granted(size=32, first=37056, first_internal=0)
    assert not bench.mapping.narrow()  # internal port 0 stands for all
    bench = Bench(MAX).granted(size=1, first=26624, first_internal=65535)
    assert not bench.mapping.narrow()  # there is no second port after that
    bench.run_to_send()
    assert bench.last().map.internal_port == 1


def test_a_renewal_never_asks_for_more_than_was_wished():
    bench = Bench(m.wish(17, 50000, 16, 3600), known=SET)
    bench.start()
    assert bench.sent_size() == 16


def test_two_mappings_are_answered_one_by_one_as_in_rfc_7753_5_3():
    bench = Bench(m.wish(17, 100, 1, 3600))
    other = bench.add(m.wish(17, 101, 99, 3600))
    bench.start()
    assert len(bench.sent) == 2
    bench.receive(vectors.E5B)
    assert bench.held() == PortSet("192.0.2.3", 100, 1) and other.grant is None
    bench.receive(vectors.E5C)
    assert other.grant.port_set == PortSet("192.0.2.3", 201, 99)
    assert bench.held() == PortSet("192.0.2.3", 100, 1)


def test_an_answer_for_a_mapping_nobody_has_is_dropped():
    bench = Bench(m.wish(17, 100, 1, 3600)).start()
    bench.receive(vectors.E5C)
    assert bench.mapping.state == m.ASKING and bench.kinds() == []


def test_a_single_port_is_asked_for_without_port_set():
    bench = Bench(m.wish(17, 50000, 1, 3600)).start()
    assert len(bench.sent[0][1]) == 60


def test_parity_is_asked_for_when_it_is_wished():
    assert Bench(m.wish(17, 50000, 100, 3600, True)).start().sent[0][1][68] == 1


def test_a_wish_does_not_pass_port_65535():
    assert m.wish(17, 50000, 65535, 60).size == 15536
    assert m.wish(17, 65535, 9, 60).size == 1
    assert m.wish(0, 1, 65535, 60).size == 65535
    assert m.wish(0, 0, 65535, 60).size == 65535


def test_one_port_without_the_option_is_a_grant_of_one_port():
    bench = Bench().granted(size=None, first=4000)
    assert bench.held() == PortSet("192.0.2.3", 4000, 1)
    bench.run_to_send()
    assert len(bench.sent[-1][1]) == 60, "no PORT_SET when one port is renewed"


def test_one_port_is_no_proof_that_the_server_knows_no_sets():
    bench = Bench().granted(size=None, first=4000)
    bench.run(3604)
    assert bench.kinds()[-1] == m.LOST
    assert bench.sent_size() == 100


def test_the_lifetime_that_was_granted_rules():
    for lifetime, low, high in ((240, 120, 150), (86400, 43200, 54000)):
        bench = Bench().granted(lifetime=lifetime)
        before = bench.now
        bench.run_to_send()
        near(bench.now - before, low * 1000, high * 1000)


def test_the_lifetime_counts_from_the_request_so_that_it_never_outlasts_the_servers():
    bench = Bench()
    bench.start()
    asked = bench.now
    bench.now += 2500  # a slow network
    bench.answer(lifetime=240)
    assert bench.mapping.grant.expires == asked + 240000


def test_a_grant_that_was_over_before_it_came_is_not_used():
    bench = Bench()
    bench.start()
    bench.now += 2500
    bench.answer(lifetime=2)
    assert bench.held() is None and bench.kinds() == [m.UNUSABLE]


def test_an_absurd_lifetime_is_treated_as_a_day():
    bench = Bench().granted(lifetime=0xFFFFFFFF)
    before = bench.now
    assert bench.mapping.grant.expires == before + 86400000
    bench.run_to_send()
    near(bench.now - before, 43200000, 54000000)


def test_a_renewal_that_is_answered_touches_nothing_and_starts_the_ladder_again():
    bench = Bench().granted()
    bench.run_to_send()
    bench.answer()
    assert bench.kinds() == [m.GRANTED, m.RENEWED] and bench.held() == SET
    before = bench.now
    assert bench.mapping.grant.expires == before + 3600000
    bench.run_to_send()
    near(bench.now - before, 1800000, 2250000)


def test_unanswered_renewals_follow_the_windows_and_end_with_the_lifetime():
    for seed in range(20):
        bench = Bench(seed=seed).granted(lifetime=3600)
        begin = bench.now
        bench.run(3599)
        offsets = [(at - begin) / 1000 for at, _ in bench.sent[1:]]
        windows = ((1800, 2250), (2700, 2925), (3150, 3262.5), (3375, 3431.25), (3487.5, 3515.7))
        for offset, (low, high) in zip(offsets, windows):
            near(offset, low, high)
        assert 8 <= len(offsets) <= 10, offsets
        assert min(bench.gaps()) >= 4000
        assert bench.kinds() == [m.GRANTED, m.SILENT] and bench.held() == SET
        bench.run(1)
        assert bench.kinds() == [m.GRANTED, m.SILENT, m.LOST] and bench.held() is None


def test_after_the_end_asking_starts_again_at_three_seconds_for_the_same_set():
    bench = Bench().granted(lifetime=120)
    bench.run(119.9)
    bench.sent.clear()
    bench.run(60)
    first, second = bench.sent[:2]
    near(second[0] - first[0], 2700, 3300)
    assert first[1] == second[1] == vectors.E6


def test_an_expired_set_is_asked_for_at_once_but_not_on_the_heels_of_a_renewal():
    for seed in range(50):
        bench = Bench(seed=seed).granted(lifetime=120)
        bench.run(150)
        assert min(bench.gaps()) >= 2700, (seed, bench.gaps())
        lost = min([at for at, event in bench.events if event.kind == m.LOST])
        after = [at for at, _ in bench.sent if at >= lost]
        assert after[0] - lost <= 4000
        before = [at for at, _ in bench.sent if at < lost]
        assert after[0] - before[-1] >= 4000, seed


def test_a_server_that_grants_a_second_at_a_time_makes_no_flood():
    bench = Bench().start()
    begin = bench.now
    while bench.now < begin + 600000:
        if bench.mapping.unanswered:
            bench.answer(lifetime=1)
        bench.run(0.5)
    assert len(bench.sent) <= 151, len(bench.sent)
    assert min(bench.gaps()) >= 4000, min(bench.gaps())


def test_a_silent_server_is_asked_again_and_again_with_the_same_octets():
    for seed in range(20):
        bench = Bench(seed=seed).start()
        bench.run(4 * 3600)
        assert {octets for _, octets in bench.sent} == {vectors.E1}
        near(bench.gaps()[0], 2700, 3300)
        for before, after in zip(bench.gaps(), bench.gaps()[1:]):
            assert 1.79 * before <= after <= 2.21 * before or after >= 921600
        assert max(bench.gaps()) <= 1126400
        assert len(bench.sent) >= 18
        kinds = bench.kinds()
        assert kinds.count(m.SILENT) == 1, "silence is told once"
        assert kinds.count(m.GAVE_UP) == (len(bench.sent) - 1) // 4


def test_two_routers_do_not_keep_step():
    sequences = {tuple(run(seed)) for seed in range(10)}
    assert len(sequences) == 10


def run(seed):
    bench = Bench(seed=seed).start()
    bench.run(100)
    return bench.gaps()


def test_an_answer_stops_retransmission():
    bench = Bench().start()
    bench.run(30)
    count = len(bench.sent)
    assert count == 4 or count == 5
    bench.answer()
    bench.run(1700)
    assert len(bench.sent) == count


def test_a_grant_that_comes_twice_or_thrice_is_one_grant():
    bench = Bench().start()
    for _ in range(3):
        bench.receive(vectors.E2)
    assert bench.kinds() == [m.GRANTED] and bench.client.dropped[c.REPEATED] == 2
    assert len(bench.sent) == 1


def test_a_copy_of_an_answer_is_no_answer_to_the_next_request():
    bench = Bench().start()
    answer = success(bench)
    bench.receive(answer)
    expires = bench.mapping.grant.expires
    bench.mapping.renew(bench.now)
    bench.run(5)
    assert len(bench.sent) == 2
    bench.receive(answer)  # doubled by the network
    assert bench.mapping.grant.expires == expires and bench.mapping.unanswered
    assert bench.kinds() == [m.GRANTED], "nor does it look like a server that lost its state"


def test_an_old_answer_that_comes_late_does_not_stretch_the_lease():
    bench = Bench().granted()
    bench.run(60)
    bench.mapping.renew(bench.now)
    bench.run(8)  # it is sent twice; the answer to the second comes first
    old = bench.epoch() - 8
    bench.answer()
    bench.mapping.renew(bench.now)
    bench.run(6)
    expires = bench.mapping.grant.expires
    assert bench.mapping.unanswered
    bench.answer(epoch=old)
    assert bench.mapping.grant.expires == expires, "it is asked about, not believed"
    bench.run(5)
    bench.answer()
    bench.run(5)
    bench.answer()
    assert not bench.mapping.unanswered and bench.kinds()[-1] == m.RENEWED


def test_an_answer_to_one_of_several_requests_counts_from_the_first_that_it_can_be_to():
    bench = Bench().start()
    first = bench.now
    bench.run(12)  # two more go out
    assert len(bench.sent) == 3
    bench.answer(lifetime=600)
    assert bench.mapping.grant.expires == first + 600000
    bench.run_to_send()
    bench.run(170)  # and once more, minutes later
    assert bench.mapping.unanswered == 2
    bench.answer(lifetime=600)
    assert bench.mapping.grant.expires == bench.mapping.last_sent + 600000


def test_another_set_replaces_the_old_one_and_names_it():
    bench = Bench().granted()
    bench.run_to_send()
    bench.answer(first=40960, address="198.51.100.7")
    assert bench.held() == PortSet("198.51.100.7", 40960, 32)
    event = bench.events[-1][1]
    assert event.kind == m.CHANGED and event.detail.port_set == SET
    bench.run_to_send()
    assert bench.last().map.external_port == 40960


def test_a_mapping_update_moves_the_set_without_a_request():
    bench = Bench().granted()
    bench.run(60)
    for _ in range(3):
        bench.answer(first=40960)
    assert bench.kinds() == [m.GRANTED, m.CHANGED]
    assert len(bench.sent) == 1


def test_a_bare_update_of_the_held_set_refreshes_it_and_does_not_shrink_it():
    bench = Bench().granted()
    bench.run(60)
    bench.answer(size=None, lifetime=1200)
    assert bench.held() == SET
    assert bench.now + 1170000 <= bench.mapping.grant.expires <= bench.now + 1200000
    assert bench.kinds() == [m.GRANTED, m.RENEWED] and len(bench.sent) == 1


def test_the_three_copies_of_a_bare_update_are_one():
    bench = Bench().granted()
    bench.run(60)
    for _ in range(3):  # RFC 6887 14.2
        bench.answer(size=None, lifetime=1200)
    assert bench.kinds() == [m.GRANTED, m.RENEWED] and bench.client.dropped[c.REPEATED] == 2


def test_a_bare_update_to_another_set_is_not_believed_but_asked_about():
    bench = Bench().granted()
    bench.run(60)
    for change in ({"first": 40960}, {"address": "198.51.100.7"}):
        bench.sent.clear()
        bench.answer(size=None, **change)
        assert bench.held() == SET
        bench.run(2)
        assert len(bench.sent) == 1 and bench.sent_size() == 32
        bench.answer()
        assert bench.held() == SET
        bench.run(10)


def test_the_answer_to_a_renewal_may_shrink_the_set_to_one_port():
    bench = Bench().granted()
    bench.run_to_send()
    bench.answer(size=None, first=40960)
    assert bench.held() == PortSet("192.0.2.3", 40960, 1)


def test_a_refusal_is_followed_by_a_late_grant():
    bench = Bench().start()
    bench.refuse(8, 30)
    bench.run(3)
    bench.answer()
    assert bench.mapping.state == m.HELD and bench.held() == SET
    bench.run(600)
    assert len(bench.sent) == 1


def test_a_set_known_from_before_is_suggested():
    bench = Bench(known=SET).start()
    assert bench.sent[0][1] == vectors.E6
    bench = Bench(MAX, PortSet("192.0.2.5", 26624, 2048), first_internal=26624).start()
    assert bench.last().map.external_port == 26624 and bench.sent_size() == 65535


def test_a_suggestion_is_only_a_suggestion():
    bench = Bench(known=SET).start()
    bench.answer(first=50000, address="198.51.100.9", size=8)
    assert bench.held() == PortSet("198.51.100.9", 50000, 8)


def test_a_lease_that_is_adopted_after_a_restart_is_used_and_renewed_at_once():
    bench = Bench(known=SET, first_internal=50000)
    grant = m.Grant(SET, 50000, 3600, bench.now - 600000, bench.now + 3000000)
    bench.start(grant)
    assert bench.mapping.state == m.HELD and bench.sent[0][1] == vectors.E6
    bench.answer()
    assert bench.kinds() == [m.RENEWED]


def test_a_lease_that_is_adopted_while_the_server_is_silent_is_asked_about_like_a_first_time():
    bench = Bench(known=SET, first_internal=50000)
    bench.start(m.Grant(SET, 50000, 3600, bench.now - 60000, bench.now + 3540000))
    bench.run(60)
    assert 4 <= len(bench.sent) <= 6 and bench.gaps()[0] >= 4000
    assert bench.mapping.state == m.HELD


def test_a_lease_that_ended_while_the_agent_was_away_is_lost_first():
    bench = Bench(known=SET, first_internal=50000)
    bench.start(m.Grant(SET, 50000, 3600, bench.now - 3600000, bench.now))
    assert bench.kinds() == [m.LOST] and bench.held() is None
    assert bench.sent[0][1] == vectors.E6


def test_renew_on_demand_keeps_four_seconds_of_distance():
    bench = Bench().granted()
    for _ in range(100):
        bench.mapping.renew(bench.now)
        bench.settle()
        bench.run(0.1)
    assert min(bench.gaps()) >= 4000
    assert 3 <= len(bench.sent) <= 4


def test_renew_on_demand_says_when_it_will_ask():
    bench = Bench().granted()
    bench.run(1)
    at = bench.mapping.renew(bench.now)
    assert 3000 <= at - bench.now <= 3100
    bench.run_to_send()
    assert bench.sent[1] == (at, vectors.E6)


def test_a_grant_that_cannot_be_used_leaves_the_old_one():
    bad = (
        {"address": "0.0.0.0"},
        {"address": "127.0.0.1"},
        {"address": "224.0.0.1"},
        {"address": "255.255.255.255"},
        {"first": 0},
        {"first": 0, "size": None},
        {"first": 65530, "size": 32},
        {"size": 33, "first": 37057},
        {"external_ip": wire.ANY_V6},
        {"external_ip": b"\x20\x01\x0d\xb8" + b"\0" * 11 + b"\x09"},
        {"external_ip": b"\x20\x01\x0d\xb8" + b"\0" * 6 + b"\xff\xff\xc0\0\2\3"},
        {"options": wire.option(130, b"\0\x20\xc3\x50")},
        {"options": wire.option(130, b"\0\x20\xc3\x50\0\0")},
        {"options": wire.option(130, b"\0\0\xc3\x50\0")},
    )
    for change in bad:
        bench = Bench(m.wish(17, 50000, 32, 3600)).granted()
        bench.run_to_send()
        bench.answer(**change)
        assert bench.held() == SET, change
        assert bench.kinds() == [m.GRANTED, m.UNUSABLE], change
        assert isinstance(bench.events[-1][1].detail, str) and bench.events[-1][1].detail
        count = len(bench.sent)
        bench.run(29.9)
        assert len(bench.sent) == count, change
        bench.run(5)
        assert len(bench.sent) == count + 1, change


def test_a_success_without_life_ends_a_held_set_at_once_and_says_nothing_to_who_asks():
    bench = Bench().granted()
    bench.receive(success(bench, 32, 37056, "192.0.2.3", 0))
    assert bench.held() is None and bench.kinds()[-2:] == [m.GRANTED, m.LOST]
    bench = Bench()
    bench.start()
    bench.receive(success(bench, None, 0, "0.0.0.0", 0))  # a late answer to a release
    assert bench.held() is None and bench.kinds() == []


def test_a_server_that_chokes_on_port_set_is_asked_for_one_port_without_it():
    for result in (wire.MALFORMED_OPTION, wire.UNSUPP_OPTION):
        bench = Bench(m.wish(17, 50000, 32, 3600))
        bench.start()
        assert bench.sent_size() == 32
        bench.refuse(result, 1800)
        bench.run(5)
        assert bench.sent_size() is None, "the refused request is not repeated"
        bench.answer(size=None, first=4000)
        assert bench.held().size == 1
        bench.run_to_send()
        assert bench.sent_size() is None


def test_all_protocols_are_never_asked_for_without_port_set():
    bench = Bench(MAX)
    bench.start()
    bench.refuse(wire.MALFORMED_OPTION, 1800)
    bench.run(1700)
    assert len(bench.sent) == 1


def test_a_server_that_announces_itself_is_asked_within_five_seconds():
    bench = Bench()
    bench.start()
    bench.run(900)  # silence has made the client slow
    count = len(bench.sent)
    bench.receive(wire.response(wire.OP_ANNOUNCE, 0, 0, 7))
    bench.run(5.1)
    assert len(bench.sent) == count + 1


def test_a_grant_that_cannot_be_used_is_no_grant():
    bench = Bench().start()
    bench.answer(address="0.0.0.0")
    assert bench.held() is None and bench.kinds() == [m.UNUSABLE]
    for _ in range(100):
        bench.run_to_send()
        bench.answer(address="0.0.0.0")
    assert min(bench.gaps()) >= 29000
    assert bench.now - bench.sent[0][0] > 100 * 900 * 1000 * 0.8, "it backs off"


def test_more_ports_than_asked_for_are_taken_when_they_are_the_ones_we_had():
    big = PortSet("192.0.2.3", 37000, 200)
    bench = Bench(known=big).start()
    bench.answer(size=200, first=37000)
    assert bench.held() == big


def test_ports_to_the_very_last_one_can_be_granted():
    assert Bench().granted(first=65504, size=32).held() == PortSet("192.0.2.3", 65504, 32)


def test_no_timer_means_nothing_to_do():
    bench = Bench()
    assert bench.client.get_timer() is None
    bench.settle()
    bench.client.handle_timer(bench.now)
    assert bench.sent == []


def test_random_bytes_are_the_only_source_of_chance():
    first, second = Bench(seed=5).start(), Bench(seed=5).start()
    first.run(3600)
    second.run(3600)
    assert first.sent == second.sent and Dice(5)(64) == Dice(5)(64)
