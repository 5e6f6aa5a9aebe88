"""Several mappings of one client, a modelled server and neighbours, and what may happen to each.

The client is the real core; model.Server is the other end. Beside the rules there is a model of
what the client may use: what the server has promised it, and until when.
"""

from collections import namedtuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cpe_agent import address
from cpe_agent.pcp import mapping as m
from cpe_agent.pcp import wire
from cpe_agent.pcp.client import Client, Overlap
from cpe_agent.portset import PortSet
from tests.property.model import Server, overlap
from tests.unit.core.bench import OTHER_NONCE, SERVER, SOURCE, START, STRANGER, Dice

# What is on the way. due: ms. port: the client's, of the socket that it had then.
Datagram = namedtuple("Datagram", ("due", "to_server", "octets", "port"))

SOFTWIRE = (
    m.wish(0, 1, 65535, 3600),
    m.wish(17, 4000, 16, 600, third_party=STRANGER),
)
ADMIN = (
    m.wish(17, 50000, 100, 3600),
    m.wish(6, 80, 1, 7200),
    m.wish(6, 443, 1, 120, prefer_failure=True),
    m.wish(17, 50000, 100, 600, third_party=STRANGER),
    m.wish(6, 22, 1, 3600, family=6, filters=((128, 0, STRANGER),)),
)
WANTED_PORT = PortSet("0.0.0.0", 8443, 1)  # what the mapping with PREFER_FAILURE insists on
# Datagrams of one mapping in an hour: fifteen renewals of the shortest lease (120 s) in each, and
# rounds of recovery, are far below.
MOST_PER_HOUR = 500
LONGEST_HOLD = 2 * 3600000 + 60000  # ms; a refusal of an hour, a retransmission at its longest, ...


class Talk(RuleBasedStateMachine):
    """The rules are what may happen; the invariants are what a peer or a user relies on."""

    @initialize(seed=st.integers(0, 10**6), wishes=st.sampled_from((SOFTWIRE, ADMIN)))
    def begin(self, seed, wishes):
        self.now = START
        self.dice = Dice(seed)
        self.wishes = wishes
        self.server = Server(START - 10**7, SOURCE, 64)
        self.silent = False
        self.loss = self.doubled = 0  # of 256
        self.delay = 20  # ms, at most
        self.flying = []
        self.promised = {}  # (nonce, PortSet) -> ms
        self.flash = {}  # wish -> (nonce, known, first_internal)
        self.boots = 0
        self.wanted = set(wishes)
        self.power_returns()

    # The client and its flash

    def power_returns(self):
        self.boots += 1
        self.port = 40000 + self.boots
        self.client = Client(SERVER, SOURCE, Dice(self.dice(1)[0] + 256 * self.boots))
        self.sent = {}  # nonce -> [(ms, state)], since the last start
        self.nothing_new_until = 0  # ms; what NO_RESOURCES asks for
        self.epoch = 0  # s; the last one heard, less the time then
        self.mappings = {}
        for wish in self.wishes:
            if wish in self.wanted:
                self.add(wish)
        self.run(0)

    def add(self, wish):
        start = WANTED_PORT if wish.prefer_failure else None
        nonce, known, first = self.flash.get(wish) or (self.dice(12), start, None)
        mapping = m.Mapping(wish, nonce, known, first)
        self.client.add(mapping)
        self.mappings[wish] = mapping
        self.save(mapping)
        mapping.start(self.now)

    def save(self, mapping):
        self.flash[mapping.wish] = (mapping.nonce, mapping.known, mapping.first_internal)

    def collect(self):
        for event in self.client.events():
            self.note(event)
        for octets in self.client.datagrams():
            request = wire.parse_request(octets)
            if request.opcode == wire.OP_MAP:
                self.check_request(request)
            self.send(True, octets, self.port)

    def note(self, event):
        self.save(event.mapping)
        if event.kind == m.EVENT_REFUSED and event.detail.result == wire.NO_RESOURCES:
            self.nothing_new_until = self.now + min(event.detail.lifetime, 3600) * 1000
        elif event.kind == m.RECOVERING:
            self.nothing_new_until = 0
        elif event.kind == m.LOST:
            assert event.mapping.grant is None

    def check_request(self, request):
        (mapping,) = [one for one in self.mappings.values() if one.nonce == request.map.nonce]
        if request.lifetime and mapping.grant is None:
            assert self.now >= self.nothing_new_until, "RFC 6887 11.4"
        sent = self.sent.setdefault(mapping.nonce, [])
        if sent and sent[-1][1] != m.RELEASING != mapping.state:
            renewing = sent[-1][1] == mapping.state == m.HELD
            assert self.now - sent[-1][0] >= (4000 if renewing else 2700)
        sent.append((self.now, mapping.state))
        recent = [at for at, _ in sent if at > self.now - 3600000]
        assert len(recent) <= MOST_PER_HOUR

    # The network, and time

    def send(self, to_server, octets, port):
        chance = self.dice(4)
        if chance[0] < self.loss:
            return
        for copy in range(2 if chance[1] < self.doubled else 1):
            due = self.now + 1 + self.dice(2)[copy] * self.delay // 255
            self.flying.append(Datagram(due, to_server, octets, port))

    def run(self, wait):
        """Carry messages and timers out for wait ms, in order."""
        end = self.now + wait
        for _ in range(50000):
            self.collect()
            due = [self.client.get_timer()] + [datagram.due for datagram in self.flying]
            due = min([at for at in due if at is not None], default=None)
            if due is None or due > end:
                self.now = end
                return
            self.now = max(self.now, due)
            self.deliver()
            self.client.handle_timer(self.now)
        raise AssertionError("it never comes to rest")

    def deliver(self):
        ready = [datagram for datagram in self.flying if datagram.due <= self.now]
        self.flying = [datagram for datagram in self.flying if datagram.due > self.now]
        for datagram in sorted(ready, key=lambda one: one.due):
            if not datagram.to_server:
                if datagram.port == self.port:
                    self.hear(datagram.octets)
            elif not self.silent:
                self.say(self.server.answer(self.now, datagram.octets), datagram.port)

    def hear(self, octets):
        epoch = wire.parse_response(octets).epoch - self.now // 1000
        if abs(epoch - self.epoch) > 1:
            self.nothing_new_until = 0  # said by a server that may have lost its state since
        self.epoch = epoch
        self.client.receive(self.now, octets, SERVER, wire.SERVER_PORT)
        self.collect()

    def say(self, octets, port=None):
        """The server says something, which may be a promise."""
        response = wire.parse_response(octets)
        if response.map and response.result == wire.SUCCESS and response.lifetime:
            data = wire.find_option(response.options, wire.OPT_PORT_SET)
            size = wire.parse_port_set(data).size if data else 1
            where = address.text(response.map.external_ip)
            key = (response.map.nonce, PortSet(where, response.map.external_port, size))
            until = self.now + response.lifetime * 1000
            self.promised[key] = max(until, self.promised.get(key, 0))
        self.send(False, octets, port or self.port)

    def pick(self, number):
        """One of the mappings that there are, or None."""
        there = [self.mappings[wish] for wish in self.wishes if wish in self.mappings]
        return there[number % len(there)] if there else None

    def leased(self, number):
        """One of the keys of the server's leases that still run, or None."""
        self.server.expire(self.now)
        keys = sorted(self.server.leases)
        return keys[number % len(keys)] if keys else None

    # What may happen

    @rule(seconds=st.sampled_from((0.05, 1, 4, 10, 30, 60, 300, 1800, 3600, 7200)))
    def time_passes(self, seconds):
        self.run(int(seconds * 1000))

    @rule(
        loss=st.sampled_from((0, 0, 30, 128, 256)),
        doubled=st.sampled_from((0, 40, 256)),
        delay=st.sampled_from((20, 500, 3000, 14000)),
    )
    def network_changes(self, loss, doubled, delay):
        self.loss, self.doubled, self.delay = loss, doubled, delay

    @rule(silent=st.booleans())
    def server_is_silent(self, silent):
        self.silent = silent

    @rule(
        refusal=st.sampled_from(
            (None, None, (2, 30), (3, 0), (5, 1800), (8, 30), (8, 3600), (10, 2**32 - 1), (99, 1))
        )
    )
    def server_refuses(self, refusal):
        self.server.refusal = refusal

    @rule(most=st.sampled_from((1, 2, 8)), lifetime=st.sampled_from((120, 3600)))
    def server_gives_otherwise(self, most, lifetime):
        self.server.most, self.server.lifetime = most, lifetime

    @rule(announces=st.booleans(), takes=st.integers(0, 3))
    def server_loses_everything(self, announces, takes):
        before = list(self.server.leases.values())
        self.server.forget(self.now)
        for lease in before[:takes]:
            self.server.neighbour_takes(lease.first, lease.size)
        if announces:
            for _ in range(3):
                self.say(self.server.announcement(self.now))

    @rule(announces=st.booleans())
    def server_restarts_and_remembers(self, announces):
        self.server.zero = self.now
        if announces:
            self.say(self.server.announcement(self.now))

    @rule(number=st.integers(0, 4), moved=st.booleans())
    def server_sends_an_update(self, number, moved):
        key = self.leased(number)
        if key is not None:
            if moved:
                self.server.move(key)
            for _ in range(3):
                self.say(self.server.update(self.now, key))

    @rule(first=st.sampled_from((4096, 8443, 20000)))
    def neighbour_comes(self, first):
        self.server.expire(self.now)
        self.server.neighbour_takes(first, 64)

    @rule(keeps_flash=st.booleans(), seconds=st.sampled_from((0, 30, 400)))
    def router_loses_power(self, keeps_flash, seconds):
        if not keeps_flash:
            self.flash = {}
        self.mappings = {}
        self.client = Client(SERVER, SOURCE, self.dice)  # nobody at home
        self.port = 0
        self.run(seconds * 1000)
        self.power_returns()

    @rule(number=st.integers(0, 4))
    def person_renews(self, number):
        mapping = self.pick(number)
        if mapping and mapping.state not in (m.IDLE, m.RELEASING):
            mapping.renew(self.now)
            self.run(0)

    @rule(number=st.integers(0, 4), seconds=st.sampled_from((0.05, 5, 100)))
    def person_takes_one_away(self, number, seconds):
        mapping = self.pick(number)
        if mapping is None:
            return
        mapping.release(self.now)
        self.run(int(seconds * 1000))
        if mapping.state == m.IDLE:
            self.client.remove(mapping)
            del self.mappings[mapping.wish]
            self.wanted.remove(mapping.wish)

    @rule(number=st.integers(0, 4))
    def person_wants_one_again(self, number):
        wish = self.wishes[number % len(self.wishes)]
        if wish not in self.mappings:
            self.wanted.add(wish)
            self.add(wish)
        elif self.mappings[wish].state in (m.IDLE, m.RELEASING):
            self.sent.pop(self.mappings[wish].nonce, None)
            self.mappings[wish].start(self.now)
        self.run(0)

    @rule(number=st.integers(0, 4))
    def person_wants_the_same_twice(self, number):
        mapping = self.pick(number)
        if mapping:
            try:
                self.client.add(m.Mapping(mapping.wish, OTHER_NONCE))
            except Overlap as error:
                assert str(mapping.wish.internal_port) in str(error)
                return
            raise AssertionError("two mappings of the same internal ports")

    @rule()
    def person_probes(self):
        self.client.probe(self.now)
        sent = self.client.datagrams()
        assert len(sent) <= 1
        for octets in sent:
            self.send(True, octets, self.port)

    @rule()
    def lwaftr_has_no_binding(self):
        self.nothing_new_until = 0
        self.client.binding_lost(self.now)
        self.run(0)

    @rule(number=st.integers(0, 4), result=st.sampled_from((0, 1, 2, 8)))
    def somebody_forges(self, number, result):
        """Right but for the address, or the port, or the nonce: none of it may count."""
        mapping = self.pick(number)
        if mapping is None:
            return
        wish = mapping.wish
        name = (mapping.nonce, wish.protocol, mapping.internal_port, 5000)
        data = wire.MapData(*name, wire.V4_PREFIX + b"\xc0\0\2\x63")
        octets = wire.map_response(result, 60, 7, data, wire.port_set_option(9, 5000))
        other = wire.map_response(result or 3, 60, 7, data._replace(nonce=OTHER_NONCE))
        before = self.facts()
        self.client.receive(self.now, octets, STRANGER, wire.SERVER_PORT)
        self.client.receive(self.now, octets, SERVER, 5350)
        if result != wire.UNSUPP_VERSION:
            self.client.receive(self.now, other, SERVER, wire.SERVER_PORT)
        assert self.client.events() == [] and self.client.datagrams() == []
        assert self.facts() == before

    def facts(self):
        epoch = (self.client.epoch.server, self.client.epoch.client)
        return epoch, [dict(vars(mapping)) for mapping in self.mappings.values()]

    # What must hold

    @invariant()
    def the_timer_is_ahead(self):
        due = self.client.get_timer()
        idle = all(mapping.state == m.IDLE for mapping in self.mappings.values())
        assert (due is None) == idle
        assert due is None or due > self.now

    @invariant()
    def what_is_used_was_promised_for_so_long(self):
        for mapping in self.mappings.values():
            if mapping.grant:
                until = self.promised[(mapping.nonce, mapping.grant.port_set)]
                assert self.now < mapping.grant.expires <= until or mapping.state == m.RELEASING

    @invariant()
    def nothing_is_left_behind(self):
        assert self.client.events() == [] and self.client.datagrams() == []
        assert self.client.mappings == list(self.mappings.values())
        for mapping in self.mappings.values():
            assert all(
                len(value) <= 40 for value in vars(mapping).values() if isinstance(value, list)
            )

    def teardown(self):
        """When all is well again, each mapping that can be is held as the server has it; then a
        server that forgets gives the same back."""
        if not hasattr(self, "mappings"):
            return
        self.loss = self.doubled = 0
        self.delay = 20
        self.silent, self.server.refusal, self.server.most = False, None, 8
        for mapping in self.mappings.values():
            if mapping.state in (m.IDLE, m.RELEASING):
                self.sent.pop(mapping.nonce, None)
                mapping.start(self.now)
        self.run(LONGEST_HOLD)
        held = self.check_held()
        self.server.forget(self.now)
        self.say(self.server.announcement(self.now))
        self.run(60000)
        assert self.check_held() == held, "the same sets came back"

    def check_held(self):
        held = {}
        for wish, mapping in self.mappings.items():
            if wish.prefer_failure and mapping.state != m.HELD:
                assert not self.server.is_free(mapping.known.first, 1), "it could have had it"
                continue
            assert mapping.state == m.HELD, wish
            ports = mapping.grant.port_set
            host = wish.third_party or SOURCE
            lease = self.server.leases[(host, wish.protocol, wish.internal_port)]
            assert ports == PortSet(address.text(lease.address), lease.first, lease.size)
            assert self.now < mapping.grant.expires <= lease.expires
            assert not any(overlap(ports.first, ports.size, *one) for one in self.server.neighbours)
            held[wish] = ports
        return held


TestTalk = Talk.TestCase
TestTalk.settings = settings(stateful_step_count=30)
