"""nftables text for port forwards: how they are reached, and what their hosts send. Pure.

What lives here: rules beside those of nat.py. On OpenWrt only the first of them are needed: fw4
leads what comes in to its host.
"""

from cpe_agent import forwards


def services(placed, statement="snat to"):
    """Rules in front of those of nat.flow_chains, for what leaves by the softwire: what a forwarded
    server sends of its own leaves by the port that it is reached at, towards everybody (RFC 4787
    REQ-1). Nobody else has that port, so the kernel need not look for a free one.

    placed: tuple of forwards.Placed. statement: see nat.flow_chains.
    """
    return [
        "ip saddr %s %s sport %d %s %s:%d"
        % (one.dest_ip, _protocols(one), one.dest_port, statement, one.address, one.port)
        for one in forwards.in_force(placed)
    ]


def destination_nat(placed):
    """Rules for a destination NAT chain, also for hosts of the LAN who go to the shared address."""
    return [
        "ip daddr %s %s dport %d dnat to %s:%d"
        % (one.address, _protocols(one), one.port, one.dest_ip, one.dest_port)
        for one in forwards.in_force(placed)
    ]


def reflection(device, placed):
    """Rules for a source NAT chain: a host of the LAN answers another one by way of the router, if
    that has come by the shared address."""
    found = forwards.in_force(placed)
    if not found:
        return []
    way = 'iifname != "%s" oifname != "%s"' % (device, device)
    return ["%s ct status dnat ct original ip daddr %s masquerade" % (way, found[0].address)]


def _protocols(one):
    return "meta l4proto { %s } th" % ", ".join(one.proto)
