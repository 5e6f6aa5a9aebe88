"""What a person, or a CI log, sees of a step."""

import io
import json

import demo
import demo_neighbour
import demo_story
import pytest
from cpelab import LabError
from demo_story import FlashCount, Unexpected
from demo_terminal import Terminal


class Story:
    """Just enough of a story for run_step()."""

    def __init__(self):
        self.steps = [None, None]
        self.now = 0.0

    def clock(self):
        self.now += 1.5
        return self.now


@pytest.fixture
def out():
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)


def words(out):
    return out.buffer.getvalue().decode()


def run(out, action):
    steps = []
    demo.run_step(Terminal(out), Story(), steps, 1, "The step", action)
    return steps


def test_a_step_that_went_well(out):
    def action(step):
        step.note("doing")
        step.say("192.0.2.1 ports 4096 to 5119")

    [noted] = run(out, action)
    lines = words(out).splitlines()
    assert lines[:2] == ["... 1/2  The step", "    . doing"]
    assert lines[2].startswith("✔ The step  0.")
    assert lines[3] == "    192.0.2.1 ports 4096 to 5119"
    assert noted["details"] == ["192.0.2.1 ports 4096 to 5119"]
    assert noted["seconds"] == 1.5


def test_a_step_that_saw_something_else(out):
    def action(step):
        raise Unexpected("the set", {"first_port": 4096}, {"first_port": 1024}, "last words")

    with pytest.raises(demo.Failed):
        run(out, action)
    said = words(out)
    assert "✘ The step" in said
    assert "looked at the set" in said
    assert "expected  {'first_port': 4096}" in said
    assert "seen      {'first_port': 1024}" in said
    assert "last words" in said


def test_a_lab_that_failed_shows_the_console(out):
    def action(step):
        raise LabError("cpe: no shell within 60 s\n--- console of cpe:\nKernel panic")

    with pytest.raises(demo.Failed):
        run(out, action)
    assert "seen      cpe: no shell within 60 s" in words(out)
    assert "Kernel panic" in words(out)


def test_where_there_is_no_tick_a_word_is_used():
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="replace", write_through=True)
    run(out, lambda step: None)
    assert "ok The step" in words(out)


def test_long_findings_are_not_cut(out):
    run(out, lambda step: step.say("x" * 200))
    assert "x" * 200 in words(out)


def test_flash_writes_leave_out_the_syncs_of_the_counting():
    then, now = FlashCount(10, 11, 80), FlashCount(11, 12, 80)
    assert demo_story.flash_writes(then, now) == (0, 0)
    assert demo_story.flash_writes(then, FlashCount(14, 15, 96)) == (3, 16)


@pytest.mark.parametrize(
    ("peer", "inside"),
    [
        (["192.0.2.1", 4096], True),
        (["192.0.2.1", 5119], True),
        (["192.0.2.1", 5120], False),
        (["192.0.2.2", 4096], False),
    ],
)
def test_peers_inside_the_set(peer, inside):
    own = {"address": "192.0.2.1", "first_port": 4096, "size": 1024}
    assert demo_story.contains(own, peer) is inside


def test_an_earlier_run_leaves_nothing_that_looks_like_this_ones(tmp_path):
    for name in ("result.json", "report.html", "story.json", "flash.img", "notes.txt"):
        (tmp_path / name).write_text("old")
    demo_story.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_neighbours_packet_has_a_sound_header():
    packet = demo_neighbour.udp_packet("192.0.2.1", 4103)
    assert len(packet) == 28
    assert demo_neighbour.checksum(packet[:20]) == 0
    assert packet[20:22] == (4103).to_bytes(2, "big")


def test_the_result_file_is_json_for_people(tmp_path):
    demo.write_json(tmp_path / "result.json", {"ok": True, "title": "a \u2013 b"})
    text = (tmp_path / "result.json").read_text()
    assert json.loads(text) == {"ok": True, "title": "a \u2013 b"}
    assert "a \u2013 b" in text
