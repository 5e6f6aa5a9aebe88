"""Options of /etc/config/cpe-agent: names, defaults, checks. Pure: text in, Config out.

The lwAFTR's address is all that a user must give for a softwire: 'aftr' (the far end) is the PCP
server too unless 'server' names others. A mapping needs an internal port.
"""

import socket
from collections import namedtuple

from cpe_agent import address, dns, portset, timeouts, uci
from cpe_agent.pcp import mapping as m
from cpe_agent.pcp import servers, wire
from cpe_agent.pcp.client import Client, Overlap

# softwire: Softwire or None. mappings: tuple of Mapping. forwards: tuple of Forward. agent: Agent.
# These are namedtuples of the options below. warnings: lines for the log.
Config = namedtuple("Config", ("softwire", "mappings", "forwards", "agent", "warnings"))

MAX_MAPPINGS = 16  # each has its place in a state file of 4096 octets
MAX_FORWARDS = 32
_LONGEST_NAME = 32  # letters


class ConfigError(ValueError):
    """A value cannot be used. The message names it and says what is allowed."""


def _flag(text):
    if text in ("1", "yes", "on", "true", "enabled"):
        return True
    if text in ("0", "no", "off", "false", "disabled"):
        return False
    raise ValueError("allowed: 1 or 0")


def _number(low, high, also=None):
    """Checker for whole numbers; also: (word, number), a word that stands for a number."""
    allowed = "allowed: %d to %d" % (low, high) + (" or '%s'" % also[0] if also else "")

    def check(text):
        if also and text == also[0]:
            return also[1]
        if not portset.is_number(text) or not low <= int(text) <= high:
            raise ValueError(allowed)
        return int(text)

    return check


def _choice(words):
    """Checker for one of the words of a dict; gives its value."""

    def check(text):
        if text not in words:
            raise ValueError("allowed: " + ", ".join(sorted(words)))
        return words[text]

    return check


def _ip6(text):
    """16 octets of a unicast IPv6 address."""
    try:
        octets = socket.inet_pton(socket.AF_INET6, text)
    except (OSError, ValueError):
        raise ValueError("allowed: an IPv6 address such as 2001:db8::1") from None
    if octets[0] == 0xFF or octets[:15] == b"\0" * 15 or octets[:12] == wire.V4_PREFIX:
        raise ValueError("allowed: a unicast IPv6 address such as 2001:db8::1")
    return octets


def _ip(text):
    """16 octets of a unicast IPv6 or IPv4 address."""
    if "." not in text and ":" not in text:
        raise ValueError("allowed: a unicast IPv6 or IPv4 address such as 2001:db8::1")
    return wire.V4_PREFIX + portset.octets(_ip4(text)) if "." in text else _ip6(text)


def _ip4(text):
    try:
        octets = portset.octets(text)
    except ValueError:
        raise ValueError("allowed: an IPv4 address such as 192.0.0.2") from None
    if octets[0] in (0, 127) or octets[0] >= 224:
        raise ValueError("allowed: a unicast IPv4 address such as 192.0.0.2")
    return portset.dotted(octets)


def _server(text):
    """(servers.CONFIG, 16 octets or a host name)."""
    if dns.is_name(text):
        return servers.CONFIG, text
    try:
        return servers.CONFIG, _ip(text)
    except ValueError as error:
        raise ValueError("%s, or a host name" % error) from None


def _filter(text):
    """What PCP's FILTER takes: (prefix length of 128 bits, port or 0 for all, 16 octets)."""
    peer, _, port = text.partition(" ")
    where, _, length = peer.partition("/")
    try:
        octets = address.octets(where)
        longest = 32 if wire.is_v4(octets) else 128
        found = (
            _number(0 if longest == 32 else 1, longest)(length or str(longest)) + 128 - longest,
            _number(1, 65535)(port) if port else 0,
            octets,
        )
    except ValueError:
        raise ValueError("allowed: a prefix and a port, as '198.51.100.0/24 443'") from None
    return found


def _address(text):
    """16 octets, or None for any."""
    return None if text == "any" else _ip(text)


def check_device(text):
    """The name of an interface. Raises ValueError."""
    good = 1 <= len(text) <= 15 and text[0] not in ".-"
    for char in text:
        good = good and (char.isalpha() or char.isdigit() or char in "._-") and ord(char) < 128
    if not good:
        raise ValueError("allowed: 1 to 15 letters, digits, '.', '_' and '-'")
    return text


_PROTOCOLS = {"all": wire.PROTO_ALL, "tcp": wire.PROTO_TCP, "udp": wire.PROTO_UDP}

# (name, default as a user would write it or None, checker)
SOFTWIRE_OPTIONS = (
    ("enabled", "1", _flag),
    ("aftr", None, _ip6),  # the lwAFTR
    ("server", None, _server),  # PCP servers, the best first; the lwAFTR if not given
    ("default_router", "0", _flag),  # ask it where nobody else is known
    ("ports", "max", _number(1, 65535, ("max", wire.MAX_PORTS))),  # ports to ask for
    ("lifetime", "3600", _number(120, 86400)),  # seconds to ask for
    ("protocol", "all", _choice(_PROTOCOLS)),
    # RFC 7753 5.2 asks with protocol 0 and internal port 1. Servers that hold to RFC 6887 11.1
    # alone want internal port 0 there.
    ("internal_port", "1", _number(0, 65535)),
    # When a server refuses that: ask with internal port 0.
    ("fallback", "1", _flag),
    ("parity", "0", _flag),
    ("source", "auto", lambda text: None if text == "auto" else _ip6(text)),
    ("device", "lw4o6", check_device),
    ("inner_address", "192.0.0.2", _ip4),  # the softwire's own number, RFC 6333 5.7
    ("mtu", "auto", _number(1280, 65535, ("auto", 0))),
    ("mss_clamp", "1", _flag),
    ("default_route", "1", _flag),
    ("metric", "0", _number(0, 4294967295)),
    ("icmp_recovery", "1", _flag),  # RFC 7596 5.1: reaction to ICMPv6 1/5 should be configurable
    # Additional port sets: how many there may be with the first one, and when one more is asked for
    # or one is given back (growth.py).
    ("sets", "4", _number(1, 8)),
    ("more_above", "80", _number(1, 100)),  # percent of the ports in use
    ("less_below", "40", _number(0, 99)),  # of what would be left
    ("set_hold", "600", _number(0, 86400)),  # seconds that they have not been needed
    ("host_limit", "0", _number(0, 65535)),  # flows that a host of the LAN may have; 0: no limit
    # Idle flows: end as the kernel's switches say, or as soon as the RFCs allow (timeouts.py).
    ("flow_timeouts", timeouts.KEEP, _choice({one: one for one in timeouts.WORDS})),
)
# A mapping beside the softwire, or without one: ports of a NAT44, a NAT64 or a firewall.
MAPPING_OPTIONS = (
    ("enabled", "1", _flag),
    ("server", None, _server),  # by default what DHCP told of, then the default router
    ("default_router", "1", _flag),
    ("source", "auto", lambda text: None if text == "auto" else _ip(text)),
    ("protocol", "tcp", _choice(_PROTOCOLS)),
    ("internal_port", None, _number(1, 65535)),
    ("internal_address", "any", _address),  # of another host, by THIRD_PARTY; any: this one
    ("ports", "1", _number(1, 65535, ("max", wire.MAX_PORTS))),
    ("external_port", "any", _number(1, 65535, ("any", 0))),
    ("external_address", "any", _address),
    ("family", "4", _choice({"4": 4, "6": 6})),  # of the external address
    ("lifetime", "3600", _number(120, 86400)),
    ("parity", "0", _flag),
    ("prefer_failure", "0", _flag),  # that external port or none
    ("filter", None, _filter),  # peers that may send
)
# A port of the softwire's sets that leads to a host of the LAN.
FORWARD_OPTIONS = (
    ("enabled", "1", _flag),
    ("proto", None, _choice({"tcp": "tcp", "udp": "udp"})),  # both if not given
    ("dest_ip", None, _ip4),  # this router if not given
    ("dest_port", None, _number(1, 65535)),  # as external_port if not given
    ("external_port", "auto", _number(1, 65535, ("auto", 0))),
)
# What makes the plan so: iproute2 and nft, or OpenWrt's netifd and fw4: then the softwire's options
# are a 'config interface' with proto lw4o6. none only holds the port set.
_BACKENDS = {"linux": "linux", "none": "none", "openwrt": "openwrt"}
AGENT_OPTIONS = (("backend", "linux", _choice(_BACKENDS)),)


# As many as each may have.
_LISTS = {"server": servers.MAX_SERVERS, "filter": wire.MAX_FILTERS, "proto": 2}

_NO_AFTR = "%s: option aftr is missing; give the IPv6 address of the operator's lwAFTR"

Softwire = namedtuple("Softwire", ("name",) + tuple(option[0] for option in SOFTWIRE_OPTIONS))
Mapping = namedtuple("Mapping", ("name",) + tuple(option[0] for option in MAPPING_OPTIONS))
Forward = namedtuple("Forward", ("name",) + tuple(option[0] for option in FORWARD_OPTIONS))
Agent = namedtuple("Agent", tuple(option[0] for option in AGENT_OPTIONS))


def parse(text):
    """Config from the text of the file. Raises ConfigError."""
    try:
        sections = uci.parse(text)
    except uci.UciError as error:
        raise ConfigError(str(error)) from None
    warnings = []
    found = {"softwire": [], "mapping": [], "forward": []}
    merged = {}
    for section in sections:
        if section.type == "agent":
            merged.update(section.options)
        elif section.type in found:
            found[section.type].append(section)
        else:
            warnings.append("section '%s' is not known; ignored" % section.type)
    values = _read("agent", merged, AGENT_OPTIONS, warnings)
    agent = Agent(*[values[option[0]] for option in AGENT_OPTIONS])
    softwires = [_softwire(section, agent, warnings) for section in found["softwire"]]
    by_netifd = agent.backend == "openwrt"
    if softwires and by_netifd:
        raise ConfigError(
            "a 'config softwire' section and backend 'openwrt' are not for each other; write a "
            "'config interface' with option proto 'lw4o6' in /etc/config/network"
        )
    if len(softwires) > 1 or not (softwires or found["mapping"] or by_netifd):
        raise ConfigError("%d 'config softwire' sections; exactly one is needed" % len(softwires))
    mappings = tuple([_mapping(section, warnings) for section in found["mapping"]])
    softwire = softwires[0] if softwires else None
    check_together(mappings, softwire)
    forwards = tuple([_forward(section, warnings) for section in found["forward"]])
    _check_forwards(forwards, softwire or by_netifd)
    return Config(softwire, mappings, forwards, agent, warnings)


def _read(where, texts, options, warnings):
    """Checked values by name."""
    known = [option[0] for option in options]
    for name in sorted(texts):
        if name not in known:
            warnings.append("%s: option '%s' is not known; ignored" % (where, name))
    values = {}
    for name, default, check in options:
        text = texts.get(name, default)
        if name in _LISTS:
            values[name] = _read_list(where, name, text, check)
        elif isinstance(text, list):
            raise ConfigError("%s: '%s' is a list; write 'option %s'" % (where, name, name))
        else:
            values[name] = None if text is None else _checked(where, name, text, check)
    return values


def _read_list(where, name, texts, check):
    """Tuple of the values of a 'list', or of an 'option'."""
    texts = [] if texts is None else texts if isinstance(texts, list) else [texts]
    if len(texts) > _LISTS[name]:
        raise ConfigError("%s: %d times %s; allowed: %d" % (where, len(texts), name, _LISTS[name]))
    return tuple([_checked(where, name, text, check) for text in texts])


def _checked(where, name, text, check):
    try:
        return check(text)
    except ValueError as error:
        raise ConfigError(
            "%s: option %s '%s' cannot be used; %s" % (where, name, text, error)
        ) from None


def _softwire(section, agent, warnings):
    name = section.name or "softwire"
    return _make_softwire("softwire '%s'" % name, name, section.options, agent, warnings)


def read_softwire(where, name, texts):
    """Softwire of options as a user writes them, {name: text or list}, for a network that is built.
    where: for messages. Raises ConfigError."""
    agent = Agent("openwrt")
    warnings = []
    softwire = _make_softwire(where, name, texts, agent, warnings)
    if warnings:
        raise ConfigError(warnings[0])
    return softwire


def _make_softwire(where, name, texts, agent, warnings):
    values = _read(where, texts, SOFTWIRE_OPTIONS, warnings)
    addresses = [found for _, found in values["server"] if not isinstance(found, str)]
    if values["aftr"] is None and addresses and not wire.is_v4(addresses[0]):
        values["aftr"] = addresses[0]
    if values["aftr"] is None and (agent.backend != "none" or not values["server"]):
        raise ConfigError(_NO_AFTR % where)
    if agent.backend != "none" and [one for one in addresses if wire.is_v4(one)]:
        raise ConfigError(
            "%s: option server must be an IPv6 address: the server binds the softwire to the "
            "source address that it sees" % where
        )
    if values["aftr"] is not None:
        values["server"] += ((servers.AFTR, values["aftr"]),)
    if values["protocol"] != wire.PROTO_ALL and values["internal_port"] == 0:
        raise ConfigError("%s: option internal_port '0' needs protocol 'all'" % where)
    if values["less_below"] >= values["more_above"]:
        raise ConfigError("%s: option less_below must be less than more_above" % where)
    softwire = Softwire(name, *[values[option[0]] for option in SOFTWIRE_OPTIONS])
    _check_wish(where, softwire_wish, softwire)
    return softwire


def _mapping(section, warnings):
    where = "mapping '%s'" % (section.name or "")
    values = _read(where, section.options, MAPPING_OPTIONS, warnings)
    if values["internal_port"] is None:
        raise ConfigError("%s: option internal_port is missing; give a port of this host" % where)
    suggested = values["external_address"]
    if suggested is not None and wire.is_v4(suggested) != (values["family"] == 4):
        raise ConfigError("%s: option external_address needs family '4' or '6' as it is" % where)
    if values["prefer_failure"] and not values["external_port"]:
        raise ConfigError("%s: option prefer_failure needs option external_port" % where)
    name = section.name or "%d_%d" % (values["protocol"], values["internal_port"])
    _check_name(where, name)
    mapping = Mapping(name, *[values[option[0]] for option in MAPPING_OPTIONS])
    _check_wish(where, mapping_wish, mapping)
    return mapping


def _check_name(where, name):
    if len(name) > _LONGEST_NAME:
        raise ConfigError("%s: its name is too long; allowed: %d letters" % (where, _LONGEST_NAME))


def _forward(section, warnings):
    where = "forward '%s'" % (section.name or "")
    values = _read(where, section.options, FORWARD_OPTIONS, warnings)
    values["proto"] = tuple(sorted(set(values["proto"]))) or ("tcp", "udp")
    values["dest_port"] = values["dest_port"] or values["external_port"]
    if not values["dest_port"]:
        raise ConfigError(
            "%s: option dest_port is missing; give the port that the server listens on" % where
        )
    name = section.name or "port_%d" % values["dest_port"]
    _check_name(where, name)
    return Forward(name, *[values[option[0]] for option in FORWARD_OPTIONS])


def _check_forwards(forwards, softwire):
    if forwards and not softwire:
        raise ConfigError("a 'config forward' section needs a 'config softwire' section")
    if len(forwards) > MAX_FORWARDS:
        raise ConfigError("%d forwards; allowed: %d" % (len(forwards), MAX_FORWARDS))
    names = [one.name for one in forwards]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError("forward '%s' is there twice; each needs its own name" % name)


def _check_wish(where, build, options):
    try:
        build(options)
    except ValueError as error:
        raise ConfigError("%s: it needs other options: %s" % (where, error)) from None


def softwire_wish(options):
    """mapping.Wish of a Softwire. Raises ValueError."""
    return m.wish(
        options.protocol,
        options.internal_port,
        options.ports,
        options.lifetime,
        options.parity,
        fallback=options.fallback,
    )


def mapping_wish(options):
    """mapping.Wish of a Mapping. Raises ValueError."""
    return m.wish(
        options.protocol,
        options.internal_port,
        options.ports,
        options.lifetime,
        options.parity,
        options.family,
        options.internal_address,
        options.filter,
        options.prefer_failure,
    )


def check_together(mappings, softwire=None):
    """Raises ConfigError for mappings that cannot be beside each other, or beside a softwire: too
    many, two of a name, or two that want the same internal ports of a host from one server
    (RFC 7753 6.3)."""
    if len(mappings) > MAX_MAPPINGS:
        raise ConfigError("%d mappings; allowed: %d" % (len(mappings), MAX_MAPPINGS))
    earlier = []
    for one in mappings:
        if one.name in [other.name for other in earlier]:
            raise ConfigError("mapping '%s' is there twice; each needs its own name" % one.name)
        for other in earlier:
            if one.server == other.server or _share(one.server, other.server):
                _check_ports(one, "other ports", mapping_wish(other), other)
        if softwire and _share(one.server, _first_asked(softwire)):
            needs = "other ports, or another server than the softwire"
            _check_ports(one, needs, softwire_wish(softwire), softwire)
        earlier.append(one)


def _first_asked(softwire):
    """Its servers, unless DHCP tells of others: those of option server, else the lwAFTR."""
    configured = [one for one in softwire.server if one[0] == servers.CONFIG]
    return [(servers.CONFIG, where) for _, where in configured or softwire.server]


def _share(servers_of_one, servers_of_other):
    return bool([server for server in servers_of_one if server in servers_of_other])


def _check_ports(one, needs, wish, other):
    """Raises ConfigError if the internal ports of a mapping meet those of another's wish. The
    client arbitrates here as it does at work."""
    if not (one.enabled and other.enabled) or one.source != other.source:
        return
    client = Client(None, wire.ANY_V6, None)
    client.add(m.Mapping(wish, None))
    try:
        client.add(m.Mapping(mapping_wish(one), None))
    except Overlap as error:
        raise ConfigError("mapping '%s' needs %s: %s" % (one.name, needs, error)) from None


def read_mapping(name, texts):
    """Mapping of options as a user writes them, {name: text or list}. Raises ConfigError."""
    warnings = []
    mapping = _mapping(uci.Section("mapping", name, texts), warnings)
    if warnings:
        raise ConfigError(warnings[0])
    return mapping
