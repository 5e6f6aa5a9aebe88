"""UCI files as OpenWrt's own library reads them."""

from cpe_agent import uci


def options(text):
    """Options of the only section."""
    (section,) = uci.parse(text)
    return section.options


def value(line):
    """What 'option x <line>' means."""
    return options("config t\n\toption x " + line).get("x")


def error(text):
    try:
        uci.parse(text)
    except uci.UciError as found:
        return str(found)
    return None


def test_a_usual_file_is_read():
    text = """
config softwire 'wan4'
\toption aftr '2001:db8::1'
\toption ports 'max'
\tlist dns '192.0.2.53'
\tlist dns '192.0.2.54'

config agent
\toption backend 'linux'
"""
    first, second = uci.parse(text)
    assert (first.type, first.name) == ("softwire", "wan4")
    assert first.options == {
        "aftr": "2001:db8::1",
        "ports": "max",
        "dns": ["192.0.2.53", "192.0.2.54"],
    }
    assert (second.type, second.name, second.options) == ("agent", None, {"backend": "linux"})


def test_nothing_is_no_section():
    for text in ("", "\n\n", "# only a comment", " \t\r\n", "# a\n\t# b\n", "package network\n"):
        assert uci.parse(text) == [], text


def test_every_way_of_quoting_a_value():
    same = (
        "abc",
        "'abc'",
        '"abc"',
        "a'b'c",
        "a\"b\"'c'",
        "''abc",
        'ab""c',
        "\\a\\b\\c",
        '"\\a\\b\\c"',
        "abc # comment",
        "abc#comment",
        "'abc'#comment",
        "abc \t ",
        "abc\r",
        "ab\\\nc",
        '"ab\\\nc"',
        "'abc' ; option y z",
    )
    for line in same:
        assert value(line) == "abc", line


def test_what_quotes_keep():
    assert value("'a b'") == value('"a b"') == value("a\\ b") == "a b"
    assert value("'a#b'") == value('"a#b"') == value("a\\#b") == "a#b"
    assert value("'a;b'") == value('"a;b"') == "a;b"
    assert value("'a\"b'") == value('"a\\"b"') == value('a\\"b') == 'a"b'
    assert value('"a\'b"') == value("'a'\\''b'") == value("a\\'b") == "a'b"
    assert value("'a\\b'") == value('"a\\\\b"') == value("a\\\\b") == "a\\b"
    assert value("'a\nb'") == value('"a\nb"') == "a\nb"
    assert value("'a\\\nb'") == "a\\\nb", "nothing is special in single quotes"
    assert value("'  a  '") == "  a  "
    assert value("'\t'") == "\t"


def test_text_beyond_ascii_is_kept():
    assert value("'gr\u00fc\u00df \u2603'") == "gr\u00fc\u00df \u2603"


def test_lines_of_another_system_are_read():
    assert options("config t\r\n\toption a 'b'\r\n\toption c d\r\n") == {"a": "b", "c": "d"}
    assert value("ab\\\r\nc\r") == "abc"


def test_one_letter_keywords_are_keywords():
    (section,) = uci.parse("c t n\no a b\nl d e\nl d f\n")
    assert section == uci.Section("t", "n", {"a": "b", "d": ["e", "f"]})


def test_an_empty_value_is_no_value():
    for line in ("", "''", '""', "''''"):
        assert value(line) is None, line
    assert options("config t\noption a b\noption a ''\n") == {}
    assert options("config t\noption a b\noption a ''\noption a c") == {"a": "c"}


def test_a_section_without_a_name_is_anonymous():
    for text in ("config t", "config t ''", 'config t ""', "config 't'"):
        assert uci.parse(text) == [uci.Section("t", None, {})]


def test_the_last_value_counts_and_lists_grow():
    assert options("config t\noption a 1\noption a 2") == {"a": "2"}
    assert options("config t\noption a 1\nlist a 2\nlist a 3") == {"a": ["1", "2", "3"]}
    assert options("config t\nlist a 1\noption a 2") == {"a": "2"}
    assert options("config t\nlist a ''\nlist a 2") == {"a": ["", "2"]}


def test_a_section_that_is_named_again_goes_on():
    text = "config a one\noption x 1\nconfig b two\noption x 2\nconfig a one\noption y 3\n"
    first, second = uci.parse(text)
    assert first == uci.Section("a", "one", {"x": "1", "y": "3"})
    assert second == uci.Section("b", "two", {"x": "2"})


def test_a_section_keeps_its_type():
    found = error("config a one\nconfig b two\nconfig c one\n")
    assert "line 3:" in found and "'one'" in found and "'a'" in found


def test_a_package_is_no_section_and_ends_none():
    assert options("config t\npackage network\noption a b\n") == {"a": "b"}


def test_anonymous_sections_of_one_type_are_several():
    assert len(uci.parse("config t\nconfig t\nconfig t\n")) == 3


def test_statements_may_share_a_line():
    assert options("config t n ; option a 'b' ; option c 'd'\n") == {"a": "b", "c": "d"}
    assert options("config t n ;\toption a 'b'; option c 'd'\n") == {"a": "b", "c": "d"}


def test_a_statement_that_lacks_its_last_word_cannot_share_a_line():
    for text in ("config t ; option a b\n", "config t n\noption a ; option b c\n"):
        assert "line " in error(text), text


def test_no_statement_is_empty():
    for text in (";", "config t\n;;\n", "config t\n ; option a b", "config t n ;\n"):
        assert "line " in error(text), text


def test_what_follows_a_bare_word_and_a_semicolon_is_not_read():
    # In libuci the word's end is written over the semicolon.
    assert options("config t\noption a b;option c d\n") == {"a": "b"}
    assert options("config t\noption a b;&%\noption c d\n") == {"a": "b", "c": "d"}


def test_keywords_are_bare_and_end_with_a_blank():
    for text in (
        "'config' t",
        "c\\onfig t",
        "config\rt",
        "config\vt",
        "config",
        "config t\noption",
        "config t\noption\n a b",
    ):
        assert "line " in error(text), text
    assert uci.parse("\v\f\r config\tt") == [uci.Section("t", None, {})]


def test_a_word_after_a_continued_line_begins_at_once():
    assert options("config t\noption \\\na \\\nb\n") == {"a": "b"}
    assert "line 2:" in error("config t\noption \\\n a b\n")
    assert "line 2:" in error("config t\noption a \\\n\tb\n")


def test_errors_name_the_line():
    cases = (
        ("option a b", 1, "before any 'config'"),
        ("\n\nlist a b", 3, "before any 'config'"),
        ("config t\n\noption a 'b\n\n", 3, "not closed"),
        ('config t\noption a "b\n\n', 2, "not closed"),
        ("config t\nopton a b", 2, "opton a b"),
        ("config t\n\n\noption a b c", 4, "option a b c"),
        ("config t\noption", 2, "option"),
        ("config", 1, "config"),
        ("config t n more", 1, "config t n more"),
        ("config t\noption a 'x\ny'\noption b c d", 4, "option b c d"),
        ("config t\noption x ab\\\ncd\noption b c d", 4, "option b c d"),
        ("config t\noption a 'x\ny' z\n", 2, "option a"),
        ("package", 1, "package"),
        ("hello", 1, "hello"),
        ("C t", 1, "C t"),
    )
    for text, line, part in cases:
        found = error(text)
        assert found and ("line %d:" % line) in found and part in found, (text, found)


def test_names_that_openwrt_refuses_are_refused():
    # libuci takes letters, digits and '_' in names, and no spaces in types. A file that OpenWrt's
    # own tools cannot load must not look fine here.
    for text in (
        "config t 'a b'",
        "config t a-b",
        "config t a.b",
        "config 'a b'",
        "config ''",
        "config t\noption 'a b' c",
        "config t\noption a-b c",
        "config t\noption '' c",
        "config t\nlist a.b c",
    ):
        found = error(text)
        assert found and "line" in found, text
    for text in ("config a-b.c", "config t a_1", "config t\noption A_9 c"):
        assert error(text) is None, text


def test_a_backslash_at_the_very_end_is_nothing():
    assert value("abc\\") == "abc"
    assert error('config t\noption a "b\\') is not None
