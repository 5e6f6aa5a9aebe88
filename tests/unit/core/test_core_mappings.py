"""Several mappings of one client, and what an admin's mapping asks for (RFC 6887 11 and 13, RFC
7753 6.3)."""

from cpe_agent import address
from cpe_agent.pcp import mapping as m
from cpe_agent.pcp import wire
from cpe_agent.pcp.client import Overlap
from cpe_agent.portset import PortSet
from tests.unit.core.bench import EPOCH, OTHER_NONCE, SOURCE, Bench, success

HOST = address.octets("2001:db8:1::80")
PEER = address.octets("198.51.100.0")
WEB = m.wish(6, 8080, 1, 3600)


def options(octets):
    return wire.parse_request(octets).options


def codes(octets):
    return [code for code, _ in options(octets)]


def refused(one, wish):
    try:
        Bench(one).add(wish, nonce=OTHER_NONCE)
    except Overlap as error:
        return str(error)
    return None


def test_internal_ports_never_meet():
    udp = m.wish(17, 50000, 100, 3600)
    assert "50099-50198" in refused(udp, m.wish(17, 50099, 100, 3600))
    assert refused(udp, m.wish(17, 49901, 100, 3600))
    assert refused(udp, m.wish(0, 50050, 2, 3600)), "all protocols are udp too"
    assert refused(m.wish(0, 0, 1024, 3600), WEB), "internal port 0 stands for all ports"
    assert refused(m.wish(0, 1, wire.MAX_PORTS, 3600), WEB)
    assert refused(udp, m.wish(17, 50000, 1, 3600, third_party=SOURCE)), "that is ourselves"
    assert refused(udp, m.wish(17, 50100, 100, 3600)) is None
    assert refused(udp, m.wish(6, 50000, 100, 3600)) is None
    assert refused(udp, m.wish(17, 50000, 100, 3600, third_party=HOST)) is None


def test_a_mapping_that_is_refused_a_place_is_not_asked_for():
    bench = Bench(WEB)
    try:
        bench.add(WEB, nonce=OTHER_NONCE)
    except Overlap:
        pass
    bench.start()
    assert len(bench.sent) == 1 and len(bench.client.mappings) == 1


def test_a_removed_mapping_makes_room_and_hears_nothing_more():
    bench = Bench(WEB).start()
    gone = bench.mapping
    bench.client.remove(gone)
    bench.answer()
    assert gone.grant is None and bench.client.dropped["no such mapping or nonce"] == 1
    bench.add(WEB, nonce=OTHER_NONCE)


def test_a_mapping_for_another_host_names_it_in_request_renewal_and_deletion():
    bench = Bench(m.wish(6, 8080, 1, 3600, third_party=HOST)).start()
    assert options(bench.sent[0][1]) == [(wire.OPT_THIRD_PARTY, HOST)]
    bench.answer(size=None)
    bench.run_to_send()
    bench.mapping.release(bench.now)
    bench.settle()
    assert [codes(octets) for _, octets in bench.sent] == [[wire.OPT_THIRD_PARTY]] * 3


def test_the_source_itself_is_never_a_third_party():
    bench = Bench(m.wish(6, 8080, 1, 3600, third_party=SOURCE)).start()
    assert codes(bench.sent[0][1]) == []


def test_filters_replace_those_that_the_server_has_and_stay_out_of_the_deletion():
    filters = ((120, 0, PEER), (128, 443, HOST))
    bench = Bench(m.wish(6, 8080, 1, 3600, filters=filters)).start()
    found = options(bench.sent[0][1])
    assert [code for code, _ in found] == [wire.OPT_FILTER] * 3
    assert found[0][1] == bytes(20), "prefix length 0 removes what was there"
    assert found[1][1] == bytes([0, 120, 0, 0]) + PEER
    assert found[2][1] == bytes([0, 128, 1, 187]) + HOST
    bench.answer(size=None)
    bench.mapping.release(bench.now)
    bench.settle()
    assert codes(bench.sent[-1][1]) == []


def test_a_request_stays_inside_a_datagram_whatever_is_asked():
    filters = ((120, 0, PEER),) * wire.MAX_FILTERS
    bench = Bench(m.wish(6, 8080, 100, 3600, filters=filters, third_party=HOST)).start()
    assert len(bench.sent[0][1]) <= wire.MAX_LENGTH
    try:
        m.wish(6, 8080, 1, 3600, filters=filters + filters)
    except ValueError:
        return
    raise AssertionError("nine filters")


def test_prefer_failure_is_for_one_suggested_port_alone():
    try:
        m.wish(6, 8080, 2, 3600, prefer_failure=True)
    except ValueError:
        pass
    else:
        raise AssertionError("PREFER_FAILURE with PORT_SET")
    wish = m.wish(6, 8080, 1, 3600, prefer_failure=True)
    assert codes(Bench(wish).start().sent[0][1]) == [], "a server refuses it without a port"
    bench = Bench(wish, known=PortSet("0.0.0.0", 443, 1)).start()
    assert codes(bench.sent[0][1]) == [wire.OPT_PREFER_FAILURE]
    assert wire.parse_request(bench.sent[0][1]).map.external_port == 443
    assert wire.parse_request(bench.sent[0][1]).map.external_ip == wire.ANY_V4


def test_with_prefer_failure_another_port_is_no_answer():
    wish = m.wish(6, 8080, 1, 3600, prefer_failure=True)
    bench = Bench(wish, known=PortSet("0.0.0.0", 443, 1)).start()
    bench.answer(first=444, size=None)
    assert bench.held() is None and bench.kinds() == []
    bench.answer(first=443, size=None)
    assert bench.held().first == 443
    bench.run_to_send()
    bench.answer(first=443, size=None, address="192.0.2.77")
    assert bench.held().address == "192.0.2.3", "now the address is asked for too"
    bench.mapping.release(bench.now)
    bench.run(5)
    assert codes(bench.sent[-1][1]) == [], "a deletion with it is refused"


def test_an_external_address_of_the_other_family_is_not_taken():
    bench = Bench(m.wish(6, 8080, 1, 3600, family=6)).start()
    assert wire.parse_request(bench.sent[0][1]).map.external_ip == wire.ANY_V6
    bench.answer(size=None)
    assert bench.kinds() == [m.UNUSABLE]
    bench.run_to_send()
    bench.answer(first=8080, size=None, address="2001:db8:1::1")
    assert bench.held() == PortSet("2001:db8:1::1", 8080, 1)
    bench.run_to_send()
    again = wire.parse_request(bench.sent[-1][1]).map
    assert again.external_ip == address.octets("2001:db8:1::1") and again.external_port == 8080
    for bad in ("::1", "ff02::1", "fe80::1", "::"):
        bench = Bench(m.wish(6, 8080, 1, 3600, family=6)).start()
        bench.answer(first=8080, size=None, address=bad)
        assert bench.held() is None, bad


def two():
    """A bench with one mapping held and another one to come."""
    bench = Bench(m.wish(6, 8080, 1, 240)).start()
    bench.answer(size=None, lifetime=240)
    bench.add(m.wish(6, 9090, 1, 3600), nonce=OTHER_NONCE)
    return bench


def test_no_resources_holds_back_what_is_new_and_nothing_else():
    bench = two()
    bench.sets[1].start(bench.now)
    bench.settle()
    bench.refuse(wire.NO_RESOURCES, 600, which=1)
    third = bench.add(m.wish(6, 7070, 1, 3600), nonce=b"\xcc" * 12)
    third.start(bench.now)
    count = len(bench.sent)
    bench.run(590)
    assert {wire.parse_request(octets).map.internal_port for _, octets in bench.sent[count:]} == {
        8080
    }, "the renewal of the first, and neither the refused one nor the third"
    bench.run(15)
    ports = [wire.parse_request(octets).map.internal_port for _, octets in bench.sent[count:]]
    assert 9090 in ports and 7070 in ports


def test_no_resources_to_a_deletion_silences_all():
    bench = two()
    bench.sets[1].start(bench.now)
    bench.settle()
    bench.answer(size=None, which=1)
    bench.sets[1].release(bench.now)
    bench.settle()
    bench.refuse(wire.NO_RESOURCES, 200, which=1)
    count = len(bench.sent)
    bench.client.probe(bench.now)
    bench.run(199)
    assert len(bench.sent) == count, "the first one's renewal was due after 150 s at the latest"
    bench.run(2)
    assert len(bench.sent) == count + 1


def test_a_server_that_lost_its_state_is_not_full_any_more():
    bench = two()
    bench.sets[1].start(bench.now)
    bench.settle()
    bench.refuse(wire.NO_RESOURCES, 3600, which=1)
    count = len(bench.sent)
    bench.receive(wire.response(wire.OP_ANNOUNCE, 0, 0, 0))
    bench.run(10)
    ports = {wire.parse_request(octets).map.internal_port for _, octets in bench.sent[count:]}
    assert ports == {8080, 9090}


def test_one_request_may_bring_an_answer_for_each_mapping_that_it_touches():
    """RFC 7753 5.3, at a server that takes our two mappings for one range."""
    bench = Bench(m.wish(17, 100, 1, 3600)).start()
    bench.add(m.wish(17, 101, 99, 3600)).start(bench.now)
    bench.settle()
    bench.answer(first=100, size=None)
    bench.answer(first=201, size=99, which=1)
    bench.run_to_send()
    bench.answer(first=100, size=None)
    bench.answer(first=301, size=99, which=1)
    assert bench.sets[0].grant.port_set.first == 100
    assert bench.sets[1].grant.port_set.first == 301, "though nobody asked for it just now"


def test_a_probe_reads_the_epoch_and_nothing_else():
    bench = Bench(WEB).start()
    bench.answer(size=None)
    bench.client.probe(bench.now)
    bench.settle()
    assert bench.sent[-1][1] == wire.announce_request(SOURCE) and len(bench.sent[-1][1]) == 24
    count = len(bench.sent)
    bench.receive(wire.response(wire.OP_ANNOUNCE, 0, 999, EPOCH + 1))
    bench.run(60)
    assert len(bench.sent) == count
    bench.receive(wire.response(wire.OP_ANNOUNCE, 0, 0, 3))
    bench.run(6)
    assert wire.parse_request(bench.sent[count][1]).map, "an epoch that fell is a loss of state"


def test_all_protocols_are_asked_for_in_the_other_form_when_that_is_allowed():
    for result in (wire.MALFORMED_REQUEST, wire.UNSUPP_PROTOCOL):
        bench = Bench(m.wish(0, 1, 1024, 3600, fallback=True)).start()
        bench.refuse(result, 1800)
        assert bench.kinds() == [m.OTHER_FORM]
        bench.run(5)
        again = wire.parse_request(bench.sent[-1][1])
        assert again.map.internal_port == 0
        assert wire.parse_port_set(again.options[0][1]).first_internal == 0
        bench.answer(first=4096, size=1024)
        assert bench.held().first == 4096
        bench.mapping.release(bench.now)
        bench.run(5)
        assert wire.parse_request(bench.sent[-1][1]).map.internal_port == 0


def test_without_leave_the_refused_form_is_waited_out():
    bench = Bench(m.wish(0, 1, 1024, 3600)).start()
    bench.refuse(wire.MALFORMED_REQUEST, 1800)
    bench.run(1799)
    assert len(bench.sent) == 1


def test_a_server_that_takes_neither_form_is_asked_twice_each_time():
    bench = Bench(m.wish(0, 1, 1024, 3600, fallback=True)).start()
    for _ in range(20):
        bench.refuse(wire.UNSUPP_PROTOCOL, 1800)
        bench.run(5)
        bench.refuse(wire.UNSUPP_PROTOCOL, 1800)
        bench.run(1800)
    assert len(bench.sent) <= 41


def test_a_deletion_is_not_ended_by_an_answer_to_an_earlier_renewal():
    bench = Bench().granted()
    bench.run_to_send()
    bench.mapping.release(bench.now)
    bench.run(5)
    bench.refuse(wire.NOT_AUTHORIZED, 30, port=37056)
    assert bench.mapping.state == m.RELEASING
    bench.refuse(wire.NOT_AUTHORIZED, 30, port=0)
    assert bench.mapping.state == m.IDLE


def test_a_lease_is_not_counted_by_an_epoch_that_jumped_meanwhile():
    """Another mapping's answer told of the jump; ours may be to a request of before."""
    bench = two()
    bench.sets[1].start(bench.now)
    bench.settle()
    bench.run_to_send()
    first = bench.now
    bench.run(5)
    bench.refuse(wire.NO_RESOURCES, 30, which=1, epoch=100000)
    bench.run(5)
    bench.answer(size=None, lifetime=240, epoch=100005)
    assert bench.mapping.grant.expires <= first + 240000


def test_a_deletion_survives_a_server_of_another_version():
    bench = Bench().start()
    bench.mapping.release(bench.now)
    bench.settle()
    bench.receive(bytes([2, 129, 0, 1, 0, 0, 7, 8]))
    assert bench.mapping.state == m.IDLE


def test_a_late_answer_to_a_deletion_does_not_end_what_was_asked_for_since():
    bench = Bench().granted()
    bench.mapping.release(bench.now)
    bench.run(5)
    bench.answer(first=0, size=100, lifetime=0)
    assert bench.mapping.state == m.IDLE
    bench.mapping.start(bench.now)
    bench.run(5)
    bench.answer()
    assert bench.held()
    bench.answer(first=0, size=100, lifetime=0)
    assert bench.held(), "the network doubled it"
    bench.run(60)
    bench.answer(first=0, size=100, lifetime=0)
    assert bench.held() is None, "this one is the server's word"


def test_all_protocols_are_never_asked_for_without_a_set():
    """That would be the whole address (RFC 6887 11.1), so one granted port is renewed, and given
    back, as the set that was asked for."""
    try:
        m.wish(0, 1, 1, 3600)
    except ValueError:
        pass
    else:
        raise AssertionError("one port of all protocols")
    bench = Bench(m.wish(0, 1, 1024, 3600)).start()
    bench.answer(first=4000, size=None)
    assert bench.held().size == 1
    bench.run_to_send()
    bench.mapping.release(bench.now)
    bench.run(5)
    for _, octets in bench.sent:
        [(code, data)] = options(octets)
        assert code == wire.OPT_PORT_SET and wire.parse_port_set(data).size == 1024


def test_internal_ports_beyond_the_last_are_no_grant():
    bench = Bench(m.wish(17, 50000, 100, 3600)).start()
    bench.answer(size=32, first_internal=65530)
    assert bench.held() is None and bench.kinds() == [m.UNUSABLE]


def test_a_set_whose_internal_ports_are_not_those_asked_for_is_renewed_with_the_size_asked_for():
    """With the granted size, internal ports 16384-16639 would be another set than 16640-16895."""
    bench = Bench(m.wish(0, 16384, 1024, 3600)).start()
    bench.answer(first=16640, size=256, first_internal=16640)
    bench.run_to_send()
    assert bench.sent_size() == 1024
    bench.answer(first=16640, size=256, first_internal=16640)
    assert bench.kinds() == [m.GRANTED, m.RENEWED]


def test_a_set_that_the_server_lost_and_refuses_to_give_again_is_given_up():
    for how in ("announcement", "epoch of the refusal", "icmp"):
        bench = Bench(m.wish(0, 1, 1024, 3600)).granted(lifetime=86400)
        bench.run_to_send()
        if how == "announcement":
            bench.answer(lifetime=86400)
            bench.receive(wire.response(wire.OP_ANNOUNCE, 0, 0, 0))
            bench.run(6)
        elif how == "icmp":
            bench.client.binding_lost(bench.now)
            bench.run(6)
        assert bench.held()
        epoch = 1 if how == "epoch of the refusal" else None
        bench.refuse(wire.NO_RESOURCES, 30, epoch=epoch)
        assert bench.held() is None and m.LOST in bench.kinds(), how
        bench.run(31)
        bench.answer(lifetime=86400)
        assert bench.held(), how


def test_a_refused_renewal_of_a_server_that_lost_nothing_leaves_the_set():
    bench = Bench(m.wish(0, 1, 1024, 3600)).granted(lifetime=86400)
    bench.receive(wire.response(wire.OP_ANNOUNCE, 0, 0, 0))
    bench.run(6)
    bench.answer(lifetime=86400, epoch=6)
    bench.run_to_send()
    bench.refuse(wire.NO_RESOURCES, 30, epoch=6 + (bench.now - bench.sent[1][0]) // 1000)
    assert bench.held(), "the server has given it again since"


def test_an_address_of_the_other_family_is_not_suggested():
    known = PortSet("192.0.2.3", 8080, 1)
    bench = Bench(m.wish(6, 8080, 1, 3600, family=6), known=known).start()
    assert wire.parse_request(bench.sent[0][1]).map.external_ip == wire.ANY_V6


def test_a_copy_of_an_answer_that_came_too_late_is_no_update():
    bench = Bench(m.wish(0, 1, 1024, 120)).start()
    while bench.client.get_timer() < bench.now + 60000:
        bench.run_to_send()
    bench.run(45)
    late = bench.epoch() - 44
    bench.answer(lifetime=40, epoch=late)
    assert bench.kinds()[-1] == m.UNUSABLE
    bench.answer(lifetime=40, epoch=late)
    assert bench.held() is None, bench.kinds()


def test_who_has_another_server_can_go_there_after_four_transmissions():
    bench = Bench(WEB).start()
    while m.GAVE_UP not in bench.kinds():
        bench.now = bench.client.get_timer()
        bench.client.handle_timer(bench.now)
        bench.events += [(bench.now, event) for event in bench.client.events()]
        bench.sent += [(bench.now, octets) for octets in bench.client.datagrams()]
    assert len(bench.sent) == 4
    bench.client.remove(bench.mapping)
    bench.run(3600)
    assert len(bench.sent) == 4


def test_the_second_copy_of_a_late_answer_is_no_fresher_than_the_first():
    """The first one changed what epoch was heard last (RFC 6887 8.5)."""
    bench = Bench(m.wish(6, 80, 1, 7200)).granted(size=None, first=1088, lifetime=7200)
    bench.run(3700)
    same = success(bench, size=None, first=1088, lifetime=6000)
    other = success(bench, size=None, first=1089, lifetime=6000)
    promised = bench.now + 6000000
    bench.refuse(10, 30)
    bench.run(14)
    bench.mapping.renew(bench.now)
    bench.settle()
    for octets in (other, other, same, same):
        bench.receive(octets)
        bench.run(0.25)
        assert bench.held().first == 1088, "an old datagram may tell of an old set"
    assert bench.mapping.grant.expires <= promised


def test_a_server_whose_clock_was_set_back_a_little_is_believed_again():
    bench = Bench(m.wish(0, 1, 1024, 3600)).granted(lifetime=3600)
    bench.run_to_send()
    bench.answer(lifetime=3600, epoch=bench.epoch() - 20)
    bench.epoch_zero += 20000
    for _ in range(3):
        bench.run(40)
        if bench.mapping.unanswered:
            bench.answer(lifetime=3600, first=40960)
    bench.run_to_send()
    bench.answer(lifetime=3600, first=40960)
    assert bench.held().first == 40960
    count = len(bench.sent)
    bench.run(1500)
    assert len(bench.sent) == count
