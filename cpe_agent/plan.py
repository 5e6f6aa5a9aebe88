"""The whole wanted state of the network as one value. Pure; equal plans mean nothing to do."""

import socket
from collections import namedtuple

from cpe_agent import nft, own_table, portset, softwire

TCP_HEADERS = 40  # octets of IPv4 and TCP headers

# device: the softwire's name. underlay: the device it runs over. local, remote: IPv6 text.
# address: the shared IPv4 address. inner: the softwire's own IPv4 address. metric: None for no
# default route. port_sets: all that are ours, the first one first. open_sets: what of them new
# flows may use. reserved: tuple of ports of the sets that somebody is reached at, which are in none
# of open_sets. protocol: what NAT holds to them. more: numbers of protocols with ports, beside TCP
# and UDP, that the kernel can translate. mss: TCP's largest segment in octets, or None. host_limit:
# most flows of a host, or 0. flow_timeouts: of timeouts.WORDS. forwards: tuple of forwards.Placed.
# nat: commands for nft that do all that. mark: names them.
Plan = namedtuple(
    "Plan",
    (
        "device",
        "underlay",
        "local",
        "remote",
        "mtu",
        "address",
        "inner",
        "metric",
        "port_sets",
        "open_sets",
        "reserved",
        "protocol",
        "more",
        "mss",
        "host_limit",
        "flow_timeouts",
        "forwards",
        "nat",
        "mark",
    ),
)


def build(options, path, port_set, others=(), closed=(), forwards=(), reserved=(), more=()):
    """Plan for a port set, or None where there is no set (RFC 7596 5.2: then nothing may flow).

    others, closed: tuples of additional sets of the same address, which new flows may use or not.
    forwards: tuple of forwards.Placed. reserved: tuple of their ports, and of all others that new
    flows shall leave alone. more: as in the Plan.

    None, too, without an lwAFTR: the config allows that where nothing is to be built.
    options: config.Softwire. path: netlink.Path of the PCP request; the softwire has the same
    source, since that is what the server binds (RFC 7596 5.1).
    """
    if port_set is None or options.aftr is None:
        return None
    mtu = options.mtu or softwire.mtu(path.mtu)
    port_sets = (port_set,) + others + closed
    open_sets = portset.without((port_set,) + others, reserved)
    network = (
        path.device,
        socket.inet_ntop(socket.AF_INET6, path.source),
        socket.inet_ntop(socket.AF_INET6, options.aftr),
    )
    return _plan(options, network, mtu, (port_sets, open_sets, reserved), more, forwards)


def nat_text(options, port_set, mtu, more=()):
    """The commands for nft that a plan for one set would carry. mtu: of the softwire, octets. more:
    see build()."""
    return _plan(options, (None, None, None), mtu, ((port_set,), (port_set,), ()), more, ()).nat


def _plan(options, network, mtu, sets, more, forwards):
    fields = (
        (options.device,)
        + network
        + (
            mtu,
            sets[0][0].address,
            options.inner_address,
            options.metric if options.default_route else None,
        )
        + sets
        + (
            options.protocol,
            more,
            mtu - TCP_HEADERS if options.mss_clamp else None,
            options.host_limit,
            options.flow_timeouts,
            forwards,
        )
    )
    mark = nft.mark(own_table.commands(Plan(*fields, None, None), ""))
    return Plan(*fields, own_table.commands(Plan(*fields, None, None), mark), mark)
