"""Fuzz target: a client core, the lab's server and a network, all driven by decisions.

The decisions come from a fuzzer's input (run()) or from a seed (fuzz_client.py). In a hostile
conversation the network also damages, repeats and forges answers. In a peaceful one it only loses,
delays and doubles them; then what the client uses must have been promised by the server, for as
long, and in the end the client must hold its ports again.
"""

import ipaddress
from collections import deque, namedtuple

from lwaftr.config import Faults, from_dict
from lwaftr.server import PcpServer

from cpe_agent.pcp import mapping as m
from cpe_agent.pcp import wire
from cpe_agent.pcp.client import Client, Overlap
from tests.fuzz import datagrams
from tests.fuzz.chance import Octets
from tests.fuzz.judge import Broken, Judge
from tests.unit.core.bench import SERVER, SOURCE, START, STRANGER, Dice

# On the way. due, stale_at: ms; later than stale_at neither it nor an answer to it arrives.
Datagram = namedtuple("Datagram", ("due", "to_server", "octets", "client_port", "stale_at"))

SECOND = 1000
HOUR = 3600 * SECOND
# ms; a refusal of an hour at most, a retransmission at its longest, an exchange, and some more.
CONVERGENCE = 2 * HOUR
MOST_STEPS = 150
# ms: never sooner after one request than a jittered first retransmission (RFC 6887 8.1.1) ...
SHORTEST_GAP = 2700
# ... or, renewing, than this (RFC 6887 11.2.1).
RENEWAL_GAP = 4000
SOFTWIRE = m.wish(0, 1, 65535, 3600)
# What a client may want at once: their internal ports never overlap.
WISHES = (
    (SOFTWIRE,),
    (m.wish(17, 50000, 100, 3600), m.wish(6, 80, 1, 7200)),
    (
        m.wish(17, 50000, 100, 600, parity=True),
        m.wish(6, 443, 1, 120, prefer_failure=True),
        m.wish(17, 50000, 100, 3600, third_party=STRANGER),
    ),
    (m.wish(0, 1, 65535, 120, fallback=True), m.wish(0, 1, 8, 3600, third_party=STRANGER)),
    (m.wish(6, 8080, 1, 3600, family=6, filters=((128, 443, STRANGER),)),),
)
_POLICIES = (
    {},
    {"strict": True},
    {"lifetime_max": 120},
    {"update_port_set": False},
    {"enabled": False},
)
CONFIGS = [
    from_dict(
        {
            "server": {"address": "2001:db8::2", "pcp_only": True},
            "pool": {"addresses": ["192.0.2.3"], "set_size": 64},
            "pcp": policy,
        }
    )
    for policy in _POLICIES
]
REFUSALS = (2, 3, 5, 6, 8, 10, 13, 200)


class Conversation:
    """One client with its mappings, one server, and what is on the way between them."""

    def __init__(self, chance, count=lambda stage: None, client_class=Client):
        """chance: decisions, like random.Random. count: called with what was reached."""
        self.chance = chance
        self.count = count
        self.client_class = client_class
        self.now = START
        self.peaceful = chance.random() < 0.4
        self.wishes = chance.choice(WISHES)
        self.config = chance.choice(CONFIGS)
        self.faults = Faults()
        began = START - chance.choice((10**7, 10**6, 0))
        self.server = PcpServer(self.config, random_bytes=Dice(2), faults=self.faults, now_ms=began)
        self.silent = False
        self.calm = False  # the network loses nothing any more
        self.flying = []  # of Datagram
        self.heard = deque(maxlen=8)  # answers that came, for late copies
        self.promised = {}  # (address, first, size) -> ms
        self.last_sent = {}  # nonce -> (ms, deleting, held)
        self.flash = [None] * len(self.wishes)  # (nonce, known, first_internal) of each
        self.boots = 0
        self._power_on()

    def _power_on(self):
        self.boots += 1
        self.port = 40000 + self.boots  # a restarted agent has a socket of its own
        dice = Dice(self.boots * 256 + self.chance.randrange(256))
        self.client = self.client_class(SERVER, SOURCE, dice)
        self.judge = Judge(self.client, self.count)
        for number, wish in enumerate(self.wishes):
            nonce, known, first = self.flash[number] or (dice(12), None, None)
            one = m.Mapping(wish, nonce, known, first)
            self.client.add(one)
            if self.calm or self.chance.random() < 0.9:
                one.start(self.now)
        self.last_sent = {}
        self._save()
        self._timers()

    def _save(self):
        self.flash = [(one.nonce, one.known, one.first_internal) for one in self.client.mappings]

    # The client's side

    def _timers(self):
        """Let the client do what is due now."""
        for _ in range(5):
            self.client.handle_timer(self.now)
            self._events(self.client.events())
            self._send(self.client.datagrams())
            self.judge.check(self.now)
            due = self.client.get_timer()
            if due is None or due > self.now:
                self._check_grants()
                return
        raise Broken("its timer is due again and again at the same time")

    def _events(self, events):
        for event in events:
            self.count("event " + event.kind)
        if events:
            self._save()

    def _send(self, sent):
        assert len(sent) <= len(self.client.mappings) + 1
        for octets in sent:
            self.count("sent")
            request = wire.parse_request(octets)
            if request.opcode == wire.OP_MAP:
                self._check_request(request)
            self._fly(True, octets, self.port, self.now + m.LONGEST_WAY)

    def _check_request(self, request):
        (one,) = [one for one in self.client.mappings if one.nonce == request.map.nonce]
        deleting = request.lifetime == 0
        assert deleting == (one.state == m.RELEASING)
        codes = [code for code, _ in request.options]
        assert request.map.protocol or wire.OPT_PORT_SET in codes, "it asks for a whole address"
        assert (wire.OPT_THIRD_PARTY in codes) == (one.wish.third_party is not None)
        if wire.OPT_PREFER_FAILURE in codes:
            assert wire.OPT_PORT_SET not in codes and not deleting
        assert wire.OPT_FILTER not in codes or not deleting
        held = one.state == m.HELD
        if one.nonce in self.last_sent:
            at, was_deleting, was_held = self.last_sent[one.nonce]
            gap = RENEWAL_GAP if held and was_held else SHORTEST_GAP
            assert deleting != was_deleting or self.now - at >= gap, "a flood"
        self.last_sent[one.nonce] = (self.now, deleting, held)

    def _check_grants(self):
        for one in self.client.mappings:
            if one.grant is None or one.state == m.RELEASING:
                continue
            assert self.now < one.grant.expires, "used after its end"
            if self.peaceful:
                until = self._promise(one.grant.port_set)
                assert one.grant.expires <= until, "used for longer than the server said"

    def _promise(self, ports):
        """Until when the server has promised all of these ports."""
        return max(
            [
                until
                for (address, first, size), until in self.promised.items()
                if address == ports.address
                and first <= ports.first
                and ports.first + ports.size <= first + size
            ],
            default=0,
        )

    # The server's side

    def _serve(self, outgoing, stale_at=None):
        """What the server sends. stale_at: ms, of the request that it answers."""
        stale_at = stale_at or self.now + m.LONGEST_WAY
        for octets, address, port in outgoing:
            if self.silent:
                continue
            if octets[1] == 0x81 and octets[3] == wire.SUCCESS:
                self._note_promise(octets)
            self._fly(False, octets, port if address == SOURCE else self.port, stale_at)

    def _note_promise(self, octets):
        response = wire.parse_response(octets)
        data = wire.find_option(response.options, wire.OPT_PORT_SET)
        size = wire.parse_port_set(data).size if data else 1
        address = str(ipaddress.IPv6Address(response.map.external_ip).ipv4_mapped)
        first = response.map.external_port
        until = self.now + response.lifetime * SECOND
        for known in [key for key in self.promised if key[:2] == (address, first)]:
            # A Mapping Update may leave PORT_SET out (RFC 6887 14.2), and speaks of all ports.
            if data is None:
                self.promised[known] = max(until, self.promised[known])
        key = (address, first, size)
        self.promised[key] = max(until, self.promised.get(key, 0))

    def _deliver(self, datagram):
        _, to_server, octets, port, stale_at = datagram
        if self.peaceful and self.now > stale_at:
            return
        if to_server and not self.silent:
            self._serve(self.server.receive(self.now, octets, SOURCE, port), stale_at)
        elif not to_server and port == self.port:
            self.heard.append(octets)
            self._receive(octets, SERVER, wire.SERVER_PORT)

    def _receive(self, octets, address, port):
        self._events(self.judge.receive(self.now, octets, address, port))

    # The network

    def _fly(self, to_server, octets, port, stale_at):
        fate = 0 if self.calm else self.chance.randrange(16)
        delays = {8: (), 9: (), 10: (20, 5000), 11: (3000,), 12: (14000,)}.get(fate, (20,))
        for delay in delays:
            self.flying.append(Datagram(self.now + delay, to_server, octets, port, stale_at))
        del self.flying[:-32]

    def _due(self):
        times = [datagram.due for datagram in self.flying]
        times += [self.client.get_timer(), self.server.get_timer()]
        return min([at for at in times if at is not None], default=None)

    def _run_to(self, end):
        """Let everything happen in its time up to end, in ms."""
        for _ in range(20000):
            due = self._due()
            if due is None or due > end:
                self.now = end
                return
            self._next(due)
        raise Broken("it never comes to rest")

    def _next(self, due):
        """What happens at due, or late, now: what waits in the sockets comes before timers."""
        self.now = max(self.now, due)
        for datagram in [one for one in self.flying if one.due <= self.now]:
            if datagram in self.flying:  # what came of the ones before did not crowd it out
                self.flying.remove(datagram)
                self._deliver(datagram)
        at = self.server.get_timer()
        if at is not None and at <= self.now:
            self._serve(self.server.handle_timer(self.now))
        at = self.client.get_timer()
        if at is not None and at <= self.now:
            self._timers()

    # What may happen

    def _wait_for_next(self):
        due = self._due()
        if due is not None:
            self._next(due)

    def _wait(self):
        self._run_to(self.now + self.chance.choice((1, 50, 1000, 4000, 60000, 700000, HOUR)))

    def _sleep(self):
        """Time passes, and nobody is called: a suspended machine, or a busy one."""
        self.now += self.chance.choice((1, 1000, 4000, 60000, HOUR, 30 * HOUR))

    def _inject(self):
        one = self.chance.choice(self.client.mappings)
        octets = datagrams.anything(self.chance, one, self.server.epoch(self.now))
        whence = datagrams.stranger if self.peaceful else datagrams.whence
        self._receive(octets, *whence(self.chance))

    def _answer(self):
        """A right answer to no particular request: right in form, wrong in time or content."""
        one = self.chance.choice(self.client.mappings)
        octets = datagrams.answer(self.chance, one, self.server.epoch(self.now))
        whence = datagrams.stranger(self.chance) if self.peaceful else (SERVER, wire.SERVER_PORT)
        self._receive(octets, *whence)

    def _damage(self):
        answers = [datagram for datagram in self.flying if not datagram.to_server]
        if answers and not self.peaceful:
            answer = self.chance.choice(answers)
            self.flying.remove(answer)
            damaged = datagrams.damage(self.chance, answer.octets)
            self.flying.append(answer._replace(octets=damaged))

    def _repeat(self):
        if self.heard and not self.peaceful:
            self._receive(self.chance.choice(self.heard), SERVER, wire.SERVER_PORT)

    def _overtake(self):
        if self.flying:
            self._deliver(self.flying.pop(self.chance.randrange(len(self.flying))))

    def _power_cut(self):
        if self.chance.random() < 0.3:
            number = self.chance.randrange(len(self.flash))
            self.flash[number] = None
        self._power_on()

    def _want(self):
        """A person starts, releases or renews a mapping, or makes one that cannot be."""
        one = self.chance.choice(self.client.mappings)
        action = self.chance.choice(("release", "start", "renew", "probe", "icmp", "overlap"))
        if action == "release":
            self.last_sent.pop(one.nonce, None)
            one.release(self.now)
        elif action == "start" and one.state == m.IDLE:
            self.last_sent.pop(one.nonce, None)
            one.start(self.now)
        elif action == "renew" and one.state != m.IDLE:
            one.renew(self.now)
        elif action == "probe":
            self.client.probe(self.now)
        elif action == "icmp":
            self.client.binding_lost(self.now)
        elif action == "overlap":
            self._add_overlapping(one.wish)
        self._timers()

    def _add_overlapping(self, wish):
        try:
            self.client.add(m.Mapping(wish, b"\x77" * 12))
        except Overlap:
            return
        raise Broken("two mappings on the same internal ports")

    def _server_forgets(self):
        reset = self.peaceful or self.chance.random() < 0.7
        self.server.forget(self.now, reset, self.chance.choice((False, "unicast", "multicast")))

    def _server_refuses(self):
        self.faults.refuse = self.chance.choice((0, 0, *REFUSALS))
        self.faults.refuse_lifetime = self.chance.choice((0, 1, 30, 1800, 2**32 - 1))

    def _server_changes(self):
        what = self.chance.choice(("silent", "announce", "move", "ports", "plain"))
        if what == "silent":
            self.silent = not self.silent
        elif what == "announce":
            self._serve(self.server.announce(self.now))
        elif what == "ports":
            self.faults.fewer_ports = self.chance.choice((0, 1, 32))
        elif what == "plain":
            self.faults.ignore_port_set = not self.faults.ignore_port_set
        else:
            try:
                self._serve(self.server.move(self.now, SOURCE))
            except LookupError:
                self.count("nothing to move")

    _WHAT = (
        (_wait_for_next,) * 14
        + (_answer,) * 7
        + (_inject,) * 12
        + (_damage,) * 4
        + (_wait,) * 3
        + (_repeat,) * 3
        + (_overtake,) * 2
        + (_want,) * 2
        + (_sleep, _power_cut, _server_forgets, _server_refuses, _server_changes)
    )

    def step(self):
        """One thing happens."""
        self.chance.choice(self._WHAT)(self)
        self.judge.check_size()

    def finish(self):
        """All is well again from now on: a client that could have its set has it in the end."""
        if not self.peaceful or self.wishes != (SOFTWIRE,) or not self._server_is_able():
            return
        self.calm = True
        self.silent = self.faults.ignore_port_set = False
        self.faults.refuse = 0
        (one,) = self.client.mappings
        if one.state in (m.IDLE, m.RELEASING):
            self._power_on()
        self._run_to(self.now + CONVERGENCE)
        (one,) = self.client.mappings
        assert one.state == m.HELD, "no set again"
        bound = self.server.bindings.of_client(SOURCE)
        ports = one.grant.port_set
        assert any(
            binding.first <= ports.first and ports.first + ports.size - 1 <= binding.last
            for binding in bound
        ), "on ports that the server does not know"
        self.count("well in the end")

    def _server_is_able(self):
        return self.config.pcp.enabled and not self.config.pcp.strict


def run(data, count=lambda stage: None):
    """One input. Raises Broken or AssertionError, or whatever else the client raises."""
    chance = Octets(data)
    talk = Conversation(chance, count)
    for _ in range(MOST_STEPS):
        if chance.spent:
            break
        talk.step()
    talk.finish()
