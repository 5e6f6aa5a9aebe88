"""Port forwards that follow the port set: 'config forward' of /etc/config/cpe-agent. Pure.

What lives here: which port of the sets a forward has. 'auto' depends on nothing but the forward's
name and the sets, so that the same set gives the same ports after a reboot, and nothing has to be
stored; later sections do not move earlier ones.
"""

import binascii
from collections import namedtuple

from cpe_agent import portset
from cpe_agent.pcp import wire

# name: of the section. proto: tuple of "tcp" and "udp". address: the shared one, text. port: of the
# sets, or None where there is none for it; then problem says why, and what to do. dest_ip: text;
# the softwire's inner address is the router itself. dest_port: 1 to 65535.
Placed = namedtuple(
    "Placed", ("name", "proto", "address", "port", "dest_ip", "dest_port", "problem")
)

# Ports at a set's end that are chosen first: a hole in the middle would cut the range in which
# outbound NAT looks for a free port.
_EDGE = 64


def place(wanted, port_sets, inner, protocol, taken=()):
    """Tuple of Placed, in the order of the config, without those that are disabled.

    wanted: tuple of config.Forward. port_sets: tuple of portset.PortSet, all of one address, the
    first one first. inner: the softwire's own address, text. protocol: wire.PROTO_*, of the sets.
    taken: ports that others have.

    A number outside of the sets, or one that is somebody else's, is not replaced: the user has told
    it to others. 'auto' is the forward's own dest_port if that is in the first set, which outlives
    the others; else a port near a set's end. At most half of all ports are given away.
    """
    chosen = _Chosen(port_sets, taken)
    enabled = [one for one in wanted if one.enabled]
    ports = {}
    for fixed in (True, False):  # numbers first: 'auto' can do without them
        for one in enabled:
            if bool(one.external_port) == fixed:
                ports[one.name] = _port_of(one, chosen, protocol)
    address = port_sets[0].address
    return tuple([_placed(one, protocol, address, inner, ports[one.name]) for one in enabled])


def reserved(placed, taken=()):
    """Tuple of the ports that outbound NAT has to leave alone."""
    ports = {one.port for one in placed if one.port is not None}
    return tuple(sorted(ports | set(taken)))


def in_force(placed):
    """Those that have a port."""
    return [one for one in placed if one.port is not None]


def gone(before, after):
    """Sorted list of (address, port) whose flows lead to where they should not any more.

    before, after: tuples of Placed.
    """
    ended = [one for one in in_force(before) if one not in after]
    return sorted({(one.address, one.port) for one in ended})


def text(one):
    """A Placed for people, in one line."""
    if one.problem:
        return "the forward '%s' does not work: %s" % (one.name, one.problem)
    return "the forward '%s': %s port %d (%s) leads to %s port %d" % (
        one.name,
        one.address,
        one.port,
        ", ".join(one.proto),
        one.dest_ip,
        one.dest_port,
    )


class _Chosen:
    """The ports that are given away so far."""

    def __init__(self, port_sets, taken):
        self.port_sets = port_sets
        self._owners = dict.fromkeys(taken)
        self._room = sum([one.size for one in port_sets]) // 2

    def why_not(self, port):
        """Why a port cannot be had, or None."""
        if not [one for one in self.port_sets if portset.contains(one, port)]:
            shown = ["%d-%d" % (one.first, portset.last(one)) for one in self.port_sets]
            return "is outside of the port sets " + ", ".join(shown)
        if port in self._owners:
            owner = self._owners[port]
            return "is that of " + ("forward '%s'" % owner if owner else "a 'config redirect'")
        return None

    def is_full(self):
        """True where the rest is needed for what goes out."""
        return len(self._owners) >= self._room

    def take(self, port, name):
        """It is the forward's of that name from now on."""
        self._owners[port] = name

    def find(self, one):
        """A free port for a config.Forward, or None."""
        first = self.port_sets[0]
        if portset.contains(first, one.dest_port) and one.dest_port not in self._owners:
            return one.dest_port
        for port_set in self.port_sets:
            for port in _order(one.name, port_set):
                if port not in self._owners:
                    return port
        return None


def _order(name, port_set):
    """The ports of a set, in the order in which they are tried for a name."""
    edge = min(port_set.size, _EDGE)
    begin = binascii.crc32(name.encode()) % edge
    for step in range(port_set.size):
        yield portset.last(port_set) - ((begin + step) % edge if step < edge else step)


def _port_of(one, chosen, protocol):
    """(port, None), or (None, why not and what to do)."""
    if not _proto(one, protocol):
        return None, "the port sets are not for %s; change option proto" % " or ".join(one.proto)
    if chosen.is_full():
        return None, "the port sets are too small for one more forward; delete another one"
    port = one.external_port or chosen.find(one)
    why = chosen.why_not(port)
    if why:
        advice = "set option external_port to 'auto', or to %d, say" % chosen.find(one)
        return None, "port %d %s; %s" % (port, why, advice)
    chosen.take(port, one.name)
    return port, None


def _proto(one, protocol):
    """Of a forward, what a set's protocol lets through."""
    if protocol == wire.PROTO_ALL:
        return one.proto
    name = "tcp" if protocol == wire.PROTO_TCP else "udp"
    return tuple([proto for proto in one.proto if proto == name])


def _placed(one, protocol, address, inner, found):
    port, problem = found
    proto = _proto(one, protocol) or one.proto
    return Placed(one.name, proto, address, port, one.dest_ip or inner, one.dest_port, problem)
