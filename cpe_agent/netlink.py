"""What we ask the kernel by netlink: the way to a server, changes of the network, flows.

Plain structs over a netlink socket, so that no child process is needed to look. Layouts are those
of the kernel's rtnetlink and ctnetlink headers, in native byte order; attributes are (type,
octets).
"""

import struct
from collections import namedtuple

from cpe_agent import net
from cpe_agent.pcp import wire

_ROUTE = 0  # NETLINK_ROUTE
_NETFILTER = 12  # NETLINK_NETFILTER
_HEADER = net.NATIVE + "IHHII"
_ATTRIBUTE = net.NATIVE + "HH"
_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_NESTED = 0x8000

_REQUEST = 1
_ACK = 4
_DUMP = 0x300
_ERROR = 2
_DONE = 3

_RTM_GETLINK = 18
_RTM_NEWROUTE = 24
_RTM_DELROUTE = 25
_RTM_GETROUTE = 26
_RTM_GETADDR = 22
_TABLE_LOCAL = 255
_SCOPE_HOST = 254
_TYPE_LOCAL = 2
_IFA_ADDRESS = 1
_IFA_DEPRECATED = 0x20
_IFA_NOT_YET = 0x08 | 0x40  # duplicate address detection failed, or runs
_RTA_DST = 1
_RTA_SRC = 2
_RTA_OIF = 4
_RTA_PREFSRC = 7
_IFLA_IFNAME = 3
_IFLA_MTU = 4
_LINK_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # links; IPv4 and IPv6 addresses and routes

_NFTABLES_GROUP = 1 << (7 - 1)  # NFNLGRP_NFTABLES
_NFT_DELETIONS = (0xA02, 0xA08)  # NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_DELTABLE, _DELRULE

_AF_INET = 2
_AF_INET6 = 10

# device: name. index: interface index. mtu: octets. source: 16 octets.
Path = namedtuple("Path", ("device", "index", "mtu", "source"))


# Of an address: new connections may use it, only old ones may, nobody may.
USABLE, DEPRECATED, GONE = "usable", "deprecated", "gone"


class NetlinkError(OSError):
    """The kernel refused; errno is its reason."""

    def __init__(self, errno):
        super().__init__(errno, "netlink error %d" % errno)
        self.errno = errno


def attribute(kind, data):
    """One attribute, padded to four octets."""
    return struct.pack(_ATTRIBUTE, len(data) + 4, kind) + data + b"\0" * (-len(data) % 4)


def attributes(data, offset):
    """{type: octets}; of repeated types the last."""
    found = {}
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from(_ATTRIBUTE, data, offset)
        if length < 4:
            break
        found[kind & _TYPE_MASK] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def _exchange(sock, kind, flags, payload):
    """Send one request; yield the payloads of the answer up to its end. Raises NetlinkError."""
    length = 16 + len(payload)
    sock.send(struct.pack(_HEADER, length, kind, _REQUEST | flags, 1, 0) + payload)
    while True:
        data = sock.recv(32768)
        offset = 0
        while offset + 16 <= len(data):
            length, kind = struct.unpack_from(net.NATIVE + "IH", data, offset)
            if kind == _ERROR:
                code = struct.unpack_from(net.NATIVE + "i", data, offset + 16)[0]
                if code:
                    raise NetlinkError(-code)
                return
            if kind == _DONE:
                return
            yield data[offset + 16 : offset + length]
            if not flags & (_DUMP | _ACK):
                return
            offset += (length + 3) & ~3


def ask(protocol, kind, flags, payload):
    """Payloads of the answer to one request, as a list."""
    sock = net.netlink_socket(protocol)
    try:
        return list(_exchange(sock, kind, flags, payload))
    finally:
        sock.close()


def path_to(address, interface=0):
    """How the kernel would send to an address of 16 octets, as Path. Raises NetlinkError.

    interface: its index, needed for a link-local address. Asked of the kernel instead of connect()
    and getsockname(), which MicroPython lacks; and the device comes with it, whose MTU the softwire
    needs.
    """
    try:
        index, source = _route(address, interface)
    except NetlinkError:
        if wire.is_v4(address):
            raise
        index, source = _route_of_a_source(address, interface)
    message = struct.pack(net.NATIVE + "BxHiII", 0, 0, index, 0, 0)
    link = attributes(ask(_ROUTE, _RTM_GETLINK, 0, message)[0], 16)
    name = bytes(link[_IFLA_IFNAME]).rstrip(b"\0").decode()
    mtu = struct.unpack(net.NATIVE + "I", link[_IFLA_MTU])[0]
    return Path(name, index, mtu, source)


def _route(address, interface, source=b""):
    """(interface index, 16 octets to send from) by the kernel's routes. source: 16 octets of an
    IPv6 address to send from, if it may not choose. Raises NetlinkError."""
    v4 = wire.is_v4(address)
    family, destination = (_AF_INET, address[12:]) if v4 else (_AF_INET6, address)
    lengths = len(destination) * 8, len(source) * 8
    message = struct.pack(net.NATIVE + "BBBBBBBBI", family, *lengths, *([0] * 6))
    message += attribute(_RTA_DST, destination)
    if source:
        message += attribute(_RTA_SRC, source)
    if interface:
        message += attribute(_RTA_OIF, struct.pack(net.NATIVE + "i", interface))
    route = attributes(ask(_ROUTE, _RTM_GETROUTE, 0, message)[0], 12)
    if _RTA_OIF not in route or _RTA_PREFSRC not in route:
        raise NetlinkError(101)  # ENETUNREACH
    chosen = source or bytes(route[_RTA_PREFSRC])
    index = struct.unpack(net.NATIVE + "i", route[_RTA_OIF])[0]
    return index, wire.V4_PREFIX + chosen if v4 else chosen


def _route_of_a_source(address, interface):
    """As _route(), where routes are for some sources only, as OpenWrt's default routes for IPv6
    are: unlike connect(), the kernel then does not choose when asked. An address of the interface
    that the route leaves by is better (RFC 6724 5, rule 5), a deprecated or a unique local one
    worse (rules 3 and 6). Raises NetlinkError."""
    found = []
    for index, flags, source in _global_addresses():
        try:
            way = _route(address, interface, source)
        except NetlinkError:
            continue
        local = (source[0] ^ address[0]) & 0xFE and source[0] & 0xFE == 0xFC
        found.append((bool(local), flags & _IFA_DEPRECATED, way[0] != index, way))
    if not found:
        raise NetlinkError(101)
    return min(found)[3]


def _global_addresses():
    """(interface index, flags, 16 octets) of this host's IPv6 addresses that may be used."""
    message = struct.pack(net.NATIVE + "BBBBi", _AF_INET6, 0, 0, 0, 0)
    for answer in ask(_ROUTE, _RTM_GETADDR, _DUMP, message):
        flags, scope, index = struct.unpack_from(net.NATIVE + "BBi", answer, 2)
        source = bytes(attributes(answer, 8).get(_IFA_ADDRESS, b""))
        if len(source) == 16 and scope == 0 and not flags & _IFA_NOT_YET:
            yield index, flags, source


def address_state(address):
    """USABLE, DEPRECATED or GONE: what an IPv6 address (16 octets) is, on whichever interface: one
    of a delegated prefix may be on the LAN's alone. IPv4 addresses are usable. Raises
    NetlinkError."""
    if wire.is_v4(address):
        return USABLE
    message = struct.pack(net.NATIVE + "BBBBi", _AF_INET6, 0, 0, 0, 0)
    for answer in ask(_ROUTE, _RTM_GETADDR, _DUMP, message):
        flags = answer[2]
        if attributes(answer, 8).get(_IFA_ADDRESS) == address:
            return DEPRECATED if flags & _IFA_DEPRECATED else USABLE
    return GONE


def disclaim(address, index):
    """Take an IPv4 address (4 octets) of an interface out of the kernel's local table: it stays on
    the interface, but its ports are not the router's own any more (docs/shared-address.md). True if
    that was needed. Raises NetlinkError."""
    head = (_AF_INET, 32, 0, 0, _TABLE_LOCAL, 0, _SCOPE_HOST, _TYPE_LOCAL, 0)
    message = struct.pack(net.NATIVE + "BBBBBBBBI", *head)
    message += attribute(_RTA_DST, address)
    message += attribute(_RTA_OIF, struct.pack(net.NATIVE + "i", index))
    try:
        ask(_ROUTE, _RTM_DELROUTE, _ACK, message)
    except NetlinkError as error:
        if error.errno != 3:  # ESRCH: it was out already
            raise
        return False
    return True


def changes_socket():
    """Socket that can be read whenever a link, an address or a route has changed."""
    sock = net.netlink_socket(_ROUTE, _LINK_GROUPS)
    sock.setblocking(False)
    return sock


def changed_devices(sock):
    """Interface indexes that the waiting messages are about; None stands for any of them."""
    indexes = set()
    for data in _waiting(sock):
        offset = 0
        while data and offset + 16 <= len(data):
            length, kind = struct.unpack_from(net.NATIVE + "IH", data, offset)
            if length < 16:
                break
            indexes.add(_device_of(kind, data[offset + 16 : offset + length]))
            offset += (length + 3) & ~3
        if not data:
            indexes.add(None)
    return indexes


def _device_of(kind, message):
    if kind in (_RTM_NEWROUTE, _RTM_DELROUTE):
        route = attributes(message, 12)
        return struct.unpack(net.NATIVE + "i", route[_RTA_OIF])[0] if _RTA_OIF in route else None
    # Links and addresses have the index at the same place.
    return struct.unpack_from(net.NATIVE + "i", message, 4)[0] if len(message) >= 8 else None


def tables_socket():
    """Socket that can be read whenever nftables change."""
    sock = net.netlink_socket(_NETFILTER, _NFTABLES_GROUP)
    sock.setblocking(False)
    return sock


def rules_deleted(sock):
    """True if a waiting message says that a table or a rule was deleted, or if some were missed."""
    deleted = False
    for data in _waiting(sock):
        offset = 0
        while data and offset + 16 <= len(data):
            length, kind = struct.unpack_from(net.NATIVE + "IH", data, offset)
            deleted = deleted or kind in _NFT_DELETIONS
            offset += max(16, (length + 3) & ~3)
        deleted = deleted or not data
    return deleted


def _waiting(sock):
    """Datagrams that wait; an empty one says that some were lost."""
    for _ in range(256):
        try:
            yield sock.recv(32768)
        except OSError as error:
            if error.args[0] == net.EAGAIN:
                return
            yield b""


_CT_GET = 0x101  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET
_CT_DELETE = 0x102
_CTA_TUPLE_ORIG = 1
_CTA_TUPLE_REPLY = 2
_CTA_TUPLE_IP = 1
_CTA_TUPLE_PROTO = 2
_CTA_IP_V4_DST = 2
_CTA_PROTO_NUM = 1
_CTA_PROTO_DST_PORT = 3
_CTA_PROTO_ICMP_ID = 4
_IPPROTO_ICMP = 1


def delete_flows(address, keep, inwards=False):
    """Delete the flows that use a shared address on ports that are not ours any more.

    address: 4 octets. keep(port) is True for ports that stay ours. inwards: only flows that were
    forwarded inwards. Returns how many went. Flows of this router carry the address as destination:
    of their replies when NAT changed the source, of the first packet when it was forwarded inwards
    (RFC 7596 5.1).
    """
    # One socket to look and one to delete: a list of thousands of flows is too much for a router.
    looking, deleting = net.netlink_socket(_NETFILTER), net.netlink_socket(_NETFILTER)
    head = struct.pack(">BBH", _AF_INET, 0, 0)
    sides = (_CTA_TUPLE_ORIG,) if inwards else (_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY)
    count = 0
    try:
        for message in _exchange(looking, _CT_GET, _DUMP, head):
            flow = attributes(message, 4)
            if _is_stale(flow, sides, address, keep):
                count += _delete(deleting, head, bytes(flow[_CTA_TUPLE_ORIG]))
        return count
    finally:
        looking.close()
        deleting.close()


def _is_stale(flow, sides, address, keep):
    for side in sides:
        parts = attributes(flow[side], 0)
        if attributes(parts[_CTA_TUPLE_IP], 0).get(_CTA_IP_V4_DST) == address:
            port = _port(attributes(parts[_CTA_TUPLE_PROTO], 0))
            return port is None or not keep(port)
    return False


def _port(protocol):
    kind = _CTA_PROTO_DST_PORT
    if protocol[_CTA_PROTO_NUM] == bytes([_IPPROTO_ICMP]):
        kind = _CTA_PROTO_ICMP_ID
    port = protocol.get(kind)
    return struct.unpack(">H", port)[0] if port else None


def _delete(sock, head, tuple_orig):
    payload = head + attribute(_CTA_TUPLE_ORIG | _NESTED, tuple_orig)
    try:
        for _ in _exchange(sock, _CT_DELETE, _ACK, payload):
            pass
    except NetlinkError as error:
        if error.errno != 2:  # ENOENT: it ended by itself meanwhile
            raise
        return 0
    return 1
