"""The agent's command line on a veth in place of the softwire, on both runtimes.

Not every kernel has IPv4-in-IPv6 tunnels. The backend is told that the veth is the tunnel that the
plan wants, and gets it by giving a spare veth the softwire's name; the rest is its own work.
"""

from cpe_agent import cli
from cpe_agent.backends import linux

_observe = linux.Linux._observe


def _observe_veth(self, plan):
    tunnel = True
    if plan is not None:
        tunnel = (plan.local, plan.remote, plan.mtu, True, plan.underlay)
    linux._tunnel = lambda link: tunnel
    return _observe(self, plan)


def _veth_commands(plan):
    return [
        "link set dev spare name " + plan.device,
        "link set dev %s mtu %d up" % (plan.device, plan.mtu),
    ]


linux.Linux._observe = _observe_veth
linux._tunnel_commands = _veth_commands
cli.entry()
