"""The compared ways to hold a NAT to its port sets, as text for nft. Ours is the plan's."""

import re
from collections import namedtuple

from cpe_agent import nat, netlink, plan, portset
from cpe_agent.pcp import wire
from tests.netns import topology

ADDRESS = topology.SHARED
DEVICE = "lw4o6"
ONE = (portset.PortSet(ADDRESS, 1024, 1024),)
FOUR = tuple(portset.PortSet(ADDRESS, 1024 * number, 256) for number in range(1, 5))
KINDS = {"one set of 1024": ONE, "four sets of 256": FOUR}

# text: of the port sets. used: False for what was only tried. limited: to the port sets.
Way = namedtuple("Way", ("name", "text", "used", "limited"))

_HASHES = 12
_TAKE = "add @room"
_PROTOCOLS = "meta l4proto { tcp, udp } "
_OTHERS = re.compile("^add (rule .* guard_|(rule|chain) .* forward )")
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
        'oifname "%s" meta l4proto { tcp, udp, icmp } '
        "jhash ip saddr . th sport mod %d seed 1 == %d snat to %s"
        % (DEVICE, len(port_sets), number, _range(one))
        for number, one in enumerate(port_sets)
    ]
    rules = [shares[0].replace("jhash ip saddr . th sport mod 1 seed 1 == 0 ", "")] + shares[1:]
    return "table ip bench {\n%s}\n" % (_CHAIN % "\n".join(rules))


def leaner(port_sets):
    """Ours, as cheap as we know how without giving up a port.

    One look-up finds the piece where a flow belongs; the walk is for when that is full, and goes
    from the first piece to the last. The guards name the device once, and do what the chain forward
    does, so that a packet passes one chain less.
    """
    lines = [line for line in ours(port_sets).splitlines() if not _OTHERS.search(line)]
    begin = "add rule %s srcnat " % nat.TABLE
    walk = [number for number, line in enumerate(lines) if line.startswith(begin) and _TAKE in line]
    pieces = range(len(nat.pieces(port_sets)))
    flows = '%soifname "%s" %s' % (begin, DEVICE, _PROTOCOLS)
    jumps = ", ".join("%d : jump piece_%d" % (at, at) for at in pieces)
    vmap = "%sjhash ip saddr . th sport mod %d seed 1 vmap { %s }" % (flows, len(pieces), jumps)
    chains = ["add chain %s piece_%d" % (nat.TABLE, at) for at in pieces]
    for at in pieces:
        take = _TAKE + lines[walk[at]].split(_TAKE)[1]
        chains.append("add rule %s piece_%d %s%s" % (nat.TABLE, at, _PROTOCOLS, take))
    walked = [vmap] + ["%sjump piece_%d" % (flows, at) for at in pieces]
    lines[walk[0] : walk[-1] + 1] = chains + walked
    return "\n".join(lines + _lean_guards(port_sets)) + "\n"


def exclusive(port_sets):
    """Ours, but a UDP endpoint gets a port that no other has, as long as a hash finds one."""
    lines = ours(port_sets).splitlines()
    rooms = nat.room_sets(port_sets)
    ports = [port for one in port_sets for port in range(one.first, portset.last(one) + 1)]
    elements = ", ".join("%d : %d" % pair for pair in enumerate(ports))
    dynamic = "{ typeof %s; flags dynamic; size 65535; }"
    place, source = "ip daddr . udp dport", "ip saddr . udp sport"
    number = "numgen inc mod 65536"  # what has this type
    added = [
        "map port_of { typeof %s : udp sport; elements = { %s }; }" % (number, elements),
        "set used " + dynamic % number,
        "set own " + dynamic % ("%s . %s" % (source, number)),
        "set crowded " + dynamic % place,
        "chain exclusive",
        "chain noted { type filter hook postrouting priority 105; }",
        "chain note",
        "rule exclusive %s @crowded return" % place,
    ]
    for known in (True, False):
        for seed in range(1, _HASHES + 1):
            port = "jhash %s mod %d seed %d" % (source, len(ports), seed)
            test = "%s . %s @own" % (source, port) if known else "%s != @used" % port
            added.append(
                "rule exclusive %s add @own { %s . %s ct count 65535 } add @used "
                "{ %s ct count 65535 } meta l4proto udp snat to %s:%s map @port_of"
                % (test, source, port, port, ADDRESS, port)
            )
    flows = 'oifname "%s" meta l4proto udp ' % DEVICE
    added.append("rule srcnat %sjump exclusive" % flows)
    added.append("rule srcnat %sadd @crowded { %s ct count 65535 }" % (flows, place))
    added.append("rule noted %sct status & confirmed == 0 jump note" % flows)
    added.append("rule note %s @crowded return" % place)
    for room, piece in zip(rooms, nat.pieces(port_sets)):
        span = _range(piece).split(":")[1]
        key = "meta l4proto . ip daddr . th dport ct count %d" % piece.size
        added.append("rule note udp sport %s add @%s { %s }" % (span, room, key))
    begin = "add rule %s srcnat " % nat.TABLE
    at = next(index for index, line in enumerate(lines) if line.startswith(begin) and _TAKE in line)
    words = [line.split(" ", 1) for line in added]
    lines[at:at] = ["add %s %s %s" % (what, nat.TABLE, rest) for what, rest in words]
    return "\n".join(lines) + "\n"


def _lean_guards(port_sets):
    looped = 'iifname "%s" counter name looped drop' % DEVICE
    clamp = "tcp flags & (syn | rst) == syn tcp option maxseg size set 1420"
    chains = (
        ("guard_out", [looped, clamp], nat.guard_out(DEVICE, port_sets, wire.PROTO_ALL)),
        ("guard_in", [clamp], nat.guard_in(DEVICE, port_sets, wire.PROTO_ALL)),
    )
    lines = []
    for name, before, (others, *rules) in chains:
        device = ('oifname "%s" ' if name == "guard_out" else 'iifname "%s" ') % DEVICE
        rules = [others, *before, *(rule.replace(device, "") for rule in rules)]
        lines += ["add rule %s %s %s" % (nat.TABLE, name, rule) for rule in rules]
    return lines


def _range(one):
    return "%s:%d-%d" % (one.address, one.first, portset.last(one))


WAYS = (
    Way("unrestricted masquerade", masquerade, True, False),
    Way("cpe-agent", ours, True, True),
    Way("OpenWrt's `map`", in_sequence, True, True),
    Way("`numgen`", numbered, True, True),
    Way("plain ranges", plain, False, True),
    Way("cpe-agent, leaner", leaner, False, True),
    Way("ports of one endpoint", exclusive, False, True),
)


def contains(port_sets, source):
    """True if one of the sets has the port of an (address, port)."""
    return any(portset.contains(one, source[1]) for one in port_sets)
