"""Broken clients, one fault each: what the invariants must see.

Each entry of BROKEN is a Mutant: a client class, a mapping class, or replacements for functions of
the timing module, and the seeds that are enough to see it.
"""

import contextlib
from collections import namedtuple
from unittest import mock

from cpe_agent.pcp import client as c
from cpe_agent.pcp import mapping as m
from cpe_agent.pcp import timing, wire
from cpe_agent.portset import PortSet

# All but a few are seen in the first dozen scenarios; more leave room for other random numbers.
SEEDS = 60

# client, mapping: classes. patches: {(object, name): value}. seeds: enough to see it.
Mutant = namedtuple("Mutant", ("seeds", "client", "mapping", "patches"))


def _mutant(seeds=SEEDS, client=c.Client, mapping=m.Mapping, patches=None):
    return Mutant(seeds, client, mapping, patches or {})


@contextlib.contextmanager
def applied(mutant):
    """The mutant's patches are in force."""
    with contextlib.ExitStack() as stack:
        for (where, name), value in mutant.patches.items():
            stack.enter_context(mock.patch.object(where, name, value))
        yield


# Identity: nonce, suggestion, size


class ForgetsItsNonce(m.Mapping):
    """Draws a new one at every start, as most published clients do."""

    def start(self, now, grant=None):
        self.nonce = bytes(reversed(self.nonce))
        super().start(now, grant)


class NeverSuggests(m.Mapping):
    """Asks for any set after a loss."""

    def _request(self, client_ip):
        known, self.known = self.known, None
        try:
            return super()._request(client_ip)
        finally:
            self.known = known


class TakesTheSizeFromTheRequest(m.Mapping):
    """Does not look how many ports came."""

    def _read_grant(self, now, response, *more):
        grant = super()._read_grant(now, response, *more)
        held = grant.port_set
        size = min(self.wish.size, 65536 - held.first)
        return m.Grant(PortSet(held.address, held.first, size), *grant[1:])


class TakesTheInternalPort(m.Mapping):
    """Uses the First Internal Port as if it were the external one (RFC 7753 5.2 has them equal)."""

    def _read_grant(self, now, response, *more):
        grant = super()._read_grant(now, response, *more)
        held = grant.port_set
        return m.Grant(PortSet(held.address, grant.first_internal, held.size), *grant[1:])


# Leases


class CountsFromTheAnswer(m.Mapping):
    """Lets a lease begin when its answer comes in."""

    def _began(self, now, *more):
        return now


class KeepsWhatExpired(m.Mapping):
    """Goes on with a set whose lease is over."""

    def expire(self, now):
        if self.grant and now >= self.grant.expires:
            self.grant = self.grant._replace(expires=now + 3600000)
        return super().expire(now)


class IgnoresTheEnd(m.Mapping):
    """Takes no notice of an answer with lifetime 0."""

    def _on_end(self, now, response, *more):
        return []


class KeepsWhatTheServerLost(m.Mapping):
    """Goes on with a set that a restarted server refuses to give again."""

    def _on_error(self, now, response, *more):
        held, state = self.grant, self.state
        events = super()._on_error(now, response, *more)
        if held and self.grant is None:
            self.grant, self.state = held, state
            events = [event for event in events if event.kind != m.LOST]
        return events


class TakesErrorsForGrants(m.Mapping):
    """Reads the ports that an error echoes."""

    def on_response(self, now, response, *more):
        if response.result and response.map and response.map.external_port:
            response = response._replace(result=wire.SUCCESS, lifetime=3600)
        return super().on_response(now, response, *more)


class NeverReleases(m.Mapping):
    """Just stops when the user gives the set back."""

    def release(self, now):
        self.state = m.IDLE
        self.grant = self.send_at = None


# Trust


class BelievesCopies(m.Mapping):
    """Takes any answer for an answer to its last request."""

    def is_repeat(self, *more):
        return False

    def believes(self, *more):
        return True

    def _began(self, now, *more):
        return self.last_sent


class TakesAnyNonce(c.Client):
    """Matches answers by protocol and internal port alone."""

    def _match(self, data):
        for mapping in self.mappings:
            if (mapping.wish.protocol, mapping.internal_port) == (
                data.protocol,
                data.internal_port,
            ):
                return mapping
        return None


class HearsAnybody(c.Client):
    """Does not look where a datagram came from."""

    def receive(self, now, data, address, port):
        super().receive(now, data, self.server, wire.SERVER_PORT)


# Loss of state


class IgnoresTheEpoch(c.Client):
    """Does not draw conclusions from the epoch of answers."""

    def _on_map(self, now, response):
        self.epoch.server = None
        super()._on_map(now, response)


class IgnoresAnnouncements(c.Client):
    """Does not listen for them."""

    def _on_announcement(self, now, response):
        pass


class RecoversWithoutEnd(c.Client):
    """Asks for everything again whenever the epoch jumps, however often."""

    def _next_round(self, now, wait):
        return now + wait, 0


def _strict_epoch(self, server, client):
    """Epoch._follows without the second of grace: takes a step back by one for a restart."""
    return server >= self.server and _follows(self, server, client)


_follows = timing.Epoch._follows


# Times


class KeepsNoDistance(m.Mapping):
    """Asks again at once whenever it feels like it."""

    def _spaced(self, at):
        return at


class IgnoresRefusalLifetimes(m.Mapping):
    """Asks again a few seconds after a refusal."""

    def _hold(self, now, wait, random_bytes):
        super()._hold(now, 0, random_bytes)


def _no_doubling(previous, random_bytes):
    return _retransmission(None, random_bytes)


def _no_longest(previous, random_bytes):
    """RFC 6887 8.1.1 without MRT."""
    base = timing.IRT if previous is None else 2 * previous
    return base + timing.uniform(random_bytes, -(base // 10), base // 10)


def _too_soon(previous, random_bytes):
    return _retransmission(previous, random_bytes) // 2


def _never_renew(granted, lifetime, after, random_bytes):
    return None


def _renew_late(granted, lifetime, after, random_bytes):
    """At nine tenths of the lifetime."""
    at = max(granted + lifetime * 900, after + timing.RENEWAL_SPACING)
    return at if at < granted + lifetime * 1000 else None


def _renew_often(granted, lifetime, after, random_bytes):
    """Every ten seconds."""
    return max(granted, after) + 10000


_retransmission = timing.retransmission


BROKEN = {
    "nonce forgotten": _mutant(mapping=ForgetsItsNonce),
    "suggestion forgotten": _mutant(mapping=NeverSuggests),
    "size taken from the request": _mutant(mapping=TakesTheSizeFromTheRequest),
    "internal port used as external": _mutant(mapping=TakesTheInternalPort),
    "lease counted from the answer": _mutant(mapping=CountsFromTheAnswer),
    "expired lease kept": _mutant(mapping=KeepsWhatExpired),
    "lifetime 0 ignored": _mutant(mapping=IgnoresTheEnd),
    "set kept that a restarted server refuses": _mutant(200, mapping=KeepsWhatTheServerLost),
    "error taken for a grant": _mutant(mapping=TakesErrorsForGrants),
    "never released": _mutant(mapping=NeverReleases),
    "copies believed": _mutant(mapping=BelievesCopies),
    "any nonce accepted": _mutant(client=TakesAnyNonce),
    "any server accepted": _mutant(client=HearsAnybody),
    "epoch ignored": _mutant(600, client=IgnoresTheEpoch),
    "announcements ignored": _mutant(client=IgnoresAnnouncements),
    "recovery unlimited": _mutant(client=RecoversWithoutEnd),
    "epoch off by one": _mutant(patches={(timing.Epoch, "_follows"): _strict_epoch}),
    "no spacing": _mutant(mapping=KeepsNoDistance),
    "refusal's lifetime ignored": _mutant(mapping=IgnoresRefusalLifetimes),
    "refusal honoured for ever": _mutant(patches={(m, "MAX_ERROR_LIFETIME"): 0xFFFFFFFF}),
    "retransmission not doubled": _mutant(patches={(timing, "retransmission"): _no_doubling}),
    "MRT ignored": _mutant(patches={(timing, "retransmission"): _no_longest}),
    "retransmission too soon": _mutant(patches={(timing, "retransmission"): _too_soon}),
    "never renewed": _mutant(patches={(timing, "renewal"): _never_renew}),
    "renewed too late": _mutant(patches={(timing, "renewal"): _renew_late}),
    "renewed too often": _mutant(patches={(timing, "renewal"): _renew_often}),
}
