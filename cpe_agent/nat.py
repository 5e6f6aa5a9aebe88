"""nftables text that holds the router's NAT inside its port sets. Pure: values in, text out.

What lives here: the rules, and why they are these. The same rules serve the linux backend (a table
of its own) and fw4 (fragments of its table).

Plain ranges, no 'random' and no 'fully-random': those lose endpoint-independent mapping, and with
it games, calls and hole punching. The guards stand behind the NAT and in front of the router, so
that no mistake, ours or another firewall's, lets a packet out, or in, on a neighbour's port.

Device names are quoted: nft would take 'map' for a word of its own, and '4over6' for a mistake.
"""

import binascii
import json
from collections import namedtuple

from cpe_agent import nat_forwards, portset, timeouts
from cpe_agent.pcp import wire

TABLE = "ip cpe_agent"
LAST_GUARD = TABLE + " last_guard"  # a chain
GUARDS = ("outside_out", "outside_in", "looped", "over_limit", "refused")  # named counters
LIST_SETS = "nft -t list sets table "  # a command: without what is in them
FW4_TABLE = "inet fw4"
FW4_PREFIX = "cpe_agent_"  # begins the names of our chains and counters in fw4's table
FW4_MARKED = ("srcnat", FW4_PREFIX + "guard_out")  # a chain of each fragment; the first if any

_FW4_HEAD = "# Written by cpe-agent, and replaced by it.\n"
# A softwire carries IPv4 alone; what the router itself says there in IPv6 is nobody's mistake.
_FW4_NO_IPV6 = "meta nfproto ipv6 drop"
_OUT = "filter hook postrouting priority 110"
_IN = "filter hook prerouting priority raw"
_FORWARD = "filter hook forward priority mangle"
_WHOLE = 65535  # ports; 0 is nobody's
_SEARCHED = 128  # ports; a range that the kernel searches whole (nf_nat_core.c)
_MOST_PIECES = 32
# That one piece has flows to: for so many the kernel has a hash table of 8 kB, for more one of 17.
# Each place takes about 1 kB.
_PLACES = 383
_FLOW = "ip saddr . th sport"  # what keeps its port
_PLACE = "meta l4proto . ip daddr . th dport"  # towards which ports are in use
_ICMP_ERRORS = "{ destination-unreachable, time-exceeded, parameter-problem }"

# What the rules are for, as in plan.Plan, which has all of these fields, too.
Wanted = namedtuple(
    "Wanted",
    (
        "device",
        "port_sets",
        "open_sets",
        "protocol",
        "more",
        "mss",
        "host_limit",
        "flow_timeouts",
        "forwards",
    ),
)

# source_nat: text of the file that fw4 includes at the head of its chain srcnat. chains: of the one
# that it includes at the end of its table. mark: found again in listings of FW4_MARKED.
Fragments = namedtuple("Fragments", ("source_nat", "chains", "mark"))


def _names(protocol):
    """Of the protocols whose ports are counted."""
    if protocol == wire.PROTO_ALL:
        return ("tcp", "udp")
    return ("tcp",) if protocol == wire.PROTO_TCP else ("udp",)


def _numbers(wanted):
    """Of the protocols with ports that the sets are for, as text."""
    if wanted.protocol != wire.PROTO_ALL:
        return (str(wanted.protocol),)
    return tuple([str(one) for one in (wire.PROTO_TCP, wire.PROTO_UDP) + tuple(wanted.more)])


def _any(names):
    return names[0] if len(names) == 1 else "{ %s }" % ", ".join(names)


def _range(port_set):
    first, last = port_set.first, portset.last(port_set)
    return "%d" % first if first == last else "%d-%d" % (first, last)


def _ranges(port_sets):
    return _any([_range(one) for one in port_sets])


def _address(wanted):
    return wanted.port_sets[0].address


def _is_whole(wanted):
    """True if the address is not shared: then protocols without ports can use it, too."""
    return wanted.protocol == wire.PROTO_ALL and wanted.port_sets[0].size >= _WHOLE


# Source NAT


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


def _source_nat(device, prefix=""):
    """The rule of a source NAT chain: what leaves goes to flow_chains."""
    return 'oifname "%s" jump %stranslate' % (device, prefix)


def flow_chains(wanted, statement="snat to", prefix=""):
    """{name: rules} of the chains that choose a flow's port. ICMP's echo identifiers are ports to
    the kernel.

    wanted: Wanted, of whose open_sets new flows may use the ports. statement: "snat ip to" in a
    table that serves IPv6, too. prefix: of the names of chains and sets.

    An internal address and port always begins at the same piece, so that the kernel finds the
    mapping that it has, and keeps it for other places (RFC 4787 REQ-1). A piece that has no port
    left towards a place is passed over for the next one with room, from the first one on.
    """
    names = _names(wanted.protocol)
    walks = ", ".join(["%s : jump %swalk_%s" % (one, prefix, one) for one in names])
    rules = timeouts.rules(wanted.flow_timeouts, prefix)
    rules += nat_forwards.services(wanted.forwards, statement)
    rules.append("meta l4proto vmap { %s }" % walks)
    if wanted.protocol == wire.PROTO_ALL:
        echo = "meta l4proto icmp ", "ip saddr . icmp id", statement
        rules += _shares(*echo, wanted.open_sets)
        for number in wanted.more:
            rules += _shares("meta l4proto %d " % number, _FLOW, statement, wanted.open_sets)
    if _is_whole(wanted):
        rules.append("%s %s" % (statement, _address(wanted)))
    chains = {prefix + "translate": rules}
    for name in names:
        chains.update(_walk(name, statement, pieces(wanted.open_sets), prefix))
    return chains


def _walk(name, statement, cut, prefix):
    """Of one protocol: from the piece where a flow belongs over all of them.

    A chain for each protocol and piece costs less than rules that ask for both: what is looked up
    is where to go, once.
    """
    chains, jumps = {}, []
    for number, one in enumerate(cut):
        # Also where there is one piece: its flows have to be known when another one comes.
        room = "add @%s { %s ct count %d }" % (_room(prefix, one), _PLACE, one.size)
        take = "meta l4proto %s %s %s %s" % (name, room, statement, _target(one))
        jumps.append("jump %s%s_%d" % (prefix, name, number))
        chains["%s%s_%d" % (prefix, name, number)] = [take]
    walk = list(jumps)
    if len(cut) > 1:
        begins = ", ".join(["%d : %s" % pair for pair in enumerate(jumps)])
        walk.insert(0, "%s vmap { %s }" % (_hash(_FLOW, len(cut)), begins))
    # Where all seem to be full, or there are more places than are counted, the kernel has the last
    # word.
    walk += _shares("meta l4proto %s " % name, _FLOW, statement, cut)
    chains["%swalk_%s" % (prefix, name)] = walk
    return chains


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


# Guards


def guard_out(wanted, prefix=""):
    """Rules behind source NAT: what is not ours does not leave (RFC 7596 5.2, 8.2). Every packet
    is looked at: flows may be older than the rules, or come over from another uplink."""
    rules = ['oifname != "%s" return' % wanted.device] + _ours_out(wanted)
    return rules + ["counter name %soutside_out drop" % prefix]


def guard_in(wanted, prefix=""):
    """Rules in front of destination NAT: what is not for us is dropped (RFC 7596 5.2). Every packet
    is looked at: whoever can write the lwAFTR's address into a packet can have it match any flow of
    the router's, also one that the softwire has nothing to do with."""
    rules = ['iifname != "%s" return' % wanted.device] + _ours_in(wanted)
    return rules + ["counter name %soutside_in drop" % prefix]


def _ours_out(wanted):
    return _accept(wanted, "saddr", "sport") + ([] if _is_whole(wanted) else _errors(wanted))


def _ours_in(wanted):
    """ICMP errors have no port of their own; forward_chains stops those that belong to no flow."""
    errors = "ip daddr %s icmp type %s return" % (_address(wanted), _ICMP_ERRORS)
    return _accept(wanted, "daddr", "dport") + ([] if _is_whole(wanted) else [errors])


def _accept(wanted, side, port):
    ours, ports = "ip %s %s " % (side, _address(wanted)), _ranges(wanted.port_sets)
    rules = ["%smeta l4proto %s th %s %s return" % (ours, _any(_numbers(wanted)), port, ports)]
    if wanted.protocol == wire.PROTO_ALL:
        rules.append(ours + "icmp type { echo-request, echo-reply } icmp id %s return" % ports)
    return rules + ([ours + "return"] if _is_whole(wanted) else [])


def _errors(wanted):
    """ICMP errors are ours if the flow that they are about is: begun here, or by somebody outside.
    For a moment there are flows of a set that is gone, and each flow may have its errors."""
    address, ports = _address(wanted), _ranges(wanted.port_sets)
    errors = "ip saddr %s icmp type %s " % (address, _ICMP_ERRORS)
    ends = [("reply ip daddr", "reply proto-dst"), ("original ip daddr", "original proto-dst")]
    if wanted.protocol == wire.PROTO_ALL:  # of an echo the identifier
        ends.append(("reply protocol icmp ct reply ip daddr", "reply proto-src"))
    return [errors + "ct %s %s ct %s %s return" % (ip, address, port, ports) for ip, port in ends]


def forward(device, prefix=""):
    """Rules for forwarded packets: what leaves, or enters, goes to a chain of forward_chains.

    What comes out of the softwire and matches no flow has no place to go but the default route,
    which is the softwire: without the first rule it would circle until its TTL ends.
    """
    return [
        _looped(device, prefix),
        'oifname "%s" jump %sleaving' % (device, prefix),
        'iifname "%s" jump %sentering' % (device, prefix),
    ]


def _looped(devices, prefix):
    words = devices, devices, prefix
    return 'iifname "%s" oifname "%s" counter name %slooped drop' % words


def forward_chains(wanted, prefix=""):
    """{name: rules} of what forward() goes to.

    What cannot be translated is refused, so that its sender knows at once, and counted. Nothing
    enters that belongs to no flow and begins none. What has the shared address still, behind all
    destination NAT, is for nobody here: no other uplink shall take it along.
    """
    leaving = _limit(wanted.host_limit, prefix) + _clamp(wanted.mss)
    if not _is_whole(wanted):
        leaving += ["meta l4proto %s return" % number for number in _numbers(wanted)]
        icmp = "meta l4proto icmp return"
        if wanted.protocol != wire.PROTO_ALL:
            icmp = "icmp type %s return" % _ICMP_ERRORS
        leaving += [icmp, "counter name %srefused reject with icmp prot-unreachable" % prefix]
    entering = [
        "ct state invalid,untracked counter name %soutside_in drop" % prefix,
        "ip daddr %s counter name %slooped drop" % (_address(wanted), prefix),
    ] + _clamp(wanted.mss)
    return {prefix + "leaving": leaving, prefix + "entering": entering}


def _clamp(mss):
    """TCP's segments fit the softwire; the option is only ever lowered. mss: octets, or None."""
    if not mss:
        return []
    return ["tcp flags & (syn | rst) == syn tcp option maxseg size set %d" % mss]


def host_sets(host_limit, prefix=""):
    """{name: definition} of nft's sets that forward_chains needs."""
    if not host_limit:
        return {}
    return {_hosts(host_limit, prefix): "{ type ipv4_addr; flags dynamic; size 4096; }"}


def _hosts(host_limit, prefix):
    return "%shosts_%d" % (prefix, host_limit)  # the limit is the set's, not the rule's


def _limit(host_limit, prefix):
    """Refused, not dropped: the host knows at once. Only what begins is counted, and once."""
    if not host_limit:
        return []
    return [
        "ct state new ct status & confirmed == 0 add @%s { ip saddr ct count over %d }"
        " counter name %sover_limit reject" % (_hosts(host_limit, prefix), host_limit, prefix)
    ]


# A table of our own


def table(wanted, mark):
    """Commands for 'nft -f' that make the table what it should be, in one transaction.

    Rules are replaced, counters are kept. wanted: Wanted. mark: text that is found again in a
    listing.
    """
    device, placed = wanted.device, wanted.forwards
    hooks = [
        # Before any other source NAT: what is translated once is not translated again.
        (
            "srcnat",
            "nat hook postrouting priority 99",
            [_source_nat(device)] + nat_forwards.reflection(device, placed),
        ),
        ("guard_out", _OUT, guard_out(wanted)),
        ("guard_in", _IN, guard_in(wanted)),
        ("forward", _FORWARD, forward(device)),
    ]
    inward = nat_forwards.destination_nat(placed)
    if inward:
        hooks.insert(0, ("dstnat", "nat hook prerouting priority -101", inward))
    chains = _chains(wanted, "snat to", "")
    lines = ["add table %s" % TABLE]
    lines += ["add counter %s %s" % (TABLE, name) for name in GUARDS]
    lines += ["add %s %s %s %s" % (one[0], TABLE, one[1], one[2]) for one in _objects(wanted)]
    for name, hook, _ in hooks:
        lines.append("add chain %s %s { type %s; }" % (TABLE, name, hook))
    lines += ["add chain %s %s" % (TABLE, name) for name in sorted(chains)]
    lines.append("flush table %s" % TABLE)
    for name in sorted(chains):
        lines += ["add rule %s %s %s" % (TABLE, name, rule) for rule in chains[name]]
    for name, _, rules in hooks:
        lines += ["add rule %s %s %s" % (TABLE, name, rule) for rule in rules]
    lines[-1] += _comment(mark)
    return "\n".join(lines) + "\n"


def _chains(wanted, statement, prefix):
    """{name: rules} of the chains that others jump to."""
    return dict(flow_chains(wanted, statement, prefix), **forward_chains(wanted, prefix))


def _objects(wanted, prefix=""):
    """(kind, name, definition) of what the rules need beside counters and chains."""
    sets = dict(room_sets(wanted.open_sets, prefix), **host_sets(wanted.host_limit, prefix))
    policies = timeouts.objects(wanted.flow_timeouts, prefix)
    found = [("set", name, sets[name]) for name in sorted(sets)]
    return found + [("ct timeout", name, policies[name]) for name in sorted(policies)]


def stale_sets(listing, table, wanted, prefix=""):
    """Commands for 'nft -f' that delete sets which rules do not need any more, empty if there are
    none: flushing a table leaves them, and each takes 8 kB.

    listing: of LIST_SETS and the table. wanted: Wanted or None.
    """
    needed = [name for _, name, _ in _objects(wanted, prefix)] if wanted else []
    ours = prefix + "room_", prefix + "hosts_"
    lines = [line.split() for line in listing.split("\n")]
    names = [words[1] for words in lines if len(words) == 3 and words[0] == "set"]
    stale = [name for name in names if name.startswith(ours) and name not in needed]
    return "".join(["delete set %s %s\n" % (table, name) for name in stale])


def without_table():
    """Commands for 'nft -f' that remove the table, whether it is there or not."""
    return "add table %s\ndelete table %s\n" % (TABLE, TABLE)


def last_guard(devices, wanted):
    """(commands for 'nft -f', mark) of the guard that stands while fw4's own table is away: a
    restart of the firewall deletes it, and makes it anew a moment later. devices, wanted: see
    fw4_fragments."""

    def text(mark):
        rules = ['oifname != "%s" return' % devices]
        if wanted:
            rules += ['oifname != "%s" drop' % wanted.device] + _ours_out(wanted)
        rules.append("drop" + _comment(mark))
        lines = ["add table " + TABLE]
        lines.append("add chain %s { type filter hook postrouting priority 111; }" % LAST_GUARD)
        lines.append("flush chain " + LAST_GUARD)
        return "\n".join(lines + ["add rule %s %s" % (LAST_GUARD, rule) for rule in rules]) + "\n"

    mark = "cpe-agent %08x" % binascii.crc32(text("").encode())
    return text(mark), mark


# Fragments of fw4's table


def fw4_fragments(devices, wanted):
    """Fragments that hold fw4 to a plan. Without one nothing enters or leaves a softwire.

    devices: nft's pattern for names of softwires, of which only the plan's is ever let through.
    wanted: plan.Plan or None.
    """
    text = _fw4_source_nat(wanted, "") + _fw4_chains(devices, wanted, "")
    mark = "cpe-agent %08x" % binascii.crc32(text.encode())
    return Fragments(_fw4_source_nat(wanted, mark), _fw4_chains(devices, wanted, mark), mark)


def fw4_check(fragments):
    """Commands for 'nft -c -f' that try fragments where fw4 would put them."""
    return (
        "table %s {\nchain srcnat {\ntype nat hook postrouting priority srcnat; policy accept;\n"
        "%s}\n%s}\n" % (FW4_TABLE, fragments.source_nat, fragments.chains)
    )


def _fw4_source_nat(wanted, mark):
    if wanted is None:
        return _FW4_HEAD
    return "%s%s%s\n" % (_FW4_HEAD, _source_nat(wanted.device, FW4_PREFIX), _comment(mark))


def _fw4_chains(devices, wanted, mark):
    """Hooks and priorities are the same in every text, and in every version: fw4 empties its chains
    for a reload, but does not remove them, and nft refuses to move one."""
    hooks = (
        ("guard_out", _OUT, _fw4_out(devices, wanted, mark)),
        ("guard_in", _IN, _fw4_in(devices, wanted)),
        ("forward", _FORWARD, _fw4_forward(devices, wanted)),
    )
    lines = ["counter %s%s { }" % (FW4_PREFIX, name) for name in GUARDS]
    if wanted:
        lines += ["%s %s %s" % one for one in _objects(wanted, FW4_PREFIX)]
        chains = _chains(wanted, "snat ip to", FW4_PREFIX)
        for name in sorted(chains):
            lines += _chain(name, chains[name])
    for name, hook, rules in hooks:
        lines += _chain(FW4_PREFIX + name, ["type %s; policy accept;" % hook] + rules)
    return _FW4_HEAD + "\n".join(lines) + "\n"


def _chain(name, rules):
    return ["chain %s {" % name] + ["\t" + rule for rule in rules] + ["}"]


def _fw4_out(devices, wanted, mark):
    drop = "counter name %soutside_out drop" % FW4_PREFIX
    rules = ['oifname != "%s" return' % devices, _FW4_NO_IPV6]
    if wanted:  # of all devices that the pattern fits, only this one is let through
        rules += ['oifname != "%s" %s' % (wanted.device, drop)] + _ours_out(wanted)
    return rules + [drop + _comment(mark)]


def _fw4_in(devices, wanted):
    drop = "counter name %soutside_in drop" % FW4_PREFIX
    rules = ['iifname != "%s" return' % devices, _FW4_NO_IPV6]
    if wanted:
        rules += ['iifname != "%s" %s' % (wanted.device, drop)] + _ours_in(wanted)
    return rules + [drop]


def _fw4_forward(devices, wanted):
    rules = [_looped(devices, FW4_PREFIX)]
    if wanted:
        return rules + forward(wanted.device, FW4_PREFIX)[1:]
    return rules + ['iifname "%s" counter name %soutside_in drop' % (devices, FW4_PREFIX)]


# What nft tells


def _comment(mark):
    return ' comment "%s"' % mark


def is_marked(listing, mark):
    """True if a listing of rules has that mark."""
    return _comment(mark) in listing


def table_number(listing, table):
    """The kernel's number of a table, by 'nft -j list tables'; None if it is not there."""
    try:
        found = [one["table"] for one in json.loads(listing)["nftables"] if "table" in one]
        numbers = {"%s %s" % (one["family"], one["name"]): one["handle"] for one in found}
    except (KeyError, TypeError, ValueError):
        return None
    return numbers.get(table)


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
