"""nftables text that says what may pass by the softwire. Pure: values in, text out.

The guards stand behind the NAT and in front of the router, so that no mistake, ours or another
firewall's, lets a packet out, or in, on a neighbour's port.

Every packet comes by here, so the order is for speed: to load the name of a device costs as much as
three other questions, and so does a hook with nothing behind it (docs/decisions.md).
"""

from cpe_agent import nat, portset
from cpe_agent.pcp import wire

COUNTERS = ("outside_out", "outside_in", "looped", "over_limit", "refused")
OUT = "filter hook postrouting priority 110"
IN = "filter hook prerouting priority raw"
FORWARD = "filter hook forward priority mangle"

_ICMP_ERRORS = "{ destination-unreachable, time-exceeded, parameter-problem }"
_BEGINS = "tcp flags & (syn | rst) == syn"
_GOES_ON = "tcp flags & (syn | rst) != syn"


def out(plan, prefix="", devices=None):
    """Rules behind source NAT: what is not ours does not leave (RFC 7596 5.2, 8.2). Every packet is
    looked at: flows may be older than the rules, or come over from another uplink.

    plan: plan.Plan, or None if nothing may leave. prefix: of the names of chains and counters.
    devices: in a table that serves all softwires, and IPv6, too, nft's pattern for their names.
    """
    drop = "counter name %soutside_out drop" % prefix
    if plan is None:
        return _others("oifname", None, devices, drop) + [drop]
    bulk, rest = ours_out(plan)
    rules = bulk + _clamp(plan.mss, 'iifname "%s" ' % plan.device)
    rules += _others("oifname", plan.device, devices, drop)
    return rules + _clamp(plan.mss) + rest + [drop]


def ours_out(plan):
    """(rules, more rules) that let pass what may leave by the softwire: its bulk, and the rest. The
    bulk may pass before any device is asked for: on others nothing has that source, or it may. What
    begins a TCP connection is no bulk where its segment size is to be lowered."""
    tcp = _ports(plan, wire.PROTO_TCP, "saddr", "sport")
    bulk = _with_ports(plan, "saddr", "sport")
    rest = _without_ports(plan, "saddr") + ([] if nat.is_whole(plan) else _errors(plan))
    if plan.mss and tcp in bulk:
        bulk[bulk.index(tcp)] = tcp.replace(" return", " %s return" % _GOES_ON)
        rest.insert(0, tcp)
    return bulk, rest


def _others(name, device, devices, drop):
    """Rules about all devices but one."""
    if devices is None:
        return ['%s != "%s" return' % (name, device)]
    # A softwire carries IPv4 alone; what the router itself says there in IPv6 is nobody's mistake.
    rules = ['%s != "%s" return' % (name, devices), "meta nfproto ipv6 drop"]
    return rules + (['%s != "%s" %s' % (name, device, drop)] if device else [])


def into(plan, prefix="", devices=None):
    """Rules in front of destination NAT: what is not for us is dropped (RFC 7596 5.2). Every packet
    is looked at: whoever can write the lwAFTR's address into a packet can have it match any flow of
    the router's, also one that the softwire has nothing to do with. See out()."""
    drop = "counter name %soutside_in drop" % prefix
    if plan is None:
        return _others("iifname", None, devices, drop) + [drop]
    rules = _others("iifname", plan.device, devices, drop)
    rules += _with_ports(plan, "daddr", "dport") + _without_ports(plan, "daddr")
    if not nat.is_whole(plan):
        # They have no port of their own; forward() stops those that belong to no flow.
        rules.append("ip daddr %s icmp type %s return" % (plan.address, _ICMP_ERRORS))
    return rules + [drop]


def _numbers(plan):
    """Of the protocols with ports that the sets are for; what has the most small packets first."""
    if plan.protocol != wire.PROTO_ALL:
        return (plan.protocol,)
    return (wire.PROTO_UDP, wire.PROTO_TCP) + tuple(plan.more)


def _ports(plan, number, side, port):
    """The rule that lets pass one protocol's packets, if the address and port of one side is ours.
    side: "saddr" or "daddr". port: "sport" or "dport"."""
    words = side, plan.address, number, port, portset.match(plan.port_sets)
    return "ip %s %s meta l4proto %d th %s %s return" % words


def _with_ports(plan, side, port):
    return [_ports(plan, number, side, port) for number in _numbers(plan)]


def _without_ports(plan, side):
    ours = "ip %s %s " % (side, plan.address)
    if nat.is_whole(plan):
        return [ours + "return"]
    if plan.protocol != wire.PROTO_ALL:
        return []
    echo = "icmp type { echo-request, echo-reply } icmp id %s return"
    return [ours + echo % portset.match(plan.port_sets)]


def _errors(plan):
    """ICMP errors are ours if the flow that they are about is: begun here, or by somebody outside.
    For a moment there are flows of a set that is gone, and each flow may have its errors."""
    address, ports = plan.address, portset.ranges(plan.port_sets)
    errors = "ip saddr %s icmp type %s " % (address, _ICMP_ERRORS)
    ends = [("reply ip daddr", "reply proto-dst"), ("original ip daddr", "original proto-dst")]
    if plan.protocol == wire.PROTO_ALL:  # of an echo the identifier
        ends.append(("reply protocol icmp ct reply ip daddr", "reply proto-src"))
    return [errors + "ct %s %s ct %s %s return" % (ip, address, port, ports) for ip, port in ends]


def forward(plan, prefix=""):
    """Rules for what is forwarded. What leaves goes to the chain 'leaving'.

    What comes by the softwire and has the shared address still, behind all destination NAT, is for
    nobody here: it belongs to no flow, and begins none. Its way would be the default route, which
    is the softwire, and it would circle until its TTL ends; nor shall another uplink take it along.
    It is not answered, whatever the firewall does with others: that would spoil a connection that
    both sides begin at once (RFC 5382 REQ-4).
    """
    counted = "counter name %slooped drop" % prefix
    rules = [stray(plan) + counted]
    # Of a flow that is there already, whose way to the LAN is gone. What begins is nat.py's.
    ways = plan.address, plan.device, plan.device, counted
    rules.append('ip saddr %s iifname "%s" oifname "%s" %s' % ways)
    jump = 'oifname "%s" jump %sleaving' % (plan.device, prefix)
    if plan.host_limit:
        return rules + [jump]
    return rules if nat.is_whole(plan) else rules + _portable(plan) + [jump]


def stray(plan):
    """Begins a rule for what comes by the softwire and has the shared address still."""
    return 'ip daddr %s iifname "%s" ' % (plan.address, plan.device)


def _portable(plan):
    return ["meta l4proto %d return" % number for number in _numbers(plan)]


def _leaving(plan, prefix=""):
    """Rules for what is forwarded to the softwire. What cannot be translated is refused, so that
    its sender knows at once, and counted."""
    rules = _limit(plan.host_limit, prefix)
    if nat.is_whole(plan):
        return rules
    icmp = "meta l4proto icmp return"
    if plan.protocol != wire.PROTO_ALL:
        icmp = "icmp type %s return" % _ICMP_ERRORS
    refuse = "counter name %srefused reject with icmp prot-unreachable" % prefix
    return rules + (_portable(plan) if plan.host_limit else []) + [icmp, refuse]


def chains(plan, prefix=""):
    """{name: rules} of what forward() goes to."""
    rules = _leaving(plan, prefix)
    return {prefix + "leaving": rules} if rules else {}


def _clamp(mss, where=""):
    """TCP's segments fit the softwire; the option is only ever lowered. mss: octets, or None."""
    return ["%s %stcp option maxseg size set %d" % (_BEGINS, where, mss)] if mss else []


def host_sets(host_limit, prefix=""):
    """{name: definition} of nft's sets that the rules need."""
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
