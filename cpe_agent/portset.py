"""Port sets: the external ports of one shared IPv4 address that this router may use."""

from collections import namedtuple

from cpe_agent import address as addresses
from cpe_agent.pcp import wire

# address: as text; IPv4 except where a mapping is for an IPv6 firewall. first: 1 to 65535.
# size: ports, 1 to 65535.
PortSet = namedtuple("PortSet", ("address", "first", "size"))


def last(port_set):
    """Highest port of the set."""
    return port_set.first + port_set.size - 1


def contains(port_set, port):
    """True when the port belongs to the set."""
    return port_set.first <= port <= last(port_set)


def without(port_sets, ports):
    """Tuple of PortSets: what is left of some when ports are taken out of them.

    A piece of less than one in 64 of all ports goes, too, and one of a single port always: each
    piece has its share of the flows, and the kernel looks for no free port in a single one. They
    stay where nothing else is left.
    """
    if not ports:
        return tuple(port_sets)
    found = []
    for one in port_sets:
        first = one.first
        for port in sorted([port for port in set(ports) if contains(one, port)]):
            found.append(PortSet(one.address, first, port - first))
            first = port + 1
        found.append(PortSet(one.address, first, last(one) + 1 - first))
    least = max(2, sum([one.size for one in port_sets]) // 64)
    large = [one for one in found if one.size >= least]
    return tuple(large or [one for one in found if one.size])


def range_text(port_set):
    """For nft: '1024-2047', or one port."""
    if port_set.size == 1:
        return "%d" % port_set.first
    return "%d-%d" % (port_set.first, last(port_set))


def ranges(port_sets):
    """For nft: all ports of some sets."""
    return _any([range_text(one) for one in port_sets])


def match(port_sets):
    """For nft: what it shall compare a port with, to know whether it is of some sets. Bits, where
    the sets allow it: they cost less than ranges."""
    size = port_sets[0].size
    aligned = [one for one in port_sets if one.size == size and one.first % size == 0]
    if size == 1 or size & (size - 1) or len(aligned) < len(port_sets):
        return ranges(port_sets)
    return "& 0x%04x == %s" % (65536 - size, _any(["%d" % one.first for one in port_sets]))


def _any(words):
    return words[0] if len(words) == 1 else "{ %s }" % ", ".join(words)


def text(port_set):
    """For people: '192.0.2.3 ports 37056-37087 (32)'."""
    return "%s ports %d-%d (%d)" % (
        port_set.address,
        port_set.first,
        last(port_set),
        port_set.size,
    )


def why_unusable(address, first, size):
    """Reason why nobody can live on this set, or None.

    address: 4 octets, or 16. A wrong grant would be worse than none: it could take the router's own
    loopback, or everything, for the shared address.
    """
    if len(address) == 16 and wire.is_v4(address):
        address = address[12:]
    if _is_no_unicast(address):
        shown = dotted(address) if len(address) == 4 else addresses.text(address)
        return "external address %s is no unicast address" % shown
    if not 1 <= first <= 65535:
        return "first external port %d" % first
    if size < 1 or first + size - 1 > 65535:
        return "%d ports from %d do not end by 65535" % (size, first)
    return None


def _is_no_unicast(address):
    if len(address) == 4:
        return address[0] in (0, 127) or address[0] >= 224
    link_local = address[0] == 0xFE and address[1] & 0xC0 == 0x80
    return address[0] == 0xFF or link_local or not any(address[:15])


def dotted(address):
    """4 octets as text."""
    return "%d.%d.%d.%d" % tuple(address)


def is_number(text):
    """True for ASCII digits alone. int() would take more: signs, spaces, other scripts."""
    return bool(text) and not [char for char in text if char not in "0123456789"]


def octets(address):
    """Dotted IPv4 text as 4 octets. Raises ValueError."""
    parts = address.split(".")
    if len(parts) != 4:
        raise ValueError("%s is not an IPv4 address" % address)
    numbers = [int(part) for part in parts if len(part) <= 3 and is_number(part)]
    if len(numbers) != 4 or max(numbers) > 255:
        raise ValueError("%s is not an IPv4 address" % address)
    return bytes(numbers)
