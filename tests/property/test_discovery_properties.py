"""Laws of DHCP options, DNS answers and the choice of a server, for any input."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cpe_agent import discovery, dns, resolver
from cpe_agent.pcp import servers

OCTETS = st.binary(min_size=16, max_size=16)
UNICAST = OCTETS.filter(servers.is_unicast)


def bounded(found):
    assert len(found) <= 8
    for server in found:
        assert 1 <= len(server.addresses) <= 8
        assert all(len(one) == 16 and servers.is_unicast(one) for one in server.addresses)


@given(st.lists(st.one_of(st.binary(max_size=200), st.text(max_size=70)), max_size=12))
def test_whatever_option_86_holds_it_gives_bounded_servers_and_never_raises(instances):
    found, reasons = discovery.dhcpv6_servers(instances)
    bounded(found)
    assert len(reasons) <= 9


@given(st.lists(st.lists(UNICAST, min_size=1, max_size=8), min_size=1, max_size=8), st.booleans())
def test_option_86_gives_the_addresses_that_were_put_in(lists, in_hex):
    instances = [b"".join(addresses) for addresses in lists]
    found, reasons = discovery.dhcpv6_servers([x.hex() if in_hex else x for x in instances], 5)
    assert reasons == []
    assert found == [servers.Server(tuple(addresses), "dhcpv6", 5) for addresses in lists]


@given(st.one_of(st.binary(max_size=600), st.text(max_size=70)))
def test_whatever_option_158_holds_it_gives_bounded_servers_and_never_raises(option):
    found, reasons = discovery.dhcpv4_servers(option)
    bounded(found)
    assert len(reasons) <= 9


QUERY = dns.query("aftr.example.net", dns.AAAA, 7)
HEADER = QUERY[:2] + b"\x81\x80\x00\x01"


@given(
    st.integers(0, 5).map(lambda count: bytes([0, count]) + bytes(4)),
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.sampled_from([b"\xc0\x0c", b"\0\x1c\0\x01", b"\0\x05\0\x01", b"\0\0\0\1\0\x10"]),
        ),
        max_size=12,
    ),
)
def test_whatever_an_answer_holds_it_is_addresses_or_one_of_two_errors(counts, parts):
    data = HEADER + counts + QUERY[12:] + b"".join(parts)
    try:
        answer = dns.parse(data, "aftr.example.net", dns.AAAA, 7)
    except dns.Failure:
        return
    assert all(len(one) == 16 for one in answer.addresses)
    assert 0 <= answer.ttl <= dns.MAX_TTL


@given(st.binary(max_size=100))
def test_octets_without_our_question_are_foreign(data):
    try:
        dns.parse(data, "aftr.example.net", dns.AAAA, 7)
    except dns.Foreign:
        return
    raise AssertionError("believed %r" % data)


@given(st.text(max_size=3000))
def test_any_resolv_conf_names_one_to_three_servers(text):
    assert 1 <= len(resolver.nameservers(text)) <= 3


@given(st.text(max_size=80))
def test_any_host_name_can_be_asked_for(text):
    if dns.is_name(text):
        assert len(dns.query(text, dns.A, 0)) <= 12 + 255 + 4


@given(st.lists(OCTETS, max_size=10, unique=True), st.dictionaries(OCTETS, OCTETS), st.data())
def test_ordering_keeps_every_address_and_does_not_depend_on_who_has_no_way(addresses, own, data):
    known = {one: data.draw(st.one_of(st.none(), OCTETS)) for one in addresses}
    order = resolver.order(addresses, known.get)
    assert sorted(order) == sorted(addresses)
    without = [known[one] is None for one in order]
    assert without == sorted(without)
    assert resolver.order(order, known.get) == order


def address(number):
    return bytes.fromhex("20010db8") + bytes(11) + bytes([number])


NUMBERS = st.integers(1, 8)
LISTS = st.lists(st.lists(NUMBERS, max_size=3), max_size=4)


class SelectionMachine(RuleBasedStateMachine):
    """Any reports in any order: never a stuck, a flooding or a wrong choice."""

    @initialize(octets=st.binary(min_size=4, max_size=4))
    def begin(self, octets):
        self.now = 1000000
        self.chosen = servers.Selection(lambda count: octets[:count])
        self.numbers = set()
        self.blocked = {}
        self.takes = 0

    def do(self, call, *arguments):
        """Carry out a call and check what it says about itself."""
        before = self.chosen.current and self.chosen.current.address
        changed = call(self.now, *arguments)
        after = self.chosen.current and self.chosen.current.address
        assert changed is (before != after)

    @rule(lists=LISTS)
    def set(self, lists):
        made = [
            servers.Server(tuple(address(one) for one in numbers), "config", 0) for numbers in lists
        ]
        before, answered = self.chosen.current, self.chosen.answered
        self.numbers = {one for numbers in lists for one in numbers}
        self.do(self.chosen.set, made)
        if answered and before.address[15] in self.numbers and not self.is_blocked(before.address):
            assert self.chosen.current.address == before.address and self.chosen.answered

    def is_blocked(self, one):
        return self.now < self.blocked.get(one, 0)

    @rule(number=NUMBERS)
    def answer(self, number):
        current = self.chosen.current
        expected = current is not None and current.address == address(number)
        assert self.chosen.answered_by(self.now, address(number)) is expected
        assert self.chosen.answered or not expected

    @rule()
    def give_up(self):
        if self.chosen.current:
            self.do(self.chosen.gave_up, self.chosen.current.address)

    @rule()
    def unreachable(self):
        if self.chosen.current:
            self.do(self.chosen.unreachable, self.chosen.current.address)

    @rule(seconds=st.sampled_from([1, 299, 300, 1800, 86400, 2**32 - 1]))
    def refuse(self, seconds):
        current = self.chosen.current
        if current is None:
            return
        if seconds >= 300:
            for one in current.server.addresses:
                self.blocked[one] = self.now + min(seconds, 86400) * 1000
        self.do(self.chosen.refused_for_long, current.address, seconds)

    @rule()
    def restart(self):
        self.do(self.chosen.restart)

    @rule(number=NUMBERS)
    def probe_answered(self, number):
        self.chosen.probe_answered(self.now, address(number))

    @rule()
    def switch(self):
        self.do(self.chosen.switch)

    @rule()
    def wait(self):
        at = self.chosen.get_timer()
        if at is not None:
            self.now = max(self.now, at)
            self.do(self.chosen.handle_timer)
            assert self.chosen.get_timer() is None or self.chosen.get_timer() > self.now

    @rule(seconds=st.integers(1, 2000))
    def pass_time(self, seconds):
        self.now += seconds * 1000
        self.do(self.chosen.handle_timer)

    @invariant()
    def somebody_is_asked_or_will_be(self):
        current = self.chosen.current
        assert (current is None) or current.address[15] in self.numbers
        if current is None:
            assert (self.chosen.get_timer() is not None) == bool(self.numbers)
        if self.chosen.better:
            assert self.chosen.better.address[15] in self.numbers
            assert self.chosen.better.address != current.address


TestSelection = SelectionMachine.TestCase
