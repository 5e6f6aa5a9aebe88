"""A home whose router is OpenWrt: installing, asking its daemons, and counting what they do."""

import re
import shlex
import time

from cpelab.openwrt import SHARED

from tests.e2e.scenarios.home import LWAFTR, PATIENCE, POOL, ROUTER, Home

INTERFACE = "wan4"
DEVICE = "lw4-wan4"
CHAINS = ("srcnat", "cpe_agent_walk_tcp", "cpe_agent_walk_udp", "cpe_agent_translate")
CHAINS += ("cpe_agent_guard_out", "cpe_agent_guard_in", "cpe_agent_forward")
COUNT_HOTPLUG = "/etc/hotplug.d/iface/99-lab"
COUNTED = "/tmp/lab-hotplug"
# The line of a softwire's interface that works with the lab's lwAFTR.
OPTIONS = {"proto": "lw4o6", "peeraddr": LWAFTR, "zone": "wan"}

_TO_BEGIN = f"""
ifdown {INTERFACE}
/etc/init.d/cpe-agent stop
cp /mnt/lab-config/* /etc/config/
rm -rf /etc/cpe-agent/* /var/run/cpe-agent /tmp/.uci/*
ubus call network reload
conntrack -F
/etc/init.d/cpe-agent start
fw4 -q reload
"""


class OpenWrtHome(Home):
    """A Home as of tests/e2e, with an OpenWrt router of the lab's class OpenWrtLab."""

    def __init__(self, lab, packages):
        """packages: names of files in the router's SHARED, .ipk and .apk."""
        super().__init__(lab)
        self._packages = packages
        self._fresh = True
        self.exported = None  # what `uci export` said before the package came

    # ------------------------------------------------------------ the package

    def install(self):
        """Install the package, as a user does it, and let netifd learn the protocol."""
        cpe = self.lab.cpe
        self.exported = cpe.check("uci export")
        if self.lab.router.kind == "image":
            self._open_feed()
        apk = self.lab.has_apk()
        [name] = [name for name in self._packages if name.endswith(".apk") == apk]
        install = "apk add --allow-untrusted" if apk else "opkg install"
        cpe.check(f"{install} {SHARED}/{name}", timeout=600)
        cpe.check("/etc/init.d/network restart", timeout=60)
        cpe.wait_until("ping6 -c 1 -W 1 2001:db8:c0de::1", timeout=90)
        cpe.put(COUNT_HOTPLUG, f'echo "$ACTION $INTERFACE $DEVICE" >> {COUNTED}\n')
        cpe.check("mkdir -p /mnt/lab-config; cp /etc/config/* /mnt/lab-config/")

    def remove(self):
        """Remove the package, as a user does it."""
        remove = "apk del" if self.lab.has_apk() else "opkg remove"
        self.lab.cpe.check(f"{remove} cpe-agent", timeout=180)

    def _open_feed(self):
        """A network of QEMU's own, by which to get what the package depends on."""
        self.lab.uci(
            "network.feed=interface", "network.feed.device=eth2", "network.feed.proto=dhcp"
        )
        self.lab.cpe.check("ifup feed", timeout=60)
        self.lab.cpe.wait_until("ifstatus feed | grep -q '\"up\": true'", timeout=60)
        update = "apk update" if self.lab.has_apk() else "opkg update"
        self.lab.cpe.check(f"uci revert network; {update}", timeout=300)

    def is_installed(self):
        return self.lab.cpe.run("[ -x /etc/init.d/cpe-agent ]").code == 0

    # ------------------------------------------------------------ beginning

    def begin(self, *, fresh=True, wait=True, faults=None, running=True, options=None, **lwaftr):
        """A router without a softwire at an empty lwAFTR, then `ifup` of one; its status.

        fresh: False goes on with the line that the last test left, if it is well. wait: for the
        line. faults: of the lwAFTR's server. running: False has the lwAFTR down. options: of the
        interface, beside OPTIONS; None takes one away. lwaftr: sections of its config.
        """
        if not self.is_installed():
            self.install()
            self._fresh = True
        alike = (options, lwaftr)
        if not fresh and alike == self._began and not self._fresh:
            found = self.status()
            if found.get("state") == "up" and not found["errors"]:
                return found
        self._began = alike
        self._fresh = False
        self.lab.cpe.run(_TO_BEGIN, timeout=60)
        self._begin_lwaftr(lwaftr)
        if faults:
            self.lwaftr("fault", **faults)
        if not running:
            self.lab.stop_lwaftr()
            self._config = None
        self.configure(options)
        self.lab.cpe.check(f"ubus call network reload; ifup {INTERFACE}", timeout=60)
        return self.wait_up() if wait else None

    def begin_lwaftr(self):
        """Start the lwAFTR, or have the one that runs forget all."""
        self._begin_lwaftr({})

    def configure(self, options=None, name=INTERFACE):
        """Write the interface to /etc/config/network."""
        wanted = {key: text for key, text in {**OPTIONS, **(options or {})}.items() if text}
        lines = [f"uci -q delete network.{name}; uci set network.{name}=interface"]
        for key, value in wanted.items():
            for one in value if isinstance(value, list) else [value]:
                verb = "add_list" if isinstance(value, list) else "set"
                lines.append(f"uci {verb} network.{name}.{key}={shlex.quote(one)}")
        self.lab.cpe.check("\n".join([*lines, "uci commit network"]))

    # ------------------------------------------------------------ asking

    def ubus(self, path, method):
        """What a call of ubus answers; {} if there is no such object, or no answer."""
        result = self.lab.cpe.run(f"ubus -S call {path} {method}")
        return result.json() if result.code == 0 and result.stdout else {}

    def status(self):
        return self.ubus("cpe-agent", "status")

    def ifstatus(self):
        return self.ubus(f"network.interface.{INTERFACE}", "status")

    def wait_ifstatus(self, wanted, timeout=PATIENCE):
        """ifstatus when wanted(ifstatus) is true."""
        end = time.monotonic() + timeout
        while True:
            found = self.ifstatus()
            if found and wanted(found):
                return found
            if time.monotonic() > end:
                raise self.lab.cpe.failure(f"not within {timeout} s: {found}\n{self.log()}")
            time.sleep(0.5)

    def wait_up(self, timeout=PATIENCE):
        """Status when a set is held, netifd has the interface up, and fw4 has it in a zone."""
        self.wait_ifstatus(lambda found: found["up"], timeout)
        # The hotplug script that has fw4 look at a new interface takes its time.
        in_zone = f"nft list chain inet fw4 input | grep -q {DEVICE}"
        self.lab.cpe.wait_until(in_zone, timeout, pause=1)
        return super().wait_up(timeout)

    def wait_code(self, code, timeout=PATIENCE):
        """ifstatus when it shows an error code."""
        return self.wait_ifstatus(lambda found: code in codes(found), timeout)

    def log(self):
        return self.lab.cpe.run("logread -e 'cpe-agent\\|netifd\\|firewall'").stdout

    def wait_log(self, text, count=1, timeout=PATIENCE):
        pattern = text.replace("'", ".")
        self.lab.cpe.wait_until(f"[ $(logread | grep -c '{pattern}') -ge {count} ]", timeout)

    def renew(self):
        self.lab.cpe.check("ubus call cpe-agent renew")

    def agent(self):
        """The agent's process id, or None."""
        found = self.lab.cpe.run("pgrep -f 'm [c]pe_agent run'").stdout.split()
        return int(found[0]) if found else None

    def wait_other_agent(self, old):
        """Wait until another process is the agent, and has a line."""
        end = time.monotonic() + PATIENCE
        while self.agent() in (None, old):
            assert time.monotonic() < end, f"no other agent: {self.log()}"
            time.sleep(0.5)
        return self.wait_up()

    # ------------------------------------------------------------ the router's network

    def has_softwire(self):
        return self.lab.cpe.run(f"ip link show {DEVICE}").code == 0

    def softwire(self):
        """What of a line must not change while nobody changes the line: the device with its
        index, its addresses, the routes by it, its NAT, its guards."""
        cpe = self.lab.cpe
        found = {
            question: cpe.check(question)
            for question in (
                f"ip -d link show {DEVICE}",
                f"ip addr show {DEVICE}",
                f"ip route show dev {DEVICE}",
                f"ip route show table local dev {DEVICE}",
            )
        }
        found["rules"] = self.rules()
        return found

    def rules(self):
        """Our part of the ruleset that is in force, without its counts."""
        nft = "nft -s list chain inet fw4"
        texts = [self.lab.cpe.run(f"{nft} {name}").stdout for name in CHAINS]
        return "\n".join(
            line
            for text in texts
            for line in text.splitlines()
            if "lw4-" in line or "cpe-agent" in line or POOL in line
        )

    def is_closed(self):
        """True if nothing can leave by a softwire: the guards are there, and no NAT."""
        rules = self.rules()
        return '"lw4-*"' in rules and "snat" not in rules

    def firewall_loads(self):
        """Number that changes whenever the firewall is loaded: nft numbers what it loads anew."""
        listing = self.lab.cpe.check("nft -a list chain inet fw4 srcnat")
        return re.search(r"chain srcnat .*# handle (\d+)", listing).group(1), re.findall(
            r"handle (\d+)", listing
        )

    def hotplug_calls(self):
        """What netifd told hotplug scripts of the softwire since the last call."""
        said = self.lab.cpe.run(f"cat {COUNTED}; rm -f {COUNTED}").stdout.splitlines()
        return [line for line in said if f" {INTERFACE} " in line + " "]

    def outside(self):
        """Why packets came to the lwAFTR outside of the set, and how many."""
        return self.lwaftr("counters")["outside_set"]

    def routes_by_softwire(self):
        return self.lab.cpe.check("ip route").count(DEVICE)

    def is_nothing_left(self):
        """True if neither device nor route nor NAT of the line is there."""
        return not self.has_softwire() and not self.routes_by_softwire() and self.is_closed()

    def wait_nothing_left(self, timeout=PATIENCE):
        end = time.monotonic() + timeout
        while not self.is_nothing_left():
            assert time.monotonic() < end, f"{self.rules()}\n{self.log()}"
            time.sleep(0.5)


def codes(found):
    """The error codes of an ifstatus."""
    return [error["code"] for error in found.get("errors", [])]


__all__ = ["DEVICE", "INTERFACE", "LWAFTR", "POOL", "ROUTER", "OpenWrtHome", "codes"]
