"""The table of nftables that is ours alone, as commands for 'nft -f'. Pure.

What lives here: the linux backend's whole NAT, and on OpenWrt the guard that stands while the
firewall's own table is away.
"""

from cpe_agent import guards, nat, nat_forwards, nft

NAME = "ip cpe_agent"
LAST_GUARD = NAME + " last_guard"  # a chain


def commands(plan, mark):
    """Commands that make the table what it should be, in one transaction.

    Rules are replaced, counters are kept. plan: plan.Plan. mark: text that is found again in a
    listing.
    """
    hooks = _hooks(plan)
    chains = dict(nat.flow_chains(plan), **guards.chains(plan))
    lines = ["add table %s" % NAME]
    lines += ["add counter %s %s" % (NAME, name) for name in guards.COUNTERS]
    lines += ["add %s %s %s %s" % (one[0], NAME, one[1], one[2]) for one in nft.objects(plan)]
    lines += ["add chain %s %s { type %s; }" % (NAME, name, hook) for name, hook, _ in hooks]
    lines += ["add chain %s %s" % (NAME, name) for name in sorted(chains)]
    lines.append("flush table %s" % NAME)
    # Each hook costs every packet something, also if nothing is behind it.
    lines += ["delete chain %s %s" % (NAME, name) for name, _, rules in hooks if not rules]
    for name in sorted(chains):
        lines += ["add rule %s %s %s" % (NAME, name, rule) for rule in chains[name]]
    for name, _, rules in hooks:
        lines += ["add rule %s %s %s" % (NAME, name, rule) for rule in rules]
    lines[-1] += nft.comment(mark)
    return "\n".join(lines) + "\n"


def _hooks(plan):
    """(name, hook, rules) of the chains that the kernel calls."""
    device, placed = plan.device, plan.forwards
    return [
        ("dstnat", "nat hook prerouting priority -101", nat_forwards.destination_nat(placed)),
        # Before any other source NAT: what is translated once is not translated again.
        (
            "srcnat",
            "nat hook postrouting priority 99",
            [nat.source_nat(device)] + nat_forwards.reflection(device, placed),
        ),
        ("forward", guards.FORWARD, guards.forward(plan)),
        ("guard_out", guards.OUT, guards.out(plan)),
        ("guard_in", guards.IN, guards.into(plan)),
    ]


def removal():
    """Commands that remove the table, whether it is there or not."""
    return "add table %s\ndelete table %s\n" % (NAME, NAME)


def last_guard(devices, plan):
    """(commands, mark) of the guard that stands while fw4's own table is away: a restart of the
    firewall deletes it, and makes it anew a moment later. devices, plan: see fw4_table.fragments.
    """

    def text(mark):
        rules = ['oifname != "%s" return' % devices]
        if plan:
            bulk, rest = guards.ours_out(plan)
            # On OpenWrt there may be other softwires, which flows of this one could change to.
            mine = 'oifname "%s" return' % plan.device
            bulk = [rule.replace("return", mine) for rule in bulk]
            rules = [guards.stray(plan) + "drop"] + bulk + rules
            rules += ['oifname != "%s" drop' % plan.device] + rest
        rules.append("drop" + nft.comment(mark))
        lines = ["add table " + NAME]
        lines.append("add chain %s { type filter hook postrouting priority 111; }" % LAST_GUARD)
        lines.append("flush chain " + LAST_GUARD)
        return "\n".join(lines + ["add rule %s %s" % (LAST_GUARD, rule) for rule in rules]) + "\n"

    mark = nft.mark(text(""))
    return text(mark), mark
