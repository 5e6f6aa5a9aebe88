"""What is measured of each way, each function for one way whose rules are in place."""

import pathlib
import random
import time
from collections import defaultdict, namedtuple

from tests.bench.nat import lab as labs

VISITED = 50  # places that an endpoint visits
FEW = 64  # endpoints, beside half as many as there are ports
PATIENCE = 0.05  # s; for frames that may be on their way
ONE_FLOW = 150  # times HANDFUL packets
NEW_PLACES = 40
SCATTERED = 20000  # flows
COLLECTED = 5  # s; nft forgets some of the counts that nobody needs every second

# ns of CPU for each flow or packet that arrived; share: of the sent ones that did.
Cost = namedtuple("Cost", ("ns", "share"))
# before_loss: flows before the first loss. passed: flows that pass.
Fill = namedtuple("Fill", ("before_loss", "passed"))
# kept: share of endpoints with one external port. lost: share of packets.
Kept = namedtuple("Kept", ("kept", "lost"))


def flows_to_one_place(lab, protocol, ports, between, allowed):
    """Fill of as many flows as there are ports.

    between: at most so many flows to other places after each one. allowed(source): True for what
    may leave; what else arrives counts as lost.
    """
    rng = random.Random(1)
    passed, others = set(), 0
    with lab.sender() as sender, lab.at_server() as server:
        for tag in range(ports):
            sender.send(labs.frame(protocol, labs.endpoint(tag), labs.PLACES[0], tag))
            for _ in range(rng.randint(0, between)):
                others += 1
                place = labs.PLACES[others % (len(labs.PLACES) - 1) + 1]
                sender.send(labs.frame(protocol, labs.endpoint(ports + others), place, ports))
            if tag % 100 == 99 or tag == ports - 1:
                found = labs.seen(server, PATIENCE)
                passed.update(one.tag for one in found if allowed(one.source))
    passed.discard(ports)
    first = next(tag for tag in range(ports + 1) if tag not in passed)
    return Fill(first, len(passed))


def kept_endpoints(lab, endpoints, shuffled):
    """Kept of UDP endpoints that all visit VISITED places, in the same order or in none."""
    jobs = [(number, place) for place in range(VISITED) for number in range(endpoints)]
    if shuffled:
        random.Random(2).shuffle(jobs)
    external, arrived = defaultdict(set), 0
    with lab.sender() as sender, lab.at_server() as server:
        for tag, (number, place) in enumerate(jobs):
            sender.send(labs.frame(labs.UDP, labs.endpoint(number), labs.PLACES[place], tag))
            if tag % 200 == 199 or tag == len(jobs) - 1:
                for one in labs.seen(server, PATIENCE):
                    external[jobs[one.tag][0]].add(one.source)
                    arrived += 1
    kept = sum(len(sources) == 1 for sources in external.values())
    return Kept(kept / endpoints, 1 - arrived / len(jobs))


def pings(lab, count):
    """How many of so many hosts' echo requests, with identifiers from all over, are answered."""
    with lab.sender() as sender, lab.at_lan() as answers:
        for tag in range(count):
            sender.send(labs.frame(labs.ICMP, labs.endpoint(tag), labs.PLACES[0], tag))
        time.sleep(PATIENCE)
        return len({(one.destination, one.source) for one in labs.seen(answers, PATIENCE)})


def packets(lab, sender):
    """Cost of a packet of one flow."""
    burst = labs.Burst([labs.frame(labs.UDP, labs.endpoint(0), labs.PLACES[0])] * labs.HANDFUL)
    burst.send(sender)  # the first one makes the flow
    return send(lab, sender, burst, ONE_FLOW)


def send(lab, sender, burst, times=1):
    """Cost of a burst's frames."""
    lab.arrived()
    seconds = burst.send(sender, times)
    time.sleep(0.01)
    arrived = max(lab.arrived(), 1)
    return Cost(seconds / arrived * 1e9, arrived / burst.count / times)


def busy(endpoints):
    """Burst of new flows: so many endpoints, each to NEW_PLACES places in the same order."""
    return labs.Burst(
        labs.frame(labs.UDP, labs.endpoint(number), labs.PLACES[place])
        for place in range(NEW_PLACES)
        for number in range(endpoints)
    )


def scattered():
    """Burst of new flows, each of an endpoint and to a place of its own."""
    return labs.Burst(
        labs.frame(labs.UDP, labs.endpoint(number), labs.PLACES[0], port=1024 + number)
        for number in range(SCATTERED)
    )


def memory(lab, sender, burst):
    """Octets of the kernel that each flow of a burst gives back at its end."""
    send(lab, sender, burst)
    before = _kernel_memory()
    lab.forget_flows()
    time.sleep(COLLECTED)
    return (before - _kernel_memory()) / burst.count


def _kernel_memory():
    """Octets that the whole kernel holds and cannot give up."""
    fields = ("SUnreclaim:", "Percpu:")
    lines = map(str.split, pathlib.Path("/proc/meminfo").read_text().splitlines())
    return sum(int(line[1]) * 1024 for line in lines if line[0] in fields)
