"""What the rules need of nft beside themselves, and what nft lists of them. Pure."""

import binascii
import json

from cpe_agent import guards, nat, timeouts

LIST_SETS = "nft -t list sets table "  # a command: without what is in them


def mark(text):
    """Text that names rules, to be found again in a listing."""
    return "cpe-agent %08x" % binascii.crc32(text.encode())


def comment(mark):
    """Behind a rule: carries the mark."""
    return ' comment "%s"' % mark


def is_marked(listing, mark):
    """True if a listing of rules has that mark."""
    return comment(mark) in listing


def objects(plan, prefix=""):
    """(kind, name, definition) of what the rules of a plan.Plan need beside counters and chains.

    prefix: of the names.
    """
    sets = dict(nat.room_sets(plan.open_sets, prefix), **guards.host_sets(plan.host_limit, prefix))
    policies = timeouts.objects(plan.flow_timeouts, prefix)
    found = [("set", name, sets[name]) for name in sorted(sets)]
    return found + [("ct timeout", name, policies[name]) for name in sorted(policies)]


def stale_sets(listing, table, plan, prefix=""):
    """Commands for 'nft -f' that delete sets which rules do not need any more, empty if there are
    none: flushing a table leaves them, and each takes 8 kB.

    listing: of LIST_SETS and the table. plan: plan.Plan or None.
    """
    needed = [name for _, name, _ in objects(plan, prefix)] if plan else []
    ours = prefix + "room_", prefix + "hosts_"
    lines = [line.split() for line in listing.split("\n")]
    names = [words[1] for words in lines if len(words) == 3 and words[0] == "set"]
    stale = [name for name in names if name.startswith(ours) and name not in needed]
    return "".join(["delete set %s %s\n" % (table, name) for name in stale])


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

    prefix: of the counters' names there.
    """
    counts = {}
    words = listing.split()
    names = {prefix + name: name for name in guards.COUNTERS}
    for index, word in enumerate(words):
        if word == "packets" and index >= 3 and words[index - 2] in names:
            counts[names[words[index - 2]]] = int(words[index + 1])
    return counts
