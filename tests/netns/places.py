"""Where the shared address may live on the router, and what then works: the experiment.

'python -m tests.netns.places' prints the table of docs/shared-address.md.
"""

from tests.netns import topology
from tests.netns.topology import INNER, INTERNET, LAN_HOST, OWN, ROUTER, SHARED

FORWARD, SERVICE = 1500, 1600  # ports of the set: forwarded to the LAN host; of the router itself

PLACES = (
    ("softwire", "on the softwire, as OpenWrt's `map` has it"),
    ("nowhere", "not on the router"),
    ("unclaimed", "on the softwire, local table entry deleted"),
    ("agent", "what the agent does"),
)

# (question, who asks, what he asks for): the answer is how the other side sees him.
_DIALOGUES = (
    ("LAN → Internet", "lan", INTERNET[0], 80),
    ("router → Internet", "cpe", INTERNET[0], 80),
    ("LAN → neighbour on the same address", "lan", SHARED, 2500),
    ("router → neighbour", "cpe", SHARED, 2500),
    ("neighbour → own forward", "nei", SHARED, FORWARD),
    ("Internet → own forward", "inet", SHARED, FORWARD),
    ("LAN → own forward by the public address", "lan", SHARED, FORWARD),
)
_SAFE = "the router's services are out of reach from outside"
_STILL = "nothing circles"
_TOOLS = "tools see the public address first"


def prepare(home, place):
    """Configure the router: its NAT is the agent's own in all places."""
    cpe = home.cpe
    if place == "agent":
        cpe.call("apply", topology.wanted(OWN))
    else:
        cpe.nft(topology.nat_text(OWN))
        addresses = {"softwire": [SHARED], "nowhere": [INNER], "unclaimed": [INNER, SHARED]}[place]
        if place == "unclaimed":
            addresses.reverse()
        cpe.ip(*["addr add %s/32 dev lw4o6" % address for address in addresses])
        if place == "unclaimed":
            cpe.ip("route del table local local %s dev lw4o6" % SHARED)
        cpe.ip("route add default dev lw4o6")
    cpe.nft(topology.forward_text(FORWARD, LAN_HOST + ":80"))
    cpe.call("serve", SERVICE)


def measure(home, expected):
    """{question: True if it is as it should be}. expected: how long each answer is waited for
    depends on it, and nothing else does."""
    found = {}
    for question, who, address, port in _DIALOGUES:
        patience = topology.PATIENCE if expected[question] else topology.IMPATIENCE
        answer = getattr(home, who).call("talk", address, port, patience)
        found[question] = answer.split()[0] in (SHARED, INTERNET[0], ROUTER)
    patience = topology.IMPATIENCE if expected[_SAFE] else topology.PATIENCE
    found[_SAFE] = home.inet.call("talk", SHARED, SERVICE, patience) == "TimeoutError"
    home.aftr.call("sniff", "t1")
    home.inet.call("open_udp", "stray", 0)
    home.inet.call("send_udp", "stray", SHARED, SERVICE + 1)
    home.inet.call("close", "stray")
    home.inet.call("talk", SHARED, FORWARD, topology.PATIENCE)
    returned = [packet for packet in home.aftr.call("sniffed") if packet.get("to") == SERVICE + 1]
    found[_STILL] = returned == []
    listing = home.cpe.namespace.run(["ip", "-br", "-4", "addr", "show", "dev", "lw4o6"]).stdout
    found[_TOOLS] = listing.split()[2] == SHARED + "/32"
    return found


QUESTIONS = tuple(dialogue[0] for dialogue in _DIALOGUES) + (_SAFE, _STILL, _TOOLS)

# What was found; the test holds the kernel and the agent to it.
_WRONG = {
    "softwire": {
        "LAN → neighbour on the same address",
        "router → neighbour",
        "neighbour → own forward",
        _SAFE,
    },
    "nowhere": {_TOOLS},
    "unclaimed": {
        "router → Internet",
        "LAN → neighbour on the same address",
        "router → neighbour",
        "neighbour → own forward",
    },
    "agent": set(),
}
EXPECTED = {
    place: {question: question not in _WRONG[place] for question in QUESTIONS}
    for place, _ in PLACES
}


def measure_all():
    """{place: {question: bool}}, each place in a home of its own."""
    found = {}
    for place, _ in PLACES:
        with topology.Home() as home:
            prepare(home, place)
            found[place] = measure(home, EXPECTED[place])
    return found


def table(found):
    """The findings in Markdown."""
    lines = ["| | " + " | ".join("(%s) %s" % (letter, text) for letter, (_, text) in _lettered())]
    lines[0] += " |"
    lines.append("|---" * (len(PLACES) + 1) + "|")
    for question in QUESTIONS:
        cells = ["yes" if found[place][question] else "**no**" for place, _ in PLACES]
        lines.append("| %s | %s |" % (question, " | ".join(cells)))
    return "\n".join(lines) + "\n"


def _lettered():
    return zip("abcd", PLACES)


if __name__ == "__main__":
    print(table(measure_all()), end="")
