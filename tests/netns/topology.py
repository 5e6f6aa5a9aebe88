"""A home, its lwAFTR, a neighbour and the Internet, as namespaces.

    lan ── cpe ══lw4o6══ aftr ── inet       The softwires are veth links: not every kernel has
                  nei ═══╯                  IPv4-in-IPv6 tunnels, and what matters is behind them.

The neighbour has the same IPv4 address and the next 1024 ports. The aftr knows its customers by
the destination port alone; what is in no set goes to the cpe, whose guards have to stop it.
"""

import json
import os
import pathlib
import sys
import tempfile

from cpe_agent import config, forwards, netlink, plan, portset
from cpe_agent.backends import kernel
from cpe_agent.pcp import wire
from tests.support import netns

_ROOT = str(pathlib.Path(__file__).parents[2])
SHARED = "192.0.2.3"
OWN = portset.PortSet(SHARED, 1024, 1024)
NEIGHBOUR = portset.PortSet(SHARED, 2048, 1024)
INNER = "192.0.0.2"
LAN_HOST = "192.168.1.10"
ROUTER = "192.168.1.1"
AFTR = "192.0.0.1"
INTERNET = ["198.51.100.%d" % number for number in range(1, 6)]
PATIENCE = 5  # s; for what is expected to come
IMPATIENCE = 0.5  # s; for what is expected not to

_LINKS = (
    ("lan", "eth0", "cpe", "br-lan"),
    ("cpe", "lw4o6", "aftr", "t1"),
    ("nei", "lw4o6", "aftr", "t2"),
    ("aftr", "w0", "inet", "eth0"),
    ("cpe", "wan", "aftr", "wan"),  # the IPv6 access, for PCP alone
)

_AFTR = """\
table ip lwaftr {
 chain customers {
  type filter hook prerouting priority mangle
  ip daddr %(shared)s meta l4proto { tcp, udp } th dport 1024-2047 meta mark set 1
  ip daddr %(shared)s meta l4proto { tcp, udp } th dport 2048-3071 meta mark set 2
  ip daddr %(shared)s icmp id 1024-2047 meta mark set 1
  ip daddr %(shared)s icmp id 2048-3071 meta mark set 2
 }
}
"""


class Hand:
    """A namespace and a process in it that does things there by call."""

    def __init__(self, namespace, directory):
        self.namespace = namespace
        namespace.run(["mount", "-t", "sysfs", "none", "/sys"])  # it shows its mounter's network
        self._process = namespace.popen(
            ["env", "RUN_DIR=" + directory, "PYTHONPATH=" + _ROOT]
            + [sys.executable, "-m", "tests.netns.inside"],
            stdin=-1,
            stdout=-1,
            text=True,
        )

    def call(self, name, *arguments):
        """What the function of that name in inside.py gives."""
        self._process.stdin.write(json.dumps([name, arguments]) + "\n")
        self._process.stdin.flush()
        reply = json.loads(self._process.stdout.readline())
        if "error" in reply:
            raise RuntimeError("%s in '%s': %s" % (name, self.namespace.name, reply["error"]))
        return reply["answer"]

    def ip(self, *lines):
        """Run lines of 'ip'."""
        self.namespace.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n")

    def nft(self, text):
        """Run commands of nft."""
        self.namespace.run(["nft", "-f", "-"], input=text)

    def sysctl(self, *settings):
        """Set some of the kernel's switches."""
        self.namespace.run(["sysctl", "-qw", *settings])


class Home:
    """The whole, as a context manager; .lan, .cpe, .aftr, .nei and .inet are Hands."""

    def __init__(self):
        self._network = netns.Network()
        self._directory = tempfile.TemporaryDirectory()

    def __enter__(self):
        self._network.__enter__()
        try:
            for name in ("lan", "cpe", "aftr", "nei", "inet"):
                namespace = self._network.namespace(name)
                directory = os.path.join(self._directory.name, name)
                os.mkdir(directory)
                setattr(self, name, Hand(namespace, directory))
            for one, device, other, other_device in _LINKS:
                self._link(getattr(self, one), device, getattr(self, other), other_device)
            self._configure()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self._network.__exit__()
        self._directory.cleanup()

    def _link(self, one, device, other, other_device):
        self._network.link(one.namespace, device, other.namespace, other_device)
        if device != "eth0":  # all but the LAN are as tunnels: no neighbour discovery
            one.ip("link set %s address 02:00:00:00:00:01 arp off" % device)
            other.ip("link set %s address 02:00:00:00:00:01 arp off" % other_device)

    def _configure(self):
        for router in (self.cpe, self.aftr, self.nei):
            router.sysctl("net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0")
        for hand in (self.lan, self.cpe, self.aftr, self.inet):
            hand.sysctl("net.ipv4.icmp_ratelimit=0")  # tests ask for more errors than people
        for one, device, other, other_device in _LINKS:
            getattr(self, one).sysctl("net.ipv4.conf.%s.rp_filter=0" % device)
            getattr(self, other).sysctl("net.ipv4.conf.%s.rp_filter=0" % other_device)
        self.lan.ip("addr add %s/24 dev eth0" % LAN_HOST, "route add default via " + ROUTER)
        self.cpe.ip("addr add %s/24 dev br-lan" % ROUTER)
        self.cpe.namespace.put_address("wan", "2001:db8:1::2/64")
        self.aftr.namespace.put_address("wan", "2001:db8:1::1/64")
        self.inet.ip(*["addr add %s/32 dev eth0" % address for address in INTERNET])
        self.inet.ip("route add default dev eth0 src " + INTERNET[0])
        self.aftr.nft(_AFTR % {"shared": SHARED})
        self.aftr.ip(
            "addr add %s/32 dev w0" % AFTR,
            "route add 198.51.100.0/24 dev w0 src " + AFTR,
            "route add %s/32 dev t1" % SHARED,
            "rule add fwmark 1 lookup 101",
            "rule add fwmark 2 lookup 102",
            "route add default dev t1 table 101",
            "route add default dev t2 table 102",
        )
        # The neighbour's router runs the same rules, and has a forward to its own server.
        self.nei.ip("addr add %s/32 dev lw4o6" % INNER, "route add default dev lw4o6")
        self.nei.nft(nat_text(NEIGHBOUR))
        self.nei.nft(forward_text(2500, "%s:80" % INNER))
        self.lan.call("serve", 80)
        self.nei.call("serve", 80)
        self.inet.call("serve", 80, *INTERNET)
        self.inet.call("sniff", "eth0")
        self.lan.call("sniff", "eth0")


def settings(**options):
    """config.Softwire with some options as a user would write them."""
    lines = ["config softwire", " option aftr '2001:db8::1'"]
    lines += [" option %s '%s'" % (name, options[name]) for name in sorted(options)]
    return config.parse("\n".join(lines)).softwire


def nat_text(port_set, mtu=1460, **options):
    """The agent's commands for nft."""
    return plan.nat_text(settings(**options), port_set, mtu)


def wanted(port_set, *others, closed=(), placed=(), **options):
    """The agent's plan as inside.apply() takes it. others: additional sets. closed: those of them
    that new flows may not use. placed: tuple of forwards.Placed."""
    source = bytes.fromhex("20010db8") + bytes(11) + b"\2"
    path = netlink.Path("wan", 1, 1500, source)
    reserved, more = forwards.reserved(placed), kernel.protocols()
    found = plan.build(settings(**options), path, port_set, others, closed, placed, reserved, more)
    return found._asdict()


def placed(port_set, *sections):
    """Tuple of forwards.Placed. sections: {option: text} of 'config forward'."""
    lines = ["config softwire", " option aftr '2001:db8::1'"]
    for number, options in enumerate(sections):
        lines.append("config forward 'f%d'" % number)
        lines += [" option %s '%s'" % item for item in options.items()]
    found = config.parse("\n".join(lines)).forwards
    return forwards.place(found, (port_set,), INNER, wire.PROTO_ALL)


def forward_text(port, target):
    """A port forward as fw4 makes one: DNAT, and reflection for hosts of the same LAN."""
    return """\
table ip forwards {
 chain dstnat {
  type nat hook prerouting priority dstnat
  ip daddr %(shared)s tcp dport %(port)d dnat to %(target)s
 }
 chain reflection {
  type nat hook postrouting priority 90
  ip saddr 192.168.1.0/24 ip daddr 192.168.1.0/24 ct status dnat masquerade
 }
}
""" % {"shared": SHARED, "port": port, "target": target}


def in_set(packet, port_set=OWN):
    """True when a packet of sniffed() has its source in the set."""
    if packet["source"] != port_set.address:
        return False
    return "port" not in packet or portset.contains(port_set, packet["port"])
