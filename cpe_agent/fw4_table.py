"""Our part of the table of OpenWrt's firewall, fw4, as text that it includes. Pure.

A chain that is there has the same hook and priority in every text, and in every version: fw4
empties its chains for a reload, but does not remove them, and nft refuses to move one.
"""

from collections import namedtuple

from cpe_agent import guards, nat, nft

NAME = "inet fw4"
PREFIX = "cpe_agent_"  # begins the names of our chains and counters
MARKED = ("srcnat", PREFIX + "guard_out")  # a chain of each fragment; the first if any

_HEAD = "# Written by cpe-agent, and replaced by it.\n"

# source_nat: text of the file that fw4 includes at the head of its chain srcnat. chains: of the one
# that it includes at the end of its table. mark: found again in listings of MARKED.
Fragments = namedtuple("Fragments", ("source_nat", "chains", "mark"))


def fragments(devices, plan):
    """Fragments that hold fw4 to a plan. Without one nothing enters or leaves a softwire.

    devices: nft's pattern for names of softwires, of which the plan's is the only one for new
    flows; own_table.last_guard holds those to it that are there already. plan: plan.Plan or None.
    """
    mark = nft.mark(_source_nat(plan, "") + _chains(devices, plan, ""))
    return Fragments(_source_nat(plan, mark), _chains(devices, plan, mark), mark)


def check(tried):
    """Commands for 'nft -c -f' that try Fragments where fw4 would put them."""
    return (
        "table %s {\nchain srcnat {\ntype nat hook postrouting priority srcnat; policy accept;\n"
        "%s}\n%s}\n" % (NAME, tried.source_nat, tried.chains)
    )


def _source_nat(plan, mark):
    if plan is None:
        return _HEAD
    return "%s%s%s\n" % (_HEAD, nat.source_nat(plan.device, PREFIX), nft.comment(mark))


def _chains(devices, plan, mark):
    lines = ["counter %s%s { }" % (PREFIX, name) for name in guards.COUNTERS]
    if plan:
        lines += ["%s %s %s" % one for one in nft.objects(plan, PREFIX)]
        chains = nat.flow_chains(plan, "snat ip to", PREFIX)
        chains.update(guards.chains(plan, PREFIX))
        for name in sorted(chains):
            lines += _chain(name, chains[name])
    out = guards.out(plan, PREFIX, devices)
    hooks = (
        ("guard_out", guards.OUT, out[:-1] + [out[-1] + nft.comment(mark)]),
        ("guard_in", guards.IN, guards.into(plan, PREFIX, devices)),
        ("forward", guards.FORWARD, guards.forward(plan, PREFIX) if plan else []),
    )
    for name, hook, rules in hooks:
        if rules:
            lines += _chain(PREFIX + name, ["type %s; policy accept;" % hook] + rules)
    return _HEAD + "\n".join(lines) + "\n"


def _chain(name, rules):
    return ["chain %s {" % name] + ["\t" + rule for rule in rules] + ["}"]
