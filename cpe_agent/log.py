"""Lines for the operator, from where procd or systemd takes them: life as usual to standard output,
trouble to standard error, so that a router's log knows one from the other."""

import sys


def _write(stream, level, text):
    try:
        stream.write("cpe-agent: %s%s\n" % (level, text))
        if hasattr(stream, "flush"):
            stream.flush()
    except OSError:
        pass  # nobody listens any more; the line is worth more than its log


def info(text):
    """Something happened that belongs to normal life."""
    _write(sys.stdout, "", text)


def warning(text):
    """Something is not as it should be, and the agent copes."""
    _write(sys.stderr, "warning: ", text)


def error(text):
    """A person may have to do something; the text says what."""
    _write(sys.stderr, "error: ", text)
