"""What the tests make both runtimes resolve: RESOLV_CONF JUMPS NAME...

A line for each change, 'name address,address error', then how many files were left open. Ends when
every name has addresses, or after that many jumps. Time is virtual: it jumps to the next timer
whenever nothing has come for a while.
"""

import os
import sys

sys.path.insert(0, __file__.rsplit("/", 4)[0])

from cpe_agent import address, clock, net, resolver

_QUIET = 500  # ms without a datagram


class Program:
    def __init__(self, resolv_conf):
        self.now = 1000000
        self.poller = net.Poller()
        self.before = self.files()
        self.resolver = resolver.Resolver(
            self.poller, lambda: self.now, os.urandom, self.tell, resolv_conf
        )

    def files(self):
        """How many files this process has open."""
        return len(os.listdir("/proc/self/fd"))

    def tell(self, name):
        found = [address.text(one) for one in self.resolver.addresses(name)]
        print(name, ",".join(found) or "-", self.resolver.error(name) or "-")

    def settled(self, names):
        """True if each name has all its addresses, and nothing is under way."""
        done = [name for name in names if self.resolver.addresses(name)]
        return len(done) == len(names) and self.files() == self.before

    def run(self, names, jumps):
        watch = clock.Clock()
        for name in names:
            self.resolver.add(name)
        while jumps and not self.settled(names):
            began = watch.now()
            self.poller.wait(_QUIET)
            if watch.now() - began >= _QUIET:
                jumps -= 1
                self.now = max(self.now, self.resolver.get_timer())
            self.resolver.handle_timer(self.now)
        for name in names:
            self.tell(name)
            self.resolver.remove(name)
        print("files left open:", self.files() - self.before)


Program(sys.argv[1]).run(sys.argv[3:], int(sys.argv[2]))
