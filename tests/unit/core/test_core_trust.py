"""Whom the client believes: source, port, version, length, nonce (RFC 6887 8.3, 11.4, 9)."""

from cpe_agent.pcp import client as c
from cpe_agent.pcp import mapping as m
from cpe_agent.pcp import wire
from tests.unit.core import vectors
from tests.unit.core.bench import (
    EPOCH,
    OTHER_NONCE,
    SERVER,
    STRANGER,
    Bench,
    announcement,
    refusal,
    success,
)


def snapshot(bench):
    one = bench.mapping
    return (one.state, one.grant, one.known, one.send_at, one.unanswered, bench.client.epoch.server)


def ignored(bench, octets, reason, address=SERVER, port=wire.SERVER_PORT):
    """The datagram must change nothing but one counter."""
    before, counts = snapshot(bench), dict(bench.client.dropped)
    events, sent = len(bench.events), len(bench.sent)
    bench.receive(octets, address, port)
    assert snapshot(bench) == before
    assert (len(bench.events), len(bench.sent)) == (events, sent)
    counts[reason] += 1
    assert bench.client.dropped == counts, bench.client.dropped


def states():
    """Benches in the states that a stranger could want to disturb."""
    asking, held, renewing, refused = Bench().start(), Bench().granted(), Bench().granted(), Bench()
    renewing.run_to_send()
    refused.start()
    refused.refuse(10, 30)
    released = Bench().granted()
    released.mapping.release(released.now)
    released.settle()
    return asking, held, renewing, refused, released


def test_the_right_words_from_another_address_or_port_are_ignored():
    for bench in states():
        for octets in (success(bench), refusal(bench, 2, 60), announcement(0), vectors.E13):
            ignored(bench, octets, c.FOREIGN, STRANGER)
            ignored(bench, octets, c.FOREIGN, port=5350)
            ignored(bench, octets, c.FOREIGN, port=5352)


def test_another_nonce_protocol_or_internal_port_is_ignored_whatever_it_says():
    wrong = (
        {"nonce": OTHER_NONCE},
        {"nonce": bytes(range(11)) + b"\x0c"},
        {"nonce": b"\x01" + bytes(range(1, 12))},
        {"protocol": 6},
        {"protocol": 0},
        {"internal_port": 50001},
        {"internal_port": 0},
    )
    for change in wrong:
        for bench in states():
            ignored(bench, success(bench, **change), c.UNMATCHED)
            ignored(bench, success(bench, lifetime=0, **change), c.UNMATCHED)
            ignored(bench, success(bench, epoch=0, **change), c.UNMATCHED)
    for bench in states():
        ignored(bench, refusal(bench, 2, 60, nonce=OTHER_NONCE), c.UNMATCHED)
        ignored(bench, refusal(bench, 8, 60, epoch=0, nonce=OTHER_NONCE), c.UNMATCHED)


def test_the_external_side_is_no_part_of_the_match():
    for change in ({"first": 1024}, {"address": "203.0.113.1"}, {"first_internal": 9}):
        bench = Bench().start()
        bench.answer(**change)
        assert bench.kinds() == [m.GRANTED], change


def test_a_thousand_guessed_nonces_get_nowhere():
    bench = Bench().start()
    for number in range(1000):
        guess = (number * 0x9E3779B97F4A7C15 & (1 << 96) - 1).to_bytes(12, "big")
        if guess != bench.mapping.nonce:
            bench.receive(success(bench, nonce=guess))
    assert bench.mapping.state == m.ASKING and bench.kinds() == [] and len(bench.sent) == 1
    assert bench.client.dropped[c.UNMATCHED] == 1000


def test_datagrams_that_are_no_responses_are_ignored():
    good = vectors.E2
    bad = [good[:length] for length in range(60)]
    bad += [good[:61], good[:66], good[:71], good + b"\0", good[:60] + b"\0" * 1044]
    bad += [vectors.E1, vectors.E11]
    bad += [bytes([version]) + good[1:] for version in (0, 1, 3, 255)]
    bad.append(b"\2\x82" + good[2:])  # PEER, which was never sent
    bad.append(b"\2\xff" + good[2:])
    bad.append(good[:60] + b"\x82\0\0\xff" + good[64:])
    for octets in bad:
        for bench in states():
            ignored(bench, octets, c.MALFORMED)


def test_an_announcement_that_is_an_error_announces_nothing():
    for result in (2, 4, 255):
        for bench in states():
            ignored(bench, bytes([2, 0x80, 0, result]) + vectors.E12[4:], c.MALFORMED)


def test_reserved_bits_do_not_matter():
    for offset in (2, 12, 17, 23, 37, 38, 39, 61, 69):
        octets = bytearray(vectors.E2)
        octets[offset] = 0xFF
        bench = Bench().start()
        bench.receive(bytes(octets))
        assert bench.kinds() == [m.GRANTED], offset
    octets = bytearray(vectors.E2)
    octets[68] = 0xFE
    bench = Bench().start()
    bench.receive(bytes(octets))
    assert bench.kinds() == [m.GRANTED]


def test_options_nobody_asked_for_are_skipped():
    extra = wire.option(5, b"mandatory") + wire.option(128, b"abc") + wire.option(2)
    bench = Bench().start()
    bench.answer(options=extra + wire.port_set_option(32, 50000) + extra)
    assert bench.held().size == 32


def test_a_second_answer_with_another_nonce_cannot_end_a_release():
    bench = Bench().granted()
    bench.mapping.release(bench.now)
    bench.settle()
    ignored(bench, success(bench, lifetime=0, nonce=OTHER_NONCE), c.UNMATCHED)
    bench.receive(success(bench, lifetime=0))
    assert bench.mapping.state == m.IDLE


def test_the_epoch_of_a_forged_answer_is_not_remembered():
    bench = Bench().granted()
    ignored(bench, success(bench, epoch=7, nonce=OTHER_NONCE), c.UNMATCHED)
    ignored(bench, refusal(bench, 2, 9, epoch=7, nonce=OTHER_NONCE), c.UNMATCHED)
    bench.run(10)
    assert bench.client.epoch.server == EPOCH and len(bench.sent) == 1


def test_the_nonce_is_in_no_text_and_in_no_counter():
    bench = Bench().start()
    bench.receive(vectors.E13)
    bench.answer(address="0.0.0.0")
    bench.answer()
    bench.run(30)
    bench.answer(epoch=0)
    bench.receive(announcement(0))
    bench.client.binding_lost(bench.now)
    bench.settle()
    bench.run(7200)
    seen = [text for _, event in bench.events for text in (event.kind, event.detail)]
    texts = " ".join([text for text in seen if isinstance(text, str)] + list(bench.client.dropped))
    assert len(texts) > 100
    for shape in ("00010203", "\\x00\\x01\\x02", "0, 1, 2, 3", "\0\1\2\3"):
        assert shape not in texts


def test_an_answer_that_is_no_answer_is_never_answered():
    # Nothing that fails the checks may make the client send: it would be an oracle and a reflector.
    bench = Bench().granted()
    for octets in (vectors.E1, vectors.E14, b"", success(bench, nonce=OTHER_NONCE, epoch=0)):
        bench.receive(octets)
    bench.run(60)
    assert len(bench.sent) == 1


def test_version_three_is_waited_out_and_never_stepped_below_two():
    for lifetime, wait in ((3600, 1800), (1800, 1800), (60, 60), (0xFFFFFFFF, 1800)):
        bench = Bench().start()
        octets = bytearray(vectors.E13)
        octets[4:8] = lifetime.to_bytes(4, "big")
        bench.receive(bytes(octets))
        assert bench.mapping.state == m.REFUSED and bench.kinds() == [m.EVENT_REFUSED]
        assert bench.events[-1][1].detail.version == 3
        before = bench.now
        bench.run_to_send()
        assert bench.now - before == wait * 1000
        assert {octets[0] for _, octets in bench.sent} == {2}


def test_a_short_refusal_of_the_version_counts_too():
    bench = Bench().start()
    bench.receive(bytes.fromhex("00810001000007d0"))
    assert bench.kinds() == [m.EVENT_REFUSED] and bench.events[-1][1].detail.version == 0
    before = bench.now
    bench.run_to_send()
    assert bench.now - before == 1800000


def test_a_refusal_of_version_two_in_version_two_makes_no_tight_loop():
    bench = Bench().start()
    for _ in range(30):
        bench.receive(bytes.fromhex("0281000100000000"))
        bench.run_to_send()
    assert bench.gaps()[0] >= 2700 and bench.gaps()[-1] >= 900000


def test_a_server_that_has_spoken_version_two_cannot_be_talked_over():
    for bench in (Bench().granted(), Bench().granted()):
        bench.run(10)
        ignored(bench, vectors.E13, c.UNMATCHED)
        bench.run_to_send()
        ignored(bench, vectors.E13, c.UNMATCHED)


def test_a_version_refusal_for_another_nonce_is_ignored():
    bench = Bench().start()
    octets = vectors.E13.replace(bytes(range(12)), OTHER_NONCE)
    assert octets != vectors.E13
    ignored(bench, octets, c.UNMATCHED)
    ignored(bench, vectors.E13[:30], c.UNMATCHED)


def test_a_version_refusal_that_nobody_provoked_is_ignored():
    bench = Bench()
    ignored(bench, vectors.E13, c.UNMATCHED)


def test_nat_pmp_s_own_refusal_is_no_pcp_response():
    bench = Bench().start()
    ignored(bench, vectors.E14, c.NAT_PMP)
