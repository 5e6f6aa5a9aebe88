"""Our reader of UCI files against OpenWrt's own 'uci', and against another reader of them.

UCI=program, or OPENWRT_ROOT=root file system of OpenWrt, says where the genuine one is.
"""

import os
import pathlib
import re
import subprocess
import tempfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cpe_agent import uci
from tests.property.test_uci_properties import files

FILES = 1000  # generated for each test

# Scraps of what a file is made of, and of what breaks it.
CHUNKS = st.sampled_from(
    ("config", "option", "list", "package", "c", "o", "l", "p", "conf", "Config", "'config'")
    + ("a", "b_1", "wan4", "t-y.p", "x y", "2001:db8::1", "\u00e9\u2603", "=", ",", "a.b", "-")
    + ("'", '"', "''", '""', "'a b'", '"a b"', "'a'\\''b'", '"\\""', "'#'", '"#"', "'\n'", '"\n"')
    + ("\\", "\\\n", "\\ ", "\\#", "\\'", '\\"', "\\\\", "\\;", "\\n", "\\\r\n")
    + ("#", " #", "# it's", ";", " ; ", ";;", "\n", "\n\n", " \n", "\r\n", "\r", "\v", "\f")
    + (" ", "  ", "\t")
)
NAME = st.from_regex(r"[A-Za-z0-9_]{1,4}", fullmatch=True)
QUOTED = st.builds(
    lambda style, text: style(text),
    st.sampled_from(
        (
            lambda text: "'" + text.replace("'", "'\\''") + "'",
            lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"',
            lambda text: "".join(c if c == "\n" or c.isalnum() else "\\" + c for c in text),
            lambda text: text,
            lambda text: "'%s'\"%s\"" % (text.replace("'", ""), text.replace('"', "")),
        )
    ),
    st.text("ab1 \t#;'\"\\\n\u00e9", max_size=6),
)
WORD = NAME | NAME | QUOTED | CHUNKS
SPACE = st.sampled_from((" ", " ", "\t", "  ", " \\\n", "\r", "\v"))
END = st.sampled_from(
    ("\n", "\n", "\n", "\r\n", " # 'a'\n", "#c\n", ";", " ; ", "\n\n", "\n;\n", "")
)
STATEMENT = st.builds(
    lambda start, keyword, first, name, rest, end: (
        start + keyword + first + name + "".join(space + word for space, word in rest) + end
    ),
    st.sampled_from(("", "", "\t", " ", "\r", "\v")),
    st.sampled_from(
        ("config", "option", "list", "option", "list", "c", "o", "l", "package", "'o'")
    ),
    SPACE,
    NAME | WORD,
    st.lists(st.tuples(SPACE, WORD), max_size=2),
    END,
)
TEXT = st.builds(
    lambda head, statements, tail: head + "".join(statements) + tail,
    st.sampled_from(("config t\n", "config t 'n'\n", "config t\n", "")),
    st.lists(STATEMENT, max_size=5),
    st.lists(CHUNKS, max_size=6).map("".join) | st.just(""),
)


def program():
    """(command, environment) of the genuine uci, or None."""
    root = os.environ.get("OPENWRT_ROOT", "")
    given_ = os.environ.get("UCI") or (os.path.join(root, "sbin/uci") if root else "")
    if not given_ or not os.path.exists(given_):
        return None
    places = [os.path.join(root, "lib"), os.path.join(root, "usr/lib")] if root else []
    places += [os.environ["LD_LIBRARY_PATH"]] if "LD_LIBRARY_PATH" in os.environ else []
    return given_, dict(os.environ, LD_LIBRARY_PATH=":".join(places))


GENUINE = program()
needs_genuine = pytest.mark.skipif(GENUINE is None, reason="no uci: set UCI or OPENWRT_ROOT")


def exported(folder, text):
    """Sections as 'uci export' writes them, or None if it refuses the file."""
    (folder / "file").write_bytes(text.encode())
    command, environment = GENUINE
    done = subprocess.run(
        [command, "-N", "-c", str(folder), "-t", str(folder), "export", "file"],
        capture_output=True,
        env=environment,
        timeout=20,
    )
    return None if done.returncode or done.stderr else sections_of(done.stdout.decode())


# The export's own form: one statement a line, values in single quotes, '\'' for a quote in them.
VALUE = r"'((?:[^']|'\\'')*)'"
LINE = re.compile(
    r"package file\n|\n?config (\S+)(?: "
    + VALUE
    + r")?\n|\t(option|list) (\w+) "
    + VALUE
    + r"\n|\n"
)


def sections_of(text):
    """[(type, name, {option: value})] of an export."""
    found, at = [], 0
    while at < len(text):
        match = LINE.match(text, at)
        assert match, text[at:]
        at = match.end()
        kind, name, keyword, option, value = match.groups()
        if kind:
            found.append((kind, name, {}))
        elif keyword:
            value = value.replace("'\\''", "'")
            options = found[-1][2]
            if keyword == "list":
                options.setdefault(option, []).append(value)
            else:
                options[option] = value
    return found


def read(text):
    """The same by our reader."""
    try:
        return [tuple(section) for section in uci.parse(text)]
    except uci.UciError:
        return None


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield pathlib.Path(name)


EVERY = settings(
    max_examples=FILES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@needs_genuine
@EVERY
@given(written=files())
def test_a_good_file_is_read_as_uci_reads_it(folder, written):
    text, meant = written
    found = exported(folder, text)
    assert found is not None, text
    assert read(text) == found == [tuple(section) for section in meant]


@needs_genuine
@EVERY
@given(text=TEXT)
def test_any_file_is_read_or_refused_as_by_uci(folder, text):
    assert read(text) == exported(folder, text)


# What uciparse reads, too: one statement a line, whole keywords, no escapes, no quote in a value.
# It takes a comment with a quote for a part of the value before.
COMMENT = st.sampled_from(("", " # it is so", "\t#"))
PLAIN = st.text("ab1 .:/_-#;", min_size=1, max_size=8)
VALUES = (
    PLAIN.map("'%s'".__mod__)
    | PLAIN.map('"%s"'.__mod__)
    | st.from_regex(r"[A-Za-z0-9./:_-]{1,8}", fullmatch=True)
)
OPTION = st.builds(
    "\t{} {} {}{}\n".format, st.sampled_from(("option", "list")), NAME, VALUES, COMMENT
)
HEAD = st.builds(
    "config {}{}{}\n".format,
    st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,5}", fullmatch=True),
    st.just("") | NAME.map(" '%s'".__mod__),
    COMMENT,
)
OTHER = st.sampled_from(("\n", "# config a\n", "  \n", "\t# option\n"))
SECTION = st.builds(
    lambda head, lines: head + "".join(lines), HEAD, st.lists(OPTION | OTHER, max_size=4)
)


@EVERY
@given(sections=st.lists(SECTION, max_size=4))
def test_a_plain_file_is_read_as_uciparse_reads_it(sections):
    uciparse = pytest.importorskip("uciparse.uci")
    text = "".join(sections)
    ours = []  # section by section: uciparse knows lines, and does not join sections of one name
    for section in sections:
        ours += read(section)
    theirs = []
    for line in uciparse.UciFile.from_lines(text.splitlines(keepends=True)).lines:
        if isinstance(line, uciparse.UciConfigLine):
            theirs.append((line.section, line.name, {}))
        elif isinstance(line, uciparse.UciOptionLine):
            theirs[-1][2][line.name] = line.value
        elif isinstance(line, uciparse.UciListLine):
            before = theirs[-1][2].get(line.name, [])
            before = before if isinstance(before, list) else [before]
            theirs[-1][2][line.name] = before + [line.value]
    assert ours == theirs
