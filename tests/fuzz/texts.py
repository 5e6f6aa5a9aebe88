"""Fuzz target: texts that people, flash and programs hand in: UCI, config, state, lease, commands.

The first octet of an input chooses the case. Each reader may raise its own documented error and
nothing else; what it accepts obeys its limits.
"""

import binascii
import json
import pathlib
import tempfile

from cpe_agent import config, control, lease, store, uci
from cpe_agent.pcp.mapping import Grant

KEY = "server source mapping"
NOW = 10000  # ms
VERSIONS = (1, 2)  # of the state file
_PLACE = tempfile.TemporaryDirectory(prefix="cpe-agent-fuzz-")


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
        assert 120 <= parsed.softwire.lifetime <= 86400
        assert 1 <= parsed.softwire.ports <= 65535


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
    path = pathlib.Path(_PLACE.name) / "lease"
    path.write_bytes(text.encode())
    grant = lease.load(str(path), KEY, NOW)
    if grant is not None:
        assert grant.granted <= NOW < grant.expires
        _check_ports(grant.port_set)
        lease.save(str(path), KEY, grant)
        assert lease.load(str(path), KEY, NOW) == Grant(*grant)


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


_CASES = (
    _uci,
    _config,
    _options,
    _state,
    _state_with_checksum,
    _lease,
    _lease_of_ours,
    _command,
)


def run(data):
    """One input. Raises AssertionError for a broken law, whatever else for a fault of a reader."""
    if data:
        _CASES[data[0] % len(_CASES)](data[1:].decode("utf-8", "replace"))
