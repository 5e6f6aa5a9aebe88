"""make bench-nat: ways to hold a NAT to port sets, side by side in one run. Wants root.

Writes the tables of docs/nat.md, docs/nat-flows.svg and docs/nat-speed.svg. build/bench/nat.json
has every sample. CPU times are this machine's, so compare the ratios, taken in each round.
"""

import argparse
import contextlib
import json
import os
import pathlib
import sys

from tests.bench.nat import lab as labs
from tests.bench.nat import measure, page, ways

ROOT = pathlib.Path(__file__).resolve().parents[3]
PORTS = 1024
PINGS = 50
BETWEEN = 2  # flows
MEMORY_ROUNDS = 3  # they take long


def correctness(lab, way, port_sets):
    """What a way's users see: {name: figure}."""

    def anew():
        text = ways.beside_a_firewall(way, port_sets)
        lab.set_up(text, port_sets if way.limited else None)

    def allowed(source):
        return source[0] == ways.ADDRESS and (not way.limited or ways.contains(port_sets, source))

    found = {}
    for name, protocol in (("udp", labs.UDP), ("tcp", labs.TCP)):
        for mood, between in (("quiet", 0), ("lively", BETWEEN)):
            anew()
            fill = measure.flows_to_one_place(lab, protocol, PORTS, between, allowed)
            found["%s_%s" % (name, mood)] = fill._asdict()
    orders = (
        ("same_order", PORTS // 2, False),
        ("shuffled", PORTS // 2, True),
        ("few", measure.FEW, True),
    )
    for name, endpoints, shuffled in orders:
        anew()
        found[name] = measure.kept_endpoints(lab, endpoints, shuffled)._asdict()
    anew()
    found["pings"] = measure.pings(lab, PINGS)
    return found


def speed(port_sets, rounds):
    """{way: [{name: figure} of each round]}.

    Each way has a router of its own, side by side, and each round has a burst for one after the
    other, so that what else the machine does meets all of them.
    """
    found = {way.name: [] for way in ways.WAYS}
    bursts = {"busy": measure.busy(PORTS // 2), "scattered": measure.scattered()}
    with contextlib.ExitStack() as stack:
        routers = [_router(stack, way, port_sets) for way in ways.WAYS]
        for number in range(rounds):
            turn = routers[:: -1 if number % 2 else 1]
            samples = {way.name: {} for way, *_ in turn}
            for way, lab, sender in turn:
                samples[way.name]["packet"] = measure.packets(lab, sender)._asdict()
            for name, burst in bursts.items():
                for way, lab, sender in turn:
                    lab.forget_flows()
                    samples[way.name][name] = measure.send(lab, sender, burst)._asdict()
            for way, lab, sender in turn:
                lab.forget_flows()
                if number < MEMORY_ROUNDS:
                    octets = measure.memory(lab, sender, bursts["scattered"])
                    samples[way.name]["memory"] = octets
                found[way.name].append(samples[way.name])
    return found


def _router(stack, way, port_sets):
    """(way, Lab, sender) with the way's rules."""
    lab = stack.enter_context(labs.Lab())
    lab.set_up(ways.beside_a_firewall(way, port_sets), None)
    return way, lab, stack.enter_context(lab.sender())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=41, help="paired runs for what it costs")
    parser.add_argument("--page", default=str(ROOT / "docs/nat.md"), help="where the tables go")
    given = parser.parse_args()
    if os.geteuid():
        sys.exit("bench-nat: wants root, for namespaces whose connection tracking it may set")
    os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])  # packets are routed where they start
    result = {}
    with labs.Lab() as lab:
        for kind, port_sets in ways.KINDS.items():
            seen = {}
            for way in ways.WAYS:
                print("%s: %s ..." % (kind, way.name), flush=True)
                seen[way.name] = correctness(lab, way, port_sets)
            print("%s: what it costs, %d rounds ..." % (kind, given.rounds), flush=True)
            result[kind] = {"seen": seen, "cost": speed(port_sets, given.rounds)}
    out = ROOT / "build/bench/nat.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    page.write(pathlib.Path(given.page), result)


if __name__ == "__main__":
    main()
