"""Default routers, from the kernel's main routing table: PCP servers where none is known better
(RFC 6887 8.1)."""

import struct
from collections import namedtuple

from cpe_agent import net, netlink
from cpe_agent.pcp import wire

_ROUTE = 0  # NETLINK_ROUTE
_DUMP = 0x300
_RTM_GETROUTE = 26
_AF_INET = 2
_AF_INET6 = 10
_MAIN = 254  # RT_TABLE_MAIN
_UNUSABLE = 1 | 16  # RTNH_F_DEAD, RTNH_F_LINKDOWN
_RTA_OIF = 4
_RTA_GATEWAY = 5
_RTA_PRIORITY = 6
_RTA_MULTIPATH = 9
_NEXT_HOP = 8  # octets of struct rtnexthop

# address: 16 octets. interface: index, which link-local addresses mean nothing without.
Router = namedtuple("Router", ("address", "interface"))


def default_router(family, interface=0):
    """Router of the best default route of a family, 4 or 6, or None. Raises OSError.

    interface: index of the only one to look at, or 0. Routes for some sources only count too, as
    OpenWrt has them for IPv6; those without a gateway, as the softwire's own, do not.
    """
    kind = _AF_INET if family == 4 else _AF_INET6
    message = struct.pack(net.NATIVE + "BBBBBBBBI", kind, *([0] * 8))
    found = []
    for route in netlink.ask(_ROUTE, _RTM_GETROUTE, _DUMP, message):
        for metric, router in _routers(bytes(route), kind):
            if interface in (0, router.interface):
                found.append((metric, router))
    best = min([metric for metric, _ in found], default=None)
    for metric, router in found:
        if metric == best:
            return router
    return None


def _routers(route, kind):
    """(metric, Router) of each way that a route message has, if it is a default route."""
    head = struct.unpack_from(net.NATIVE + "BBBBBBBBI", route)
    if head[0] != kind or head[1] != 0 or head[4] != _MAIN:
        return
    attributes = netlink.attributes(route, 12)
    metric = _number(attributes.get(_RTA_PRIORITY))
    ways = [(head[8], _number(attributes.get(_RTA_OIF)), attributes)]
    ways += _next_hops(bytes(attributes.get(_RTA_MULTIPATH, b"")))
    for flags, index, own in ways:
        gateway = bytes(own.get(_RTA_GATEWAY, b""))
        if gateway and not flags & _UNUSABLE:
            address = wire.V4_PREFIX + gateway if kind == _AF_INET else gateway
            yield metric, Router(address, index)


def _next_hops(data):
    """(flags, interface index, attributes) of each next hop of a route that has several."""
    found = []
    at = 0
    while at + _NEXT_HOP <= len(data):
        length, flags, _, index = struct.unpack_from(net.NATIVE + "HBBi", data, at)
        if length < _NEXT_HOP:
            break
        found.append((flags, index, netlink.attributes(data[: at + length], at + _NEXT_HOP)))
        at += (length + 3) & ~3
    return found


def _number(octets):
    return struct.unpack(net.NATIVE + "I", octets)[0] if octets else 0
