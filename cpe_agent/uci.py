"""Reader of UCI files, without the uci library: the grammar of OpenWrt's /etc/config/*.

A file is lines of words. A word is any mix of bare, 'single' and "double" quoted parts; a backslash
escapes the next character outside single quotes; an unquoted # starts a comment, even in a word.
Oddities are libuci's: what it reads is read, as it reads it, and what it refuses is refused, since
OpenWrt's own tools could not load the file. Keywords are bare, may be one letter long, and end with
a space or tab. An empty value is no value. The word after a line that ends with a backslash has to
begin at once. A bare word with a ';' behind it ends the line.
"""

from collections import namedtuple

# type: as in "config <type>". name: text or None (anonymous). options: name -> text or list of text.
Section = namedtuple("Section", ("type", "name", "options"))

_BLANK = " \t"
_SPACE = " \t\n\r\v\f"
_NAME = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"
_KEYWORDS = {"c": "config", "o": "option", "l": "list", "p": "package"}
_SHOWN = 60  # characters of a line, in errors


class UciError(ValueError):
    """The text is not UCI. The message names the line."""


class _Words:
    """The words of a UCI text."""

    def __init__(self, text):
        self._text = text
        self._at = 0
        self._stop = 0  # what can be seen ends here
        self._loaded = 0  # so does the line that was begun last
        self._line = 0  # its number
        self._start = self._started = 0  # of the current statement, and its line
        self._next_line()
        self._skip(_SPACE)

    def keyword(self):
        """First word of the next statement, or None at the end. Raises UciError."""
        while True:
            self._skip(_BLANK)
            self._start, self._started = self._at, self._line
            while self._peek() and self._peek() not in _BLANK:
                self._at += 1
            word = self._text[self._start : self._at]
            if word and word[0] != "#":
                if not self._peek():
                    raise self.error()
                self._at += 1
                return _KEYWORDS.get(word, word)
            if self._loaded == len(self._text):
                return None
            self._next_line()
            self._skip(_SPACE)

    def argument(self):
        """Next word of the statement, or empty text at its end. Raises UciError."""
        self._skip(_SPACE)
        if self._peek() == ";":
            self._at += 1
            return ""
        return self._word()

    def end(self):
        """Raises UciError if the statement goes on."""
        if self.argument():
            raise self.error()

    def error(self, reason=None):
        """UciError for the current statement."""
        if reason is None:
            line = self._text[self._start :].split("\n")[0].strip()[:_SHOWN]
            reason = (
                "'%s' is not 'config <type> [<name>]', 'option <name> <value>' or "
                "'list <name> <value>'" % line
            )
        return UciError("line %d: %s" % (self._started, reason))

    def _peek(self):
        return self._text[self._at] if self._at < self._stop else ""

    def _skip(self, characters):
        while self._peek() and self._peek() in characters:
            self._at += 1

    def _next_line(self):
        """Begin a line, where a statement may begin or a word may go on."""
        self._at = self._loaded
        self._stop = self._loaded = self._text.find("\n", self._at) + 1 or len(self._text)
        self._line += 1

    def _word(self):
        parts = []
        bare = True  # nothing was left out of it
        while True:
            char = self._peek()
            if char == "#":
                self._stop = self._at
            if char in ("#", ""):
                break
            if char == ";":
                if bare:
                    self._stop = self._at  # libuci ends the word there, and sees it as the end
                return "".join(parts)
            self._at += 1
            bare = bare and char not in "'\"\\"
            parts.append(self._part(char))
            if not self._peek() or self._peek() in _SPACE:
                break
        self._at += bool(self._peek())
        return "".join(parts)

    def _part(self, char):
        """What a character stands for that was taken."""
        if char == "\\":
            return self._escaped()
        return self._quoted(char) if char in "'\"" else char

    def _quoted(self, quote):
        started = self._line
        parts = []
        while True:
            char = self._peek()
            if not char:
                self._next_line()
                if not self._peek():
                    raise UciError("line %d: the quote %s is not closed" % (started, quote))
                continue
            self._at += 1
            if char == quote:
                return "".join(parts)
            parts.append(self._escaped() if char == "\\" and quote == '"' else char)

    def _escaped(self):
        """What a backslash stands for; a line's end, or the file's, vanishes."""
        if self._text[self._at : self._stop] in ("", "\n", "\r\n"):
            self._next_line()
            return ""
        self._at += 1
        return self._text[self._at - 1]


def parse(text):
    """Sections of a UCI file, in order of appearance. Raises UciError.

    A section that is named again is continued.
    """
    sections = []
    current = None
    words = _Words(text)
    while True:
        keyword = words.keyword()
        if keyword is None:
            return sections
        if keyword == "config":
            current = _open_section(sections, words)
        elif keyword in ("option", "list"):
            _set(sections, current, keyword, words)
        elif keyword == "package":
            _check_name(words, words.argument(), _NAME + "-")
            words.end()
        else:
            raise words.error()


def _check_name(words, name, allowed=_NAME):
    if not name:
        raise words.error()
    if [char for char in name if char not in allowed]:
        raise words.error("the name '%s' is not letters, digits and '_'" % name)


def _open_section(sections, words):
    """Index of the section that a 'config' opens."""
    kind = words.argument()
    if not kind:
        raise words.error()
    if [char for char in kind if not 33 <= ord(char) <= 126]:
        raise words.error("the type '%s' is not plain text without spaces" % kind)
    name = words.argument() or None
    if name is not None:
        _check_name(words, name)
    words.end()
    for index, section in enumerate(sections):
        if name is not None and section.name == name:
            if section.type != kind:
                raise words.error("'%s' is a section of type '%s' already" % (name, section.type))
            return index
    sections.append(Section(kind, name, {}))
    return len(sections) - 1


def _set(sections, current, keyword, words):
    if current is None:
        raise words.error("'%s' before any 'config'" % keyword)
    name = words.argument()
    _check_name(words, name)
    value = words.argument()
    words.end()
    options = sections[current].options
    if keyword == "list":
        before = options.get(name, [])
        options[name] = (before if isinstance(before, list) else [before]) + [value]
    elif value:
        options[name] = value
    else:
        options.pop(name, None)
