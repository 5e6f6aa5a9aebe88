"""Reader of UCI files, without the uci library: the grammar of OpenWrt's /etc/config/*.

A file is lines of words. A word is any mix of bare, 'single' and "double" quoted parts; a backslash
escapes the next character outside single quotes; an unquoted # starts a comment, even in a word.
Oddities are libuci's: keywords may be one letter long, and an empty value is no value.
"""

from collections import namedtuple

# type: as in "config <type>". name: text or None (anonymous). options: name -> text or list of text.
Section = namedtuple("Section", ("type", "name", "options"))

_SPACE = " \t\r\v\f"
_END = "\n;"  # either ends a statement
_NAME = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"
_KEYWORDS = {"c": "config", "o": "option", "l": "list", "p": "package"}


class UciError(ValueError):
    """The text is not UCI. The message names the line."""


class _Words:
    """Statements of a UCI text, one list of words each."""

    def __init__(self, text):
        self.text = text
        self.at = 0
        self.line = 1
        self.started = 1  # line of the current statement

    def statement(self):
        """Words of the next statement, or None at the end."""
        words = []
        while self.at < len(self.text):
            char = self.text[self.at]
            if char in _END:
                self._next()
                if words:
                    return words
            elif char in _SPACE:
                self._next()
            elif char == "#":
                self._skip_comment()
            elif self.text[self.at : self.at + 2] == "\\\n":
                self._next()
                self._next()
            else:
                if not words:
                    self.started = self.line
                words.append(self._word())
        return words or None

    def _next(self):
        char = self.text[self.at]
        self.at += 1
        if char == "\n":
            self.line += 1
        return char

    def _skip_comment(self):
        while self.at < len(self.text) and self.text[self.at] != "\n":
            self.at += 1

    def _word(self):
        parts = []
        while self.at < len(self.text):
            char = self.text[self.at]
            if char in _SPACE or char in _END or char == "#":
                break
            self._next()
            if char == "'" or char == '"':
                parts.append(self._quoted(char))
            elif char == "\\":
                parts.append(self._escaped())
            else:
                parts.append(char)
        return "".join(parts)

    def _quoted(self, quote):
        start = self.line
        parts = []
        while self.at < len(self.text):
            char = self._next()
            if char == quote:
                return "".join(parts)
            if char == "\\" and quote == '"':
                char = self._escaped()
            parts.append(char)
        raise UciError("line %d: the quote %s is not closed" % (start, quote))

    def _escaped(self):
        """What a backslash stands for; a line's end, or the file's, vanishes."""
        if self.text[self.at : self.at + 2] == "\r\n":
            self._next()
        char = self._next() if self.at < len(self.text) else ""
        return "" if char == "\n" else char


def parse(text):
    """Sections of a UCI file, in order of appearance. Raises UciError.

    A section that is named again is continued, and takes the new type.
    """
    sections = []
    current = None
    words = _Words(text)
    while True:
        statement = words.statement()
        if statement is None:
            return sections
        current = _take(sections, current, statement, words.started)


def _take(sections, current, statement, line):
    """Carry out one statement; the index of the section that is open after it."""
    keyword, arguments = _KEYWORDS.get(statement[0], statement[0]), statement[1:]
    if keyword == "package" and len(arguments) == 1:
        return None
    if keyword == "config" and 1 <= len(arguments) <= 2:
        _check_type(arguments[0], line)
        _check_name("".join(arguments[1:]) or "anonymous", line)
        return _open_section(sections, arguments[0], "".join(arguments[1:]) or None)
    if keyword in ("option", "list") and 1 <= len(arguments) <= 2:
        if current is None:
            raise UciError("line %d: '%s' before any 'config'" % (line, keyword))
        _check_name(arguments[0], line)
        _set(sections[current].options, keyword, arguments[0], "".join(arguments[1:]))
        return current
    raise UciError(
        "line %d: '%s' is not 'config <type> [<name>]', 'option <name> <value>' or "
        "'list <name> <value>'" % (line, " ".join(statement))
    )


def _check_name(name, line):
    """Refuse what OpenWrt's own tools refuse: they could not load the file."""
    if not name or [char for char in name if char not in _NAME]:
        raise UciError("line %d: the name '%s' is not letters, digits and '_'" % (line, name))


def _check_type(name, line):
    if not name or [char for char in name if not 33 <= ord(char) <= 126]:
        raise UciError("line %d: the type '%s' is not plain text without spaces" % (line, name))


def _open_section(sections, kind, name):
    for index, section in enumerate(sections):
        if name is not None and section.name == name:
            sections[index] = Section(kind, name, section.options)
            return index
    sections.append(Section(kind, name, {}))
    return len(sections) - 1


def _set(options, keyword, name, value):
    if keyword == "list":
        before = options.get(name, [])
        options[name] = (before if isinstance(before, list) else [before]) + [value]
    elif value:
        options[name] = value
    else:
        options.pop(name, None)
