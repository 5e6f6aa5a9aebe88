"""MAP requests as the server understands them: options, form, whom they are for.

Nothing here looks at the server's state: what is wrong with a request by itself is found before
any of it is changed (RFC 6887 7.3).
"""

import functools
import ipaddress
import struct

from cpe_agent.pcp import wire

from . import peerfilter

OPT_DESCRIPTION = 128  # RFC 7220 2
DESCRIPTION_MAX = 1016
PROTOCOLS = (wire.PROTO_ALL, wire.PROTO_TCP, wire.PROTO_UDP)
_ONLY_ONCE = (wire.OPT_THIRD_PARTY, wire.OPT_PREFER_FAILURE, wire.OPT_PORT_SET, OPT_DESCRIPTION)


class Refused(Exception):
    """The request is answered with a result code; unparsed: it could not be read (AMB-25).

    lifetime: seconds, None for the one that the configuration has for the code.
    """

    def __init__(self, code, lifetime=None, unparsed=False):
        super().__init__(code)
        self.code = code
        self.lifetime = lifetime
        self.unparsed = unparsed


class Options:
    """What the options of a MAP request come to.

    size: ports, None without a usable PORT_SET. description: octets to store, None without the
    option. third_party: the internal host, None without. filters: peerfilter.Filter or CLEAR, in
    order. echo: the options to repeat in an answer, without PORT_SET.
    """

    __slots__ = (
        "description",
        "echo",
        "filters",
        "parity",
        "prefer_failure",
        "size",
        "third_party",
    )

    def __init__(self):
        self.size = self.description = self.third_party = None
        self.parity = self.prefer_failure = False
        self.filters = []
        self.echo = b""


class MapRequest:
    """A MAP request that has passed all checks of its form.

    client: whose mapping it is about, 16 octets: the source, or the host that THIRD_PARTY names.
    source, port: where the answer goes.
    """

    __slots__ = (
        "client",
        "data",
        "lifetime",
        "nonce",
        "octets",
        "options",
        "port",
        "protocol",
        "source",
    )

    def __init__(self, octets, request, options, source, port):
        self.octets = octets
        self.data = request.map
        self.lifetime = request.lifetime
        self.options = options
        self.client = options.third_party or source
        self.source = source
        self.port = port
        self.protocol = request.map.protocol
        self.nonce = request.map.nonce

    @property
    def size(self):
        """Ports asked for, 1 or more."""
        return self.options.size or 1

    def internal_range(self):
        """Internal ports asked for, never past 65535 (AMB-9).

        Protocol 0 with port 0 means all of them: RFC 6887 11.1 gives the port no meaning there.
        """
        low = self.data.internal_port
        if self.protocol == wire.PROTO_ALL and low == 0:
            return 0, 65535
        return low, min(low + self.size - 1, 65535)

    def suggestion(self):
        """(address, port), None and 0 for what is not suggested."""
        address = self.data.external_ip
        if not wire.is_v4(address) or address == wire.ANY_V4:
            return None, self.data.external_port
        return int.from_bytes(address[12:], "big"), self.data.external_port

    def suggests(self, address, port):
        """Is this place what is suggested? Without an address any will do."""
        wanted, wanted_port = self.suggestion()
        return wanted in (None, address) and wanted_port == port


def read_map(policy, port_set, octets, request, source, port):
    """A parsed MAP request as MapRequest. Raises Refused.

    policy: config.PcpConfig. port_set: whether this server knows PORT_SET.
    """
    options = _read_options(policy, port_set, request, source)
    asked = MapRequest(octets, request, options, source, port)
    _check_form(policy, asked)
    return asked


def _read_options(policy, port_set, request, source):
    """Options in order of appearance (RFC 6887 7.3, RFC 7753 4.2, AMB-20)."""
    options = Options()
    seen = set()
    for code, octets in request.options:
        if code == wire.OPT_PORT_SET and not port_set:
            continue
        if code in seen and code in _ONLY_ONCE:
            raise Refused(wire.MALFORMED_OPTION)
        seen.add(code)
        if code == wire.OPT_PORT_SET:
            options.size, options.parity = _port_set(octets, request.lifetime)
        elif code == OPT_DESCRIPTION:
            options.description = _description(octets, policy.description_max)
        elif code in _MANDATORY:
            _MANDATORY[code](policy, options, octets, request, source)
            options.echo += wire.option(code, octets)
        elif code < wire.OPTIONAL_BIT:
            raise Refused(wire.UNSUPP_OPTION)
    if options.description is not None:
        options.echo += wire.option(OPT_DESCRIPTION, options.description)
    _check_options(options, request)
    return options


def _check_options(options, request):
    """What options say about each other, and whether their answer fits (RFC 6887 7.3)."""
    if options.prefer_failure and (options.size is not None or request.map.external_port == 0):
        raise Refused(wire.MALFORMED_OPTION)
    longest = wire.HEADER_LENGTH + wire.MAP_LENGTH + len(options.echo) + 4 + 8
    if longest > wire.MAX_LENGTH:
        raise Refused(wire.MALFORMED_REQUEST)


def _port_set(octets, lifetime):
    """(size, parity) of a PORT_SET option; a delete's size 0 counts as 1 (AMB-20)."""
    if lifetime == 0 and octets[:2] == b"\0\0" and len(octets) == wire.PORT_SET_LENGTH:
        return 1, False
    try:
        option = wire.parse_port_set(octets)
    except wire.OptionError:
        raise Refused(wire.MALFORMED_OPTION) from None
    return option.size, option.parity


def _description(octets, limit):
    """The text to store, cut between characters; None for what RFC 7220 3 says to ignore."""
    if limit == 0 or len(octets) > DESCRIPTION_MAX:
        return None
    try:
        octets.decode()
    except UnicodeDecodeError:
        return None
    return octets[:limit].decode(errors="ignore").encode()


def _third_party(policy, options, octets, _, source):
    """RFC 6887 13.1: only for those whom the configuration lists."""
    if len(octets) != 16:
        raise Refused(wire.MALFORMED_OPTION)
    if octets == source:
        raise Refused(wire.MALFORMED_REQUEST)
    if not _listed(source, tuple(policy.third_party)):
        raise Refused(wire.UNSUPP_OPTION)
    options.third_party = octets


def _prefer_failure(_, options, octets, request, __):
    if octets or request.lifetime == 0:
        raise Refused(wire.MALFORMED_OPTION)
    options.prefer_failure = True


def _filter(policy, options, octets, request, _):
    try:
        one = peerfilter.parse(octets)
    except wire.OptionError:
        raise Refused(wire.MALFORMED_OPTION) from None
    if request.lifetime == 0:
        raise Refused(wire.MALFORMED_OPTION)
    options.filters.append(one)
    if len(peerfilter.merge((), options.filters)) > policy.max_filters:
        raise Refused(wire.EXCESSIVE_REMOTE_PEERS)


_MANDATORY = {
    wire.OPT_THIRD_PARTY: _third_party,
    wire.OPT_PREFER_FAILURE: _prefer_failure,
    wire.OPT_FILTER: _filter,
}


def _listed(source, prefixes):
    text = source[12:] if wire.is_v4(source) else source
    address = ipaddress.ip_address(text)
    return any(address in network for network in _networks(prefixes))


@functools.lru_cache(maxsize=8)
def _networks(prefixes):
    return [ipaddress.ip_network(prefix) for prefix in prefixes]


def _check_form(policy, asked):
    """Protocol and internal port (RFC 6887 11.3, 15.1; AMB-1)."""
    if asked.protocol not in PROTOCOLS:
        raise Refused(wire.UNSUPP_PROTOCOL)
    internal_port = asked.data.internal_port
    if asked.protocol == wire.PROTO_ALL and internal_port and policy.strict:
        raise Refused(wire.MALFORMED_REQUEST)
    if asked.lifetime == 0 or internal_port:
        return
    # A wildcard has to be granted whole or not at all; PORT_SET says that less will do.
    if asked.protocol or asked.options.size is None or not policy.wildcard_sets:
        raise Refused(wire.UNSUPP_PROTOCOL)


def rename(answer, protocol, internal_port):
    """A MAP answer under another mapping's protocol and internal port."""
    port = struct.pack(">H", internal_port)
    return answer[:36] + bytes([protocol]) + answer[37:40] + port + answer[42:]
