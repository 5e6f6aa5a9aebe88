"""nftables text that holds the router's NAT inside its port sets. Pure: values in, text out.

What lives here: the rules, and why they are these. The same rules serve the linux backend (a table
of its own) and fw4 (fragments).

One plain range, no 'random' and no 'fully-random': those lose endpoint-independent mapping, and
with it games, calls and hole punching. The guards stand behind the NAT and in front of the router,
so that no mistake, ours or another firewall's, lets a packet out, or in, on a neighbour's port.

Device names are quoted: nft would take 'map' for a word of its own, and '4over6' for a mistake.
"""

from cpe_agent import portset
from cpe_agent.pcp import wire

TABLE = "ip cpe_agent"
GUARDS = ("outside_out", "outside_in", "looped")  # named counters

_ICMP_ERRORS = "{ destination-unreachable, time-exceeded, parameter-problem }"


def _protocols(protocol):
    if protocol == wire.PROTO_ALL:
        return "{ tcp, udp }"
    return "tcp" if protocol == wire.PROTO_TCP else "udp"


def _range(port_set):
    first, last = port_set.first, portset.last(port_set)
    return "%d" % first if first == last else "%d-%d" % (first, last)


def source_nat(device, port_set, protocol):
    """Rules for a source NAT chain. ICMP's echo identifiers are ports to the kernel."""
    ports = "%s:%s" % (port_set.address, _range(port_set))
    protocols = "{ tcp, udp, icmp }" if protocol == wire.PROTO_ALL else _protocols(protocol)
    return ['oifname "%s" meta l4proto %s snat to %s' % (device, protocols, ports)]


def guard_out(device, port_set, protocol):
    """Rules behind source NAT: what is not ours does not leave (RFC 7596 5.2, 8.2)."""
    ours = 'oifname "%s" ip saddr %s ' % (device, port_set.address)
    rules = ['oifname != "%s" return' % device]
    rules += _accept(ours, "sport", port_set, protocol)
    return rules + ["counter name outside_out drop"]


def guard_in(device, port_set, protocol):
    """Rules in front of destination NAT: what is not for us is dropped (RFC 7596 5.2)."""
    ours = 'iifname "%s" ip daddr %s ' % (device, port_set.address)
    rules = ['iifname != "%s" return' % device]
    rules += _accept(ours, "dport", port_set, protocol)
    return rules + ["counter name outside_in drop"]


def _accept(ours, side, port_set, protocol):
    """ICMP errors have no port of their own; conntrack admits those of known flows only."""
    ports = _range(port_set)
    rules = ["%smeta l4proto %s th %s %s return" % (ours, _protocols(protocol), side, ports)]
    if protocol == wire.PROTO_ALL:
        echo = "icmp type { echo-request, echo-reply } icmp id %s return" % ports
        rules.append(ours + echo)
    return rules + [ours + "icmp type %s return" % _ICMP_ERRORS]


def forward(device, mss):
    """Rules for forwarded packets. mss: TCP's largest segment in octets, or None.

    What comes out of the softwire and matches no flow has no place to go but the default route,
    which is the softwire: without the first rule it would circle until its TTL ends.
    """
    rules = ['iifname "%s" oifname "%s" counter name looped drop' % (device, device)]
    if mss:
        for direction in ("iifname", "oifname"):  # the option is only ever lowered
            rules.append(
                '%s "%s" tcp flags & (syn | rst) == syn tcp option maxseg size set %d'
                % (direction, device, mss)
            )
    return rules


def table(device, port_set, protocol, mss, mark):
    """Commands for 'nft -f' that make the table what it should be, in one transaction.

    Rules are replaced, counters are kept. mark: text that is found again in a listing.
    """
    chains = (
        # Before any other source NAT: what is translated once is not translated again.
        ("srcnat", "nat hook postrouting priority 99", source_nat(device, port_set, protocol)),
        (
            "guard_out",
            "filter hook postrouting priority 110",
            guard_out(device, port_set, protocol),
        ),
        ("guard_in", "filter hook prerouting priority raw", guard_in(device, port_set, protocol)),
        ("forward", "filter hook forward priority mangle", forward(device, mss)),
    )
    lines = ["add table %s" % TABLE]
    lines += ["add counter %s %s" % (TABLE, name) for name in GUARDS]
    for name, hook, _ in chains:
        lines.append("add chain %s %s { type %s; }" % (TABLE, name, hook))
    lines.append("flush table %s" % TABLE)
    for name, _, rules in chains:
        lines += ["add rule %s %s %s" % (TABLE, name, rule) for rule in rules]
    lines[-1] += ' comment "%s"' % mark
    return "\n".join(lines) + "\n"


def without_table():
    """Commands for 'nft -f' that remove the table, whether it is there or not."""
    return "add table %s\ndelete table %s\n" % (TABLE, TABLE)


def parse_counters(listing):
    """{guard: packets} from 'nft list counters table ip cpe_agent'; what is missing is left out."""
    counts = {}
    words = listing.split()
    for index, word in enumerate(words):
        if word == "packets" and index >= 3 and words[index - 2] in GUARDS:
            counts[words[index - 2]] = int(words[index + 1])
    return counts
