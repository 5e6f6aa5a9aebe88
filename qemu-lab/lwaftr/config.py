"""The lab's configuration: every key, its default, and what it may be.

A file is TOML (Python 3.11 and later) or JSON. A wrong value raises ConfigError, whose text names
the key, the value, and what is allowed. sample.toml shows every key.
"""

import dataclasses
import ipaddress
import json

from cpe_agent.pcp import wire

MAX_ADDRESSES = 65536
LONG_MAX = 0xFFFFFFFF


class ConfigError(ValueError):
    """A wrong configuration. The text names the key and what is allowed."""


class _Rule:
    """How one key is checked: convert(value) or ValueError; allowed says what would be right."""

    def __init__(self, allowed, convert):
        self.allowed = allowed
        self.convert = convert


def _integer(low, high):
    def convert(value):
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError
        return value

    return _Rule("an integer from %d to %d" % (low, high), convert)


def _percent():
    def convert(value):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 100:
            raise ValueError
        return value

    return _Rule("a number from 0 to 100", convert)


def _boolean():
    def convert(value):
        if not isinstance(value, bool):
            raise ValueError
        return value

    return _Rule("true or false", convert)


def _choice(*names):
    def convert(value):
        if value not in names:
            raise ValueError
        return value

    return _Rule("one of " + ", ".join(repr(name) for name in names), convert)


def _text(allowed, max_length):
    def convert(value):
        if not isinstance(value, str) or len(value.encode()) > max_length or "\0" in value:
            raise ValueError
        return value

    return _Rule(allowed, convert)


def _address4():
    def convert(value):
        if not isinstance(value, str):
            raise ValueError
        return str(ipaddress.IPv4Address(value)) if value else ""

    return _Rule("an IPv4 address, or '' for none", convert)


def _address():
    def convert(value):
        if not isinstance(value, str):
            raise ValueError
        address = ipaddress.ip_address(value)
        # An answer has to leave from the address that was asked, so it must be one.
        if address.is_unspecified or address.is_multicast:
            raise ValueError
        return str(address)

    return _Rule("one unicast IPv6 address (or IPv4, for a PCP server alone)", convert)


def _prefix6():
    def convert(value):
        if not isinstance(value, str):
            raise ValueError
        return str(ipaddress.IPv6Network(value))

    return _Rule("an IPv6 prefix such as '2001:db8::/48'", convert)


def _prefixes():
    def convert(value):
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise ValueError
        return [str(ipaddress.ip_network(entry)) for entry in value]

    return _Rule("a list of IPv4 or IPv6 addresses or prefixes", convert)


def _pool_addresses():
    def convert(value):
        if not isinstance(value, list) or not value:
            raise ValueError
        found = []
        for entry in value:
            if not isinstance(entry, str):
                raise ValueError
            network = ipaddress.IPv4Network(entry)
            if len(found) + network.num_addresses > MAX_ADDRESSES:
                raise ValueError
            found.extend(int(address) for address in network)
        if len(set(found)) != len(found):
            raise ValueError
        return found

    return _Rule(
        "a list of different IPv4 addresses or prefixes, 1 to %d addresses" % MAX_ADDRESSES,
        convert,
    )


def _refusal():
    def convert(value):
        if value in (0, False, None):
            return 0
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 255:
            raise ValueError
        return value

    return _Rule("a PCP result code from 1 to 255, or 0 for no refusal", convert)


def _key(default, rule):
    return dataclasses.field(default=default, metadata={"rule": rule})


@dataclasses.dataclass
class PoolConfig:
    """What can be assigned, and how."""

    addresses: list = dataclasses.field(
        default_factory=lambda: [0xC0000201], metadata={"rule": _pool_addresses()}
    )
    first_port: int = _key(1024, _integer(1, 65535))
    last_port: int = _key(65535, _integer(1, 65535))
    # Largest set of one request, in ports.
    set_size: int = _key(1024, _integer(1, 65535))
    mode: str = _key("stateful", _choice("stateful", "stateless"))
    # Full sets start at a multiple of this; 0: at a multiple of set_size if that is a power of 2.
    align: int = _key(0, _integer(0, 32768))
    order: str = _key("first", _choice("first", "random"))
    # RFC 7596 5.1: shared sets SHOULD leave 0 to 1023 alone.
    allow_system_ports: bool = _key(False, _boolean())
    # Stateless: the set's number is the bits of the client's address between these two.
    client_prefix: str = _key("2001:db8::/48", _prefix6())
    client_prefix_end: int = _key(64, _integer(1, 128))


@dataclasses.dataclass
class PcpConfig:
    """The PCP server's policy. Times are seconds."""

    enabled: bool = _key(True, _boolean())
    # RFC 6887 11.1 to the letter: protocol 0 with an internal port is refused (AMB-1).
    strict: bool = _key(False, _boolean())
    # Protocol 0, port 0 with PORT_SET gets a set; false: UNSUPP_PROTOCOL, for a wildcard that
    # cannot be granted whole (RFC 6887 11.3).
    wildcard_sets: bool = _key(True, _boolean())
    # Whether this server knows the option PORT_SET.
    port_set: bool = _key(True, _boolean())
    # Whose external ports a NAT44 translates to internal ones: the others have an lw4o6 softwire,
    # where both are one.
    translate: str = _key("ipv4", _choice("none", "ipv4", "all"))
    # Sources that may use THIRD_PARTY (RFC 6887 13.1).
    third_party: list = dataclasses.field(default_factory=list, metadata={"rule": _prefixes()})
    # Of one mapping: remote peers (RFC 6887 13.3), and octets of text (RFC 7220); 0: no text.
    max_filters: int = _key(8, _integer(1, 32))
    description_max: int = _key(128, _integer(0, 1016))
    lifetime_min: int = _key(120, _integer(1, LONG_MAX))
    lifetime_max: int = _key(86400, _integer(1, LONG_MAX))
    # How long an error lasts (RFC 6887 7.4).
    error_short: int = _key(30, _integer(0, LONG_MAX))
    error_long: int = _key(1800, _integer(0, LONG_MAX))
    # Quota of one client: sets with different external ports, and ports in all of them.
    max_sets: int = _key(4, _integer(1, 65535))
    max_ports: int = _key(65535, _integer(1, 65535))
    hold_time: int = _key(120, _integer(0, 86400))
    # A delete within this long of the last packet answers the rest of it (AMB-14); 0: at once.
    delete_idle: int = _key(0, _integer(0, 86400))
    announce_at_start: bool = _key(True, _boolean())
    announce_repeats: int = _key(10, _integer(1, 10))
    # Announcements a second, to one client after the other; 0: to all at once.
    announce_pace: int = _key(0, _integer(0, 1000000))
    update_port_set: bool = _key(True, _boolean())
    max_known_clients: int = _key(200000, _integer(1, 10000000))
    # Epoch at the start, to play a server that has been up for a while.
    epoch_start: int = _key(0, _integer(0, LONG_MAX))


@dataclasses.dataclass
class DataPlaneConfig:
    """What the softwire concentrator does with packets (RFC 7596 6.2, 8.1)."""

    hairpinning: bool = _key(True, _boolean())
    icmp6_errors: bool = _key(True, _boolean())
    # Errors a second, with bursts of twice that.
    icmp6_rate: int = _key(10, _integer(1, 100000))
    icmp_echo: bool = _key(True, _boolean())
    icmp_errors: bool = _key(True, _boolean())
    # Answer inbound packets without a binding with ICMP 3/1, from ipv4_address.
    icmp4_unreachable: bool = _key(False, _boolean())
    ipv4_address: str = _key("", _address4())
    fragment_entries: int = _key(1024, _integer(1, 1000000))
    # Seconds that a first fragment is remembered.
    fragment_timeout: int = _key(30, _integer(1, 600))
    # Addresses whose used ports are remembered, 8 KiB for each protocol.
    usage_addresses: int = _key(64, _integer(0, 4096))


@dataclasses.dataclass
class ServerConfig:
    """Sockets and devices."""

    # Tunnel end, and address of the PCP server.
    address: str = _key("::1", _address())
    # A second address, for IPv4 clients of a PCP server alone; '': none.
    address4: str = _key("", _address4())
    port: int = _key(wire.SERVER_PORT, _integer(0, 65535))
    pcp_only: bool = _key(False, _boolean())
    # Interface towards the clients: multicast announcements, link-local clients. '': none.
    access_interface: str = _key("", _text("an interface name of up to 15 octets, or ''", 15))
    tun: str = _key("lw0", _text("an interface name of up to 15 octets", 15))
    tun_mtu: int = _key(1500, _integer(576, 65535))
    # Unix socket of the control interface; '': none.
    control: str = _key("", _text("a path of up to 107 octets, or ''", 107))
    # A line in words on standard error for each PCP datagram.
    log: bool = _key(False, _boolean())
    # Datagrams kept for the 'messages' command.
    message_log: int = _key(2000, _integer(0, 1000000))


@dataclasses.dataclass
class Faults:
    """Faults to inject; all can be changed while running. Percentages are of datagrams."""

    # Of the random source, so that a run can be repeated; 0: a different one every time.
    seed: int = _key(0, _integer(0, 2**63 - 1))
    # Both directions.
    loss: float = _key(0, _percent())
    duplicate: float = _key(0, _percent())
    # Nothing gets in or out.
    silence: bool = _key(False, _boolean())
    # Responses only. A delay is uniform between the two, in milliseconds.
    delay_min: int = _key(0, _integer(0, 600000))
    delay_max: int = _key(0, _integer(0, 600000))
    reorder: float = _key(0, _percent())
    garble: float = _key(0, _percent())
    wrong_nonce: float = _key(0, _percent())
    other_port: float = _key(0, _percent())
    # Every MAP request is refused with this code, for refuse_lifetime seconds.
    refuse: int = _key(0, _refusal())
    refuse_lifetime: int = _key(30, _integer(0, LONG_MAX))
    # New sets get at most this many ports; 0: no limit.
    fewer_ports: int = _key(0, _integer(0, 65535))
    # Behave as a server that never heard of PORT_SET.
    ignore_port_set: bool = _key(False, _boolean())

    def update(self, values):
        """Change some faults. All or nothing; ConfigError names a wrong one."""
        changed = _read("faults", Faults, values, dataclasses.asdict(self))
        if changed.delay_min > changed.delay_max:
            raise ConfigError("faults.delay_max: allowed: not less than delay_min")
        for field in dataclasses.fields(Faults):
            setattr(self, field.name, getattr(changed, field.name))


@dataclasses.dataclass
class StaticBinding:
    """A binding that no PCP request made and none can delete (RFC 6887 11.3, 15.1)."""

    client: str = _key("", _address())
    address: str = _key("", _address4())
    first_port: int = _key(0, _integer(1, 65535))
    size: int = _key(0, _integer(1, 65535))


@dataclasses.dataclass
class Config:
    """The whole configuration; sections as in the file."""

    server: ServerConfig = dataclasses.field(default_factory=ServerConfig)
    pool: PoolConfig = dataclasses.field(default_factory=PoolConfig)
    pcp: PcpConfig = dataclasses.field(default_factory=PcpConfig)
    data_plane: DataPlaneConfig = dataclasses.field(default_factory=DataPlaneConfig)
    faults: Faults = dataclasses.field(default_factory=Faults)
    static: list = dataclasses.field(default_factory=list)


_SECTIONS = {
    "server": ServerConfig,
    "pool": PoolConfig,
    "pcp": PcpConfig,
    "data_plane": DataPlaneConfig,
}


def _read(section, kind, values, base=None):
    """An instance of kind from a mapping of its keys; missing ones from base or the defaults."""
    if not isinstance(values, dict):
        raise ConfigError("%s: allowed: a table of keys" % section)
    rules = {field.name: field.metadata["rule"] for field in dataclasses.fields(kind)}
    read = dict(base or {})
    for key, value in values.items():
        if key not in rules:
            raise ConfigError(
                "%s.%s: no such key; allowed: %s" % (section, key, ", ".join(sorted(rules)))
            )
        try:
            read[key] = rules[key].convert(value)
        except ValueError:
            raise ConfigError(
                "%s.%s: %r is wrong; allowed: %s" % (section, key, value, rules[key].allowed)
            ) from None
    return kind(**read)


def _check_pool(pool):
    lowest = 1 if pool.allow_system_ports else 1024
    if pool.first_port < lowest:
        raise ConfigError(
            "pool.first_port: %d is wrong; allowed: 1024 to 65535, less with"
            " allow_system_ports = true (RFC 7596 5.1)" % pool.first_port
        )
    if pool.last_port < pool.first_port:
        raise ConfigError("pool.last_port: allowed: not less than first_port")
    if pool.mode == "stateless":
        length = int(pool.client_prefix.split("/")[1])
        if not length < pool.client_prefix_end:
            raise ConfigError(
                "pool.client_prefix_end: allowed: more than client_prefix's length, %d" % length
            )


def _check_static(config):
    seen = []
    for index, entry in enumerate(config.static):
        name = "static[%d]" % index
        for key in ("client", "address", "first_port", "size"):
            if not getattr(entry, key):
                raise ConfigError("%s.%s: missing" % (name, key))
        last = entry.first_port + entry.size - 1
        if last > 65535:
            raise ConfigError("%s.size: allowed: up to port 65535" % name)
        for address, low, high in seen:
            if address == entry.address and entry.first_port <= high and low <= last:
                raise ConfigError("%s: allowed: ports that no other static binding has" % name)
        seen.append((entry.address, entry.first_port, last))


def check_server(config):
    """Check what sections say about each other. Raises ConfigError."""
    server = config.server
    if ":" not in server.address and not server.pcp_only:
        raise ConfigError("server.address: allowed: an IPv6 address, unless pcp_only = true")
    if server.address4 and not (server.pcp_only and ":" in server.address):
        raise ConfigError(
            "server.address4: allowed: beside an IPv6 server.address, with pcp_only = true"
        )
    if config.data_plane.icmp4_unreachable and not config.data_plane.ipv4_address:
        raise ConfigError("data_plane.ipv4_address: needed for icmp4_unreachable = true")


def packed(text):
    """16 octets of an address in text form, IPv4 as ::ffff:a.b.c.d. Raises ValueError."""
    if not isinstance(text, str):
        raise ValueError("not the text of an address")
    address = ipaddress.ip_address(text)
    return address.packed if address.version == 6 else wire.V4_PREFIX + address.packed


def printable(address):
    """Text of an address of 16 octets."""
    if wire.is_v4(address):
        return str(ipaddress.IPv4Address(address[12:]))
    return str(ipaddress.IPv6Address(address))


def from_dict(values):
    """Config from nested dicts. Raises ConfigError."""
    if not isinstance(values, dict):
        raise ConfigError("the file: allowed: a table of sections")
    known = [*_SECTIONS, "faults", "static"]
    for name in values:
        if name not in known:
            raise ConfigError("%s: no such section; allowed: %s" % (name, ", ".join(known)))
    config = Config(
        **{name: _read(name, kind, values.get(name, {})) for name, kind in _SECTIONS.items()}
    )
    config.faults.update(values.get("faults", {}))
    statics = values.get("static", [])
    if not isinstance(statics, list):
        raise ConfigError("static: allowed: a list of tables")
    config.static = [
        _read("static[%d]" % index, StaticBinding, entry) for index, entry in enumerate(statics)
    ]
    _check_pool(config.pool)
    if config.pcp.lifetime_min > config.pcp.lifetime_max:
        raise ConfigError("pcp.lifetime_max: allowed: not less than lifetime_min")
    _check_static(config)
    check_server(config)
    return config


def read(path):
    """Nested dicts from a file, JSON if its name ends in .json, TOML otherwise.

    Raises ConfigError.
    """
    try:
        with open(path, "rb") as file:
            content = file.read().decode()
        values = json.loads(content) if path.endswith(".json") else _toml(content)
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError("%s: %s" % (path, error)) from None
    if not isinstance(values, dict):
        raise ConfigError("%s: allowed: a table of sections" % path)
    return values


def load(path):
    """Config from a file. Raises ConfigError."""
    return from_dict(read(path))


def _toml(content):
    try:
        import tomllib
    except ImportError:
        raise ConfigError("TOML needs Python 3.11; allowed: JSON, in a file *.json") from None
    return tomllib.loads(content)
