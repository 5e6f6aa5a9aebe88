"""What 'cpe-agent status' shows people."""

from cpe_agent import guards, status

FOUND = {
    "softwire": "wan4",
    "state": status.UP,
    "additional_sets": [],
    "server": None,
    "source": None,
    "aftr": None,
    "device": "lw4o6",
    "mtu": 1460,
    "guards": {},
    "forwards": [],
    "warnings": [],
    "errors": [],
    "mappings": [],
}


def test_every_guard_that_counts_is_shown():
    counts = {name: 7001 + number for number, name in enumerate(guards.COUNTERS)}
    text = "\n".join(status.lines(dict(FOUND, guards=counts)))
    for number in counts.values():
        assert "%d " % number in text
