"""What a client core must never do, whatever arrives: the oracle of the fuzzers."""

import ipaddress

from cpe_agent.pcp import client as c
from cpe_agent.pcp import mapping as m
from cpe_agent.pcp import wire

EVENT_KINDS = {
    m.GRANTED,
    m.RENEWED,
    m.CHANGED,
    m.LOST,
    m.PLAIN,
    m.OTHER_FORM,
    m.EVENT_REFUSED,
    m.UNUSABLE,
    m.SILENT,
    m.GAVE_UP,
    m.RELEASED,
    m.RECOVERING,
}
COUNTERS = {c.FOREIGN, c.MALFORMED, c.UNMATCHED, c.REPEATED, c.NAT_PMP}
STATES = (m.IDLE, m.ASKING, m.REFUSED, m.HELD, m.RELEASING)
DAY = 86400000  # ms
# A request at least every 2.7 s (RFC 6887 8.1.1), remembered for 30 s; the rest is for a person who
# releases and starts again.
LONGEST_LIST = 64
# A mapping's facts, which a recovery round must leave alone.
_FACTS = ("grant", "known", "first_internal", "unanswered", "last_sent", "nonce", "wish")


class Broken(AssertionError):
    """The client did what it must not do; the text says how to see it again."""


class Judge:
    """Hands datagrams to a client and judges what it makes of them."""

    def __init__(self, client, count):
        """count: called with the name of the stage that a datagram came to."""
        self.client = client
        self.count = count

    def receive(self, now, octets, address, port):
        """Events of one datagram. Raises Broken."""
        before = self._snapshot()
        counters = dict(self.client.dropped)
        where = "%s from %s port %d" % (octets.hex(), address.hex(), port)
        try:
            self.client.receive(now, octets, address, port)
        except Exception as error:
            raise Broken("%s: %r" % (where, error)) from error
        events = self.client.events()
        try:
            self._judge(now, octets, address, port, before, counters, events)
            self.check(now)
        except AssertionError as error:
            raise Broken("%s: %s" % (where, error)) from error
        return events

    def check(self, now):
        """What holds after every call."""
        for one in self.client.mappings:
            assert one.state in STATES
            assert (one.grant is not None) == (one.state == m.HELD) or one.state == m.RELEASING
            due = one.timer()
            if one.state == m.IDLE:
                assert due is None
            else:
                assert due is not None and due <= now + DAY, "it always wants to go on"

    def check_size(self):
        """Nothing that the client keeps grows with what arrives."""
        for owner in [self.client, *self.client.mappings]:
            for name, value in vars(owner).items():
                if isinstance(value, (list, dict, tuple, set, bytes, str)):
                    assert len(value) <= LONGEST_LIST, "%s has grown" % name

    def _snapshot(self):
        client = {
            name: value
            for name, value in vars(self.client).items()
            if name not in ("dropped", "epoch", "mappings", "_events")
        }
        epoch = dict(vars(self.client.epoch))
        return client, epoch, [dict(vars(one)) for one in self.client.mappings]

    def _judge(self, now, octets, address, port, before, counters, events):
        after = self._snapshot()
        dropped = {
            name: count - counters.get(name, 0)
            for name, count in self.client.dropped.items()
            if count != counters.get(name, 0)
        }
        assert self.client.datagrams() == [], "receiving sends nothing by itself"
        assert set(self.client.dropped) == COUNTERS
        assert all(event.kind in EVENT_KINDS for event in events)
        if address != self.client.server or port != wire.SERVER_PORT:
            self.count("foreign")
            assert dropped == {c.FOREIGN: 1} and after == before and not events
        elif c.MALFORMED in dropped or c.NAT_PMP in dropped:
            self.count("malformed")
            assert sum(dropped.values()) == 1 and after == before and not events
        elif len(octets) > 3 and octets[3] == wire.UNSUPP_VERSION:
            self._judge_version(octets, before, after, events, dropped)
        elif octets[1] == 0x80:
            self._judge_announcement(before, after, events, dropped)
        else:
            self._judge_map(now, octets, before, after, events, dropped)

    @staticmethod
    def _check_only_scheduled(old, new):
        """A recovery round may ask sooner, and end a wait that the server had asked for."""
        assert all(old[name] == new[name] for name in _FACTS), "it may only schedule"
        assert new["state"] == old["state"] or (old["state"], new["state"]) == (m.REFUSED, m.ASKING)
        assert new["hold_until"] in (None, old["hold_until"])

    def _judge_announcement(self, before, after, events, dropped):
        self.count("announced a loss" if events else "announced nothing")
        assert dropped == {}
        assert all(event.kind == m.RECOVERING for event in events)
        for old, new in zip(before[2], after[2]):
            self._check_only_scheduled(old, new)

    def _judge_version(self, octets, before, after, events, dropped):
        self.count("version")
        assert set(dropped) <= {c.UNMATCHED}
        assert before[:2] == after[:2], "no epoch is read from it"
        for old, new in zip(before[2], after[2]):
            if old == new:
                continue
            self.count("version refused")
            assert before[1]["server"] is None, "only a server that was never understood may say so"
            assert old["unanswered"] > 0, "a request was out"
            assert len(octets) <= wire.HEADER_LENGTH or octets[24:36] == old["nonce"]
            assert new["grant"] == old["grant"], "it takes no grant away"
            assert events

    def _judge_map(self, now, octets, before, after, events, dropped):
        key = (octets[24:36], octets[36], int.from_bytes(octets[40:42], "big"))
        touched = None
        for index, old in enumerate(before[2]):
            if key == (old["nonce"], old["wish"].protocol, old["internal_port"]):
                touched = index
        if touched is None or c.REPEATED in dropped:
            self.count("unmatched" if touched is None else "repeated")
            assert sum(dropped.values()) == 1 and after == before and not events
            return
        self.count("matched")
        assert dropped == {}
        assert after[1]["server"] == int.from_bytes(octets[8:12], "big"), "its epoch is noted"
        for index, (old, new) in enumerate(zip(before[2], after[2])):
            if index != touched:
                self._check_only_scheduled(old, new)
        self._judge_touched(now, octets, before[2][touched], after[2][touched])

    def _judge_touched(self, now, octets, old, new):
        """What a MAP response may do to the mapping that it names."""
        success = octets[3] == wire.SUCCESS
        self.count("%s at %s" % ("success" if success else "error", old["state"]))
        for name in ("nonce", "wish", "last_sent"):
            assert old[name] == new[name]
        if new["grant"] is not None and new["grant"] != old["grant"]:
            self.count("adopted")
            assert success and old["state"] in (m.ASKING, m.REFUSED, m.HELD)
            self._check_grant(now, octets, old, new["grant"])
        if new["grant"] is None and old["grant"] is not None:
            self.count("taken away")
            released = old["state"] == m.RELEASING and new["state"] == m.IDLE
            ended = success and octets[4:8] == bytes(4)
            gone = old["wish"].prefer_failure and octets[3] == wire.CANNOT_PROVIDE_EXTERNAL
            revoked = old["unanswered"] == 0 and (gone or octets[3] == wire.NOT_AUTHORIZED)
            # A refusal from a server that has lost its state: it may have given the set away.
            refused = not success and old["unanswered"] > 0 and new["_doubted"]
            assert released or ended or revoked or refused

    @staticmethod
    def _check_grant(now, octets, old, grant):
        """What is held now is what the octets say, read here without wire.py."""
        lifetime = int.from_bytes(octets[4:8], "big")
        assert lifetime > 0 and grant.lifetime == min(lifetime, 86400)
        latest = old["last_sent"] if old["unanswered"] else now
        assert now < grant.expires <= latest + grant.lifetime * 1000
        address = ipaddress.IPv6Address(octets[44:60])
        address = address.ipv4_mapped or address
        ports, wish = grant.port_set, old["wish"]
        assert ipaddress.ip_address(ports.address) == address
        assert address.version == wish.family
        assert not (address.is_multicast or address.is_loopback or address.is_unspecified)
        assert ports.first == int.from_bytes(octets[42:44], "big") > 0
        assert ports.size >= 1 and ports.first + ports.size - 1 <= 65535
        assert ports.size <= wish.size or ports == old["known"]
        if len(octets) == 60:
            assert ports.size == 1 or (old["grant"] is not None and ports == old["grant"].port_set)
