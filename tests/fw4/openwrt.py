"""OpenWrt's own firewall on the router of tests/netns: its fw4, ucode, uci, ubusd and nft.

They come from a root file system of OpenWrt, and run in a copy of it, in the router's namespace.
netifd and procd are played: fw4 asks them over the real ubus which interfaces there are, and what
services want of the firewall. (procd's answers are those of the genuine one, of 24.10.)
"""

import json
import os
import pathlib
import tempfile
import time

from cpe_agent import interface, netlink, plan
from cpe_agent.backends.fw4 import Firewall
from cpe_agent.backends.fw4_forwards import ServiceData
from cpe_agent.pyubus.blocking import Ubus
from tests.netns.topology import INNER, LAN_HOST, ROUTER, SHARED

NAME, DEVICE = "wan4", "lw4-wan4"
WHERE = (DEVICE, NAME, "")  # for Firewall.set_rules
_OURS = pathlib.Path(__file__).parents[2]
_SLOW = 60  # s; fw4 takes a second or two
_RULES = """
config defaults
    option input 'REJECT'
    option output 'ACCEPT'
    option forward 'REJECT'
    option flow_offloading '%(offload)s'

config zone
    option name 'lan'
    list network 'lan'
    option input 'ACCEPT'
    option output 'ACCEPT'
    option forward 'ACCEPT'

config zone
    option name 'wan'
    list network 'wan4'
    option input 'REJECT'
    option output 'ACCEPT'
    option forward 'REJECT'
    option masq '1'
    option mtu_fix '1'

config forwarding
    option src 'lan'
    option dest 'wan'

config redirect
    option name 'web'
    option src 'wan'
    option src_dport '1500'
    option dest 'lan'
    option dest_ip '%(lan_host)s'
    option dest_port '80'
    option proto 'tcp'
"""
_INCLUDES = """
config include 'cpe_agent_srcnat'
    option type 'nftables'
    option path '%(dir)s/fw4-srcnat.nft'
    option position 'chain-pre'
    option chain 'srcnat'

config include 'cpe_agent_table'
    option type 'nftables'
    option path '%(dir)s/fw4-table.nft'
    option position 'table-post'
"""
_NETIFD = """\
let fs = require("fs"), ubus = require("ubus"), uloop = require("uloop");
uloop.init();
let bus = ubus.connect(), services = {};
bus.publish("service", {
    set: {
        args: { name: "", instances: {}, data: {} },
        call: function(request) { services[request.args.name] = request.args.data; return {}; }
    },
    get_data: {
        args: { name: "", type: "" },
        call: function(request) {
            let found = {};
            for (let name, data in services)
                if (!request.args.name || name == request.args.name)
                    found[name] = data;
            return found;
        }
    },
    delete: {
        args: { name: "" },
        call: function(request) { delete services[request.args.name]; return {}; }
    }
});
bus.publish("network.interface", {
    dump: { call: function(request) { return json(fs.readfile("%s/dump.json")); } }
});
uloop.run();
"""


def wanted(port_set, forwards=(), **options):
    """plan.Plan for a set, with options as a user would write them. forwards: see
    topology.placed()."""
    texts = {"peeraddr": "2001:db8::1", **options}
    path = netlink.Path("wan", 1, 1500, bytes.fromhex("20010db8") + bytes(11) + b"\2")
    reserved = tuple(one.port for one in forwards)
    softwire = interface.read(NAME, texts).softwire
    return plan.build(softwire, path, port_set, forwards=forwards, reserved=reserved)


class Router:
    """fw4 on home.cpe, whose softwire and LAN are as netifd leaves them. A context manager."""

    def __init__(self, home, root):
        """home: topology.Home. root: path of OpenWrt's file system; it is not written to."""
        self._home = home
        self._lower = root
        self._space = home.cpe.namespace
        self._scratch = tempfile.TemporaryDirectory()
        # The same path in OpenWrt's file system as here, so that paths in commands need no care.
        self.dir = self._scratch.name + "/shared"
        self._root = self._scratch.name + "/over/root"
        self.reloads = 0
        self.restart_agent()

    def __enter__(self):
        os.makedirs(self.dir)
        self._mount()
        self._rename_softwire()
        self.configure()
        self._start_ubus()
        return self

    def __exit__(self, *_):
        self._scratch.cleanup()

    # For tests

    def restart_agent(self):
        """Forget what our side knows of the firewall."""
        paths = [self.dir + name for name in ("/config", "/fw4", "/run/fw4.state")]
        self.data = ServiceData(lambda timeout: Ubus(self.dir + "/run/ubus/ubus.sock", timeout))
        self.firewall = Firewall(self.dir, self._run, *paths, self.data)

    def configure(self, change=lambda text: text, offload=0):
        """Write /etc/config/firewall; it holds from the next reload on. change: for its text."""
        text = _RULES % {"offload": offload, "lan_host": LAN_HOST}
        text = change(text + _INCLUDES % {"dir": self.dir})
        self.write("config", text)

    def write(self, name, text):
        """Write a file of the shared directory."""
        pathlib.Path(self.dir, name).write_text(text)

    def tell_interfaces(self, zone=None):
        """What netifd says from now on: the LAN and the softwire, both up."""
        softwire = _interface(NAME, DEVICE, [(SHARED, 32), (INNER, 32)])
        if zone:
            softwire["data"]["zone"] = zone
        known = [_interface("lan", "br-lan", [(ROUTER, 24)]), softwire]
        self.write("dump.json", json.dumps({"interface": known}))

    def shell(self, command):
        """(exit code, output with errors) of a command on the router."""
        words = ["chroot", self._root, "/bin/sh", "-c", "exec 2>&1; " + command]
        done = self._space.run(words, check=False, timeout=_SLOW)
        return done.returncode, done.stdout

    def offloads(self):
        """True if this kernel has what fw4's flow offloading needs."""
        table = "add table inet t; add flowtable inet t f { hook ingress priority 0; }"
        return (
            self.shell("nft -c '%s; add chain inet t c; add rule inet t c flow add @f'" % table)[0]
            == 0
        )

    def chain(self, name):
        """Rules of a chain of fw4's table, as nft lists them."""
        listing = self.shell("nft list chain inet fw4 " + name)[1]
        lines = [line.strip() for line in listing.split("\n")]
        return [
            line for line in lines if line and not line.startswith(("table", "chain", "type", "}"))
        ]

    def number_softwire(self):
        """As netifd and the agent do: both addresses of one scope, the inner one as source."""
        self._home.cpe.ip(
            "link set %s up" % DEVICE,
            "addr replace %s/32 dev %s" % (SHARED, DEVICE),
            "addr replace %s/32 dev %s" % (INNER, DEVICE),
            "route del table local local %s dev %s" % (SHARED, DEVICE),
            "route replace default dev %s src %s" % (DEVICE, INNER),
        )
        self._home.cpe.sysctl("net.ipv4.conf.%s.accept_local=1" % DEVICE)

    # How it is built

    def _run(self, command):
        self.reloads += command.endswith(" reload")
        return self.shell(command)

    def _mount(self):
        over = self._scratch.name + "/over"
        os.mkdir(over)
        script = """set -e
            mount -t tmpfs none {over}
            mkdir {over}/upper {over}/work {root}
            layers=lowerdir={lower},upperdir={over}/upper,workdir={over}/work
            mount -t overlay none {root} -o $layers
            mount --rbind /proc {root}/proc
            mount --rbind /sys {root}/sys
            mount --rbind /dev {root}/dev
            mkdir -p {dir}/run/ubus {root}/tmp/run {root}{dir}
            mount --bind {dir} {root}{dir}
            mount --bind {dir}/run {root}/tmp/run
            cp {root}/sbin/fw4 {dir}/fw4
            mkdir -p {root}/usr/lib/cpe-agent
            mount --bind {ours} {root}/usr/lib/cpe-agent
            ln -sf {dir}/config {root}/etc/config/firewall
        """.format(over=over, root=self._root, lower=self._lower, dir=self.dir, ours=_OURS)
        self._space.run(["sh", "-c", script])

    def _rename_softwire(self):
        self._home.cpe.ip("link set lw4o6 down", "link set lw4o6 name " + DEVICE)
        self.number_softwire()

    def _start_ubus(self):
        self.tell_interfaces()
        self.write("netifd.uc", _NETIFD % self.dir)
        self._start("ubusd", "ubus list")
        self._start("ucode %s/netifd.uc" % self.dir, "ubus list network.interface")

    def _start(self, command, question):
        """Start a daemon, and wait until a question is answered."""
        self._space.popen(["chroot", self._root, "/bin/sh", "-c", "exec " + command])
        end = time.monotonic() + _SLOW
        while self.shell(question)[0]:
            if time.monotonic() > end:
                raise TimeoutError("%s does not start; see above" % command)
            time.sleep(0.1)


def _interface(name, device, addresses):
    return {
        "interface": name,
        "up": True,
        "l3_device": device,
        "device": device,
        "ipv4-address": [{"address": address, "mask": bits} for address, bits in addresses],
        "data": {},
    }


def root():
    """Path of OpenWrt's root file system, or None: $OPENWRT_ROOT."""
    given = os.environ.get("OPENWRT_ROOT")
    if given and not pathlib.Path(given, "sbin/fw4").exists():
        raise FileNotFoundError("OPENWRT_ROOT=%s has no sbin/fw4" % given)
    return given
