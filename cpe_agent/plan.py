"""The whole wanted state of the network as one value. Pure; equal plans mean nothing to do."""

import binascii
import socket
from collections import namedtuple

from cpe_agent import nat, softwire

TCP_HEADERS = 40  # octets of IPv4 and TCP headers

# device: the softwire's name. underlay: the device it runs over. local, remote: IPv6 text.
# address: the shared IPv4 address. inner: the softwire's own IPv4 address. metric: None for no
# default route. nat: commands for nft. mark: names this NAT text. port_set: for stale flows.
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
        "nat",
        "mark",
        "port_set",
    ),
)


def build(options, path, port_set):
    """Plan for one port set, or None where there is no set (RFC 7596 5.2: then nothing may flow).

    None, too, without an lwAFTR: the config allows that where nothing is to be built.
    options: config.Softwire. path: netlink.Path of the PCP request; the softwire has the same
    source, since that is what the server binds (RFC 7596 5.1).
    """
    if port_set is None or options.aftr is None:
        return None
    mtu = options.mtu or softwire.mtu(path.mtu)
    text, mark = _nat(options, port_set, mtu)
    return Plan(
        options.device,
        path.device,
        socket.inet_ntop(socket.AF_INET6, path.source),
        socket.inet_ntop(socket.AF_INET6, options.aftr),
        mtu,
        port_set.address,
        options.inner_address,
        options.metric if options.default_route else None,
        text,
        mark,
        port_set,
    )


def nat_text(options, port_set, mtu):
    """The commands for nft that a plan would carry. mtu: of the softwire, octets."""
    return _nat(options, port_set, mtu)[0]


def _nat(options, port_set, mtu):
    def text(mark):
        mss = mtu - TCP_HEADERS if options.mss_clamp else None
        return nat.table(options.device, port_set, options.protocol, mss, mark)

    mark = "cpe-agent %08x" % binascii.crc32(text("").encode())
    return text(mark), mark
