"""nftables text that gives each flow a port of the sets. Pure: values in, text out.

The same rules serve the linux backend (own_table.py) and OpenWrt's firewall (fw4_table.py). What
may pass at all is in guards.py.

Plain ranges, no 'random' and no 'fully-random': those lose endpoint-independent mapping, and with
it games, calls and hole punching.

Device names are quoted: nft would take 'map' for a word of its own, and '4over6' for a mistake.
"""

from cpe_agent import nat_forwards, portset, timeouts
from cpe_agent.pcp import wire

_WHOLE = 65535  # ports; 0 is nobody's
_SEARCHED = 128  # ports; a range that the kernel searches whole (nf_nat_core.c)
_MOST_PIECES = 32
# That one piece has flows to: for so many the kernel has a hash table of 8 kB, for more one of 17.
# Each place takes about 1 kB.
_PLACES = 383
_FLOW = "ip saddr . th sport"  # what keeps its port
_PLACE = "meta l4proto . ip daddr . th dport"  # towards which ports are in use


def _names(protocol):
    """Of the protocols whose ports are counted."""
    if protocol == wire.PROTO_ALL:
        return ("udp", "tcp")
    return ("tcp",) if protocol == wire.PROTO_TCP else ("udp",)


def is_whole(plan):
    """True if a plan.Plan's address is not shared: then protocols without ports can use it, too."""
    return plan.protocol == wire.PROTO_ALL and plan.port_sets[0].size >= _WHOLE


def pieces(port_sets):
    """The sets, cut into PortSets in which the kernel finds every free port: it tries so many ports
    one by one, and in larger ranges some at random, so that flows are lost before all ports are in
    use."""
    total = sum([one.size for one in port_sets])
    most = _SEARCHED * max(1, -(-total // (_SEARCHED * _MOST_PIECES)))
    found = []
    for one in port_sets:
        for first in range(one.first, one.first + one.size, most):
            size = min(most, one.first + one.size - first)
            found.append(portset.PortSet(one.address, first, size))
    return found


def room_sets(port_sets, prefix=""):
    """{name: definition} of nft's sets that flow_chains needs: for each piece, how many flows it
    has to each place, which is how many of its ports are in use towards there. The kernel counts
    the flows that live."""
    names = [_room(prefix, one) for one in pieces(port_sets)]
    definition = "{ typeof %s; flags dynamic; size %d; }" % (_PLACE, _PLACES)
    return dict.fromkeys(names, definition)


def _room(prefix, piece):
    """By its ports, so that counts go on when other sets come and go; the limit is the set's."""
    return "%sroom_%d_%d" % (prefix, piece.first, piece.size)


def source_nat(device, prefix=""):
    """The rule of a source NAT chain: what leaves goes to flow_chains."""
    return 'oifname "%s" jump %stranslate' % (device, prefix)


def flow_chains(plan, statement="snat to", prefix=""):
    """{name: rules} of the chains that choose a flow's port. ICMP's echo identifiers are ports to
    the kernel.

    plan: plan.Plan, of whose open_sets new flows may use the ports. statement: "snat ip to" in a
    table that serves IPv6, too. prefix: of the names of chains and sets.

    An internal address and port always begins at the same piece, so that the kernel finds the
    mapping that it has, and keeps it for other places (RFC 4787 REQ-1). A piece that has no port
    left towards a place is passed over for the next one with room, from the first one on.
    """
    names = _names(plan.protocol)
    # Out again by the way that it came: a forward to somewhere outside would make of the home a
    # relay, and a LAN that is away would have its callers sent back.
    rules = ['iifname "%s" counter name %slooped drop' % (plan.device, prefix)]
    rules += timeouts.rules(plan.flow_timeouts, prefix)
    rules += nat_forwards.services(plan.forwards, statement)
    rules += ["meta l4proto %s jump %swalk_%s" % (one, prefix, one) for one in names]
    if plan.protocol == wire.PROTO_ALL:
        echo = "meta l4proto icmp ", "ip saddr . icmp id", statement
        rules += _shares(*echo, plan.open_sets)
        for number in plan.more:
            rules += _shares("meta l4proto %d " % number, _FLOW, statement, plan.open_sets)
    if is_whole(plan):
        rules.append("%s %s" % (statement, plan.address))
    chains = {prefix + "translate": rules}
    for name in names:
        chains.update(_walk(name, statement, pieces(plan.open_sets), prefix))
    return chains


def _walk(name, statement, cut, prefix):
    """Of one protocol: from the piece where a flow belongs over all of them.

    A chain for each protocol and piece costs less than rules that ask for both: what is looked up
    is where to go, once.
    """
    chains, jumps = {}, []
    for number, one in enumerate(cut):
        jumps.append("jump %s%s_%d" % (prefix, name, number))
        chains["%s%s_%d" % (prefix, name, number)] = _take(name, statement, one, prefix)
    walk = list(jumps)
    if len(cut) > 1:
        begins = ", ".join(["%d : %s" % pair for pair in enumerate(jumps)])
        walk.insert(0, "%s vmap { %s }" % (_hash(_FLOW, len(cut)), begins))
    # Where all are full the kernel has the last word.
    walk += _shares("meta l4proto %s " % name, _FLOW, statement, cut)
    chains["%swalk_%s" % (prefix, name)] = walk
    return chains


def _take(name, statement, piece, prefix):
    """Rules that take a flow to a piece with room, and leave it alone where there is none.

    A place that cannot be counted, since the piece has flows to as many as there may be, is taken
    to have room: to try all other pieces would cost each such flow more than all else.
    """
    # Also where there is one piece: its flows have to be known when another one comes.
    room, target = _room(prefix, piece), "%s %s" % (statement, _target(piece))
    return [
        "meta l4proto %s add @%s { %s ct count %d } %s" % (name, room, _PLACE, piece.size, target),
        "meta l4proto %s %s != @%s %s" % (name, _PLACE, room, target),
    ]


def _shares(flows, key, statement, ranges):
    """Each range serves its share of the flows."""
    if len(ranges) == 1:
        return ["%s%s %s" % (flows, statement, _target(ranges[0]))]
    return [
        "%s%s == %d %s %s" % (flows, _hash(key, len(ranges)), number, statement, _target(one))
        for number, one in enumerate(ranges)
    ]


def _hash(key, count):
    """With a seed: each rule would have a random one of its own, and make another choice."""
    return "jhash %s mod %d seed 1" % (key, count)


def _target(one):
    return "%s:%s" % (one.address, portset.range_text(one))
