"""Makes a plan so on OpenWrt: netifd builds the softwire, fw4 holds the NAT.

What lives here: what is told to netifd, and in which order. Both are told of changes only; a plan
that is in place costs one question to netifd, and three to nft, each a short child process.

The shared address lives on the softwire, but is not claimed by the kernel: docs/shared-address.md.
netifd cannot say that, so its entry is taken out of the local table after netifd has put it there.
"""

from cpe_agent import log, netlink, portset
from cpe_agent.backends import BackendError, kernel
from cpe_agent.backends.fw4 import Firewall, fragments
from cpe_agent.backends.miniupnpd import Miniupnpd
from cpe_agent.bus import SET_UP_AGAIN
from cpe_agent.pyubus import PERMISSION_DENIED, UbusError
from cpe_agent.pyubus.blocking import Ubus

_TIMEOUT = 5000  # ms; netifd answers at once, or is not there
_UPDATE, _ERROR = 0, 3  # actions of notify_proto


class OpenWrt:
    """One interface of netifd, and our fragments of fw4's rules."""

    def __init__(self, interface, run_dir, firewall=None):
        """interface: interface.Interface. run_dir: where fw4 includes our fragments from."""
        self._interface = interface
        self._device = interface.softwire.device
        self._firewall = firewall or Firewall(run_dir)
        self._miniupnpd = Miniupnpd(interface.name)
        self.plan = None  # what is in place, as far as known
        self.index = None  # interface index of the softwire while it is in place

    # For the agent

    def present(self):
        """True when the softwire is there, whoever made it."""
        return kernel.index_of(self._device) is not None

    def apply(self, plan):
        """Make the plan so; None leaves no trace. True if something changed.

        Raises BackendError; then the softwire is down, unless it is as it was before.
        """
        before, self.plan = self.plan, None
        try:
            # First: no packet may pass before its guards are there.
            changed = reloaded = self._firewall.set_rules(plan, self._where())
        except BackendError:
            self._keep_or_stop(before, plan)
            raise
        seen = self._status()
        if plan and seen.get("errors") and not seen.get("up"):
            # netifd forgets them when it sets up: it calls its handler, and that calls us.
            self._notify({"action": SET_UP_AGAIN})
            return True
        changed = self._tell(plan, seen) or changed
        if plan:
            self._disclaim(plan)
        if changed:
            self._drop_stale_flows(before, seen, plan)
            kernel.drop_forwarded_flows(self._firewall.gone)
        # Last: it reads the softwire's number and addresses when it starts.
        self._miniupnpd.follow(plan, reloaded, self._firewall.load)
        self.plan = plan
        self.index = kernel.index_of(self._device)
        return changed

    def protocols(self):
        """See kernel.protocols."""
        return kernel.protocols()

    def taken(self, port_sets):
        """Ports of the sets that the user's own redirects have."""
        return self._firewall.taken(self._where(), port_sets)

    def warnings(self):
        """What of this machine's set-up keeps the line from working, as lines for people."""
        found = self._firewall.problems(*self._where(), plan=self.plan)
        return found + self._miniupnpd.problems(self.plan)

    def rules(self):
        """The rules in place, as fw4 includes them."""
        found = fragments(self.plan)
        return "# in chain srcnat\n%s\n# in table inet fw4\n%s" % (found.source_nat, found.chains)

    def counters(self):
        """{guard: packets} of the guards, empty when they are not in place."""
        return self._firewall.counters()

    def complain(self, code, text):
        """Have netifd show what is wrong, while the line is not up; each code once."""
        if self.plan is None:
            shown = [error.get("code") for error in self._status().get("errors", [])]
            if code not in shown:
                self._notify({"action": _ERROR, "error": [code, text]})

    def _where(self):
        """(device, name, zone) by which fw4's config may know the softwire."""
        return self._device, self._interface.name, self._interface.zone

    # netifd

    def _keep_or_stop(self, before, plan):
        """Rules could not be changed. If they hold to the set that is ours, the line stays."""
        if before is not None and plan is not None and set(before.port_sets) <= set(plan.port_sets):
            self.plan = before
        else:
            self._notify({"action": _UPDATE, "link-up": False})

    def _status(self):
        """What 'ifstatus' shows."""
        return self._call("network.interface." + self._interface.name, "status", {})

    def _tell(self, plan, seen):
        """Let netifd build what it has not; True if there was something to tell. seen: status."""
        if plan is None:
            if seen.get("up"):
                self._notify({"action": _UPDATE, "link-up": False})
            return bool(seen.get("up"))
        wanted = self._data(plan)
        data = seen.get("data", {})
        same = [key for key in wanted if data.get(key) == wanted[key]]
        if seen.get("up") and self.present() and len(same) == len(wanted):
            return False
        if seen.get("up") and not self.present():
            # Somebody deleted it; netifd makes it anew only after it has let it go.
            self._notify({"action": _UPDATE, "link-up": False})
        self._notify(self._update(plan, wanted))
        return True

    def _drop_stale_flows(self, before, seen, plan):
        """netifd knows the old address, too, if a forerunner of ours set it up."""
        address = before.address if before else seen.get("data", {}).get("address")
        if isinstance(address, str):
            kernel.drop_stale_flows(address, plan)

    def _data(self, plan):
        """What is shown in 'ifstatus', read by fw4 (zone), and compared by us. Additional sets are
        no news to netifd: they come and go with load, and every update runs hotplug scripts."""
        port_set = plan.port_sets[0]
        data = {
            "portset": "%d-%d" % (port_set.first, portset.last(port_set)),
            "softwire": "%s %s mtu %d" % (plan.local, plan.remote, plan.mtu),
            "address": plan.address,
        }
        if self._interface.zone:
            data["zone"] = self._interface.zone
        return data

    def _update(self, plan, data):
        tunnel = {
            "mode": "ipip6",
            "mtu": plan.mtu,
            "local": plan.local,
            "remote": plan.remote,
            # Without one: it costs 8 octets, and lwAFTRs were seen to drop it.
            "data": {"encaplimit": "ignore"},
        }
        if self._interface.tunlink:
            tunnel["link"] = self._interface.tunlink
        addresses = [{"ipaddr": one, "mask": "32"} for one in (plan.address, plan.inner)]
        route = {"target": "0.0.0.0", "netmask": "0", "source": plan.inner + "/32"}
        return {
            "action": _UPDATE,
            "link-up": True,
            "ifname": self._device,
            "tunnel": tunnel,
            "ipaddr": addresses,
            "routes": [route],
            "data": data,
        }

    def _disclaim(self, plan):
        index = kernel.index_of(self._device)
        if index is None:
            raise BackendError("netifd did not create %s; see 'logread -e netifd'" % self._device)
        try:
            netlink.disclaim(portset.octets(plan.address), index)
        except OSError as error:
            raise BackendError("cannot change the local table: %s" % error) from None
        if not kernel.accepts_local(self._device):
            kernel.accept_local(self._device)

    def _notify(self, message):
        """Tell netifd's protocol handler of the interface. One that is being taken down does not
        listen, and need not."""
        message["interface"] = self._interface.name
        try:
            self._ask("network.interface", "notify_proto", message)
        except UbusError as error:
            if error.status != PERMISSION_DENIED:
                self._failed("network.interface", error)
            log.info("netifd takes %s down" % self._interface.name)

    def _call(self, path, method, arguments):
        try:
            return self._ask(path, method, arguments)
        except UbusError as error:
            self._failed(path, error)

    def _ask(self, path, method, arguments):
        with Ubus(timeout=_TIMEOUT) as ubus:
            return ubus.call(path, method, arguments)

    def _failed(self, path, error):
        raise BackendError("netifd does not do as it should: %s: %s" % (path, error)) from None
