"""The report: complete in itself, sound HTML, and true to the story it is given."""

import re
from html.parser import HTMLParser

import demo_messages
import demo_pictures
import pytest
import report

from tests.unit.lab_demo import demo_record

VOID = ("meta", "br")


class Sound(HTMLParser):
    """Notes elements that are closed in another order than they were opened."""

    def __init__(self):
        super().__init__()
        self.open, self.faults = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append((tag, self.getpos()))


def test_it_is_sound_html():
    parser = Sound()
    parser.feed(report.render(demo_record.record()))
    assert parser.faults == []
    assert parser.open == ["html"]


def test_it_loads_nothing():
    page = report.render(demo_record.record())
    assert "://" not in page
    assert not re.search(r"\b(src|href|@import|url)\b\s*[=(]", page)
    assert "<script" not in page


def test_it_shows_the_set_and_the_figures():
    page = report.render(demo_record.record())
    for words in ("192.0.2.1", "4096\u20135119", "321 / 0", "micropython 1.25.0", "3900 kB"):
        assert words in page


def test_texts_of_the_lab_are_escaped():
    page = report.render(demo_record.record())
    assert "granted &lt;all&gt;" in page
    assert "in &lt;3 s" in page


def test_it_tells_when_the_set_was_another_one():
    record = demo_record.record()
    record["result"]["same_after_power_cut"] = False
    assert "<b>others</b>" in report.render(record)


def test_repeated_announcements_are_one_line_and_a_new_epoch_starts_another():
    record = demo_record.record()
    record["messages"][:2] = [
        {"at": at, "opcode": "ANNOUNCE", "epoch": epoch} for at, epoch in ((1, 7), (2, 9), (2.5, 0))
    ]
    found = report.grouped(record["messages"][:3], record)
    assert [(one["epoch"], count, last) for one, count, last in found] == [(7, 2, 2), (0, 1, 2.5)]


def test_an_epoch_that_falls_is_told_to_be_a_loss():
    record = demo_record.record()
    assert "all state is lost" not in report.render(record)
    log = [demo_record.entry(9, 6000, "out", demo_record.announce(1), "ff02::1")]
    record["messages"] += [demo_messages.decode(one, 1.0) for one in log]
    assert "it was at 5 s before: all state is lost" in report.render(record)


def test_neighbours_have_a_table_of_their_own():
    ours, others = report.render(demo_record.record()).split("The neighbours' messages (1)")
    assert ours.count("MAP request") == others.count("MAP request") == 1


def test_a_garbled_message_is_shown():
    page = report.render(demo_record.record())
    assert "? unreadable" in page
    assert b"\2\1garbled".hex()[:8] in page


@pytest.mark.parametrize(("first", "size"), [(4096, 1), (1024, 64512), (65535, 1), (5000, 300)])
def test_pictures_take_sets_of_every_size(first, size):
    own = {"address": "192.0.2.1", "first_port": first, "size": size}
    used = {"tcp": [[first, first + size - 1]], "udp": [[1, 2]]}
    whole = demo_pictures.port_space(own, [], size if size > 255 else 1024)
    inside = demo_pictures.port_set(own, used)
    assert f"{first}-{first + size - 1}: our router" in whole
    assert inside.count('class="tcp"') == size
    assert 'class="udp"' not in inside, "a port that is not in the set"


def test_a_port_that_two_protocols_used_shows_both():
    inside = demo_pictures.port_set(
        demo_record.GRANTED, {"tcp": [[4100, 4100]], "udp": [[4100, 4100]]}
    )
    assert inside.count("<title>4100: tcp, udp</title>") == 2
