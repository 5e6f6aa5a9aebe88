"""The lwAFTR's binding table (RFC 7596 6.1).

Lookup by IPv4 address and port is a bisection in one address's ranges, by IPv6 source a dict.
"""

import bisect
import ipaddress

PROTOCOL_ALL = 0
_PROTOCOL_NAMES = {0: "all", 1: "icmp", 6: "tcp", 17: "udp"}


def protocol_name(number):
    """Name of an IP protocol number for people; others as their number."""
    return _PROTOCOL_NAMES.get(number, str(number))


class Binding:
    """One entry: which lwB4 owns which ports of which address.

    client: IPv6 source, 16 octets. address: IPv4 as an integer. first, size: ports. protocol:
    IP protocol number, 0 for all. expiry_ms: when it ends, None for never. filters: the remote
    peers that may send (peerfilter.Filter), all if there are none. The counters are the data
    plane's.
    """

    __slots__ = (
        "address",
        "client",
        "expiry_ms",
        "filters",
        "first",
        "last_out_ms",
        "packets_in",
        "packets_inside_set",
        "protocol",
        "size",
    )

    def __init__(self, client, address, first, size, protocol, expiry_ms=None):
        self.client = client
        self.address = address
        self.first = first
        self.size = size
        self.protocol = protocol
        self.expiry_ms = expiry_ms
        self.filters = ()
        self.packets_inside_set = 0
        self.packets_in = 0
        self.last_out_ms = None

    @property
    def last(self):
        """Last port of the set."""
        return self.first + self.size - 1

    def as_dict(self, now_ms):
        """For the control socket: addresses as text, remaining life in seconds or None."""
        remaining = None if self.expiry_ms is None else max(0, self.expiry_ms - now_ms) / 1000
        return {
            "client": str(ipaddress.IPv6Address(self.client)),
            "address": str(ipaddress.IPv4Address(self.address)),
            "first_port": self.first,
            "last_port": self.last,
            "size": self.size,
            "protocol": protocol_name(self.protocol),
            "remaining_s": remaining,
            "packets_inside_set": self.packets_inside_set,
            "packets_in": self.packets_in,
        }


class _Ranges:
    """Disjoint bindings of one address and protocol, ordered by first port."""

    __slots__ = ("entries", "starts")

    def __init__(self):
        self.starts = []
        self.entries = []

    def at(self, port):
        index = bisect.bisect_right(self.starts, port) - 1
        if index >= 0 and port <= self.entries[index].last:
            return self.entries[index]
        return None

    def meets(self, first, last):
        index = bisect.bisect_right(self.starts, last) - 1
        return index >= 0 and self.entries[index].last >= first

    def insert(self, binding):
        index = bisect.bisect_left(self.starts, binding.first)
        self.starts.insert(index, binding.first)
        self.entries.insert(index, binding)

    def remove(self, binding):
        index = bisect.bisect_left(self.starts, binding.first)
        del self.starts[index], self.entries[index]


class BindingTable:
    """All bindings. No two of them share a port of the same address and protocol."""

    def __init__(self):
        self._ranges = {}
        self._by_client = {}
        self._count = 0

    def __len__(self):
        return self._count

    def __iter__(self):
        for entries in self._by_client.values():
            yield from entries

    def __contains__(self, binding):
        return binding in self._by_client.get(binding.client, ())

    def add(self, binding):
        """Enter a binding. ValueError if it shares a port with another one."""
        for (address, protocol), ranges in self._spaces(binding.address):
            clash = protocol == binding.protocol or PROTOCOL_ALL in (protocol, binding.protocol)
            if clash and ranges.meets(binding.first, binding.last):
                raise ValueError("ports of %d/%d are bound already" % (address, binding.first))
        key = (binding.address, binding.protocol)
        self._ranges.setdefault(key, _Ranges()).insert(binding)
        self._by_client.setdefault(binding.client, []).append(binding)
        self._count += 1

    def _spaces(self, address):
        for protocol in (PROTOCOL_ALL, 6, 17):
            ranges = self._ranges.get((address, protocol))
            if ranges is not None:
                yield (address, protocol), ranges

    def remove(self, binding):
        """Take a binding out; one that is not there is ignored."""
        if binding not in self:
            return
        key = (binding.address, binding.protocol)
        self._ranges[key].remove(binding)
        if not self._ranges[key].starts:
            del self._ranges[key]
        entries = self._by_client[binding.client]
        entries.remove(binding)
        if not entries:
            del self._by_client[binding.client]
        self._count -= 1

    def clear(self):
        """Take all bindings out."""
        self._ranges.clear()
        self._by_client.clear()
        self._count = 0

    def lookup(self, address, port, protocol=None):
        """The binding that owns a port of an IPv4 address (an integer), or None.

        protocol None stands for ICMP ids: RFC 7596 8.1 takes them as ports and knows no
        protocol, and all sets of one port have one owner here, so any of them will do.
        """
        kinds = (PROTOCOL_ALL, 6, 17) if protocol is None else (PROTOCOL_ALL, protocol)
        for kind in kinds:
            ranges = self._ranges.get((address, kind))
            found = ranges.at(port) if ranges is not None else None
            if found is not None:
                return found
        return None

    def of_client(self, client):
        """The bindings of an IPv6 source (16 octets), oldest first; a tuple."""
        return tuple(self._by_client.get(client, ()))
