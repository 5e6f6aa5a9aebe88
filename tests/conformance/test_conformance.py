"""The table of requirements names what exists, and leaves no MUST out."""

import importlib
import sys

import pytest

from tests.conformance import table

CORE = "tests/unit/core/"  # tests without fixtures, that run in this process
GROUPS = {"groups": {"client": {"HDR": "Headers"}}}
GOOD = {
    "id": "PCP-8-1",
    "level": "MUST",
    "text": "UDP alone.",
    "by": ["cpe_agent/net.py:request_socket"],
    "shown": ["tests/conformance/test_conformance.py:test_the_table_is_sound"],
}


def problems(*entries):
    return table.problems(table.parse({**GROUPS, "HDR": list(entries)}))


def test_the_table_is_sound():
    assert table.problems(table.load()) == []


def test_the_page_is_the_table():
    assert table.DOCUMENT.read_text() == table.render(table.load(), table.titles()), (
        "run: python -m tests.conformance --write"
    )


def functions_run_by(name):
    """Functions of the agent that a core test runs, as 'path:name'."""
    path, _, test = name.partition(":")
    module = importlib.import_module(path[: -len(".py")].replace("/", "."))
    codes = set()

    def note(frame, event, _):
        if event == "call":
            codes.add(frame.f_code)

    sys.setprofile(note)
    try:
        getattr(module, test)()
    finally:
        sys.setprofile(None)
    agent = str(table.ROOT / "cpe_agent") + "/"
    root = len(str(table.ROOT)) + 1
    return {
        "%s:%s" % (code.co_filename[root:], code.co_qualname)
        for code in codes
        if code.co_filename.startswith(agent)
    }


def test_the_tests_that_are_named_run_the_functions_that_are_named():
    """Where all of them are core tests: others run in processes and namespaces of their own."""
    run = {}
    idle = []
    for one in table.load():
        if not one.shown or not all(name.startswith(CORE) for name in one.shown):
            continue
        for name in one.shown:
            if name not in run:
                run[name] = functions_run_by(name)
        seen = set().union(*[run[name] for name in one.shown])
        idle += [
            "%s: %s" % (one.id, name)
            for name in one.by
            if not [other for other in seen if other == name or other.startswith(name + ".")]
        ]
    assert len(run) > 50 and idle == []


def test_a_good_entry_is_good():
    assert problems(GOOD) == []
    assert problems({**GOOD, "by": [], "shown": [], "not_applicable": "no UDP"}) == []


FAULTS = {
    "no such file": ({"by": ["cpe_agent/nte.py:request_socket"]}, "there is no file"),
    "no such function": ({"by": ["cpe_agent/net.py:request"]}, "has no request"),
    "no such method": ({"by": ["cpe_agent/net.py:Poller.ad"]}, "has no Poller.ad"),
    "no name": ({"by": ["cpe_agent/net.py"]}, "has no name"),
    "no such test": (
        {"shown": ["tests/conformance/test_conformance.py:test_no"]},
        "has no test_no",
    ),
    "a helper for a test": (
        {"shown": ["tests/conformance/test_conformance.py:problems"]},
        "is no test",
    ),
    "a test for a function": ({"by": GOOD["shown"]}, "is a test"),
    "no function": ({"by": []}, "a MUST is met by a function and shown by a test"),
    "no test": ({"shown": []}, "a MUST is met by a function and shown by a test"),
    "a declaration without a test": ({"level": "DECL", "shown": []}, "a DECL is met by"),
    "nothing": ({"level": "MAY", "by": [], "shown": []}, "nothing is named"),
    "a MUST that is not met": (
        {"by": [], "shown": [], "not_met": "It speaks TCP."},
        "a MUST is not met",
    ),
    "no reason": ({"by": [], "shown": [], "not_applicable": ""}, "without a reason"),
    "both": ({"not_met": "It speaks TCP."}, "a function or test is named"),
    "no such level": ({"level": "WISH"}, "level 'WISH'"),
    "a long text": ({"text": "word " * 16}, "more than 15 words"),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_is_found(what):
    change, text = FAULTS[what]
    assert any(text in found for found in problems({**GOOD, **change})), problems(
        {**GOOD, **change}
    )


def test_an_id_stands_once():
    assert problems(GOOD, GOOD) == ["PCP-8-1: stands 2 times"]


def test_a_field_that_is_misspelt_is_not_passed_over():
    with pytest.raises(ValueError, match="not_meet"):
        problems({**GOOD, "not_meet": "x"})


def test_counts_are_by_keyword_and_status():
    found = table.parse(
        {
            **GROUPS,
            "HDR": [GOOD, {**GOOD, "level": "MUST NOT"}, {**GOOD, "not_met": "x", "level": "MAY"}],
        }
    )
    assert list(table.count_lines(found)) == [["MUST", 2, 0, 0, 2], ["MAY", 0, 0, 1, 1]]
