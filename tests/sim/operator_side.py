"""The operator in the simulation: the lab's PCP server, with a clock and habits of its own."""

import functools
import ipaddress
import struct

from lwaftr.server import PcpServer

from cpe_agent.pcp import wire
from cpe_agent.portset import PortSet

# A clock that runs wrong by 1/17: RFC 6887 8.5 lets the epoch drift by a sixteenth of what passed.
DRIFT_UNIT = 1700
MAX_DRIFT = 100

_EPOCH = struct.Struct(">I")


@functools.lru_cache(maxsize=256)
def number(text):
    """An IPv4 address as an integer."""
    return int(ipaddress.IPv4Address(text))


class Operator:
    """PcpServer in virtual time. Times are those of the simulation; its own clock may drift."""

    def __init__(self, config, random_bytes):
        self.core = PcpServer(config, random_bytes=random_bytes, now_ms=0)
        self.up = True
        self.speaks_version_2 = True
        self.epoch_steps = (0,)  # s that answers are off by, in turn: one, or anycast servers
        self._answers = 0
        self._drift = 0
        self._anchor = (0, 0)  # simulation's time, server's time

    # Clock

    def clock(self, now):
        """The server's clock in ms."""
        there, here = self._anchor
        passed = now - there
        return here + passed + passed * self._drift // DRIFT_UNIT

    def drift(self, now, drift):
        """Let the clock run fast (or slow) by drift / DRIFT_UNIT from now on."""
        self._anchor = (now, self.clock(now))
        self._drift = drift

    def get_timer(self):
        """When handle_timer() has something to do, or None."""
        due = self.core.get_timer() if self.up else None
        if due is None:
            return None
        there, here = self._anchor
        at = there + (due - here) * DRIFT_UNIT // (DRIFT_UNIT + self._drift)
        while self.clock(at) < due:
            at += 1
        return at

    # Datagrams

    def receive(self, now, data, address, port):
        """Answers to one datagram, as (octets, address, port)."""
        if not self.up:
            return []
        if not self.speaks_version_2:
            refusal = bytes([0, data[1] | wire.RESPONSE_BIT, 0, wire.UNSUPP_VERSION])
            return [(refusal + _EPOCH.pack(0), address, port)]  # as NAT-PMP's, RFC 6886 3.5
        return self.sent(self.core.receive(self.clock(now), data, address, port))

    def handle_timer(self, now):
        """What is due."""
        return self.sent(self.core.handle_timer(self.clock(now))) if self.up else []

    def sent(self, outgoing):
        """The core's datagrams as they leave here: with the epoch that this server shows."""
        if self.epoch_steps == (0,):
            return outgoing
        return [(self._shift(data), address, port) for data, address, port in outgoing]

    def _shift(self, data):
        self._answers += 1
        step = self.epoch_steps[self._answers % len(self.epoch_steps)]
        epoch = _EPOCH.unpack_from(data, 8)[0] + step & 0xFFFFFFFF
        return data[:8] + _EPOCH.pack(epoch) + data[12:]

    # What it believes

    def lets_pass(self, now, address, port_set):
        """True when packets of that IPv6 address may leave from all ports of the set."""
        last = port_set.first + port_set.size - 1
        shared = number(port_set.address)
        for binding in self.core.bindings.of_client(address):
            inside = binding.first <= port_set.first and last <= binding.last
            if inside and binding.address == shared:
                return binding.expiry_ms is None or self.clock(now) <= binding.expiry_ms
        return False

    def sets_of_others(self, address):
        """Port sets of all IPv6 addresses but that one."""
        return [
            PortSet(str(ipaddress.IPv4Address(binding.address)), binding.first, binding.size)
            for binding in self.core.bindings
            if binding.client != address
        ]
