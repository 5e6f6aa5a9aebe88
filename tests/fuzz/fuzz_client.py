"""Random and mutated datagrams into the client core.

    python tests/fuzz/fuzz_client.py --count 1000000 --seed 7

Every datagram comes with a source address and port. Whatever they hold, nothing may be raised, and
the client may change its mind only when address, port and (but for announcements) nonce are right.
"""

import argparse
import pathlib
import random
import sys
import time

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from cpe_agent.pcp import client as c
from cpe_agent.pcp import mapping as m
from cpe_agent.pcp import wire
from tests.unit.core import vectors
from tests.unit.core.bench import OTHER_NONCE, SERVER, SOURCE, STRANGER, Bench

EVENT_KINDS = {
    m.GRANTED,
    m.RENEWED,
    m.CHANGED,
    m.LOST,
    m.PLAIN,
    m.EVENT_REFUSED,
    m.UNUSABLE,
    m.SILENT,
    m.RELEASED,
    m.RECOVERING,
}
COUNTERS = {c.FOREIGN, c.MALFORMED, c.UNMATCHED, c.REPEATED}
STATES = (m.IDLE, m.ASKING, m.REFUSED, m.HELD, m.RELEASING)
VECTORS = [octets for _, octets in vectors.ALL]


class Broken(AssertionError):
    """The client did what it must not do; the text says how to see it again."""


class Fuzz:
    """One client that is fed, and a count of how far each datagram came."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.seed = seed
        self.stages = {}
        self.step = 0
        self.reset()

    def reset(self):
        """A fresh client with two mappings; now and then, so that every state is met early."""
        chance = self.random
        self.bench = Bench(seed=chance.randrange(1 << 30))
        self.bench.add(m.wish(0, 1, 65535, 3600), nonce=b"\x77" * 12)
        self.client = self.bench.client
        for one in self.client.mappings:
            if chance.random() < 0.9:
                one.start(self.bench.now)
        if chance.random() < 0.8:
            self.client.handle_timer(self.bench.now)
        self.drain()

    def count(self, stage):
        self.stages[stage] = self.stages.get(stage, 0) + 1

    def drain(self):
        self.client.datagrams()
        return self.client.events()

    # Making datagrams

    def valid(self):
        """A response that a server could send to one of the mappings."""
        chance = self.random
        one = chance.choice(self.client.mappings)
        epoch = max(0, self.bench.epoch() + chance.choice((0, 0, 0, 1, -1, -5000, 100000)))
        if chance.random() < 0.1:
            return wire.response(wire.OP_ANNOUNCE, 0, chance.choice((0, 999)), epoch)
        nonce = one.nonce if chance.random() < 0.9 else OTHER_NONCE
        address = chance.choice(
            (b"\xc0\0\2\3", b"\xc6\x33\x64\x07", b"\0\0\0\0", b"\x7f\0\0\1", b"\xe0\0\0\1")
        )
        data = wire.MapData(
            nonce,
            one.wish.protocol,
            one.wish.internal_port,
            chance.choice((37056, 37056, 1024, 65530, 0)),
            wire.V4_PREFIX + address,
        )
        options = wire.port_set_option(
            chance.choice((32, 32, 1, 2048, 65535)), one.wish.internal_port
        )
        result = chance.choice((0, 0, 0, 0, 1, 2, 3, 8, 10, 13, 200))
        lifetime = chance.choice((3600, 3600, 120, 1, 0, 0xFFFFFFFF))
        if chance.random() < 0.2:
            options = b""
        return wire.map_response(result, lifetime, epoch, data, options)

    def mutate(self, octets):
        """A few octets changed, cut, added, doubled or moved."""
        chance = self.random
        octets = bytearray(octets)
        for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
            kind = chance.randrange(6)
            at = chance.randrange(len(octets)) if octets else 0
            if kind < 2 and octets:
                octets[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
            elif kind == 2 and octets:
                octets[at] ^= 1 << chance.randrange(8)
            elif kind == 3:
                del octets[at:]
            elif kind == 4:
                octets += chance.randbytes(chance.choice((1, 4, 8, 100, 1100)))
            else:
                octets[at:at] = octets[at : at + chance.choice((1, 4, 12))]
        return bytes(octets)

    def damage_behind_nonce(self, octets):
        """Only what comes before or after the match key is random: this reaches the deepest."""
        chance = self.random
        octets = bytearray(octets)
        for _ in range(chance.choice((1, 2, 4))):
            at = chance.choice([2, 3, *range(4, 24), *range(42, max(len(octets), 43))])
            if at < len(octets):
                octets[at] = chance.randrange(256)
        return bytes(octets)

    def datagram(self):
        """(octets, source address, source port)."""
        chance = self.random
        kind = chance.random()
        if kind < 0.08:
            octets = chance.randbytes(chance.choice((0, 1, 3, 4, 8, 24, 60, 72, 1100, 1104)))
        elif kind < 0.15:
            head = bytes((2, chance.choice((0x80, 0x81, 0x81, 0x82)), 0, chance.randrange(16)))
            octets = head + chance.randbytes(chance.choice((20, 56, 68, 96)))
        elif kind < 0.3:
            octets = self.mutate(chance.choice(VECTORS))
        elif kind < 0.5:
            octets = self.mutate(self.valid())
        elif kind < 0.75:
            octets = self.damage_behind_nonce(self.valid())
        else:
            octets = self.valid()
        whence = chance.random()
        address = SERVER if whence > 0.1 else chance.choice((STRANGER, SOURCE, bytes(16)))
        port = wire.SERVER_PORT if whence < 0.9 else chance.choice((0, 5350, 5352, 65535))
        return octets, address, port

    # Judging what the client did

    def snapshot(self):
        known = (self.client.epoch.server, self.client.epoch.client)
        return known, [self.of(one) for one in self.client.mappings]

    @staticmethod
    def of(one):
        return (one.state, one.grant, one.known, one.first_internal, one.unanswered, one.hold_until)

    def one_step(self):
        self.step += 1
        chance = self.random
        if chance.random() < 0.015:
            self.reset()
        octets, address, port = self.datagram()
        before = self.snapshot()
        schedule = [one.send_at for one in self.client.mappings]
        counters = dict(self.client.dropped)
        now = self.bench.now
        try:
            self.client.receive(now, octets, address, port)
        except Exception as error:
            raise Broken("%s: %r" % (self.where(octets, address, port), error)) from error
        try:
            self.judge(octets, address, port, before, schedule, counters)
        except AssertionError as error:
            raise Broken("%s: %s" % (self.where(octets, address, port), error)) from error
        self.live()

    def where(self, octets, address, port):
        return "seed %d, step %d, %s from %s port %d" % (
            self.seed,
            self.step,
            octets.hex(),
            address.hex(),
            port,
        )

    def judge(self, octets, address, port, before, schedule, counters):
        after = self.snapshot()
        events = self.client.events()
        assert self.client.datagrams() == [], "receiving sends nothing by itself"
        assert set(self.client.dropped) == COUNTERS
        assert len(self.client.mappings) == 2
        dropped = sum(self.client.dropped.values()) - sum(counters.values())
        assert dropped in (0, 1, 2)
        for event in events:
            assert event.kind in EVENT_KINDS
        self.check_invariants()
        if address != SERVER or port != wire.SERVER_PORT:
            self.count("foreign")
            assert self.client.dropped[c.FOREIGN] == counters[c.FOREIGN] + 1
            assert after == before and not events
            assert [one.send_at for one in self.client.mappings] == schedule
            return
        if self.client.dropped[c.MALFORMED] > counters[c.MALFORMED]:
            self.count("malformed")
            assert after == before and not events
            return
        if len(octets) > 3 and octets[3] == wire.UNSUPP_VERSION:
            self.judge_version(octets, before, after, events, dropped)
        elif octets[1] == 0x80:
            self.count("announcement")
            assert after[1] == self.with_recovery(before[1], after[1]), "it may only schedule"
            assert all(event.kind == m.RECOVERING for event in events)
            self.count("announced a loss" if events else "announced nothing")
        else:
            self.judge_map(octets, before, after, events, counters)

    @staticmethod
    def with_recovery(before, after):
        """Snapshots of mappings before, with what a recovery may change taken from after: a wait
        that the server had asked for ends."""
        out = []
        for old, new in zip(before, after):
            state = m.ASKING if old[0] == m.REFUSED and new[0] == m.ASKING else old[0]
            out.append((state, *old[1:5], new[5] if new[5] is None else old[5]))
        return out

    def judge_version(self, octets, before, after, events, dropped):
        self.count("version")
        assert before[0] == after[0], "no epoch is read from it"
        for one, old, new in zip(self.client.mappings, before[1], after[1]):
            if old == new:
                continue
            self.count("version refused")
            assert before[0][0] is None, "only a server that was never understood may say so"
            assert old[4] > 0, "a request was out"
            assert len(octets) <= wire.HEADER_LENGTH or octets[24:36] == one.nonce
            assert new[1] == old[1], "it takes no grant away"

    def judge_map(self, octets, before, after, events, counters):
        dropped = sum(self.client.dropped.values()) - sum(counters.values())
        key = (octets[24:36], octets[36], int.from_bytes(octets[40:42], "big"))
        touched = None
        for index, one in enumerate(self.client.mappings):
            if key == (one.nonce, one.wish.protocol, one.wish.internal_port):
                touched = index
        if touched is None:
            self.count("unmatched")
            assert dropped == 1 and after == before and not events
            return
        if self.client.dropped[c.REPEATED] > counters[c.REPEATED]:
            self.count("repeated")
            assert dropped == 1 and after == before and not events
            return
        self.count("matched")
        assert dropped == 0
        assert after[0][0] == int.from_bytes(octets[8:12], "big"), "its epoch is noted"
        other = 1 - touched
        assert [after[1][other]] == self.with_recovery([before[1][other]], [after[1][other]])
        one = self.client.mappings[touched]
        old, new = before[1][touched], after[1][touched]
        self.count("%s at %s" % ("success" if octets[3] == 0 else "error", old[0]))
        if new[1] is not None and new[1] != old[1]:
            self.count("adopted")
            assert octets[3] == 0 and old[0] in (m.ASKING, m.REFUSED, m.HELD)
            self.check_grant(octets, one, old, new[1])
        if new[1] is None and old[1] is not None:
            self.count("taken away")
            released = old[0] == m.RELEASING and new[0] == m.IDLE
            ended = octets[3] == 0 and octets[4:8] == bytes(4)
            revoked = ended or (octets[3] == wire.NOT_AUTHORIZED and old[4] == 0)
            assert released or revoked

    def check_grant(self, octets, one, old, grant):
        """What is held now is what the octets say, read here without wire.py."""
        lifetime = int.from_bytes(octets[4:8], "big")
        assert lifetime > 0 and grant.lifetime == min(lifetime, 86400)
        latest = one.last_sent if old[4] else self.bench.now
        assert self.bench.now < grant.expires <= latest + grant.lifetime * 1000
        assert octets[44:56] == bytes(10) + b"\xff\xff"
        ports = grant.port_set
        assert ports.address == ".".join(str(octet) for octet in octets[56:60])
        assert ports.first == int.from_bytes(octets[42:44], "big") > 0
        assert ports.first + ports.size - 1 <= 65535
        assert ports.size >= 1
        assert ports.size <= one.wish.size or ports == old[2]
        assert octets[56] not in (0, 127) and octets[56] < 224
        if len(octets) == 60:
            assert ports.size == 1 or (old[1] is not None and ports == old[1].port_set)

    def check_invariants(self):
        now = self.bench.now
        for one in self.client.mappings:
            assert one.state in STATES
            assert (one.grant is not None) == (one.state in (m.HELD,)) or one.state == m.RELEASING
            due = one.timer()
            if one.state == m.IDLE:
                assert due is None
            else:
                assert due is not None and due <= now + 86400000, "it always wants to go on"

    def live(self):
        """Let some time pass, so that requests go out, refusals end, leases expire."""
        chance = self.random
        bench = self.bench
        if chance.random() < 0.3:
            bench.now += chance.choice((1, 50, 1000, 4000, 60000, 700000))
        due = self.client.get_timer()
        if due is not None and chance.random() < 0.05:
            bench.now = max(bench.now, due)
        if due is not None and due <= bench.now:
            self.client.handle_timer(bench.now)
            sent = self.client.datagrams()
            assert len(sent) <= 2
            for octets in sent:
                parsed = wire.parse_request(octets)
                assert parsed.map.nonce in [one.nonce for one in self.client.mappings]
                self.count("sent")
            self.client.events()
        if chance.random() < 0.01:
            one = chance.choice(self.client.mappings)
            action = chance.choice(("release", "release", "start", "start", "renew", "binding"))
            if action == "release":
                one.release(bench.now)
                self.client.handle_timer(bench.now)
                self.client.datagrams()
            elif action == "start" and one.state == m.IDLE:
                one.start(bench.now)
            elif action == "renew":
                one.renew(bench.now)
            else:
                self.client.binding_lost(bench.now)
            self.client.events()

    def run(self, count):
        for _ in range(count):
            self.one_step()
        return self.stages


def table(stages, count):
    """Counts for people."""
    lines = [
        "%-24s %8d  %5.1f %%" % (name, stages[name], 100 * stages[name] / count)
        for name in sorted(stages)
    ]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    begin = time.monotonic()
    stages = Fuzz(options.seed).run(options.count)
    print(table(stages, options.count))
    print("%d datagrams in %.1f s: no fault" % (options.count, time.monotonic() - begin))


if __name__ == "__main__":
    main()
