"""Options of /etc/config/cpe-agent: names, defaults, checks. Pure: text in, Config out.

The server's address is all that a user must give: 'aftr' (the lwAFTR, far end of the softwire) is
the PCP server too unless 'server' names another.
"""

import socket
from collections import namedtuple

from cpe_agent import portset, uci
from cpe_agent.pcp import wire

# softwire, agent: namedtuples of the options below. warnings: lines for the log.
Config = namedtuple("Config", ("softwire", "agent", "warnings"))


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


def _device(text):
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
    ("server", None, _ip),  # PCP server; the lwAFTR if not given
    ("ports", "max", _number(1, 65535, ("max", wire.MAX_PORTS))),  # ports to ask for
    ("lifetime", "3600", _number(120, 86400)),  # seconds to ask for
    ("protocol", "all", _choice(_PROTOCOLS)),
    # RFC 7753 5.2 asks with protocol 0 and internal port 1. Servers that hold to RFC 6887 11.1
    # alone want internal port 0 there.
    ("internal_port", "1", _number(0, 65535)),
    ("parity", "0", _flag),
    ("source", "auto", lambda text: None if text == "auto" else _ip6(text)),
    ("device", "lw4o6", _device),
    ("inner_address", "192.0.0.2", _ip4),  # the softwire's own number, RFC 6333 5.7
    ("mtu", "auto", _number(1280, 65535, ("auto", 0))),
    ("mss_clamp", "1", _flag),
    ("default_route", "1", _flag),
    ("metric", "0", _number(0, 4294967295)),
    ("icmp_recovery", "1", _flag),  # RFC 7596 5.1: reaction to ICMPv6 1/5 should be configurable
)
# What makes the plan so; none only holds the port set.
AGENT_OPTIONS = (("backend", "linux", _choice({"linux": "linux", "none": "none"})),)


_NO_AFTR = "%s: option aftr is missing; give the IPv6 address of the operator's lwAFTR"

Softwire = namedtuple("Softwire", ("name",) + tuple(option[0] for option in SOFTWIRE_OPTIONS))
Agent = namedtuple("Agent", tuple(option[0] for option in AGENT_OPTIONS))


def parse(text):
    """Config from the text of the file. Raises ConfigError."""
    try:
        sections = uci.parse(text)
    except uci.UciError as error:
        raise ConfigError(str(error)) from None
    warnings = []
    softwires = [section for section in sections if section.type == "softwire"]
    merged = {}
    for section in sections:
        if section.type == "agent":
            merged.update(section.options)
        elif section.type != "softwire":
            warnings.append("section '%s' is not known; ignored" % section.type)
    if len(softwires) != 1:
        raise ConfigError("%d 'config softwire' sections; exactly one is needed" % len(softwires))
    name = softwires[0].name or "softwire"
    where = "softwire '%s'" % name
    values = _read(where, softwires[0].options, SOFTWIRE_OPTIONS, warnings)
    _complete(where, values)
    softwire = Softwire(name, *[values[option[0]] for option in SOFTWIRE_OPTIONS])
    values = _read("agent", merged, AGENT_OPTIONS, warnings)
    if softwire.aftr is None and values["backend"] != "none":
        raise ConfigError(_NO_AFTR % where)
    if wire.is_v4(softwire.server) and values["backend"] != "none":
        raise ConfigError(
            "%s: option server must be an IPv6 address: the server binds the softwire to the "
            "source address that it sees" % where
        )
    return Config(softwire, Agent(*[values[option[0]] for option in AGENT_OPTIONS]), warnings)


def _read(where, texts, options, warnings):
    """Checked values by name."""
    known = [option[0] for option in options]
    for name in sorted(texts):
        if name not in known:
            warnings.append("%s: option '%s' is not known; ignored" % (where, name))
    values = {}
    for name, default, check in options:
        text = texts.get(name, default)
        if isinstance(text, list):
            raise ConfigError("%s: '%s' is a list; write 'option %s'" % (where, name, name))
        try:
            values[name] = None if text is None else check(text)
        except ValueError as error:
            raise ConfigError(
                "%s: option %s '%s' cannot be used; %s" % (where, name, text, error)
            ) from None
    return values


def _complete(where, values):
    """Fill in what follows from other options, and check what belongs together."""
    if values["server"] is None and values["aftr"] is None:
        raise ConfigError(_NO_AFTR % where)
    if values["server"] is None:
        values["server"] = values["aftr"]
    if values["aftr"] is None and not wire.is_v4(values["server"]):
        values["aftr"] = values["server"]
    if values["protocol"] != wire.PROTO_ALL and values["internal_port"] == 0:
        raise ConfigError("%s: option internal_port '0' needs protocol 'all'" % where)
