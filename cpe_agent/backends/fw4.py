"""Holds OpenWrt's own firewall, fw4, to a port set: by two files that its config includes.

What lives here: when they are written, and how it is seen that fw4 has taken them. 'fw4 reload'
ends well even when nft refuses all of it, and an include that is missing is only a warning: so the
rules are in force when, and only when, their mark is found in what nft lists. What they say is
in fw4_table.py.

A file that nft refuses would keep the whole firewall from loading, also at the next boot. So nft is
asked first, and where fw4 has not taken a new set all the same, its last files are put back.
"""

import os

from cpe_agent import advice, algs, fw4_table, interface, nft, own_table, redirects, store
from cpe_agent.backends import BackendError, child, fw4_forwards, kernel
from cpe_agent.backends.config_file import ConfigFile

SOURCE_NAT, CHAINS = "fw4-srcnat.nft", "fw4-table.nft"  # names of the files
_CONFIG, _PROGRAM, _STATE = "/etc/config/firewall", "/sbin/fw4", "/var/run/fw4.state"
_STOPPED = "the firewall is not running, and cannot hold to the port set: 'service firewall start'"
_LARGEST = 65536  # octets of a file
_NO = ("0", "off", "false", "no")
# Sections of fw4's config as the package makes them: name, file, its options.
_INCLUDES = (
    ("cpe_agent_srcnat", SOURCE_NAT, {"position": "chain-pre", "chain": "srcnat"}),
    ("cpe_agent_table", CHAINS, {"position": "table-post"}),
)


def fragments(plan):
    """fw4_table.Fragments for a plan.Plan; for None those that let nothing pass."""
    return fw4_table.fragments(interface.DEVICE + "*", plan)


class Firewall:
    """fw4, as far as it is ours: two included files, and what came of them."""

    def __init__(self, run_dir, run=None, config=_CONFIG, fw4=_PROGRAM, state=_STATE, data=None):
        """run_dir: where fw4 includes our files from; RAM. run(command): gives (exit code, output
        with errors). config, fw4, state: paths of fw4's config, of the program, and of the file
        that it keeps while it is loaded. data: as fw4_forwards.ServiceData."""
        self._files = (
            store.File(run_dir + "/" + SOURCE_NAT, _LARGEST),
            store.File(run_dir + "/" + CHAINS, _LARGEST),
        )
        self._trial = run_dir + "/fw4-check.nft"
        self._dir = run_dir
        self._run = run or (lambda command: child.run(command, run_dir + "/fw4-output"))
        self._config = ConfigFile(config)
        self._fw4 = fw4
        self._state = state
        self._data = data or fw4_forwards.ServiceData()
        self.gone = []  # (address, port) of forwards that the last change took away

    def set_rules(self, plan, where=None):
        """Hold to a plan.Plan; for None, close the softwire. True if something changed.

        where: (device, name, zone) as for problems(); forwards need it. A change reloads the
        firewall, and nothing else does. Raises BackendError; what was in force before still is,
        but for None the next start of the firewall closes the softwire.
        """
        led = self._redirects(plan, where)
        self.gone = []
        try:
            store.make_directory(self._dir)  # somebody may have cleared it away
        except store.StoreError as error:
            raise BackendError(str(error)) from None
        if plan is None:
            closed = self._guard(None)  # first: fw4 may fail, and the set may be a neighbour's soon
            return self._include(None, led) or closed
        changed = self._include(plan, led)
        return self._guard(plan) or changed

    def _include(self, plan, led):
        wanted = fragments(plan)
        before, were = self._read(), self._data.read()
        same = before == (wanted.source_nat, wanted.chains)
        if not same:
            self._check(wanted)
            self._write(wanted.source_nat, wanted.chains)
        # Before the rules' mark is in force: it stands for these, too.
        told = were != led and self._data.write(led)
        if same and not told and self.in_force(plan):
            return False
        code, output = self._run("%s reload" % self._fw4)
        self.gone = fw4_forwards.gone(were, led)
        if self.in_force(plan):
            self._tidy(plan)
            return True
        if plan is None and not _exists(self._state):
            return not same  # nothing to close; the next start reads the files
        if plan is not None:
            self._put_back(before)
        raise BackendError(self._why(code, output))

    def _tidy(self, plan):
        """Delete sets of earlier rules, which fw4 leaves; at the next change if it fails now."""
        code, listing = self._run(nft.LIST_SETS + fw4_table.NAME)
        stale = nft.stale_sets(listing, fw4_table.NAME, plan, fw4_table.PREFIX) if code == 0 else ""
        if stale:
            self._write_trial(stale)
            self._run("nft -f " + self._trial)

    def _redirects(self, plan, where):
        """Sections for fw4 of a plan's forwards."""
        if plan is None or where is None or not plan.forwards:
            return []
        sections, error = self._config.read()
        zone = None if error else redirects.zone_of(sections, *where)
        if zone is None:
            return []  # problems() tells what is wrong with the zone
        return fw4_forwards.sections(plan, zone, redirects.zones_to(sections, zone))

    def _guard(self, plan):
        """The guard that outlives a restart of the firewall; True if it was another."""
        text, mark = own_table.last_guard(interface.DEVICE + "*", plan)
        if nft.is_marked(self._listing(own_table.LAST_GUARD), mark):
            return False
        self._write_trial(text)
        code, output = self._run("nft -f " + self._trial)
        if code:
            raise BackendError("nft refuses our guard: %s" % _said(output))
        return True

    def in_force(self, plan):
        """True if the firewall that is loaded holds to a plan.Plan, or for None lets nothing
        through. Raises BackendError where it cannot be seen."""
        mark = fragments(plan).mark
        return all(
            nft.is_marked(self._listing("%s %s" % (fw4_table.NAME, chain)), mark)
            for chain in (fw4_table.MARKED if plan else fw4_table.MARKED[1:])
        )

    def _listing(self, chain, command="nft list chain "):
        """What nft lists of a chain, empty if it is not there. Raises BackendError."""
        code, listing = self._run(command + chain)
        if code == 0 and not listing.rstrip().endswith("}"):
            # To load them again would not help, and end like this again and again.
            raise BackendError("cannot see the rules in force: no room for them in " + self._dir)
        return listing if code == 0 else ""

    def load(self):
        """A text that is another one after each load of the firewall: how the kernel numbers its
        table, and our rules in it. Raises BackendError."""
        # A reload gives the rules other numbers, a restart the table; as text nft 1.0.6 tells none.
        table = nft.table_number(self._run("nft -j list tables")[1], fw4_table.NAME)
        listing = self._listing(
            "%s %s" % (fw4_table.NAME, fw4_table.MARKED[1]), "nft -a list chain "
        )
        return "%s %s" % (table, listing)

    def counters(self):
        """{guard: packets} of the guards, empty when they are not in place."""
        code, listing = self._run("nft list counters table " + fw4_table.NAME)
        return nft.parse_counters(listing, fw4_table.PREFIX) if code == 0 else {}

    def taken(self, where, port_sets):
        """Tuple of ports of the sets that redirects of the user have. where: see set_rules()."""
        sections, error = self._config.read()
        own = None if error else redirects.zone_of(sections, *where)
        return redirects.ports(sections, own, port_sets) if own else ()

    def problems(self, device, name, zone="", plan=None):
        """What keeps the firewall from doing its part, as lines for people.

        device: the softwire's. name: of its interface. zone: that the interface says it is in.
        plan: plan.Plan that is in place, or None.
        """
        if not _exists(self._fw4):
            return [
                "this firewall is not fw4, and cannot hold to a port set: OpenWrt 22.03 or later"
                " has it"
            ]
        sections, error = self._config.read()
        if error:
            return [error]
        found = [] if _exists(self._state) else [_STOPPED]
        found += include_problems(sections, self._dir)
        found += zone_problems(sections, device, name, zone)
        own = redirects.zone_of(sections, device, name, zone)
        if plan is None or own is None:
            return found
        found += redirects.problems(sections, own, plan)
        found += algs.problems(kernel.gateways(), algs.zones_with_helpers(sections, own))
        return found + self._missing_forwards(plan, (device, name, zone), own)

    def _missing_forwards(self, plan, where, zone):
        wanted = self._redirects(plan, where)
        if not wanted:
            return []
        if self._data.error:
            return [self._data.error]
        listing = self._listing("%s dstnat_%s" % (fw4_table.NAME, zone))
        ports = [section["src_dport"] for section in fw4_forwards.missing(wanted, listing)]
        if not ports:
            return []
        text = "fw4 has not taken the forward of port %s; 'fw4 check' tells why"
        return [text % ", ".join(ports)]

    # Files

    def _read(self):
        return tuple([file.read() for file in self._files])

    def _write(self, source_nat, chains):
        try:
            for file, text in zip(self._files, (source_nat, chains)):
                file.write(text)
        except store.StoreError as error:
            raise BackendError(str(error)) from None

    def _put_back(self, before):
        if None in before:
            closed = fragments(None)
            before = closed.source_nat, closed.chains
        self._write(before[0], before[1])

    def _write_trial(self, text):
        try:
            with open(self._trial, "w") as file:
                file.write(text)
        except OSError as error:
            raise BackendError("cannot write %s: %s" % (self._trial, error)) from None

    def _check(self, wanted):
        self._write_trial(fw4_table.check(wanted))
        code, output = self._run("nft -c -f " + self._trial)
        if code:
            why = _said(output) + advice.by_kernel(output)
            raise BackendError("nft refuses our rules: " + why)

    # fw4

    def _why(self, code, output):
        if not _exists(self._state):
            return _STOPPED
        if "Error" in output:
            return "nft refuses the firewall's rules ('fw4 check' shows it): %s" % _said(output)
        if code:
            return "'fw4 reload' failed: %s" % _said(output)
        sections, error = self._config.read()
        found = [error] if error else include_problems(sections, self._dir)
        return "; ".join(found) or "fw4 does not include our rules, though its config says so"


# What is wrong with fw4's config


def include_problems(sections, run_dir):
    """What keeps fw4 from including our files in run_dir, as lines for people.

    sections: list of uci.Section, fw4's config.
    """
    lines = []
    for name, file, options in _INCLUDES:
        path = run_dir + "/" + file
        found = [one for one in sections if _includes(one, path)]
        faults = [_fault(one, options) for one in found]
        if not found:
            settings = ["type 'nftables'", "path '%s'" % path]
            settings += ["%s '%s'" % item for item in sorted(options.items())]
            lines.append(
                "the firewall's config does not include our rules, and nothing can be sent: add"
                " 'config include %s' to it with %s" % (name, ", ".join(settings))
            )
        elif None not in faults:
            where = "section '%s'" % found[0].name if found[0].name else "the section for " + path
            lines.append("%s of the firewall's config %s" % (where, faults[0]))
    return lines


def zone_problems(sections, device, name, zone=""):
    """What keeps the LAN from using an interface, as lines for people; see Firewall.problems."""
    zones = [one.options for one in sections if one.type == "zone" and not _is_off(one.options)]
    if zone and zone in [options.get("name") for options in zones]:
        return []
    for options in zones:
        if name in _words(options, "network") or _covers(_words(options, "device"), device):
            return []
    if zone:
        return ["the firewall has no zone '%s', which the interface '%s' names" % (zone, name)]
    return [
        "the interface '%s' is in no zone of the firewall, so nobody can use it: add it to the"
        " zone of the uplink ('list network'), or set its option zone" % name
    ]


def _includes(section, path):
    return section.type == "include" and section.options.get("path") == path


def _fault(section, wanted):
    """What keeps an include from doing what it should, or None."""
    options = section.options
    if _is_off(options):
        return "is disabled: set option enabled to '1'"
    # fw4 takes any beginning of a keyword, in small letters or large.
    if not "nftables".startswith(options.get("type", "script").lower()):
        return "is of the wrong type: set option type to 'nftables'"
    position = options.get("position", "table-append").lower()
    if "chain" in wanted:
        fits = "chain-prepend".startswith(position) and options.get("chain") == wanted["chain"]
    else:
        fits = position.startswith("table")
    if fits:
        return None
    settings = ["option %s to '%s'" % item for item in sorted(wanted.items())]
    return "puts our rules into the wrong place: set " + " and ".join(settings)


def _is_off(options):
    return options.get("enabled") in _NO


def _words(options, name):
    value = options.get(name, [])
    return value.split() if isinstance(value, str) else value


def _covers(patterns, device):
    """True if one of a zone's devices is this one; fw4's wildcard is a '+' at the end."""
    return any(
        device.startswith(one[:-1]) if one.endswith("+") else one == device for one in patterns
    )


def _exists(path):
    try:
        os.stat(path)
    except OSError:
        return False
    return True


def _said(output):
    """What a tool has said, in one line. nft's errors stand at the end of theirs; '[!]' begins what
    fw4 says of sections that it skips, which are not to blame."""
    lines = [line.strip() for line in output.split("\n") if line.strip()]
    errors = [line[line.find("Error") :] for line in lines if "Error" in line]
    others = [line for line in lines if not line.startswith("[!]")]
    return "; ".join((errors or others)[:2]) or "no reason given"
