"""Conversations of the simulator as captures: python -m tests.sim.capture FOLDER [SEED ...]."""

import pathlib
import sys

from cpe_agent.pcp import wire
from tests.sim.simulator import Recorder, Simulation
from tests.support import pcap

# Seeds whose scenarios, together, have each kind of message.
SAMPLES = (2, 9, 11)
LONGEST = 2000  # datagrams of one capture


def conversation(seed, days=30):
    """Datagrams of one scenario, in order of time, as (ms, source, port, destination, port,
    octets), and how many answers of NAT-PMP were left out, which PCP dissectors cannot read."""
    recorder = Recorder()
    Simulation(seed, days, recorder=recorder).run()
    spoken = [one for one in recorder.datagrams if one[5][0] == wire.VERSION]
    return spoken[:LONGEST], len(recorder.datagrams) - len(spoken)


def write(path, datagrams):
    """A pcap file of them."""
    pcap.write(path, [(when / 1000, pcap.frame(*rest)) for when, *rest in datagrams])


def main(folder, *seeds):
    """One file per seed."""
    for seed in [int(text) for text in seeds] or SAMPLES:
        path = pathlib.Path(folder) / ("simulation-%d.pcap" % seed)
        datagrams, left_out = conversation(seed)
        write(path, datagrams)
        print("%s: %d datagrams, %d of NAT-PMP left out" % (path, len(datagrams), left_out))


if __name__ == "__main__":
    main(*sys.argv[1:])
