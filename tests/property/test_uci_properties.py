"""Any sections, written in any way that UCI allows, are read as they were meant."""

from hypothesis import given
from hypothesis import strategies as st

from cpe_agent import config, uci

NAME = st.from_regex(r"[A-Za-z0-9_]{1,8}", fullmatch=True)
TYPE = st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,8}", fullmatch=True)
TEXT = st.text(
    st.one_of(
        st.sampled_from(list(" \t'\"\\#;\nab")),
        st.characters(blacklist_categories=("Cs", "Cc")),
    ),
    min_size=1,
    max_size=12,
)
VALUE = st.one_of(TEXT, st.lists(TEXT, min_size=1, max_size=3))
SECTION = st.tuples(TYPE, st.none() | NAME, st.dictionaries(NAME, VALUE, max_size=4))


def single(text):
    return "'" + text.replace("'", "'\\''") + "'"


def double(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def bare(text):
    """Every odd character escaped; a newline cannot be, so it is quoted."""
    return "".join(
        char if char.isascii() and char.isalnum() else "'\n'" if char == "\n" else "\\" + char
        for char in text
    )


def mixed(text):
    middle = len(text) // 2
    return single(text[:middle]) + double(text[middle:])


STYLES = (single, double, bare, mixed)
SPACE = st.sampled_from((" ", "\t", "  ", " \\\n"))
END = st.sampled_from(("\n", "\n\n", " # 'a comment\n", "\r\n", "\n\t\n  # more\n"))
MORE = END | st.just(" ; ")  # a word that may be missing has to be there before it


@st.composite
def files(draw):
    """(text, sections that it means); named sections occur once."""
    wanted, lines, names = [], [], set()

    def statement(keyword, *words):
        keyword = draw(st.sampled_from((keyword, keyword[0])))
        quoted = [draw(st.sampled_from(STYLES))(word) for word in words]
        parts = [keyword] + quoted
        text = parts[0]
        for part in parts[1:]:
            text += draw(SPACE) + part
        end = draw(MORE if len(words) == 2 else END)
        lines.append(draw(st.sampled_from(("", "  ", "\t"))) + text + end)

    for kind, name, options in draw(st.lists(SECTION, max_size=5)):
        if name in names:
            name = None
        names.add(name)
        statement("config", kind, *([] if name is None else [name]))
        for option, value in options.items():
            if isinstance(value, list):
                for item in value:
                    statement("list", option, item)
            else:
                statement("option", option, value)
        wanted.append(uci.Section(kind, name, options))
    return "".join(lines), wanted


@given(files())
def test_what_was_written_is_what_is_read(written):
    text, wanted = written
    assert uci.parse(text) == wanted


@given(st.text(st.sampled_from(list(" \t\r\n;#'\"\\cola config option list t n")), max_size=80))
def test_any_text_is_read_or_refused_with_its_line(text):
    try:
        sections = uci.parse(text)
    except uci.UciError as error:
        assert "line " in str(error)
        return
    for section in sections:
        assert section.type and section.name != ""


WORDS = st.sampled_from(
    ("1", "0", "max", "auto", "2001:db8::1", "192.0.2.1", "all", "udp", "-1", "x", "65536", "120")
)
OPTION = st.sampled_from([name for name, _, _ in config.SOFTWIRE_OPTIONS + config.AGENT_OPTIONS])


@given(st.lists(st.tuples(OPTION, WORDS | TEXT), max_size=6), st.booleans())
def test_any_config_is_taken_or_refused_with_a_name(options, aftr):
    text = "config softwire wan4\n" + ("option aftr 2001:db8::1\n" if aftr else "")
    text += "".join("option %s %s\n" % (name, single(value)) for name, value in options)
    try:
        parsed = config.parse(text)
    except config.ConfigError as error:
        assert "wan4" in str(error)
        assert "allowed:" in str(error) or "missing" in str(error) or "needs" in str(error)
        return
    assert parsed.softwire.aftr and parsed.softwire.server
    assert 1 <= parsed.softwire.ports <= 65535 and 120 <= parsed.softwire.lifetime <= 86400
