"""Fuzz target: texts that people, flash and programs hand in: UCI, config, state, lease, commands.

The first octet of an input chooses the case. Each reader may raise its own documented error and
nothing else; what it accepts obeys its limits.
"""

import binascii
import json
import pathlib
import tempfile

from cpe_agent import config, control, lease, orders, store, uci
from cpe_agent.pcp import mapping as m
from cpe_agent.pcp import wire
from cpe_agent.pcp.client import Client
from tests.unit.core.bench import NONCE, SERVER, SOURCE, Dice

KEY = "server source mapping"
NOW = 10000  # ms
VERSIONS = (1, 2)  # of the state file
_DIRECTORY = tempfile.TemporaryDirectory(prefix="cpe-agent-fuzz-")


def _quoted(text):
    return "'" + text.replace("'", "'\\''") + "'"


def _uci(text):
    try:
        sections = uci.parse(text)
    except uci.UciError as error:
        assert "line " in str(error)
        return
    written = ""
    for section in sections:
        assert section.type and section.name != ""
        written += "config %s %s\n" % (_quoted(section.type), _quoted(section.name or ""))
        for name, value in section.options.items():
            keyword = "list" if isinstance(value, list) else "option"
            for one in value if isinstance(value, list) else [value]:
                written += "%s %s %s\n" % (keyword, name, _quoted(one))
    assert uci.parse(written) == sections, "what was read is read again"


def _config(text):
    try:
        parsed = config.parse(text)
    except config.ConfigError as error:
        assert str(error)
        return
    assert all(isinstance(warning, str) for warning in parsed.warnings)
    if parsed.softwire:
        _check_wish(config.softwire_wish(parsed.softwire))
    for one in parsed.mappings:
        _check_wish(config.mapping_wish(one))


def _check_wish(wish, suggestion=None):
    """What a config is taken for can be asked for."""
    assert 120 <= wish.lifetime <= 86400 and 1 <= wish.size <= 65535
    client = Client(SERVER, SOURCE, Dice())
    client.add(m.Mapping(wish, NONCE, suggestion))
    client.mappings[0].start(NOW)
    client.handle_timer(NOW)
    (octets,) = client.datagrams()
    request = wire.parse_request(octets)
    assert request.lifetime == wish.lifetime and request.map.nonce == NONCE
    assert request.map.internal_port + wish.size <= 65536


def _mapping(text):
    """A mapping that is right, and then what the input says."""
    _config("config mapping web\noption internal_port 80\n" + text)


def _options(text):
    """A softwire that is right, and then what the input says."""
    _config("config softwire wan4\noption aftr 2001:db8::1\n" + text)


def _state(text):
    try:
        entries = store.decode(text)
    except store.Damaged as error:
        assert str(error)
        return
    for (name, state), (again, kept) in zip(entries, store.decode(store.encode(entries))):
        assert again == name and kept[:-1] == state[:-1]
        if state.port_set:
            _check_ports(state.port_set)
            assert kept == state


def _state_with_checksum(text):
    """Whatever the input says, as a state file that was not damaged on flash."""
    for version in VERSIONS:
        checksum = binascii.crc32(text.encode())
        _state("cpe-agent-state %d %08x\n%s" % (version, checksum, text))


def _lease(text):
    path = pathlib.Path(_DIRECTORY.name) / "lease"
    path.write_bytes(text.encode())
    grant = lease.load(str(path), KEY, NOW)
    if grant is not None:
        assert grant.granted <= NOW < grant.expires
        _check_ports(grant.port_set)
        lease.save(str(path), KEY, grant)
        assert lease.load(str(path), KEY, NOW) == grant


def _check_ports(port_set):
    assert 1 <= port_set.first <= port_set.first + port_set.size - 1 <= 65535


def _lease_of_ours(text):
    """The fields behind the key come from the input."""
    _lease('["%s", %s]' % (KEY, text))


def _command(text):
    server = control.Server.__new__(control.Server)
    server._answer = lambda request: {"command": request["command"]}
    reply = server._reply(text.encode())
    assert set(reply) in ({"error"}, {"command"})
    json.dumps(reply)


class _Place:
    """As much of a keeper's place as there must be before anything is asked."""

    def __init__(self):
        self.memory = self

    def in_ram(self):
        return self

    def choice(self, options, family):
        assert family in (4, 6)


def _orders(text):
    """The file of the mappings that commands have asked for."""
    (pathlib.Path(_DIRECTORY.name) / "mappings").write_bytes(text.encode())
    for ports in orders.Orders(_Place(), _DIRECTORY.name).load(()):
        _check_wish(ports.wish(), ports.suggestion())


def _orders_of_ours(text):
    """One mapping that is right, and then what the input says."""
    _orders('{"web": {"protocol": "tcp", "internal_port": "80", %s}}' % text)


_CASES = (
    _uci,
    _config,
    _options,
    _state,
    _state_with_checksum,
    _lease,
    _lease_of_ours,
    _command,
    _mapping,
    _orders,
    _orders_of_ours,
)


def run(data):
    """One input. Raises AssertionError for a broken law, whatever else for a fault of a reader."""
    if data:
        _CASES[data[0] % len(_CASES)](data[1:].decode("utf-8", "replace"))
