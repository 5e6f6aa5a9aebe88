"""FILTER options: which remote peers may send to a mapping (RFC 6887 13.3).

Only IPv4 peers: what the server maps to is always an IPv4 address.
"""

import struct
from collections import namedtuple

from cpe_agent.pcp import wire

_LAYOUT = ">xBH16s"
_V4_BITS = 96  # leading bits that all IPv4-mapped addresses share

# Permitted peers. address: IPv4 as an integer. length: 0 to 32 bits of it count. port: 0 for all.
Filter = namedtuple("Filter", ("address", "length", "port"))
CLEAR = None  # stands in a request for "remove all previous filters"


def parse(octets):
    """A FILTER option's octets as Filter or CLEAR. Raises wire.OptionError."""
    if len(octets) != struct.calcsize(_LAYOUT):
        raise wire.OptionError("FILTER of %d octets" % len(octets))
    length, port, address = struct.unpack(_LAYOUT, octets)
    if length == 0:
        return CLEAR
    if not wire.is_v4(address) or not _V4_BITS <= length <= 128:
        raise wire.OptionError("FILTER with a prefix length of %d" % length)
    return Filter(int.from_bytes(address[12:], "big"), length - _V4_BITS, port)


def option(one):
    """A Filter as a FILTER option."""
    address = wire.V4_PREFIX + one.address.to_bytes(4, "big")
    octets = struct.pack(_LAYOUT, one.length + _V4_BITS, one.port, address)
    return wire.option(wire.OPT_FILTER, octets)


def merge(filters, asked):
    """A mapping's filters (a tuple) after a request's, in its order; doubles count once."""
    merged = list(filters)
    for one in asked:
        if one is CLEAR:
            merged.clear()
        elif one not in merged:
            merged.append(one)
    return tuple(merged)


def permits(filters, address, port=None):
    """May this IPv4 peer (an integer) send? port: its own; None, as of ICMP, meets any port."""
    if not filters:
        return True
    return any(
        (one.address ^ address) >> (32 - one.length) == 0 and port in (None, one.port or port)
        for one in filters
    )
