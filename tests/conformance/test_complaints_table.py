"""The page's table of complaints names tests that exist, and leaves no complaint out."""

import re

import pytest

from tests.conformance import table

PAGE = table.ROOT / "docs/nat.md"
TITLE = "## What people complain of"
COMPLAINTS = (
    "openwrt/openwrt#11972",
    "openwrt/openwrt#14449",
    "openwrt/openwrt#25191",
    "strict NAT",
    "miniupnp/miniupnp#465",
    "Ports run out",
    "openwrt/openwrt#24766",
    "openwrt/openwrt#10338",
    "openwrt/openwrt#12119",
)
OURS, THEIRS = 2, 3  # columns


def rows(text):
    """The table's rows as lists of cells."""
    section = text.partition(TITLE)[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def names(cell):
    """Names of a cell, as 'path:name'."""
    return re.findall("`([^`]+)`", cell)


def problems(row):
    """What is wrong with a row, as lines for people."""
    named = names(row[OURS]) + names(row[THEIRS])
    found = [text for text in (table.absent(name, table.ROOT) for name in named) if text]
    return found + ([] if names(row[OURS]) else ["no test"])


@pytest.mark.parametrize("complaint", COMPLAINTS)
def test_each_complaint_has_a_test_that_exists(complaint):
    (row,) = [row for row in rows(PAGE.read_text()) if complaint in row[0]]
    assert problems(row) == []


def test_a_test_that_is_gone_and_a_complaint_without_one_are_told():
    here = "tests/conformance/test_complaints_table.py"
    gone = ["complaint", "elsewhere", "`%s:test_that_is_gone`" % here, ""]
    assert problems(gone) == ["%s has no test_that_is_gone" % here]
    assert problems(["complaint", "elsewhere", "by hand", ""]) == ["no test"]
