"""PCP servers that DHCP tells of (RFC 7291). Pure: octets or hex digits in, servers out.

Nothing that a DHCP server sends raises: what cannot be used is left out, with a line for the log.
Multicast and loopback addresses go without one, as RFC 7291 3.2 and 4.2 want.
"""

import binascii

from cpe_agent.pcp import servers, wire

OPTION_V6 = 86  # OPTION_V6_PCP_SERVER
OPTION_V4 = 158  # OPTION_V4_PCP_SERVER

_HEX = "0123456789abcdefABCDEF"


def dhcpv6_servers(instances, interface=0):
    """(list of servers.Server, list of reasons) of all instances of DHCPv6 option 86.

    Each instance, its data as octets or hex digits, is one server (RFC 7291 3.2). interface: index
    of the one that the lease belongs to.
    """
    found, reasons = [], []
    for instance in instances[: servers.MAX_SERVERS]:
        data = _octets(instance)
        if data is None or not data or len(data) % 16:
            reasons.append(_unusable(OPTION_V6, "its length is no multiple of 16", data))
        else:
            addresses = [data[at : at + 16] for at in range(0, len(data), 16)]
            _add(found, reasons, addresses, servers.DHCPV6, interface)
    if len(instances) > servers.MAX_SERVERS:
        reasons.append(_too_many(OPTION_V6))
    return found, reasons


def dhcpv4_servers(option, interface=0):
    """(list of servers.Server, list of reasons) of DHCPv4 option 158, data joined by RFC 3396.

    It holds lists of addresses, each behind its length in octets; each list is one server.
    """
    found, reasons = [], []
    data = _octets(option)
    lists = None if data is None else _lists(data)
    if lists is None:
        return found, [_unusable(OPTION_V4, "its lists have impossible lengths", data)]
    for octets in lists[: servers.MAX_SERVERS]:
        addresses = [wire.V4_PREFIX + octets[at : at + 4] for at in range(0, len(octets), 4)]
        _add(found, reasons, addresses, servers.DHCPV4, interface)
    if len(lists) > servers.MAX_SERVERS:
        reasons.append(_too_many(OPTION_V4))
    return found, reasons


def _octets(data):
    """Octets of octets or of hex digits; None for anything else."""
    if not isinstance(data, str):
        return bytes(data)
    digits = data.strip()
    if len(digits) % 2 or [char for char in digits if char not in _HEX]:
        return None  # looked at here, since unhexlify() lets spaces pass on MicroPython alone
    return binascii.unhexlify(digits)


def _lists(data):
    """The lists of option 158, or None if one length is wrong: then no border is certain."""
    lists = []
    at = 0
    while at < len(data):
        end = at + 1 + data[at]
        if data[at] == 0 or data[at] % 4 or end > len(data):
            return None
        lists.append(data[at + 1 : end])
        at = end
    return lists or None


def _add(found, reasons, addresses, origin, interface):
    usable = [address for address in addresses if servers.is_unicast(address)]
    if len(usable) > servers.MAX_ADDRESSES:
        text = "a PCP server by %s has more than %d addresses; the rest is ignored"
        reasons.append(text % (origin, servers.MAX_ADDRESSES))
    if usable:
        found.append(servers.Server(tuple(usable[: servers.MAX_ADDRESSES]), origin, interface))


def _unusable(option, reason, data):
    if data is None:
        reason = "it is not in hex digits"
    return "DHCP option %d is ignored: %s" % (option, reason)


def _too_many(option):
    text = "DHCP option %d names more than %d PCP servers; the rest is ignored"
    return text % (option, servers.MAX_SERVERS)
