"""One client and one small server with a bad line between them, for hours of virtual time."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cpe_agent import address
from cpe_agent.pcp import mapping as m
from cpe_agent.pcp import wire
from cpe_agent.pcp.client import Client
from cpe_agent.portset import PortSet
from tests.property.model import Server
from tests.unit.core.bench import NONCE, OTHER_NONCE, SERVER, SOURCE, START, Dice

MOST_PER_HOUR = 300  # datagrams, beside those that a person or a lwAFTR asked for
WISH = m.wish(0, 1, 65535, 3600)


KEY = (SOURCE, 0, 1)  # of the one lease


def ports_of(lease):
    return PortSet(address.text(lease.address), lease.first, lease.size)


class Line(RuleBasedStateMachine):
    """The rules are what may happen; the invariants are what a peer or a user relies on."""

    @initialize(seed=st.integers(0, 10**6))
    def begin(self, seed):
        self.now = START
        self.dice = Dice(seed)
        self.server = Server(START - 10**7, SOURCE, 64)
        self.silent = False
        self.granted = set()  # every set that the server has ever granted
        self.client = Client(SERVER, SOURCE, Dice(seed + 1))
        self.mapping = m.Mapping(WISH, NONCE)
        self.client.add(self.mapping)
        self.flying = []  # (due, to_server, octets), in order of time
        self.loss = self.doubled = 0  # of 256
        self.delay = 20  # ms, at most
        self.sent = []  # (ms, held then)
        self.prompts = []  # ms; when somebody outside gave a reason to send
        self.exchange = []  # times of one undisturbed series of first requests
        self.holding = False
        self.restarted = False
        self.mapping.start(self.now)
        self.work()

    # The machinery

    def work(self):
        """Carry messages and timers out up to now, in order."""
        for _ in range(100000):
            due = self.client.get_timer()
            first = self.flying[0][0] if self.flying else None
            times = [at for at in (due, first) if at is not None and at <= self.target()]
            if not times:
                self.now = self.target()
                return
            self.now = max(self.now, min(times))
            if first is not None and first <= self.now:
                self.deliver(*self.flying.pop(0)[1:])
            else:
                held = self.mapping.state == m.HELD
                self.client.handle_timer(self.now)
                self.collect(held)
        raise AssertionError("it never comes to rest")

    def target(self):
        return getattr(self, "until", self.now)

    def deliver(self, to_server, octets):
        if to_server:
            if not self.silent:
                self.send(False, self.server.answer(self.now, octets))
                self.note_granted()
            return
        self.exchange = []
        self.client.receive(self.now, octets, SERVER, wire.SERVER_PORT)
        self.collect(self.mapping.state == m.HELD)

    def lease(self):
        """What the server has for the client, or None."""
        return self.server.leases.get(KEY)

    def note_granted(self, bare=False):
        if self.lease():
            ports = ports_of(self.lease())
            self.granted.add(ports)
            if bare:  # to a client that holds nothing, this is a grant of its first port
                self.granted.add(PortSet(ports.address, ports.first, 1))

    def collect(self, held):
        for event in self.client.events():
            self.note(event)
        for octets in self.client.datagrams():
            # A lease that ended just now was no renewal any more.
            self.check_gap(held and self.mapping.state == m.HELD)
            self.sent.append((self.now, self.mapping.state))
            self.send(True, octets)

    def note(self, event):
        if event.kind == m.GRANTED:
            assert not self.holding, "granted what was held"
            self.holding = True
        elif event.kind in (m.RENEWED, m.CHANGED):
            assert self.holding, "%s, but nothing was held" % event.kind
        elif event.kind == m.LOST:
            assert self.holding, "lost what was not held"
            self.holding = False
            self.exchange = []
        elif event.kind == m.RELEASED:
            self.holding = False

    def check_gap(self, renewing):
        if self.mapping.state == m.RELEASING:
            self.exchange = []
            return
        if self.sent and self.sent[-1][1] != m.RELEASING and not self.restarted:
            gap = self.now - self.sent[-1][0]
            assert gap >= (4000 if renewing else 2700), (gap, self.mapping.state)
        self.restarted = False
        if self.mapping.state == m.ASKING:
            self.exchange.append(self.now)
            gaps = [b - a for a, b in zip(self.exchange, self.exchange[1:])]
            for before, after in zip(gaps, gaps[1:]):
                base = min(2 * before, 1024000)
                assert 0.899 * base <= after <= 1.101 * base, gaps
        else:
            self.exchange = []

    def send(self, to_server, octets):
        chance = self.dice(4)
        if chance[0] < self.loss:
            return
        for copy in range(2 if chance[1] < self.doubled else 1):
            wait = 1 + self.dice(2)[copy] * self.delay // 255
            self.flying.append((self.now + wait, to_server, octets))
        self.flying.sort(key=lambda entry: entry[0])

    def prompt(self):
        self.prompts.append(self.now)
        self.exchange = []

    def settle(self):
        self.until = self.now
        self.collect(self.mapping.state == m.HELD)
        self.work()

    # What may happen

    @rule(seconds=st.sampled_from((0.05, 1, 4, 10, 30, 60, 300, 1800, 3600, 7200)))
    def time_passes(self, seconds):
        self.until = self.now + int(seconds * 1000)
        self.work()

    @rule(loss=st.sampled_from((0, 0, 30, 128, 256)), doubled=st.sampled_from((0, 40, 256)))
    def line_changes(self, loss, doubled):
        self.loss, self.doubled = loss, doubled

    @rule(delay=st.sampled_from((20, 500, 3000, 30000)))
    def line_is_slow(self, delay):
        self.delay = delay

    @rule(silent=st.booleans())
    def server_is_silent(self, silent):
        self.silent = silent

    @rule(
        code=st.sampled_from((2, 3, 7, 8, 10, 200)),
        lifetime=st.sampled_from((0, 1, 30, 1800, 2**32 - 1)),
    )
    def server_refuses(self, code, lifetime):
        self.server.refusal = (code, lifetime)

    @rule()
    def server_is_kind_again(self):
        self.server.refusal = None

    @rule(size=st.sampled_from((1, 2, 32, 64, 4096)), lifetime=st.sampled_from((120, 600, 3600)))
    def server_gives_otherwise(self, size, lifetime):
        self.server.size, self.server.lifetime = size, lifetime

    @rule(announces=st.booleans(), neighbour=st.booleans())
    def server_loses_everything(self, announces, neighbour):
        lease = self.lease()
        self.server.forget(self.now)
        if neighbour and lease:
            self.server.neighbour_takes(lease.first, lease.size)
        if announces:
            for _ in range(3):
                self.send(False, self.server.announcement(self.now))
        self.prompts.append(self.now)

    @rule()
    def server_restarts_and_remembers(self):
        self.server.zero = self.now
        self.prompts.append(self.now)

    @rule(bare=st.booleans(), moved=st.booleans())
    def server_sends_an_update(self, bare, moved):
        self.server.expire(self.now)
        if not self.lease():
            return
        if moved:
            self.server.move(KEY)
        self.note_granted(bare)
        for _ in range(3):
            self.send(False, self.server.update(self.now, KEY, bare))
        self.prompts.append(self.now)

    @rule(first=st.sampled_from((5000, 37056)), result=st.sampled_from((0, 2, 8)))
    def somebody_forges(self, first, result):
        data = wire.MapData(OTHER_NONCE, 0, 1, first, wire.V4_PREFIX + b"\xc0\0\2\x63")
        octets = wire.map_response(result, 60, 7, data, wire.port_set_option(9, first))
        self.client.receive(self.now, octets, SERVER, wire.SERVER_PORT)
        right = wire.MapData(NONCE, 0, 1, first, wire.V4_PREFIX + b"\xc0\0\2\x63")
        octets = wire.map_response(result, 60, 7, right, wire.port_set_option(9, first))
        self.client.receive(self.now, octets, SOURCE, wire.SERVER_PORT)
        self.client.receive(self.now, octets, SERVER, 5350)
        assert self.client.events() == []

    @rule()
    def person_renews(self):
        self.prompt()
        self.mapping.renew(self.now)
        self.settle()

    @rule()
    def lwaftr_has_no_binding(self):
        self.prompt()
        self.client.binding_lost(self.now)
        self.settle()

    @rule(seconds=st.sampled_from((0.05, 5, 100)))
    def person_releases_and_starts_again(self, seconds):
        self.prompt()
        self.mapping.release(self.now)
        self.settle()
        self.time_passes(seconds)
        self.prompt()
        self.restarted = True
        self.holding = False
        self.mapping.start(self.now)
        self.settle()

    # What must hold

    @invariant()
    def the_timer_is_ahead(self):
        due = self.client.get_timer()
        assert due is not None
        assert due > self.now or due == self.now == self.mapping.send_at

    @invariant()
    def what_is_held_was_granted(self):
        if self.mapping.grant:
            assert self.mapping.grant.port_set in self.granted
            assert self.mapping.grant.expires > self.now
        assert self.holding == (self.mapping.grant is not None)

    @invariant()
    def no_hour_sees_too_many_datagrams(self):
        since = self.now - 3600000
        count = sum(1 for at, _ in self.sent if at > since)
        prompted = sum(1 for at in self.prompts if at > since - 60000)
        # Each prompt may begin a new series: 3, 6, 12 ... seconds, eleven times in the hour.
        assert count <= MOST_PER_HOUR + 12 * prompted, count

    @invariant()
    def nothing_is_left_behind(self):
        assert self.client.events() == [] and self.client.datagrams() == []
        assert len(self.client.mappings) == 1 and len(self.client.dropped) == 5

    def teardown(self):
        """When all is well again, the client holds what the server has for it, and keeps it."""
        if not hasattr(self, "mapping"):
            return
        self.loss = self.doubled = 0
        self.delay = 20
        self.silent, self.server.refusal = False, None
        self.time_passes(7300)
        assert self.mapping.state == m.HELD
        for _ in range(20):
            self.time_passes(600)
            assert self.mapping.state == m.HELD
            assert self.lease().expires > self.now
            assert self.mapping.grant.port_set == ports_of(self.lease())


TestLine = Line.TestCase
TestLine.settings = settings(stateful_step_count=40)
