"""Lines for the operator: to standard error, from where procd or systemd takes them."""

import sys


def _write(level, text):
    try:
        sys.stderr.write("cpe-agent: %s%s\n" % (level, text))
    except OSError:
        pass  # nobody listens any more; the line is worth more than its log


def info(text):
    """Something happened that belongs to normal life."""
    _write("", text)


def warning(text):
    """Something is not as it should be, and the agent copes."""
    _write("warning: ", text)


def error(text):
    """A person may have to do something; the text says what."""
    _write("error: ", text)
