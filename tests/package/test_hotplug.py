"""Users' scripts at the agent's events, with the package's runner and a program that calls none."""

import pathlib
import time

import pytest

from cpe_agent import hotplug
from tests.unit.shell import rig

FILES = pathlib.Path(__file__).parents[2] / "openwrt-package/cpe-agent/files"
PATIENCE = 20
PLACE = {"interface": "wan4", "address": "192.0.2.1", "first_port": 1024}

# Notes when it begins and ends; ends when it may.
CALL = """#!/bin/sh
echo "begin $1 $ACTION $INTERFACE $ADDRESS $FIRST_PORT" >>%(dir)s/notes
while [ ! -e %(dir)s/go ]; do sleep 0.02; done
echo "end $ACTION" >>%(dir)s/notes
"""


class Place:
    def __init__(self, folder):
        self.folder = folder
        self.call = folder / "call"
        self.call.write_text(CALL % {"dir": folder})
        self.call.chmod(0o755)
        self.scripts = self.make()

    def make(self):
        runner = str(FILES / "usr/lib/cpe-agent/hotplug")
        return hotplug.Scripts(str(self.folder), str(self.call), runner)

    def notes(self, count):
        """The notes, once there are so many."""
        end = time.monotonic() + PATIENCE
        while True:
            path = self.folder / "notes"
            found = path.read_text().splitlines() if path.exists() else []
            if len(found) >= count:
                return found
            assert time.monotonic() < end, found
            time.sleep(0.02)

    def runners(self):
        """How many processes wait or work for us."""
        count = 0
        for one in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                count += str(self.folder).encode() in one.read_bytes()
            except OSError:
                continue  # it has ended
        return count

    def go(self):
        (self.folder / "go").touch()


@pytest.fixture
def place(tmp_path):
    found = Place(tmp_path)
    yield found
    found.go()


def test_a_script_is_told_what_has_changed(place):
    place.go()
    place.scripts.run("up", PLACE)
    assert place.notes(2) == ["begin cpe-agent up wan4 192.0.2.1 1024", "end up"]


def test_scripts_run_one_after_the_other_in_the_order_of_events(place):
    place.scripts.run("up", PLACE)
    place.notes(1)
    for kind in ("changed", "down", "up", "down"):
        place.scripts.run(kind, PLACE)
    place.go()
    said = [line.split()[:3] for line in place.notes(10)]
    kinds = ["up", "changed", "down", "up", "down"]
    wanted = []
    for kind in kinds:
        wanted += [["begin", "cpe-agent", kind], ["end", kind]]
    assert said == wanted


def test_a_script_that_hangs_does_not_gather_processes_and_memory(place, capsys):
    place.scripts.run("up", PLACE)
    place.notes(1)
    for _ in range(200):
        place.scripts.run("changed", PLACE)
    # The script, its runner, and one that waits; others are ending.
    rig.wait_for(lambda: place.runners() <= 3, "all others to end")
    assert (place.folder / "events").stat().st_size < 8192
    assert "does not end; it is not told more" in capsys.readouterr().err


def test_events_that_nobody_took_do_not_silence_the_next_agent(place):
    (place.folder / "events").write_text("ACTION=old\n")
    place.scripts = place.make()
    place.go()
    place.scripts.run("up", PLACE)
    assert place.notes(2)[0].split()[2] == "up"


def test_without_hotplug_nothing_is_written(place):
    place.call.unlink()
    place.scripts.run("up", PLACE)
    assert not (place.folder / "events").exists()
