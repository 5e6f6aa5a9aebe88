"""The compared ways to hold a NAT to its port sets, as text for nft. Ours is the plan's."""

from collections import namedtuple

from cpe_agent import nat, netlink, own_table, plan, portset
from tests.netns import topology

ADDRESS = topology.SHARED
DEVICE = "lw4o6"
ONE = (portset.PortSet(ADDRESS, 1024, 1024),)
FOUR = tuple(portset.PortSet(ADDRESS, 1024 * number, 256) for number in range(1, 5))
KINDS = {"one set of 1024": ONE, "four sets of 256": FOUR}

# text: of the port sets. used: False for what was only tried. limited: to the port sets. clamps:
# TCP's segment size, by itself.
Way = namedtuple("Way", ("name", "text", "used", "limited", "clamps"))

_HASHES = 12
# As any router does for a line of such a small MTU; ours brings its own.
_CLAMP = """\
 chain mangle_forward {
  type filter hook forward priority mangle;
  iifname "%(device)s" tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
  oifname "%(device)s" tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
 }
"""
# A firewall as a router has one: what the LAN begins passes, and what belongs to it.
_FIREWALL = """\
table inet firewall {
 chain forward {
  type filter hook forward priority filter; policy drop;
  ct state vmap { established : accept, related : accept, invalid : drop }
  iifname "br-lan" jump from_lan
 }
 chain from_lan {
  oifname "%(device)s" accept
 }
"""
_CHAIN = "chain srcnat { type nat hook postrouting priority 99;\n%s\n}\n"


def ours(port_sets):
    """The commands that the linux backend gives to nft: NAT, guards, TCP's segment size."""
    path = netlink.Path("wan", 1, 1500, bytes.fromhex("20010db8") + bytes(11) + b"\2")
    return plan.build(topology.settings(), path, port_sets[0], port_sets[1:]).nat


def beside_a_firewall(way, port_sets):
    """Text of a Way, and of the router's firewall."""
    firewall = _FIREWALL if way.clamps else _FIREWALL + _CLAMP
    return way.text(port_sets) + firewall % {"device": DEVICE} + "}\n"


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
    added.append("rule walk_udp jump exclusive")
    added.append("rule walk_udp add @crowded { %s ct count 65535 }" % place)
    flows = 'oifname "%s" meta l4proto udp ' % DEVICE
    added.append("rule noted %sct status & confirmed == 0 jump note" % flows)
    added.append("rule note %s @crowded return" % place)
    for room, piece in zip(rooms, nat.pieces(port_sets)):
        span = _range(piece).split(":")[1]
        key = "meta l4proto . ip daddr . th dport ct count %d" % piece.size
        added.append("rule note udp sport %s add @%s { %s }" % (span, room, key))
    begin = "add rule %s walk_udp " % own_table.NAME
    at = next(index for index, line in enumerate(lines) if line.startswith(begin))
    words = [line.split(" ", 1) for line in added]
    lines[at:at] = ["add %s %s %s" % (what, own_table.NAME, rest) for what, rest in words]
    return "\n".join(lines) + "\n"


def _range(one):
    return "%s:%d-%d" % (one.address, one.first, portset.last(one))


WAYS = (
    Way("unrestricted masquerade", masquerade, True, False, False),
    Way("cpe-agent", ours, True, True, True),
    Way("OpenWrt's `map`", in_sequence, True, True, False),
    Way("`numgen`", numbered, True, True, False),
    Way("plain ranges", plain, False, True, False),
    Way("ports of one endpoint", exclusive, False, True, True),
)


def contains(port_sets, source):
    """True if one of the sets has the port of an (address, port)."""
    return any(portset.contains(one, source[1]) for one in port_sets)
