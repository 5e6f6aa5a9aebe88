"""nftables text that holds the router's NAT inside its port sets. Pure: values in, text out.

What lives here: the rules, and why they are these. The same rules serve the linux backend (a table
of its own) and fw4 (fragments of its table).

One plain range, no 'random' and no 'fully-random': those lose endpoint-independent mapping, and
with it games, calls and hole punching. The guards stand behind the NAT and in front of the router,
so that no mistake, ours or another firewall's, lets a packet out, or in, on a neighbour's port.

Device names are quoted: nft would take 'map' for a word of its own, and '4over6' for a mistake.
"""

import binascii
from collections import namedtuple

from cpe_agent import portset, timeouts
from cpe_agent.pcp import wire

TABLE = "ip cpe_agent"
LAST_GUARD = TABLE + " last_guard"  # a chain
GUARDS = ("outside_out", "outside_in", "looped", "over_limit")  # named counters
FW4_TABLE = "inet fw4"
FW4_PREFIX = "cpe_agent_"  # begins the names of our chains and counters in fw4's table
FW4_MARKED = ("srcnat", FW4_PREFIX + "guard_out")  # a chain of each fragment; the first if any

_FW4_HEAD = "# Written by cpe-agent, and replaced by it.\n"
# A softwire carries IPv4 alone; what the router itself says there in IPv6 is nobody's mistake.
_FW4_NO_IPV6 = "meta nfproto ipv6 drop"
_SEARCHED = 128  # ports; a range that the kernel searches whole (nf_nat_core.c)
_MOST_PIECES = 32
_PLACES = 512  # that one piece has flows to; each takes about 1 kB of the kernel's memory
_FLOW = "ip saddr . th sport"  # what keeps its port
_PLACE = "meta l4proto . ip daddr . th dport"  # towards which ports are in use
_ICMP_ERRORS = "{ destination-unreachable, time-exceeded, parameter-problem }"

# source_nat: text of the file that fw4 includes at the head of its chain srcnat. chains: of the one
# that it includes at the end of its table. mark: found again in listings of FW4_MARKED.
Fragments = namedtuple("Fragments", ("source_nat", "chains", "mark"))


def _protocols(protocol):
    if protocol == wire.PROTO_ALL:
        return "{ tcp, udp }"
    return "tcp" if protocol == wire.PROTO_TCP else "udp"


def _range(port_set):
    first, last = port_set.first, portset.last(port_set)
    return "%d" % first if first == last else "%d-%d" % (first, last)


def _ranges(port_sets):
    ranges = [_range(one) for one in port_sets]
    return ranges[0] if len(ranges) == 1 else "{ %s }" % ", ".join(ranges)


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
    """{name: definition} of nft's sets that source_nat needs: for each piece, how many flows it has
    to each place, which is how many of its ports are in use towards there. The kernel counts the
    flows that live."""
    cut = pieces(port_sets)
    names = [_room(prefix, number, one) for number, one in enumerate(cut)]
    definition = "{ typeof %s; flags dynamic; size %d; }" % (_PLACE, _PLACES)
    return dict.fromkeys(names, definition)


def _room(prefix, number, piece):
    return "%sroom_%d_%d" % (prefix, number, piece.size)


def source_nat(device, port_sets, protocol, statement="snat to", prefix=""):
    """Rules for a source NAT chain. ICMP's echo identifiers are ports to the kernel.

    port_sets: that new flows may use, all of one address. statement: "snat ip to" in a table that
    serves IPv6, too. prefix: of the names of sets.

    An internal address and port always begins at the same piece, so that the kernel finds the
    mapping that it has, and keeps it for other places (RFC 4787 REQ-1). A piece that has no port
    left towards a place is passed over for the next one with room.
    """
    flows = 'oifname "%s" meta l4proto ' % device
    cut = pieces(port_sets)
    rules = []
    if protocol == wire.PROTO_ALL:
        rules += _shares(flows + "icmp ", "ip saddr . icmp id", statement, port_sets)
    flows += _protocols(protocol) + " "
    # Also where there is one piece: its flows have to be known when another one comes.
    rules += _walk(flows, statement, cut, prefix)
    # Where all seem to be full, or there are more places than are counted, the kernel has the last
    # word.
    return rules + _shares(flows, _FLOW, statement, cut)


def _walk(flows, statement, cut, prefix):
    """From the piece where a flow belongs to the last one, then from the first on."""
    takes = []
    for number, one in enumerate(cut):
        room = "add @%s { %s ct count %d } " % (_room(prefix, number, one), _PLACE, one.size)
        takes.append(room + "%s %s" % (statement, _target(one)))
    begins = [_hash(_FLOW, len(cut)) + " <= %d " % at for at in range(len(cut) - 1)] + [""]
    rules = [flows + begin + take for begin, take in zip(begins, takes)]
    return rules + [flows + take for take in takes[:-1]]


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
    return "%s:%s" % (one.address, _range(one))


def guard_out(device, port_sets, protocol):
    """Rules behind source NAT: what is not ours does not leave (RFC 7596 5.2, 8.2)."""
    rules = ['oifname != "%s" return' % device]
    rules += _ours_out(device, port_sets, protocol)
    return rules + ["counter name outside_out drop"]


def guard_in(device, port_sets, protocol):
    """Rules in front of destination NAT: what is not for us is dropped (RFC 7596 5.2)."""
    rules = ['iifname != "%s" return' % device]
    rules += _ours_in(device, port_sets, protocol)
    return rules + ["counter name outside_in drop"]


def _ours_out(device, port_sets, protocol):
    ours = 'oifname "%s" ip saddr %s ' % (device, port_sets[0].address)
    return _accept(ours, "sport", port_sets, protocol)


def _ours_in(device, port_sets, protocol):
    ours = 'iifname "%s" ip daddr %s ' % (device, port_sets[0].address)
    return _accept(ours, "dport", port_sets, protocol)


def _accept(ours, side, port_sets, protocol):
    """ICMP errors have no port of their own; conntrack admits those of known flows only."""
    ports = _ranges(port_sets)
    rules = ["%smeta l4proto %s th %s %s return" % (ours, _protocols(protocol), side, ports)]
    if protocol == wire.PROTO_ALL:
        echo = "icmp type { echo-request, echo-reply } icmp id %s return" % ports
        rules.append(ours + echo)
    return rules + [ours + "icmp type %s return" % _ICMP_ERRORS]


def forward(device, mss, host_limit):
    """Rules for forwarded packets. mss: TCP's largest segment in octets, or None. host_limit: most
    flows of a host of the LAN, 0 for no limit.

    What comes out of the softwire and matches no flow has no place to go but the default route,
    which is the softwire: without the first rule it would circle until its TTL ends.
    """
    return [_looped(device, "looped")] + _limit(device, host_limit) + _clamp(device, mss)


def host_sets(host_limit, prefix=""):
    """{name: definition} of nft's sets that forward needs."""
    if not host_limit:
        return {}
    return {_hosts(host_limit, prefix): "{ type ipv4_addr; flags dynamic; size 4096; }"}


def _hosts(host_limit, prefix):
    return "%shosts_%d" % (prefix, host_limit)  # the limit is the set's, not the rule's


def _limit(device, host_limit, prefix=""):
    """Refused, not dropped: the host knows at once. Only what begins is counted, and once."""
    if not host_limit:
        return []
    return [
        'oifname "%s" ct state new ct status & confirmed == 0 add @%s { ip saddr ct count over %d }'
        " counter name %sover_limit reject"
        % (device, _hosts(host_limit, prefix), host_limit, prefix)
    ]


def _looped(devices, counter):
    return 'iifname "%s" oifname "%s" counter name %s drop' % (devices, devices, counter)


def _clamp(device, mss):
    if not mss:
        return []
    return [
        '%s "%s" tcp flags & (syn | rst) == syn tcp option maxseg size set %d'
        % (direction, device, mss)
        for direction in ("iifname", "oifname")  # the option is only ever lowered
    ]


def table(device, port_sets, open_sets, protocol, mss, host_limit, flow_timeouts, mark):
    """Commands for 'nft -f' that make the table what it should be, in one transaction.

    Rules are replaced, counters are kept. port_sets: all that are ours, of one address. open_sets:
    those of them that new flows may use. flow_timeouts: one of timeouts.WORDS. mark: text that is
    found again in a listing.
    """
    chains = (
        # Before any other source NAT: what is translated once is not translated again.
        (
            "srcnat",
            "nat hook postrouting priority 99",
            timeouts.rules(device, flow_timeouts) + source_nat(device, open_sets, protocol),
        ),
        (
            "guard_out",
            "filter hook postrouting priority 110",
            guard_out(device, port_sets, protocol),
        ),
        ("guard_in", "filter hook prerouting priority raw", guard_in(device, port_sets, protocol)),
        ("forward", "filter hook forward priority mangle", forward(device, mss, host_limit)),
    )
    lines = ["add table %s" % TABLE]
    lines += ["add counter %s %s" % (TABLE, name) for name in GUARDS]
    sets = dict(room_sets(open_sets), **host_sets(host_limit))
    lines += ["add set %s %s %s" % (TABLE, name, sets[name]) for name in sorted(sets)]
    policies = timeouts.objects(flow_timeouts)
    lines += ["add ct timeout %s %s %s" % (TABLE, one, policies[one]) for one in sorted(policies)]
    for name, hook, _ in chains:
        lines.append("add chain %s %s { type %s; }" % (TABLE, name, hook))
    lines.append("flush table %s" % TABLE)
    for name, _, rules in chains:
        lines += ["add rule %s %s %s" % (TABLE, name, rule) for rule in rules]
    lines[-1] += _comment(mark)
    return "\n".join(lines) + "\n"


def without_table():
    """Commands for 'nft -f' that remove the table, whether it is there or not."""
    return "add table %s\ndelete table %s\n" % (TABLE, TABLE)


def last_guard(devices, plan):
    """(commands for 'nft -f', mark) of the guard that stands while fw4's own table is away: a
    restart of the firewall deletes it, and makes it anew a moment later. devices, plan: see
    fw4_fragments."""

    def text(mark):
        rules = ['oifname != "%s" return' % devices]
        if plan:
            rules += _ours_out(plan.device, plan.port_sets, plan.protocol)
        rules.append("drop" + _comment(mark))
        lines = ["add table " + TABLE]
        lines.append("add chain %s { type filter hook postrouting priority 111; }" % LAST_GUARD)
        lines.append("flush chain " + LAST_GUARD)
        return "\n".join(lines + ["add rule %s %s" % (LAST_GUARD, rule) for rule in rules]) + "\n"

    mark = "cpe-agent %08x" % binascii.crc32(text("").encode())
    return text(mark), mark


def fw4_fragments(devices, plan):
    """Fragments that hold fw4 to a plan. Without one nothing enters or leaves a softwire.

    devices: nft's pattern for names of softwires, of which only the plan's is ever let through.
    plan: plan.Plan or None.
    """
    text = _fw4_source_nat(plan, "") + _fw4_chains(devices, plan, "")
    mark = "cpe-agent %08x" % binascii.crc32(text.encode())
    return Fragments(_fw4_source_nat(plan, mark), _fw4_chains(devices, plan, mark), mark)


def fw4_check(fragments):
    """Commands for 'nft -c -f' that try fragments where fw4 would put them."""
    return (
        "table %s {\nchain srcnat {\ntype nat hook postrouting priority srcnat; policy accept;\n"
        "%s}\n%s}\n" % (FW4_TABLE, fragments.source_nat, fragments.chains)
    )


def _fw4_source_nat(plan, mark):
    if plan is None:
        return _FW4_HEAD
    rules = timeouts.rules(plan.device, plan.flow_timeouts, FW4_PREFIX)
    rules += source_nat(plan.device, plan.open_sets, plan.protocol, "snat ip to", FW4_PREFIX)
    return "%s%s%s\n" % (_FW4_HEAD, "\n".join(rules), _comment(mark))


def _fw4_chains(devices, plan, mark):
    """Hooks and priorities are the same in every text, and in every version: fw4 empties its chains
    for a reload, but does not remove them, and nft refuses to move one."""
    chains = (
        ("guard_out", "filter hook postrouting priority 110", _fw4_out(devices, plan, mark)),
        ("guard_in", "filter hook prerouting priority raw", _fw4_in(devices, plan)),
        ("forward", "filter hook forward priority mangle", _fw4_forward(devices, plan)),
    )
    lines = ["counter %s%s { }" % (FW4_PREFIX, name) for name in GUARDS]
    sets = {}
    if plan:
        sets.update(room_sets(plan.open_sets, FW4_PREFIX))
        sets.update(host_sets(plan.host_limit, FW4_PREFIX))
    lines += ["set %s %s" % (name, sets[name]) for name in sorted(sets)]
    policies = timeouts.objects(plan.flow_timeouts, FW4_PREFIX) if plan else {}
    lines += ["ct timeout %s %s" % (name, policies[name]) for name in sorted(policies)]
    for name, hook, rules in chains:
        lines.append("chain %s%s {" % (FW4_PREFIX, name))
        lines.append("\ttype %s; policy accept;" % hook)
        lines += ["\t" + rule for rule in rules]
        lines.append("}")
    return _FW4_HEAD + "\n".join(lines) + "\n"


def _fw4_out(devices, plan, mark):
    rules = ['oifname != "%s" return' % devices, _FW4_NO_IPV6]
    if plan:
        rules += _ours_out(plan.device, plan.port_sets, plan.protocol)
    return rules + ["counter name %soutside_out drop%s" % (FW4_PREFIX, _comment(mark))]


def _fw4_in(devices, plan):
    rules = ['iifname != "%s" return' % devices, _FW4_NO_IPV6]
    if plan:
        rules += _ours_in(plan.device, plan.port_sets, plan.protocol)
    return rules + ["counter name %soutside_in drop" % FW4_PREFIX]


def _fw4_forward(devices, plan):
    rules = [_looped(devices, FW4_PREFIX + "looped")]
    if plan:
        rules += _limit(plan.device, plan.host_limit, FW4_PREFIX) + _clamp(plan.device, plan.mss)
    return rules


def _comment(mark):
    return ' comment "%s"' % mark


def is_marked(listing, mark):
    """True if a listing of rules has that mark."""
    return _comment(mark) in listing


def parse_counters(listing, prefix=""):
    """{guard: packets} from 'nft list counters table ...'; what is missing is left out.

    prefix: FW4_PREFIX in fw4's table.
    """
    counts = {}
    words = listing.split()
    guards = {prefix + guard: guard for guard in GUARDS}
    for index, word in enumerate(words):
        if word == "packets" and index >= 3 and words[index - 2] in guards:
            counts[guards[words[index - 2]]] = int(words[index + 1])
    return counts
