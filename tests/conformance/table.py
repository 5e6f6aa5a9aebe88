"""The table of requirements: docs/conformance.toml, what is wrong with it, and its Markdown.

What lives here: reading, checking, counting and rendering. What is obeyed, where and how it is
shown stands in the TOML file alone.
"""

import ast
import functools
import pathlib
from collections import Counter, namedtuple

import tomllib

ROOT = pathlib.Path(__file__).parents[2]
SOURCE = ROOT / "docs/conformance.toml"
DOCUMENT = ROOT / "docs/conformance.md"

MET = "met"
NOT_APPLICABLE = "not applicable"
NOT_MET = "not met"
STATUSES = (MET, NOT_APPLICABLE, NOT_MET)

# Keywords as counted: a prohibition is as strong as its command.
KEYWORDS = {
    "MUST": "MUST",
    "MUST NOT": "MUST",
    "SHOULD": "SHOULD",
    "SHOULD NOT": "SHOULD",
    "DECL": "DECL",
    "MAY": "MAY",
    "LOCAL": "LOCAL",
}
_BINDING = ("MUST", "DECL")  # met only with a function and a test
_MOST_WORDS = 15

_DOCUMENTS = {
    "PCP": "RFC 6887",
    "PS": "RFC 7753",
    "LW": "RFC 7596",
    "DHP": "RFC 7291",
    "SEL": "RFC 7488",
    "DESC": "RFC 7220",
    "S46": "RFC 7598",
    "PSID": "RFC 7597",
    "AFN": "RFC 6334",
    "PRI": "RFC 8026",
    "DSL": "RFC 6333",
    "TUN": "RFC 2473",
    "UDP": "RFC 4787",
    "TCP": "RFC 5382",
    "ICM": "RFC 5508",
    "NUP": "RFC 7857",
    "IPI": "RFC 6864",
    "RND": "RFC 6056",
    "PFX": "RFC 7785",
}

# by, shown: tuples of "path:name". reason: why it is not applicable, or what happens instead.
# falls_short: it is left to others, and they are known not to obey.
Requirement = namedtuple(
    "Requirement",
    ("side", "group", "id", "level", "text", "status", "by", "shown", "reason", "falls_short"),
)

_FIELDS = ("id", "level", "text", "by", "shown", "not_applicable", "left_to_others", "not_met")


def load(path=SOURCE):
    """All requirements of a file, in its order. Raises KeyError, ValueError for a broken entry."""
    return parse(tomllib.loads(path.read_text()))


def parse(data):
    """All requirements of a parsed file."""
    return [
        _requirement(side, group, entry)
        for side, groups in data["groups"].items()
        for group in groups
        for entry in data[group]
    ]


def titles(path=SOURCE):
    """{side: {group: title}}."""
    return tomllib.loads(path.read_text())["groups"]


def _requirement(side, group, entry):
    unknown = set(entry) - set(_FIELDS)
    if unknown:
        raise ValueError("%s: unknown field %s" % (entry["id"], ", ".join(sorted(unknown))))
    if "not_applicable" in entry:
        status, reason = NOT_APPLICABLE, entry["not_applicable"]
    elif "left_to_others" in entry:
        status, reason = NOT_APPLICABLE, entry["left_to_others"]
    elif "not_met" in entry:
        status, reason = NOT_MET, entry["not_met"]
    else:
        status, reason = MET, None
    by, shown = tuple(entry.get("by", ())), tuple(entry.get("shown", ()))
    known = [entry[name] for name in ("id", "level", "text")]
    short = "left_to_others" in entry
    return Requirement(side, group, *known, status, by, shown, reason, short)


def origin(requirement):
    """Where a requirement stands: 'RFC 6887 8.1.1'. Own rules stand near that section."""
    document, section, _ = requirement.id.split("-")
    return "%s %s" % (_DOCUMENTS[document], section)


# Checks


def problems(requirements, root=ROOT):
    """What is wrong with the table, as lines for people."""
    counts = Counter(requirement.id for requirement in requirements)
    found = ["%s: stands %d times" % (key, times) for key, times in counts.items() if times > 1]
    for one in requirements:
        found += ["%s: %s" % (one.id, text) for text in _entry_problems(one, root)]
    return found


def _entry_problems(one, root):
    found = []
    if one.level not in KEYWORDS:
        found.append("level '%s' is none of %s" % (one.level, ", ".join(KEYWORDS)))
    if len(one.text.split()) > _MOST_WORDS:
        found.append("more than %d words" % _MOST_WORDS)
    if one.status != MET:
        if not one.reason:
            found.append("%s without a reason" % one.status)
        if one.by or one.shown:
            found.append("%s, but a function or test is named" % one.status)
    elif KEYWORDS.get(one.level) in _BINDING and not (one.by and one.shown):
        found.append("a %s is met by a function and shown by a test" % one.level)
    elif not one.by and not one.shown:
        found.append("met, but nothing is named")
    if one.status == NOT_MET and KEYWORDS.get(one.level) == "MUST":
        found.append("a %s is not met" % one.level)
    found += [text for text in (absent(name, root) for name in one.by + one.shown) if text]
    found += ["%s is no test" % name for name in one.shown if not _is_test(name)]
    found += ["%s is a test" % name for name in one.by if _is_test(name)]
    return found


def _is_test(name):
    path, _, function = name.partition(":")
    file = pathlib.PurePath(path)
    return (
        file.parts[0] == "tests" and file.name.startswith("test_") and function.startswith("test_")
    )


def absent(name, root):
    """What is wrong with 'path:name', or None."""
    path, _, function = name.partition(":")
    if not (root / path).is_file():
        return "there is no file %s" % path
    if function not in _names(root / path):
        return "%s has no %s" % (path, function or "name after ':'")
    return None


@functools.cache
def _names(path):
    """Dotted names of the functions and classes of a Python file."""
    return frozenset(_defined(ast.parse(path.read_text()).body, ""))


def _defined(nodes, prefix):
    for node in nodes:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield prefix + node.name
            yield from _defined(node.body, prefix + node.name + ".")


# For people


def counts(requirements):
    """{(keyword, status): number}."""
    return Counter((KEYWORDS[one.level], one.status) for one in requirements)


def count_lines(requirements):
    """The counts as rows: the keyword, then a number for each of STATUSES, then their sum."""
    numbers = counts(requirements)
    for keyword in dict.fromkeys(KEYWORDS.values()):
        row = [numbers[keyword, status] for status in STATUSES]
        if sum(row):
            yield [keyword, *row, sum(row)]


_HEAD = """\
# Conformance

Rendered from [conformance.toml](conformance.toml) by `python -m tests.conformance --write`; the
tests fail when a function or test named here does not exist, or when this page is not current.

What the agent does with each requirement on a PCP client (RFC 6887, RFC 7753, and the documents
that they lean on) and on the lwB4 of RFC 7596, in short words: the RFC says it exactly. *DECL*
stands in an RFC without a keyword, as how the protocol works, and counts as mandatory. *LOCAL* is a
rule of ours, near that section, where the RFCs leave a gap. Advice without a keyword is left out,
and so are a PCP proxy (RFC 7648), IGD interworking (RFC 6970) and PCP authentication (RFC 7652),
which the agent is not.

*Not applicable* is also what the agent leaves to the kernel or to OpenWrt's own programs; where
they are known to fall short of it, the reason begins with **they fall short**.
"""
_COLUMNS = ["| requirement | level | in short | status | obeyed by | shown by |", "|---" * 6 + "|"]


def render(requirements, groups):
    """The whole page. groups: of titles()."""
    lines = [_HEAD]
    for side, of_side in groups.items():
        mine = [one for one in requirements if one.side == side]
        lines += ["## The %s" % side, ""]
        lines += ["| level | %s | all |" % " | ".join(STATUSES), "|---|---|---|---|---|"]
        lines += ["| %s |" % " | ".join(map(str, row)) for row in count_lines(mine)]
        lines.append("")
        for group, title in of_side.items():
            lines += ["### %s: %s" % (group, title), ""]
            lines += [
                "| requirement | level | in short | obeyed by, shown by |",
                "|---|---|---|---|",
            ]
            lines += [_row(one) for one in mine if one.group == group]
            lines.append("")
    return "\n".join(lines)


def _row(one):
    status = one.status
    if one.status != MET:
        short = "**they fall short**: " if one.falls_short else ""
        status = "%s: %s%s" % (one.status, short, one.reason)
    names = ["<br>".join("`%s`" % name for name in names) for names in (one.by, one.shown)]
    cells = ["%s (%s)" % (one.id, origin(one)), one.level, one.text, status, *names]
    return "| %s |" % " | ".join(cell.replace("|", "\\|") for cell in cells)
