"""Port forwards on OpenWrt: 'redirect' sections that fw4 renders as it renders the user's.

They are not written to /etc/config/firewall, which is the user's and on flash, but kept by procd as
data of a service that has no process: fw4 asks procd for those ("service get_data") at every load.
What lives here: what procd is told, and whether fw4 has taken it.
"""

from cpe_agent import forwards
from cpe_agent.pyubus import NOT_FOUND, UbusError
from cpe_agent.pyubus.blocking import Ubus

SERVICE = "cpe-agent-forwards"
_TYPE = "firewall"  # of the data
_TIMEOUT = 5000  # ms


def sections(plan, zone, users):
    """Redirects for fw4, as list of dicts with texts.

    plan: plan.Plan. zone: that the softwire is in. users: names of the zones that may use it, whose
    hosts reach the router's own forwards by the public address, too; those of hosts are reflected
    by fw4 in the host's zone.
    """
    found = []
    for one in forwards.in_force(plan.forwards):
        section = {
            "type": "redirect",
            "target": "DNAT",
            "src": zone,
            "src_dip": one.address,
            "src_dport": str(one.port),
            "dest_ip": one.dest_ip,
            "dest_port": str(one.dest_port),
            "proto": list(one.proto),
        }
        if one.dest_ip == plan.inner:
            section["dest"] = zone
            if users:
                section["reflection_zone"] = list(users)
        found.append(section)
    return found


def missing(wanted, listing):
    """Of wanted sections, those that are not in force. listing: what nft lists of fw4's chain
    'dstnat_' and zone."""
    return [
        section
        for number, section in enumerate(wanted)
        if '"!fw4: ubus:%s redirect %d"' % (SERVICE, number) not in listing
    ]


def places(given):
    """Set of (address, port) that redirects are for."""
    found = set()
    for section in given:
        try:
            found.add((section["src_dip"], int(section["src_dport"])))
        except (KeyError, TypeError, ValueError):
            pass  # not ours
    return found


def gone(before, after):
    """Sorted list of (address, port) whose flows lead to where they should not any more."""
    return sorted(places([section for section in before if section not in after]))


class ServiceData:
    """What procd keeps for fw4."""

    def __init__(self, connect=Ubus):
        """connect(timeout): as Ubus."""
        self._connect = connect
        self.error = None  # why procd has not taken it
        self._none = False  # nothing is there, as we know

    def read(self):
        """List of sections that are there."""
        if self._none:
            return []
        answer = self._call("get_data", {"name": SERVICE, "type": _TYPE})
        found = (answer or {}).get(SERVICE)
        found = found.get(_TYPE) if isinstance(found, dict) else None
        found = found if isinstance(found, list) else []
        # Plain ones: MicroPython's are ordered, and equal to no others.
        found = [dict(one) for one in found if isinstance(one, dict)]
        self._none = not found
        return found

    def write(self, wanted):
        """Leave these sections there, or none. True if procd has taken them."""
        if wanted:
            self._call("set", {"name": SERVICE, "instances": {}, "data": {_TYPE: wanted}})
        else:
            self._call("delete", {"name": SERVICE})
        self._none = not wanted
        return self.error is None

    def _call(self, method, arguments):
        self.error = None
        try:
            with self._connect(timeout=_TIMEOUT) as ubus:
                return ubus.call("service", method, arguments)
        except UbusError as error:
            if error.status != NOT_FOUND or method == "set":
                self.error = "procd does not take the forwards: %s" % error
            return None
