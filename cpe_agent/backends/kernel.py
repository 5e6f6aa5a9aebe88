"""What every backend asks of the kernel without a tool: a device, one switch, old flows."""

import os

from cpe_agent import algs, netlink, portset
from cpe_agent.backends import BackendError

_SCTP, _DCCP = 132, 33


def index_of(device):
    """Interface index of a device, or None."""
    try:
        with open("/sys/class/net/%s/ifindex" % device) as file:
            return int(file.read())
    except OSError:
        return None


def accepts_local(device):
    """True if packets with a source address of our own may come in by the device."""
    try:
        with open(_accept_local(device)) as file:
            return file.read().strip() == "1"
    except OSError:
        return False


def accept_local(device):
    """Let a neighbour in, who has our address (docs/shared-address.md). Raises BackendError."""
    path = _accept_local(device)
    try:
        with open(path, "w") as file:
            file.write("1")
    except OSError as error:
        raise BackendError("cannot write %s: %s" % (path, error)) from None


def _accept_local(device):
    return "/proc/sys/net/ipv4/conf/%s/accept_local" % device


def gateways():
    """Those of algs.MODULES that the kernel has loaded."""
    found = []
    for name in algs.MODULES:
        try:
            os.stat("/sys/module/" + name)
            found.append(name)
        except OSError:
            pass
    return found


def protocols():
    """Numbers of those with ports, beside TCP and UDP, that the kernel can translate: it has timers
    for each protocol whose flows it tells apart."""
    found = []
    for number, name in ((_SCTP, "sctp_timeout_established"), (_DCCP, "dccp_timeout_open")):
        try:
            os.stat("/proc/sys/net/netfilter/nf_conntrack_" + name)
            found.append(number)
        except OSError:
            pass
    return tuple(found)


def uses_gateways():
    """True if the kernel gives them flows without being told to by rules; before Linux 6.0."""
    try:
        with open("/proc/sys/net/netfilter/nf_conntrack_helper") as file:
            return file.read().strip() == "1"
    except OSError:
        return False


def drop_stale_flows(address, plan):
    """RFC 7596 5.1: a changed address or set ends the flows of the old one, and no other.

    address: text, in use until now. plan: plan.Plan from now on, or None. Raises BackendError.
    """

    def keep(port):
        same = plan is not None and plan.address == address
        return same and any(portset.contains(one, port) for one in plan.port_sets)

    try:
        netlink.delete_flows(portset.octets(address), keep)
    except OSError as error:
        raise BackendError("cannot delete the old set's flows: %s" % error) from None


def drop_forwarded_flows(places):
    """Flows that came in by forwards that are not there any more, or lead elsewhere now.

    places: list of (address, port), address as text. Raises BackendError.
    """
    for address, port in places:
        try:
            netlink.delete_flows(portset.octets(address), lambda one, gone=port: one != gone, True)
        except (OSError, ValueError) as error:
            raise BackendError("cannot delete a forward's flows: %s" % error) from None
