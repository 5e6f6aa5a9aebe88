"""Makes a plan so on any Linux with iproute2 and nft, and finds out whether it is so.

What lives here: commands, their order, and the way back when one fails. Deciding what is wanted is
plan.py's. Commands are built from checked values only, and are run for changes only: a plan that is
in place costs one look.

Where the shared address lives (docs/shared-address.md has the experiment): it is on the softwire,
so that tools see it, but the kernel does not claim it. Its entry in the local table is deleted,
since with it all 65536 ports of the address would be the router's own, and a neighbour who shares
the address could not be reached; accept_local lets that neighbour's packets in, which bear our own
address as source. The router itself sends from the inner address, and NAT does the rest.
"""

import json
from collections import namedtuple

from cpe_agent import advice, algs, forwards, log, nft, own_table, portset
from cpe_agent.backends import BackendError, child, kernel

# tunnel: (local, remote, mtu, up, underlay) or None. addresses: sorted (address, scope).
# claimed: local table entries of the shared address. route: (inner address, metric) or None.
# nat: mark found in the nft table, or None.
Observed = namedtuple(
    "Observed", ("tunnel", "addresses", "claimed", "route", "accept_local", "nat")
)


_ABSENT = Observed(None, [], [], None, False, None)


class Linux:
    """The network of this machine, as far as it is ours: one softwire, one nft table."""

    def __init__(self, device, run_dir):
        """device: name of the softwire. run_dir: for files that live for one command."""
        self._device = device
        self._dir = run_dir
        self.plan = None  # what is in place, as far as known
        self.index = None  # interface index of the softwire while it is in place

    # For the agent

    def present(self):
        """True when the softwire is there, whoever made it."""
        return kernel.index_of(self._device) is not None

    def apply(self, plan):
        """Make the plan so; None leaves no trace. True if something changed.

        Raises BackendError after going back to what was there before.
        """
        before, self.plan = self.plan, None
        adopted = before is None and self.present()
        try:
            changed = self._converge(plan)
            if before and plan:
                kernel.drop_forwarded_flows(forwards.gone(before.forwards, plan.forwards))
        except BackendError as error:
            if adopted and plan is not None:
                raise BackendError("%s; the line that was found is left as it is" % error) from None
            self._go_back(before, error)
        self.plan = plan
        self.index = kernel.index_of(self._device)
        return changed

    def protocols(self):
        """See kernel.protocols."""
        return kernel.protocols()

    def taken(self, _port_sets):
        """Ports of the sets that others forward: nobody tells us of any."""
        return ()

    def warnings(self):
        """What of this machine's set-up keeps the line from working, as lines for people."""
        found = algs.problems(kernel.gateways(), None) if kernel.uses_gateways() else []
        try:
            with open("/proc/sys/net/ipv4/ip_forward") as file:
                is_router = file.read().strip() == "1"
        except OSError:
            is_router = True
        if is_router:
            return found
        return found + [
            "this machine does not forward IPv4: 'sysctl -w net.ipv4.ip_forward=1' lets the LAN"
            " use the line"
        ]

    def rules(self):
        """The rules in place, as text for nft."""
        return self.plan.nat

    def counters(self):
        """{guard: packets} of the guards, empty when they are not in place."""
        code, listing = self._run("nft list counters table " + own_table.NAME)
        return nft.parse_counters(listing) if code == 0 else {}

    def complain(self, _code, _text):
        """Nobody else shows what is wrong: log and status do."""

    # Changes

    def _converge(self, plan):
        seen = self._observe(plan)
        if plan is None:
            return self._take_down(seen)
        changed = False
        if seen.nat != plan.mark:  # first: no packet may pass before its guards are there
            self._nft(plan.nat)
            _drop_stale_flows(seen, plan)
            if seen.nat is not None:
                self._tidy(plan)
            changed = True
        commands = _commands(plan, seen)
        if commands:
            self._ip(commands)
            changed = True
        if not seen.accept_local:
            kernel.accept_local(self._device)
            changed = True
        return changed

    def _tidy(self, plan):
        """Delete sets of earlier rules; at the next change if it fails now."""
        code, listing = self._run(nft.LIST_SETS + own_table.NAME)
        stale = nft.stale_sets(listing, own_table.NAME, plan) if code == 0 else ""
        if not stale:
            return
        try:
            self._nft(stale)
        except BackendError as error:
            log.warning("nft's sets of earlier rules are left: %s" % error)

    def _take_down(self, seen):
        if seen.tunnel:
            self._ip(["link del dev " + self._device])
            _drop_stale_flows(seen, None)
        self._nft(own_table.removal())  # last: the guards outlive the softwire
        return bool(seen.tunnel)

    def _go_back(self, before, error):
        """Restore what was there before a failed change, then raise the error."""
        self.plan = before  # what to go back to next time, too
        try:
            self._converge(before)
        except BackendError as second:
            why = "for the same reason" if str(second) == str(error) else str(second)
            raise BackendError("%s; going back failed too: %s" % (error, why)) from None
        raise BackendError("%s; what was there before is there again" % error)

    # What is there

    def _observe(self, plan):
        if not self.present():
            return _ABSENT
        questions = "addr show", "route show default", "route show table local"
        lines = ["%s dev %s" % (question, self._device) for question in questions]
        # Not 'ip -4': that lists no link that has no IPv4 address.
        answers = self._batch("ip -j -d -batch", lines).split("\n")
        try:
            link, route, local = [json.loads(answer) for answer in answers if answer.strip()]
        except ValueError:
            raise BackendError("'ip -j' gave no JSON; iproute2 is needed") from None
        addresses = [
            (entry["local"], entry["scope"])
            for entry in link[0]["addr_info"]
            if entry["family"] == "inet"
        ]
        return Observed(
            _tunnel(link[0]),
            sorted(addresses),
            _claimed(local, plan),
            _default_route(route),
            kernel.accepts_local(self._device),
            self._mark(),
        )

    def _mark(self):
        code, listing = self._run("nft -t list table " + own_table.NAME)
        if code:
            return None
        start = listing.find('comment "cpe-agent ')
        return listing[start + 9 : listing.find('"', start + 9)] if start >= 0 else ""

    # Child processes

    def _ip(self, commands):
        self._batch("ip -batch", commands)

    def _nft(self, text):
        self._batch("nft -f", [text.rstrip("\n")])

    def _batch(self, tool, lines):
        """Output of a tool that reads commands from a file: one child process for all of them."""
        path = self._dir + "/batch"
        text = "\n".join(lines) + "\n"
        try:
            with open(path, "w") as file:
                file.write(text)
        except OSError as error:
            raise BackendError("cannot write %s: %s" % (path, error)) from None
        code, output = self._run("%s %s" % (tool, path))
        if code:
            raise BackendError(_failure(tool, lines, output))
        return output

    def _run(self, command):
        return child.run(command, self._dir + "/output")


def _drop_stale_flows(seen, plan):
    for address, scope in seen.addresses:
        if scope == "link":
            kernel.drop_stale_flows(address, plan)


def _commands(plan, seen):
    """Lines for 'ip -batch' that lead from what is seen to the plan."""
    lines = []
    wanted = (plan.local, plan.remote, plan.mtu, True, plan.underlay)
    if seen.tunnel != wanted:
        if seen.tunnel:
            lines.append("link del dev " + plan.device)
        lines += _tunnel_commands(plan)
        seen = Observed(wanted, [], [], None, False, seen.nat)
    lines += _address_commands(plan, seen)
    route = None if plan.metric is None else (plan.inner, plan.metric)
    if seen.route != route and seen.route is not None:
        lines.append("route del default dev %s metric %d" % (plan.device, seen.route[1]))
    if seen.route != route and route is not None:
        lines.append(
            "route add default dev %s src %s metric %d" % (plan.device, route[0], route[1])
        )
    return lines


def _tunnel_commands(plan):
    # No encapsulation limit: it costs 8 octets, and lwAFTRs were seen to drop it.
    return [
        "link add name %s type ip6tnl mode ipip6 local %s remote %s dev %s encaplimit none"
        " tclass inherit" % (plan.device, plan.local, plan.remote, plan.underlay),
        "link set dev %s mtu %d up" % (plan.device, plan.mtu),
    ]


def _address_commands(plan, seen):
    wanted = sorted([(plan.address, "link"), (plan.inner, "global")])
    lines = []
    for address, _ in seen.addresses:
        if address not in (plan.address, plan.inner):
            lines.append("addr del %s/32 dev %s" % (address, plan.device))
    claimed = list(seen.claimed)
    # Scope link keeps the kernel from choosing it as source, and lists it first for tools.
    for address, scope in wanted:
        if (address, scope) not in seen.addresses:
            lines.append("addr replace %s/32 dev %s scope %s" % (address, plan.device, scope))
            if address == plan.address:
                claimed = [address]
    lines += ["route del table local local %s dev %s" % (one, plan.device) for one in claimed]
    return lines


def _tunnel(link):
    """What there is under our name. A device of another kind is somebody else's."""
    kind = link.get("linkinfo", {}).get("info_kind", "plain")
    if kind != "ip6tnl":
        raise BackendError(
            "%s is there already, and is a %s device, no softwire; set option device to another"
            " name" % (link["ifname"], kind)
        )
    data = link.get("linkinfo", {}).get("info_data", {})
    up = "UP" in link.get("flags", [])
    return data.get("local"), data.get("remote"), link.get("mtu"), up, link.get("link")


def _claimed(local, plan):
    if plan is None:
        return []
    return [entry.get("dst") for entry in local if entry.get("dst") == plan.address]


def _default_route(routes):
    for route in routes:
        return route.get("prefsrc"), route.get("metric", 0)
    return None


def _failure(tool, lines, output):
    """What failed, and why, in one line. 'ip -batch' tells the number of the line."""
    said = [line.strip() for line in output.split("\n") if line.strip()]
    number = said[-1].rpartition(":")[2] if said and said[-1].startswith("Command failed") else ""
    if not portset.is_number(number) or not 1 <= int(number) <= len(lines):
        why = "; ".join(said[:3]) or "no output"
        return "'%s' failed: %s%s" % (tool, why, advice.by_kernel(output))
    command = lines[int(number) - 1]
    text = "'ip %s' failed: %s" % (command, "; ".join(said[:-1]) or "no reason given")
    if command.startswith("route add default") and "File exists" in text:
        text += " (another IPv4 default route is in the way: remove it, or set option metric)"
    return text
