"""State on flash: old or new after whatever may happen, and never trusted when damaged."""

import binascii
import json
import os
import pathlib
import re
import stat
import subprocess

import pytest

from cpe_agent import memory, store
from cpe_agent.portset import PortSet
from tests.support import micropython, netns

PROGRAM = str(pathlib.Path(__file__).with_name("store_program.py"))
SERVER = bytes.fromhex("20010db8ffff00000000000000000001")
OLD = store.State(bytes(range(12)), SERVER, 0, 1, None, None)
IPV6 = OLD._replace(port_set=PortSet("2001:db8::1", 80, 1), first_internal=80)
NEW = OLD._replace(port_set=PortSet("192.0.2.3", 37056, 32), first_internal=1)
OLD_TEXT, NEW_TEXT = [store.encode([(store.SOFTWIRE, state)]) for state in (OLD, NEW)]
VERSION_1 = """\
cpe-agent-state 1 %08x
{"address": "192.0.2.3", "first_internal": 1, "first_port": 37056, "internal_port": 1, \
"nonce": "000102030405060708090a0b", "protocol": 0, \
"server": "20010db8ffff00000000000000000001", "size": 32}
"""
VERSION_1 %= binascii.crc32(VERSION_1.split("\n", 1)[1].encode())


def run(words, **options):
    defaults = {"capture_output": True, "text": True, "timeout": 60, "cwd": micropython.ROOT}
    return subprocess.run(words, **{**defaults, **options})


# Killed at any moment


class Trace:
    """Runs of the writer under strace, which shows and stops what it does to the files."""

    def __init__(self, runtime, directory):
        self.path = directory / "state"
        self._new = directory / "state.new"
        self._source = directory / "source"
        self._log = directory / "log"
        self._source.write_text(NEW_TEXT)
        self._words = ["strace", "-qq", "-o", str(self._log)]
        self._words += ["-P", str(self.path), "-P", str(self._new)]
        self._program = [runtime, PROGRAM, "write", str(self.path), str(self._source)]

    def calls(self, before, *inject):
        """System calls that touch the files, in order. before: their content, None for no file."""
        self.path.unlink(missing_ok=True)
        self._new.unlink(missing_ok=True)
        if before is not None:
            self.path.write_text(before)
        done = run([*self._words, *inject, *self._program])
        assert not done.stderr.startswith("strace:"), done.stderr
        lines = self._log.read_text().splitlines()
        return [line for line in lines if re.match(r"[a-z0-9]+\(", line)]

    def temporary(self):
        """The temporary file, or None."""
        return self._new if self._new.exists() else None


@pytest.fixture
def trace(runtime, tmp_path):
    return Trace(runtime, tmp_path)


def name(call):
    return call.partition("(")[0]


@pytest.mark.parametrize("before", [None, OLD_TEXT], ids=["no file yet", "old state"])
def test_killed_at_any_system_call_the_next_start_has_the_old_or_the_new_state(trace, before):
    calls = trace.calls(before)
    assert trace.path.read_text() == NEW_TEXT
    assert {"openat", "write", "fsync", "rename", "close"} <= {name(call) for call in calls}
    outcomes = []
    for index, call in enumerate(calls):
        nth = sum(name(earlier) == name(call) for earlier in calls[: index + 1])
        inject = "inject=%s:signal=KILL:when=%d" % (name(call), nth)
        made = trace.calls(before, "-e", inject)
        assert len(made) == index + 1, "killed where it was meant to be: " + call
        if trace.temporary() and trace.temporary().stat().st_size:
            assert stat.S_IMODE(trace.temporary().stat().st_mode) == 0o600
        outcomes.append(trace.path.read_text() if trace.path.exists() else None)
        again = store.File(str(trace.path))
        assert again.read() == outcomes[-1]
        again.write(NEW_TEXT)
        assert trace.path.read_text() == NEW_TEXT
        assert trace.temporary() is None or outcomes[-1] == NEW_TEXT
    assert set(outcomes) == {before, NEW_TEXT}
    turn = outcomes.index(NEW_TEXT)
    assert outcomes == [before] * turn + [NEW_TEXT] * (len(calls) - turn)


def test_the_content_is_on_the_medium_before_the_name_and_the_name_at_the_end(trace):
    done = [call for call in trace.calls(OLD_TEXT) if name(call) in ("write", "fsync", "rename")]
    assert [name(call) for call in done] == ["write", "fsync", "rename", "fsync"]
    assert [call.rsplit(" = ", 1)[1] for call in done][1:] == ["0", "0", "0"]


def test_only_root_can_read_the_file(runtime, tmp_path):
    (tmp_path / "source").write_text(NEW_TEXT)
    run([runtime, PROGRAM, "write", str(tmp_path / "state"), str(tmp_path / "source")])
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o600


def test_equal_content_is_not_written_again(runtime, tmp_path):
    (tmp_path / "source").write_text(NEW_TEXT)
    words = [runtime, PROGRAM, "write", str(tmp_path / "state"), str(tmp_path / "source")]
    assert run(words).stdout == "written\n"
    before = (tmp_path / "state").stat()
    assert run(words).stdout == "unchanged\n"
    after = (tmp_path / "state").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_writes_are_counted(tmp_path):
    file = store.File(str(tmp_path / "state"))
    assert [file.write(text) for text in (OLD_TEXT, OLD_TEXT, NEW_TEXT)] == [True, False, True]
    assert file.writes == 2


# Damaged


def sealed(body, version=2):
    """A file with the right checksum."""
    return "cpe-agent-state %d %08x\n%s" % (version, binascii.crc32(body.encode()), body)


FIELDS = ("name", "server", "protocol", "internal_port", "nonce")
FIELDS += ("address", "first_port", "size", "first_internal")


def with_fields(**changes):
    """A file of this version with other values; '-' leaves a value out."""
    [values] = json.loads(NEW_TEXT.split("\n", 1)[1])
    fields = {**dict(zip(FIELDS, values)), **changes}
    return sealed(json.dumps([[value for value in fields.values() if value != "-"]]))


def version_1_with(**changes):
    fields = {**json.loads(VERSION_1.split("\n", 1)[1]), **changes}
    body = json.dumps({name: value for name, value in fields.items() if value != "-"})
    return sealed(body, 1)


DAMAGED = {
    "empty": b"",
    "newline": b"\n",
    "zeros": bytes(512),
    "erased flash": b"\xff" * 512,
    "foreign json": b'{"nonce": "00"}\n',
    "foreign text": b"config interface 'lan'\n",
    "foreign binary": bytes(range(256)) * 4,
    "huge": NEW_TEXT.encode() + b" " * 100000,
    "twice": (NEW_TEXT * 2).encode(),
    "later version": sealed("[]", 3).encode(),
    "no version": NEW_TEXT.replace("state 2", "state x").encode(),
    "version 1 with the content of 2": sealed(NEW_TEXT.split("\n", 1)[1], 1).encode(),
    "version 2 with the content of 1": sealed(VERSION_1.split("\n", 1)[1], 2).encode(),
    "version 1, no nonce": version_1_with(nonce="-").encode(),
    "version 1, no size": version_1_with(size="-").encode(),
    "version 1, loopback": version_1_with(address="127.0.0.1").encode(),
    "name of a number": with_fields(name=5).encode(),
    "one value more": with_fields(more=1).encode(),
    "IPv6 loopback": with_fields(address="::1").encode(),
    "windows lines": NEW_TEXT.replace("\n", "\r\n").encode(),
    "list of nothing": sealed("[[]]").encode(),
    "object": sealed("{}").encode(),
    "number": sealed("7").encode(),
    "null": sealed("null").encode(),
    "no json": sealed("{nonce}").encode(),
    "deep": sealed("[" * 3000).encode(),
    "no nonce": with_fields(nonce="-").encode(),
    "nonce of 11": with_fields(nonce="00" * 11).encode(),
    "nonce no hex": with_fields(nonce="zz" * 12).encode(),
    "nonce number": with_fields(nonce=5).encode(),
    "nonce odd": with_fields(nonce="0" * 23).encode(),
    "server of 4": with_fields(server="c0000201").encode(),
    "protocol negative": with_fields(protocol=-1).encode(),
    "port too large": with_fields(internal_port=65536).encode(),
    "port text": with_fields(internal_port="1").encode(),
    "set past the end": with_fields(first_port=65535).encode(),
    "set at port 0": with_fields(first_port=0).encode(),
    "set of none": with_fields(size=0).encode(),
    "set of a fraction": with_fields(size=1.5).encode(),
    "set of infinite size": with_fields(size="@").replace('"@"', "1e999").encode(),
    "set without a size": with_fields(size="-").encode(),
    "set without first internal": with_fields(first_internal="-").encode(),
    "loopback": with_fields(address="127.0.0.1").encode(),
    "multicast": with_fields(address="224.0.0.1").encode(),
    "address number": with_fields(address=3221225987).encode(),
    "address short": with_fields(address="192.0.2").encode(),
}


def judgements(runtime, directory):
    done = run([runtime, PROGRAM, "judge", str(directory)])
    assert done.returncode == 0, done.stderr
    return dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())


def test_no_damaged_file_is_trusted(runtime, tmp_path):
    for what, content in DAMAGED.items():
        (tmp_path / what).write_bytes(content)
    (tmp_path / "good").write_text(NEW_TEXT)
    (tmp_path / "directory").mkdir()
    expected = dict.fromkeys(DAMAGED, "damaged")
    assert judgements(runtime, tmp_path) == {**expected, "good": "state", "directory": "nothing"}


def test_no_cut_and_no_flipped_bit_goes_unnoticed(runtime, tmp_path):
    whole = NEW_TEXT.encode()
    for length in range(len(whole)):
        (tmp_path / ("cut at %d" % length)).write_bytes(whole[:length])
    for bit in range(len(whole) * 8):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        (tmp_path / ("bit %d" % bit)).write_bytes(flipped)
    found = judgements(runtime, tmp_path)
    assert len(found) == len(whole) * 9
    assert [what for what in found if found[what] != "damaged"] == []


def test_what_was_encoded_is_read_back():
    assert store.decode(OLD_TEXT) == [(store.SOFTWIRE, OLD)]
    assert store.decode(NEW_TEXT) == [(store.SOFTWIRE, NEW)]
    many = [("mapping a", OLD), (store.SOFTWIRE, NEW), ("mapping \u00e4", IPV6)]
    assert store.decode(store.encode(many)) == many
    assert store.decode(store.encode([])) == []


def test_what_version_1_wrote_is_read():
    """It is out there: an update must not cost a router its nonce."""
    assert store.decode(VERSION_1) == [(store.SOFTWIRE, NEW)]
    without_set = dict.fromkeys(("address", "first_port", "size", "first_internal"), "-")
    assert store.decode(version_1_with(**without_set)) == [(store.SOFTWIRE, OLD)]


def test_a_file_of_a_later_version_is_told_from_a_damaged_one():
    with pytest.raises(store.Damaged, match="of version 3, which a newer cpe-agent has written"):
        store.decode(sealed("[]", 3))
    with pytest.raises(store.Damaged, match="checksum"):
        store.decode(NEW_TEXT.replace("state 2", "state 3", 1)[:-2])


# Several mappings and servers


def on_server(number, state=NEW):
    return state._replace(server=SERVER[:15] + bytes([number]), nonce=bytes([number] * 12))


def test_each_server_has_its_nonce_and_the_newest_is_the_first_choice(tmp_path):
    for _ in range(2):  # the second time from the file
        kept = memory.Memory(str(tmp_path / "state"))
        for number in (1, 2):
            kept.keep("mapping a", on_server(number))
    kept = memory.Memory(str(tmp_path / "state"))
    assert kept.recall("mapping a", on_server(1).server) == on_server(1)
    assert kept.recall("mapping a", on_server(2).server) == on_server(2)
    assert kept.recall("mapping a", on_server(9).server) is None
    assert kept.newest_set("mapping a") == on_server(2)
    assert kept.recall("mapping b", on_server(1).server) is None
    assert kept.newest_set("mapping b") is None


def test_what_is_remembered_does_not_grow_without_end(tmp_path):
    """4096 octets: what is wanted stays, of the rest the newest."""
    kept = memory.Memory(str(tmp_path / "state"))
    kept.live = ["mapping %d" % number for number in range(10)]
    for name in [*kept.live, *["gone %d" % number for number in range(200)]]:
        for number in range(5):
            kept.keep(name, on_server(number, IPV6))
            assert (tmp_path / "state").stat().st_size <= 4096
    again = memory.Memory(str(tmp_path / "state"))
    for name in kept.live:
        assert again.recall(name, on_server(4).server) == on_server(4, IPV6)
    assert again.recall("gone 199", on_server(4).server)
    assert again.recall("gone 0", on_server(4).server) is None


def without_set(state):
    return state._replace(port_set=None, first_internal=None)


def test_a_server_that_gave_a_set_is_not_forgotten_for_some_that_gave_none(tmp_path):
    """A mapping that may be held there cannot be had with another nonce."""
    kept = memory.Memory(str(tmp_path / "state"))
    kept.live = ["softwire"]
    kept.keep("softwire", on_server(1))
    for number in range(2, 100):
        kept.keep("softwire", without_set(on_server(number)))
        assert kept.recall("softwire", on_server(1).server) == on_server(1)
        assert kept.recall("softwire", on_server(number).server), "the one in use"
    assert kept.newest_set("softwire") == on_server(1)
    assert len(kept.servers("softwire")) == 8


def test_a_full_file_loses_what_has_no_set_before_what_has_one(tmp_path):
    kept = memory.Memory(str(tmp_path / "state"))
    kept.live = ["mapping %d" % number for number in range(5)]
    for name in kept.live:
        kept.keep(name, on_server(0))
    for name in kept.live:
        for number in range(1, 30):
            kept.keep(name, without_set(on_server(number)))
    for name in kept.live:
        assert kept.recall(name, on_server(0).server), name
        assert kept.recall(name, on_server(29).server), name
    assert (tmp_path / "state").stat().st_size <= 4096


def test_the_server_in_use_is_never_forgotten_though_it_gave_nothing_yet(tmp_path):
    kept = memory.Memory(str(tmp_path / "state"))
    kept.live = ["mapping asks", "mapping holds"]
    kept.keep("mapping asks", without_set(on_server(1)))
    for number in range(2, 200):
        kept.keep("mapping holds", on_server(number, IPV6))
        kept.keep("gone %d" % number, on_server(1, IPV6))
    assert kept.recall("mapping asks", on_server(1).server)
    assert kept.recall("mapping holds", on_server(199).server)


def test_back_on_an_earlier_server_it_is_the_one_in_use(tmp_path):
    kept = memory.Memory(str(tmp_path / "state"))
    kept.live = ["softwire"]
    for number in (1, 2, 1):
        kept.keep("softwire", without_set(on_server(number)))
    for number in range(3, 100):
        kept.keep("gone %d" % number, without_set(on_server(number)))
    assert kept.recall("softwire", on_server(1).server)


def test_going_from_server_to_server_and_back_is_not_written(tmp_path):
    """A day of three silent servers would be 250 writes to the flash."""
    kept = memory.Memory(str(tmp_path / "state"))
    for number in (1, 2, 3) * 10:
        kept.keep("softwire", on_server(number))
    assert kept.writes == 3


def test_what_one_server_confirmed_is_not_forgotten_of_the_others(tmp_path):
    kept = memory.Memory(str(tmp_path / "state"))
    kept.keep("softwire", on_server(1))
    kept.keep("softwire", on_server(2))
    kept.forget("softwire", on_server(1).server)
    assert kept.servers("softwire") == [on_server(2).server]


def test_a_mapping_is_forgotten_without_the_others(tmp_path):
    kept = memory.Memory(str(tmp_path / "state"))
    kept.keep("mapping a", on_server(1))
    kept.keep("mapping b", on_server(2))
    kept.forget("mapping a", on_server(1).server)
    again = memory.Memory(str(tmp_path / "state"))
    assert again.recall("mapping a", on_server(1).server) is None
    assert again.recall("mapping b", on_server(2).server) == on_server(2)
    again.forget("mapping b", on_server(2).server)
    assert list(tmp_path.iterdir()) == []


def test_remembering_the_same_again_writes_nothing(tmp_path):
    kept = memory.Memory(str(tmp_path / "state"))
    for _ in range(3):
        kept.keep("mapping a", on_server(1))
        kept.keep("mapping b", on_server(1))
    assert kept.writes == 2


def test_a_damaged_file_is_kept_out_of_the_way(tmp_path):
    path = tmp_path / "state"
    path.write_text("garbage")
    file = store.File(str(path))
    assert file.read() == "garbage"
    assert file.set_aside() == str(path) + ".bad"
    assert (tmp_path / "state.bad").read_text() == "garbage"
    assert not path.exists()
    assert file.write("garbage") is True, "the memory of what was there is gone too"
    file.remove()
    assert list(tmp_path.iterdir()) == []


# A medium that does not take it


@pytest.fixture(scope="module")
def machine():
    """A namespace in which file systems can be mounted."""
    with netns.Network() as net:
        yield net.namespace("machine")


def write_on(machine, runtime, medium, prepare):
    """What the writer says on a medium that a shell script has prepared, and what is there then."""
    source = medium / "source"
    source.write_text(NEW_TEXT)
    mount = medium / "mount"
    mount.mkdir()
    machine.run(["sh", "-c", "cd '%s' && %s" % (medium, prepare)])
    words = [runtime, PROGRAM, "write", str(mount / "state"), str(source)]
    said = machine.run(words).stdout
    content = machine.run(["cat", str(mount / "state")]).stdout
    machine.run(["umount", str(mount)])
    return said, content


def test_on_a_full_medium_the_old_state_stays(machine, runtime, tmp_path):
    (tmp_path / "old").write_text(OLD_TEXT)
    prepare = (
        "mount -t tmpfs -o size=8k none mount && cp old mount/state &&"
        " { dd if=/dev/zero of=mount/rest bs=4096 count=3 2>/dev/null; true; }"
    )
    said, content = write_on(machine, runtime, tmp_path, prepare)
    assert said.startswith("cannot write %s/mount/state: " % tmp_path)
    assert "28" in said, "No space left on device"
    assert content == OLD_TEXT


def test_on_a_read_only_medium_the_old_state_stays(machine, runtime, tmp_path):
    (tmp_path / "old").write_text(OLD_TEXT)
    prepare = "mount -t tmpfs none mount && cp old mount/state && mount -o remount,ro none mount"
    said, content = write_on(machine, runtime, tmp_path, prepare)
    assert said.startswith("cannot write %s/mount/state: " % tmp_path)
    assert "30" in said, "Read-only file system"
    assert content == OLD_TEXT


@pytest.mark.parametrize("path", ["nowhere/state", "file/state"])
def test_a_path_that_cannot_be_is_said(runtime, tmp_path, path):
    (tmp_path / "source").write_text(NEW_TEXT)
    (tmp_path / "file").write_text("")
    words = [runtime, PROGRAM, "write", str(tmp_path / path), str(tmp_path / "source")]
    assert run(words).stdout.startswith("cannot write %s: " % (tmp_path / path))


def test_a_directory_in_place_of_the_file_is_said(runtime, tmp_path):
    (tmp_path / "source").write_text(NEW_TEXT)
    (tmp_path / "state").mkdir()
    words = [runtime, PROGRAM, "write", str(tmp_path / "state"), str(tmp_path / "source")]
    assert run(words).stdout.startswith("cannot write %s: " % (tmp_path / "state"))


def test_directories_are_made_for_root_alone(tmp_path):
    path = tmp_path / "a" / "b"
    before = os.umask(0)
    try:
        store.make_directory(str(path))
    finally:
        os.umask(before)
    assert [stat.S_IMODE(p.stat().st_mode) for p in (path, path.parent)] == [0o700, 0o700]
    store.make_directory(str(path))
    with pytest.raises(store.StoreError, match=r"cannot create .*/file/c"):
        (tmp_path / "file").write_text("")
        store.make_directory(str(tmp_path / "file" / "c"))
