"""The lab's PCP server against a model of its binding table, as its clients can see it.

The model knows the rules of part G of the checklist (RFC 7753 4.4.1), not how places are chosen:
where the server is free, any place that breaks no rule will do.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from lwaftr.config import from_dict
from lwaftr.server import PcpServer

from cpe_agent.pcp import wire

ADDRESSES = ["192.0.2.3", "192.0.2.4"]
FIRST, LAST = 5300, 5500  # around the ports of PCP itself
LIFE_MIN, LIFE_MAX = 120, 900
STATIC = {"client": "2001:db8::50", "address": ADDRESSES[0], "first_port": 5400, "size": 16}
STATIC_CLIENT = bytes.fromhex("20010db8" + "00" * 11 + "50")
CLIENTS = [bytes.fromhex("20010db8" + "00" * 11 + "%02x" % number) for number in range(1, 5)]
CLIENTS += [wire.V4_PREFIX + bytes((10, 0, 0, 1)), STATIC_CLIENT]
NONCES = [b"a" * 12, b"b" * 12]
SUGGESTED = [wire.ANY_V4] + [wire.V4_PREFIX + bytes((192, 0, 2, last)) for last in (3, 4, 8)]
FAILURE = wire.option(wire.OPT_PREFER_FAILURE)


def number(address):
    """An IPv4-mapped address as an integer."""
    return int.from_bytes(address[12:], "big")


class Lease:
    """What a client has been told that it has."""

    def __init__(self, client, nonce, protocol, internal, place, expires):
        self.client = client
        self.nonce = nonce
        self.protocol = protocol
        self.internal = internal
        self.address, self.first, self.size = place
        self.expires = expires  # ms; None: never
        self.exact = False

    def ports(self):
        return {(self.address, self.first + step) for step in range(self.size)}

    def meets(self, protocol, low, high):
        same = 0 in (protocol, self.protocol) or protocol == self.protocol
        return same and self.internal <= high and low < self.internal + self.size

    def remaining(self, now):
        return 0xFFFFFFFF if self.expires is None else -(-(self.expires - now) // 1000)

    def entry(self):
        """As the binding table has it."""
        return (self.client, self.address, self.first, self.size, self.protocol, self.expires)


class Server(RuleBasedStateMachine):
    @initialize(
        set_size=st.sampled_from([1, 8, 50, 300]),
        max_sets=st.integers(1, 3),
        max_ports=st.sampled_from([10, 60, 500]),
        hold=st.sampled_from([0, 150]),
    )
    def start(self, set_size, max_sets, max_ports, hold):
        pool = {"addresses": ADDRESSES, "first_port": FIRST, "last_port": LAST}
        self.policy = {"max_sets": max_sets, "max_ports": max_ports, "hold_time": hold}
        self.policy.update(lifetime_min=LIFE_MIN, lifetime_max=LIFE_MAX)
        config = {"pool": {**pool, "set_size": set_size}, "pcp": self.policy, "static": [STATIC]}
        self.server = PcpServer(from_dict(config))
        self.now = self.zero = 0
        static = (number(wire.V4_PREFIX + bytes((192, 0, 2, 3))), 5400, 16)
        self.leases = [Lease(STATIC_CLIENT, b"", 0, 5400, static, None)]
        self.freed = {}  # (address, port): (client, until when nobody else may have it)

    def ends(self, lease, now):
        self.leases.remove(lease)
        for port in lease.ports():
            self.freed[port] = lease.client, now + self.policy["hold_time"] * 1000

    def ask(self, client, protocol, internal, size, lifetime, nonce, suggestion, extra):
        """The parsed answers to a MAP request; size None: without PORT_SET."""
        address, port = suggestion
        data = wire.MapData(nonce, protocol, internal, port, address)
        option = b"" if size is None else wire.port_set_option(size, internal)
        octets = wire.map_request(client, lifetime, data, option + extra)
        out = self.server.receive(self.now, octets, client, 40000)
        assert all((one.address, one.port) == (client, 40000) for one in out)
        answers = [wire.parse_response(one.data) for one in out]
        assert all(answer.epoch == (self.now - self.zero) // 1000 for answer in answers)
        assert all(answer.map.nonce == nonce for answer in answers)
        return answers

    @rule(
        client=st.sampled_from(CLIENTS),
        protocol=st.sampled_from([0, 6, 17]),
        internal=st.sampled_from([1, 2, 5, 5310, 5340, 5400, 5450, 65530]),
        size=st.sampled_from([None, 1, 4, 40, 0xFFFF]),
        lifetime=st.sampled_from([0, 0, 1, 300, 10000]),
        nonce=st.sampled_from(NONCES),
        address=st.sampled_from(SUGGESTED),
        port=st.sampled_from([0, 0, 5300, 5340, 5350, 5351, 5410, 5449, 9]),
        exact=st.booleans(),
    )
    def request(self, client, protocol, internal, size, lifetime, nonce, address, port, exact):
        exact = exact and size is None and port != 0 and lifetime != 0
        high = min(internal + (size or 1) - 1, 65535)
        touched = [
            lease
            for lease in self.leases
            if lease.client == client and lease.meets(protocol, internal, high)
        ]
        touched.sort(key=lambda lease: (lease.internal, lease.protocol))
        extra = FAILURE if exact else b""
        place = address, port
        answers = self.ask(client, protocol, internal, size, lifetime, nonce, place, extra)
        assert len(answers) == max(1, len(touched))
        wish = (internal, high, size or 1, lifetime, nonce, number(address), port, exact)
        if not touched:
            self.new(client, protocol, wish, answers[0])
        for lease, answer in zip(touched, answers):
            alone = len(touched) == 1
            assert answer.map.internal_port == (internal if alone else lease.internal)
            assert answer.map.protocol == (protocol if alone else lease.protocol)
            self.refresh(lease, wish, answer)

    def refresh(self, lease, wish, answer):
        internal, _, _, lifetime, nonce, address, port, exact = wish
        static = lease.expires is None
        outcome = answer.result, answer.lifetime
        place = lease.first + internal - lease.internal
        elsewhere = exact and (address not in (0, lease.address) or port != place)
        if static and elsewhere:
            assert answer.result == wire.CANNOT_PROVIDE_EXTERNAL
        elif static and lifetime == 0:
            assert outcome == (wire.NOT_AUTHORIZED, 1800)
        elif not static and nonce != lease.nonce:
            assert outcome == (wire.NOT_AUTHORIZED, lease.remaining(self.now))
        elif elsewhere:
            assert answer.result == wire.CANNOT_PROVIDE_EXTERNAL
        elif lifetime == 0:
            assert outcome == (wire.SUCCESS, 0) and answer.map.external_port == port
            self.ends(lease, self.now)
        else:
            assert answer.result == wire.SUCCESS
            assert told(answer) == (lease.address, lease.first, lease.size)
            if not static:
                lease.exact = exact
                lease.expires = self.now + max(LIFE_MIN, min(lifetime, LIFE_MAX)) * 1000
            assert answer.lifetime == lease.remaining(self.now)

    def new(self, client, protocol, wish, answer):
        internal, high, size, lifetime, nonce, address, port, exact = wish
        if lifetime == 0:
            assert (answer.result, answer.lifetime) == (wire.SUCCESS, 0)
            assert (number(answer.map.external_ip), answer.map.external_port) == (address, port)
            return
        if answer.result:
            self.refused(client, exact, answer)
            return
        option = wire.find_option(answer.options, wire.OPT_PORT_SET)
        first = wire.parse_port_set(option).first_internal if option else internal
        place = told(answer)
        expires = self.now + max(LIFE_MIN, min(lifetime, LIFE_MAX)) * 1000
        lease = Lease(client, nonce, protocol, first, place, expires)
        lease.exact = exact
        assert answer.lifetime == lease.remaining(self.now)
        assert (option is None) == (lease.size == 1)
        assert lease.size <= size
        assert internal <= first and first + lease.size - 1 <= high
        if exact:
            assert address in (0, lease.address) and lease.first == port
        self.leases.append(lease)
        self.check_place(lease)

    def refused(self, client, exact, answer):
        mine = [lease for lease in self.leases if lease.client == client]
        if answer.result == wire.USER_EX_QUOTA:
            assert mine and answer.lifetime == 30
        elif answer.result == wire.NO_RESOURCES:
            waiting = any(until > self.now for _, until in self.freed.values())
            assert (len(self.leases) > 1 or waiting) and not exact and answer.lifetime == 30
        else:
            assert answer.result == wire.CANNOT_PROVIDE_EXTERNAL and exact

    def check_place(self, lease):
        """Ports are the pool's, nobody else's, and not wanted back by their last owner."""
        for address, port in lease.ports():
            assert FIRST <= port <= LAST and port not in (5350, 5351)
            last_owner, until = self.freed.get((address, port), (lease.client, 0))
            assert last_owner == lease.client or until <= self.now
        for other in self.leases:
            if other is not lease and other.ports() & lease.ports():
                assert other.client == lease.client
                assert 0 not in (other.protocol, lease.protocol)
                assert other.protocol != lease.protocol

    @rule(seconds=st.sampled_from([0.1, 0.5, 1, 60, 119, 120, 151, 900]))
    def wait(self, seconds):
        self.now += int(seconds * 1000)
        for lease in list(self.leases):
            if lease.expires is not None and lease.expires <= self.now:
                self.ends(lease, lease.expires)
        for out in self.server.handle_timer(self.now):
            self.check_notice(out)

    def check_notice(self, out):
        answer = wire.parse_response(out.data)
        assert answer.epoch == (self.now - self.zero) // 1000
        if answer.opcode == wire.OP_MAP and answer.result == wire.SUCCESS:
            assert any(
                lease.client == out.address
                and lease.nonce == answer.map.nonce
                and (lease.address, lease.first, lease.size) == told(answer)
                for lease in self.leases
            )

    @rule(client=st.sampled_from(CLIENTS))
    def move(self, client):
        mine = [lease for lease in self.leases if lease.client == client and lease.expires]
        try:
            out = self.server.move(self.now, client)
        except LookupError:
            return
        assert len(out) == len(mine)
        after = [m for m in self.server.mappings() if m.client == client and not m.static]
        for lease in mine:
            self.ends(lease, self.now)
        moved = [wire.parse_response(one.data) for one in out]
        assert sum(answer.result == wire.SUCCESS for answer in moved) == len(after)
        assert len(after) == sum(not lease.exact for lease in mine)
        for mapping in after:
            place = mapping.block.address, mapping.external, mapping.size
            lease = Lease(
                client, mapping.nonce, mapping.protocol, mapping.internal, place, mapping.due_ms
            )
            assert any(told(answer) == place for answer in moved)
            self.leases.append(lease)
            self.check_place(lease)

    @rule()
    def forget(self):
        self.server.forget(self.now)
        self.zero = self.now
        self.leases = [lease for lease in self.leases if lease.expires is None]
        self.freed.clear()

    @rule(client=st.sampled_from(CLIENTS), octets=st.binary(max_size=90))
    def noise(self, client, octets):
        for out in self.server.receive(self.now, b"\2\1\0\0" + octets, client, 40000):
            assert out.data[3] != wire.SUCCESS or len(octets) >= 56

    @invariant()
    def the_binding_table_is_the_model(self):
        if not hasattr(self, "server"):
            return
        table = sorted(
            (b.client, b.address, b.first, b.size, b.protocol, b.expiry_ms or 0)
            for b in self.server.bindings
        )
        assert table == sorted((*lease.entry()[:5], lease.expires or 0) for lease in self.leases)

    @invariant()
    def nobody_has_more_than_the_quota(self):
        for client in CLIENTS[:-1]:
            mine = [lease for lease in getattr(self, "leases", ()) if lease.client == client]
            ports = [lease.ports() for lease in mine]
            if ports:
                assert len(set().union(*ports)) <= self.policy["max_ports"]
                assert len({frozenset(one) for one in ports}) <= 2 * self.policy["max_sets"]
                assert len({address for one in ports for address, _ in one}) == 1


def told(answer):
    """(address, first external port, size) of a success."""
    octets = wire.find_option(answer.options, wire.OPT_PORT_SET)
    size = wire.parse_port_set(octets).size if octets else 1
    return number(answer.map.external_ip), answer.map.external_port, size


TestServer = Server.TestCase
TestServer.settings = settings(stateful_step_count=60)
