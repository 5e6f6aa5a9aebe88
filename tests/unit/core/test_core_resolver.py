"""Host names to addresses: the octets, the name servers' turns, the times (virtual), the order."""

import struct

from cpe_agent import dns, resolver
from cpe_agent.pcp import wire
from tests.unit.core.bench import Dice, ends

NOW = 7000000  # ms; any time but zero
NAME = "aftr.example.net"
ONE = bytes.fromhex("20010db8000000000000000000000001")
TWO = bytes.fromhex("20010db8000000000000000000000002")
V4 = wire.V4_PREFIX + bytes([192, 0, 2, 1])
FIRST = wire.V4_PREFIX + bytes([127, 0, 0, 1])
SECOND = bytes.fromhex("20010db8000000000000000000000053")
A, AAAA, CNAME = 1, 28, 5

# RFC 1035 4.1, written by hand: a query for aftr.example.net AAAA, and its answer by an alias.
QUERY = bytes.fromhex(
    "1234 0100 0001 0000 0000 0000".replace(" ", "")
    + "04 61667472 07 6578616d706c65 03 6e6574 00 001c 0001".replace(" ", "")
)
ANSWER = bytes.fromhex(
    (
        "1234 8180 0001 0003 0000 0000"
        "04 61667472 07 6578616d706c65 03 6e6574 00 001c 0001"
        "c00c 0005 0001 00000e10 0005 02 6c77 c011"  # alias of lw.example.net
        "c02e 001c 0001 0000012c 0010 20010db8000000000000000000000001"
        "c02e 001c 0001 00000258 0010 20010db8000000000000000000000002"
    ).replace(" ", "")
)


def labels(name):
    return b"".join([bytes([len(part)]) + part.encode() for part in name.split(".")]) + b"\0"


def record(owner, kind, data, ttl=300, network=1):
    return owner + struct.pack(">HHIH", kind, network, ttl, len(data)) + data


def reply(query, records=(), flags=0x8180, count=None):
    """An answer to the octets of a query."""
    header = query[:2] + struct.pack(">HHHHH", flags, 1, count or len(records), 0, 0)
    return header + query[12:] + b"".join(records)


def outcome(data, kind=AAAA, name=NAME):
    """What parse says: Answer, or 'foreign', or the text of a failure."""
    try:
        return dns.parse(data, name, kind, 0x1234)
    except dns.Foreign:
        return "foreign"
    except dns.Failure as error:
        return str(error)


def fails(data, words):
    text = outcome(data)
    assert isinstance(text, str) and words in text, text


# Octets


def test_a_query_is_as_the_rfc_has_it():
    assert dns.query(NAME, AAAA, 0x1234) == QUERY
    assert dns.query("AFTR.example.net.", AAAA, 0x1234) == QUERY
    assert dns.query(NAME, A, 0xFFFF)[-4:] == b"\0\x01\0\x01"


def test_an_answer_by_an_alias_is_read_and_its_shortest_ttl_counts():
    assert outcome(ANSWER) == dns.Answer((ONE, TWO), 300)


def test_ipv4_addresses_are_read_from_a_records_alone():
    query = dns.query(NAME, A, 0x1234)
    own = b"\xc0\x0c"
    data = reply(query, [record(own, AAAA, ONE), record(own, A, V4[12:]), record(own, A, V4[12:])])
    assert outcome(data, A) == dns.Answer((V4,), 300)


def test_names_are_equal_whatever_their_case():
    mixed = ANSWER.replace(b"aftr", b"AfTr").replace(b"lw", b"LW")
    assert outcome(mixed) == dns.Answer((ONE, TWO), 300)
    records = [record(labels("aftr.EXAMPLE.net"), AAAA, ONE)]
    assert outcome(reply(QUERY, records)).addresses == (ONE,)


def test_what_answers_another_question_is_foreign():
    for data in (
        b"",
        ANSWER[:11],
        ANSWER[:33],
        QUERY,
        b"\x12\x35" + ANSWER[2:],
        ANSWER[:2] + b"\x89\x80" + ANSWER[4:],  # opcode
        ANSWER[:5] + b"\x02" + ANSWER[6:],  # two questions
        ANSWER.replace(b"aftr", b"afts"),
    ):
        assert outcome(data) == "foreign", data


def test_records_of_other_owners_are_no_answer():
    other = record(labels("evil.example.net"), AAAA, TWO)
    assert outcome(reply(QUERY, [other])) == dns.Answer((), 0)
    mine = record(b"\xc0\x0c", AAAA, ONE)
    assert outcome(reply(QUERY, [other, mine])).addresses == (ONE,)
    chaos = record(b"\xc0\x0c", AAAA, TWO, network=3)
    assert outcome(reply(QUERY, [chaos, mine])).addresses == (ONE,)


def test_no_such_name_is_an_answer_and_other_errors_are_failures():
    assert outcome(reply(QUERY, flags=0x8183)) == dns.Answer((), 0)
    assert outcome(reply(QUERY)) == dns.Answer((), 0)
    fails(reply(QUERY, flags=0x8182), "SERVFAIL")
    fails(reply(QUERY, flags=0x8185), "REFUSED")
    fails(reply(QUERY, flags=0x8181), "FORMERR")
    fails(reply(QUERY, flags=0x8189), "error 9")
    fails(reply(QUERY, [record(b"\xc0\x0c", AAAA, ONE)], flags=0x8380), "fit")


def test_every_answer_that_is_cut_off_fails():
    for length in range(34, len(ANSWER)):
        fails(ANSWER[:length], "cut off")


def test_an_address_of_another_length_fails():
    fails(reply(QUERY, [record(b"\xc0\x0c", AAAA, ONE + b"\0")]), "17 octets")
    fails(reply(QUERY, [record(b"\xc0\x0c", AAAA, V4[12:])]), "4 octets")


def test_pointers_that_do_not_end_fail():
    end = struct.pack(">H", 0xC000 | len(QUERY))  # at itself
    fails(reply(QUERY, [record(end, AAAA, ONE)]), "forwards")
    fails(reply(QUERY, [record(b"\xff\xff", AAAA, ONE)]), "forwards")
    # Round and round: the name begins before its own pointer.
    loop = b"\x01a" + struct.pack(">H", 0xC000 | len(QUERY))
    fails(reply(QUERY, [record(loop, AAAA, ONE)]), "forwards")


def test_labels_of_unknown_kind_and_names_without_end_fail():
    fails(reply(QUERY, [record(b"\x41" + b"a" * 65 + b"\0", AAAA, ONE)]), "cannot be")
    fails(reply(QUERY, [record(labels(".".join(["a" * 63] * 4)), AAAA, ONE)]), "cannot be")
    longest = labels(".".join(["a" * 63] * 3 + ["a" * 61]))
    assert len(longest) == 255
    records = [record(longest, AAAA, TWO), record(b"\xc0\x0c", AAAA, ONE)]
    assert outcome(reply(QUERY, records)).addresses == (ONE,)


def aliases(count):
    names = [NAME] + ["n%d.example.net" % number for number in range(count)]
    records = [record(labels(a), CNAME, labels(b)) for a, b in zip(names, names[1:])]
    return [record(labels(names[-1]), AAAA, ONE)] + records[::-1]


def test_names_of_256_octets_fail():
    longer = labels(".".join(["a" * 63] * 3 + ["a" * 62]))
    fails(reply(QUERY, [record(longer, AAAA, TWO)]), "cannot be")


def test_pointers_reach_far_into_the_datagram():
    far = [record(labels("n%d.example.net" % number), A, b"abcd") for number in range(30)]
    where = len(reply(QUERY, far))
    assert where > 512
    records = far + [record(labels(NAME), AAAA, ONE)]
    records.append(record(struct.pack(">H", 0xC000 | where), AAAA, TWO))
    assert outcome(reply(QUERY, records)).addresses == (ONE, TWO)


def test_an_alias_that_is_short_lived_shortens_the_answer():
    alias = record(b"\xc0\x0c", CNAME, labels("lw.example.net"), 60)
    target = record(labels("lw.example.net"), AAAA, ONE, 300)
    assert outcome(reply(QUERY, [alias, target])) == dns.Answer((ONE,), 60)


def test_aliases_are_followed_in_any_order_but_not_for_ever():
    assert outcome(reply(QUERY, aliases(8))).addresses == (ONE,)
    fails(reply(QUERY, aliases(9)), "aliases")
    fails(reply(QUERY, [record(b"\xc0\x0c", CNAME, b"\xc0\x0c")]), "aliases")


def test_ttls_are_bounded():
    for ttl, known in ((0, 0), (86400, 86400), (0x7FFFFFFF, 86400), (0x80000000, 0)):
        data = reply(QUERY, [record(b"\xc0\x0c", AAAA, ONE, ttl)])
        assert outcome(data).ttl == known, ttl


def test_host_names_are_told_from_addresses_and_from_nonsense():
    for name in ("a", "aftr.example.net", "aftr.example.net.", "AFTR-1.isp", "_x.y", "1.2.3.4a"):
        assert dns.is_name(name), name
    for name in ("", ".", "a..b", ".a", "192.0.2.1", "2001:db8::1", "a b", "-a.b", "a-.b", "1"):
        assert not dns.is_name(name), name
    for name in ("a" * 64, ".".join(["a" * 63] * 4), "b\u00fccher.example", "a/b", "a\n"):
        assert not dns.is_name(name), name
    longest = ".".join(["a" * 63] * 3 + ["a" * 61])
    assert len(longest) == 253 and dns.is_name(longest) and not dns.is_name(longest + "a")


def test_name_servers_are_read_from_resolv_conf():
    text = (
        "# nameserver 192.0.2.9\nsearch lan\nnameserver 127.0.0.1\r\n nameserver\t2001:db8::53 x\n"
    )
    assert resolver.nameservers(text) == (FIRST, SECOND)
    assert resolver.nameservers("") == (FIRST,)
    bad = "nameserver\nnameserver x\nnameserver fe80::1%wan\nnameservers 192.0.2.1\n"
    assert resolver.nameservers(bad) == (FIRST,)
    assert len(resolver.nameservers("nameserver 192.0.2.1\n" * 9)) == 3


# One question


def lookup(asked=(FIRST, SECOND), kind=AAAA, seed=1):
    return resolver.Lookup(NOW, NAME, kind, asked, Dice(seed))


def answer(one, now, records, sender=None, port=53, flags=0x8180):
    one.receive(now, reply(one.query[1], records, flags), sender or one.query[0], port)


GOOD = (record(b"\xc0\x0c", AAAA, ONE),)


def test_silent_name_servers_are_asked_in_turn_with_growing_patience_and_new_identifiers():
    one = lookup()
    turns, identifiers = [], []
    while one.query:
        turns.append((one.query[0], one.deadline))
        identifiers.append(one.query[1][:2])
        one.handle_timer(one.deadline - 1)
        assert one.deadline == turns[-1][1]
        one.handle_timer(one.deadline)
    seconds = [(deadline - NOW) // 1000 for _, deadline in turns]
    assert seconds == [2, 4, 8, 12, 20, 28]
    assert [server for server, _ in turns] == [FIRST, SECOND] * 3
    assert len(set(identifiers)) == 6
    assert one.answer is None and "answers" in one.failure


def test_identifiers_are_no_sequence():
    seen = {lookup(seed=seed).query[1][:2] for seed in range(200)}
    assert len(seen) > 190


def test_an_answer_settles_the_question():
    one = lookup()
    answer(one, NOW, GOOD)
    assert one.answer.addresses == (ONE,) and one.query is None and one.failure is None
    one.receive(NOW, b"more", FIRST, 53)
    assert one.answer.addresses == (ONE,)


def test_answers_from_elsewhere_or_to_an_earlier_query_change_nothing():
    one = lookup()
    answer(one, NOW, GOOD, sender=SECOND)
    answer(one, NOW, GOOD, port=54)
    early = reply(one.query[1], GOOD)
    one.handle_timer(one.deadline)
    one.receive(NOW, early, SECOND, 53)
    assert one.answer is None and one.query[0] == SECOND
    for data in (b"", b"x" * 600, ANSWER):
        one.receive(NOW, data, SECOND, 53)
    assert one.answer is None and one.query[0] == SECOND


def test_a_name_server_that_cannot_tell_passes_the_question_on_at_once():
    one = lookup()
    answer(one, NOW, (), flags=0x8182)
    assert one.query[0] == SECOND and "SERVFAIL" in one.failure
    answer(one, NOW, GOOD)
    assert one.answer.addresses == (ONE,) and one.failure is None


def test_unreachable_name_servers_end_the_question_without_delay():
    one = lookup()
    for _ in range(6):
        assert one.query
        one.lost(NOW, "gone")
    assert one.query is None and one.failure == "gone"


# One name


def middle(count):
    """random_bytes without jitter."""
    return (b"\x80" + bytes(count))[:count]


def name(random_bytes=middle, asked=(FIRST,)):
    made = resolver.Name(NAME, lambda: asked, random_bytes)
    made.begin(NOW)
    return made


def tell(one, now, six=(), four=(), flags=0x8180):
    """Answer both questions; whether that was news."""
    for question in one.lookups:
        found = six if question.kind == AAAA else four
        ttl = 300 if question.kind == AAAA else 200
        data = [octets if question.kind == AAAA else octets[12:] for octets in found]
        records = [record(b"\xc0\x0c", question.kind, octets, ttl) for octets in data]
        while question.query:
            answer(question, now, records, flags=flags)
    return one.conclude(now)


def test_addresses_come_ipv6_first_and_again_when_the_shortest_ttl_is_over():
    one = name()
    assert tell(one, NOW, (TWO, ONE), (V4,)) is True
    assert one.addresses == (TWO, ONE, V4) and one.error is None
    assert one.get_timer() == NOW + 200000
    one.handle_timer(NOW + 200000)
    assert tell(one, NOW + 200000, (TWO, ONE), (V4,)) is False


def test_ipv6_addresses_need_not_wait_for_ipv4_but_ipv4_for_ipv6():
    one = name()
    six, four = one.lookups
    answer(six, NOW, GOOD)
    assert one.conclude(NOW) is True and one.addresses == (ONE,)
    other = name()
    six, four = other.lookups
    answer(four, NOW, (record(b"\xc0\x0c", A, V4[12:]),))
    assert other.conclude(NOW) is False and other.addresses == ()
    answer(six, NOW, GOOD)
    assert other.conclude(NOW) is True and other.addresses == (ONE, V4)


def test_a_name_is_not_asked_for_every_second_however_short_its_ttl():
    one = name()
    for question in one.lookups:
        answer(question, NOW, (record(b"\xc0\x0c", AAAA, ONE, 0),))
    one.conclude(NOW)
    assert one.get_timer() == NOW + 60000


def test_failures_are_told_once_and_tried_again_later_and_later():
    one, now, waits = name(), NOW, []
    for count in range(9):
        assert tell(one, now, flags=0x8182) is (count == 0)
        assert one.addresses == () and "SERVFAIL" in one.error
        waits.append(one.get_timer() - now)
        now = one.get_timer()
        one.handle_timer(now)
    assert waits == [5000, 10000, 20000, 40000, 80000, 160000, 300000, 300000, 300000]
    assert tell(one, now, (ONE,)) is True
    assert one.addresses == (ONE,) and one.error is None


def test_a_name_is_due_when_the_first_of_its_questions_is():
    one = name(asked=(FIRST, SECOND))
    six, four = one.lookups
    assert one.get_timer() == NOW + 2000
    answer(four, NOW + 500, (), flags=0x8182)
    one.handle_timer(NOW + 1999)
    assert six.query[0] == FIRST and one.get_timer() == NOW + 2000
    one.handle_timer(NOW + 2000)
    assert six.query[0] == SECOND and one.get_timer() == NOW + 2500
    answer(four, NOW + 2100, ())
    assert one.get_timer() == NOW + 4000


def test_nothing_is_asked_before_it_is_time():
    one = name()
    tell(one, NOW, (ONE,))
    assert one.conclude(NOW + 1000) is False
    one.handle_timer(NOW + 299999)
    assert one.get_timer() == NOW + 300000
    one.handle_timer(NOW + 300000)
    assert one.get_timer() == NOW + 302000


def test_the_wait_after_a_failure_is_short_again_after_an_answer_or_news_from_the_network():
    one, now = name(), NOW
    for _ in range(4):
        tell(one, now, flags=0x8182)
        now = one.get_timer()
        one.handle_timer(now)
    tell(one, now, (ONE,))
    now = one.get_timer()
    one.handle_timer(now)
    for wait in (5000, 10000):
        tell(one, now, flags=0x8182)
        assert one.get_timer() == now + wait
        assert one.conclude(now) is False and one.get_timer() == now + wait
        now += wait
        one.handle_timer(now)
    tell(one, now, flags=0x8182)
    one.restart(now)
    one.handle_timer(now)
    tell(one, now, flags=0x8182)
    assert one.get_timer() == now + 5000


def test_the_wait_after_a_failure_is_spread_by_a_tenth():
    for value, wait in ((0, 4500), (255, 5500)):
        one = name(ends(value))
        tell(one, NOW, flags=0x8182)
        assert one.get_timer() == NOW + wait


def test_addresses_outlive_a_refresh_that_fails_but_not_one_that_says_there_are_none():
    one = name()
    tell(one, NOW, (ONE,), (V4,))
    now = one.get_timer()
    one.handle_timer(now)
    assert tell(one, now, flags=0x8182) is True
    assert one.addresses == (ONE, V4) and one.error
    now = one.get_timer()
    one.handle_timer(now)
    assert tell(one, now, (), (V4,)) is True
    assert one.addresses == (V4,) and one.error is None
    now = one.get_timer()
    one.handle_timer(now)
    assert tell(one, now, flags=0x8183) is True
    assert one.addresses == () and "no usable address" in one.error


def test_one_kind_that_fails_is_no_error_but_asked_for_again_soon():
    one = name()
    six, four = one.lookups
    answer(six, NOW, GOOD)
    while four.query:
        four.lost(NOW, "gone")
    one.conclude(NOW)
    assert one.addresses == (ONE,) and one.error is None
    assert one.get_timer() == NOW + 5000
    one.restart(NOW + 1)
    assert one.get_timer() == NOW + 1


def test_a_kind_that_fails_while_the_other_has_no_address_is_an_error():
    one = name()
    six, four = one.lookups
    answer(six, NOW, ())
    while four.query:
        four.lost(NOW, "gone")
    assert one.conclude(NOW) is True
    assert one.addresses == () and one.error == "gone"


def test_addresses_that_can_be_no_server_s_are_left_out_and_too_many_are_cut():
    one = name()
    multicast = bytes.fromhex("ff020000000000000000000000000001")
    zero = wire.V4_PREFIX + bytes(4)
    tell(one, NOW, (bytes(16), multicast, ONE), (zero, V4))
    assert one.addresses == (ONE, V4)
    nobody = name()
    tell(nobody, NOW, (), (zero,))
    assert nobody.addresses == () and "no usable address" in nobody.error
    many = tuple(ONE[:15] + bytes([number]) for number in range(20))
    other = name()
    tell(other, NOW, many)
    assert other.addresses == many[:8]


def test_a_changed_network_brings_the_next_try_forward_after_a_failure_alone():
    one = name()
    tell(one, NOW, flags=0x8182)
    one.restart(NOW + 1)
    assert one.get_timer() == NOW + 1
    other = name()
    tell(other, NOW, (ONE,))
    other.restart(NOW + 1)
    assert other.get_timer() == NOW + 300000


# Order of addresses

GUA, OTHER_GUA = ONE, bytes.fromhex("2a000db8000000000000000000000001")
ULA = bytes.fromhex("fd000000000000000000000000000001")
LINK = bytes.fromhex("fe800000000000000000000000000001")
SIX_TO_FOUR = bytes.fromhex("2002c000020100000000000000000001")
OWN_GUA = bytes.fromhex("20010db8000000000000000000000099")
OWN_ULA = bytes.fromhex("fd000000000000000000000000000099")
OWN_LINK = bytes.fromhex("fe800000000000000000000000000099")
OWN_V4 = wire.V4_PREFIX + bytes([192, 0, 2, 99])


def ordered(addresses, **sources):
    """order() with sources by the names of the addresses, in lower case."""
    known = {GUA: "gua", OTHER_GUA: "other", ULA: "ula", LINK: "link", V4: "v4", SIX_TO_FOUR: "six"}
    return resolver.order(addresses, lambda one: sources.get(known[one]))


def test_global_addresses_come_before_unique_local_ones_for_a_router_with_both():
    assert ordered((ULA, GUA), ula=OWN_ULA, gua=OWN_GUA) == (GUA, ULA)


def test_a_router_with_a_global_address_alone_asks_the_global_one_first():
    assert ordered((ULA, GUA), ula=OWN_GUA, gua=OWN_GUA) == (GUA, ULA)


def test_a_router_with_a_unique_local_address_alone_asks_its_like_first():
    assert ordered((GUA, ULA), ula=OWN_ULA, gua=OWN_ULA) == (ULA, GUA)


def test_ipv6_comes_before_ipv4_and_ipv4_before_a_ula_that_is_no_match():
    assert ordered((V4, GUA), v4=OWN_V4, gua=OWN_GUA) == (GUA, V4)
    assert ordered((ULA, V4), v4=OWN_V4, ula=OWN_GUA) == (V4, ULA)


def test_native_addresses_come_before_transition_addresses():
    assert ordered((SIX_TO_FOUR, GUA), six=OWN_GUA, gua=OWN_GUA) == (GUA, SIX_TO_FOUR)


def test_kinds_of_addresses_come_by_the_precedence_of_rfc_6724():
    kinds = (
        GUA,
        V4,
        SIX_TO_FOUR,
        bytes.fromhex("20010000000000000000000000000001"),  # Teredo
        ULA,
        bytes.fromhex("fec00000000000000000000000000001"),  # site-local
        bytes.fromhex("3ffe0000000000000000000000000001"),  # 6bone
        bytes.fromhex("000000000000000000000000c0000201"),  # IPv4-compatible
    )
    assert resolver.order(tuple(reversed(kinds[:6])) + kinds[6:], lambda one: one) == kinds


def test_a_link_local_source_is_no_match_for_a_global_ipv4_address():
    own = wire.V4_PREFIX + bytes([169, 254, 1, 1])
    other = wire.V4_PREFIX + bytes([169, 254, 1, 2])
    near = wire.V4_PREFIX + bytes([198, 51, 100, 1])
    sources = {V4: own, near: OWN_V4, other: own}
    assert resolver.order((V4, near), sources.get) == (near, V4)
    assert resolver.order((V4, other), sources.get) == (other, V4)
    assert resolver.order((near, other), sources.get) == (other, near)


def test_addresses_without_a_way_come_last_in_their_order():
    assert ordered((GUA, ULA, V4), v4=OWN_V4) == (V4, GUA, ULA)
    assert ordered((ULA, GUA)) == (ULA, GUA)


def test_a_source_of_another_scope_is_worse_than_one_of_the_same():
    assert ordered((GUA, ULA), gua=OWN_LINK, ula=OWN_ULA) == (ULA, GUA)
    assert ordered((GUA, LINK), gua=OWN_GUA, link=OWN_LINK) == (LINK, GUA)


def test_the_longer_common_prefix_wins_among_equals_and_interface_ids_do_not_count():
    assert ordered((OTHER_GUA, GUA), other=OWN_GUA, gua=OWN_GUA) == (GUA, OTHER_GUA)
    near = OWN_GUA[:15] + b"\x98"
    order = resolver.order((GUA, near), lambda one: OWN_GUA)
    assert order == (GUA, near)
