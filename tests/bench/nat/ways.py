"""The compared ways to hold a NAT to its port sets, as text for nft. Ours is the plan's."""

from collections import namedtuple

from cpe_agent import nat, netlink, plan, portset
from tests.netns import topology

ADDRESS = topology.SHARED
DEVICE = "lw4o6"
ONE = (portset.PortSet(ADDRESS, 1024, 1024),)
FOUR = tuple(portset.PortSet(ADDRESS, 1024 * number, 256) for number in range(1, 5))
KINDS = {"one set of 1024": ONE, "four sets of 256": FOUR}

# text: of the port sets. used: False for what was only tried. limited: to the port sets.
Way = namedtuple("Way", ("name", "text", "used", "limited"))

_TAKE = "add @room"
_CHAIN = "chain srcnat { type nat hook postrouting priority 99;\n%s\n}\n"


def ours(port_sets):
    """The commands that the linux backend gives to nft: NAT, guards, TCP's segment size."""
    path = netlink.Path("wan", 1, 1500, bytes.fromhex("20010db8") + bytes(11) + b"\2")
    return plan.build(topology.settings(), path, port_sets[0], port_sets[1:]).nat


def masquerade(_):
    """Unrestricted: the whole address."""
    return "table ip bench {\n%s}\n" % (_CHAIN % ('oifname "%s" masquerade' % DEVICE))


def in_sequence(port_sets):
    """OpenWrt's protocol map: a rule per set and protocol as fw4 renders them, which leaves out
    those for ICMP (openwrt/openwrt#25191); behind them the zone's masquerade."""
    rules = [
        'meta nfproto ipv4 meta l4proto %s oifname "%s" counter snat ip to %s'
        % (protocol, DEVICE, _range(one))
        for one in port_sets
        for protocol in ("tcp", "udp")
    ]
    rules += ['oifname "%s" meta nfproto ipv4 masquerade' % DEVICE]
    return "table inet fw4 {\n%s}\n" % (_CHAIN % "\n".join(rules))


def numbered(port_sets):
    """The community's: each new flow has the next port (openwrt/openwrt#11972)."""
    ports = [port for one in port_sets for port in range(one.first, portset.last(one) + 1)]
    elements = ", ".join("%d : %d" % (number, port) for number, port in enumerate(ports))
    rules = [
        'ip protocol %s oifname "%s" counter snat ip to %s : numgen inc mod %d map { %s }'
        % (protocol, DEVICE, ADDRESS, len(ports), elements)
        for protocol in ("icmp", "tcp", "udp")
    ]
    return "table inet mape {\n%s}\n" % (_CHAIN % "\n".join(rules))


def plain(port_sets):
    """A share of the flows for each set, and nothing else: no pieces, no counts."""
    shares = [
        'oifname "%s" meta l4proto { tcp, udp, icmp } jhash ip saddr . th sport mod %d == %d '
        "snat to %s" % (DEVICE, len(port_sets), number, _range(one))
        for number, one in enumerate(port_sets)
    ]
    rules = [shares[0].replace("jhash ip saddr . th sport mod 1 seed 1 == 0 ", "")] + shares[1:]
    return "table ip bench {\n%s}\n" % (_CHAIN % "\n".join(rules))


def own_piece_first(port_sets):
    """Ours, but one look-up finds the piece where a flow belongs; the walk is for when that is
    full, and goes from the first piece to the last."""
    begin = "add rule %s srcnat " % nat.TABLE
    lines = ours(port_sets).splitlines()
    walk = [number for number, line in enumerate(lines) if line.startswith(begin) and _TAKE in line]
    count = len(nat.pieces(port_sets))
    takes = [_TAKE + lines[number].split(_TAKE)[1] for number in walk[:count]]
    protocols = "meta l4proto { tcp, udp } "
    flows = '%soifname "%s" %s' % (begin, DEVICE, protocols)
    jumps = ", ".join("%d : jump piece_%d" % (at, at) for at in range(count))
    vmap = "%sjhash ip saddr . th sport mod %d vmap { %s }" % (flows, count, jumps)
    chains = ["add chain %s piece_%d" % (nat.TABLE, at) for at in range(count)]
    chains += [
        "add rule %s piece_%d %s%s" % (nat.TABLE, at, protocols, take)
        for at, take in enumerate(takes)
    ]
    walked = [vmap] + [flows + "jump piece_%d" % at for at in range(count)]
    return "\n".join(lines[: walk[0]] + chains + walked + lines[walk[-1] + 1 :]) + "\n"


def _range(one):
    return "%s:%d-%d" % (one.address, one.first, portset.last(one))


WAYS = (
    Way("unrestricted masquerade", masquerade, True, False),
    Way("cpe-agent", ours, True, True),
    Way("OpenWrt's `map`", in_sequence, True, True),
    Way("`numgen`", numbered, True, True),
    Way("plain ranges", plain, False, True),
    Way("own piece first", own_piece_first, False, True),
)


def contains(port_sets, source):
    """True if one of the sets has the port of an (address, port)."""
    return any(portset.contains(one, source[1]) for one in port_sets)
