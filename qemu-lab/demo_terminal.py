"""The demo on the terminal: a line for each step, with a tick or a cross and its time.

On a terminal a spinner shows what is being done and for how long; elsewhere (a file, a CI log)
the same words come as plain lines.
"""

import contextlib
import sys
import time

from rich.console import Console
from rich.padding import Padding
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

INDENT = 4


class Step:
    """A running step: note() says what it does now, say() what it found."""

    def __init__(self, show):
        self.details = []
        self._show = show

    def note(self, text):
        """What is being done now; gone when the step ends."""
        self._show(text)

    def say(self, text):
        """A finding, shown under the step's line when it ends."""
        self.details.append(text)


class Terminal:
    """Everything that the demo prints. out: a text file, by default stdout."""

    def __init__(self, out=None):
        self.console = Console(file=out or sys.stdout, highlight=False)
        encoding = (self.console.encoding or "").lower()
        self._tick, self._cross = ("✔", "✘") if encoding.startswith("utf") else ("ok", "FAILED")

    def line(self, text="", style=""):
        """One line, as long as it is: a terminal wraps it, a file keeps it whole."""
        self.console.print(Text(text, style), soft_wrap=True)

    @contextlib.contextmanager
    def step(self, head, title):
        """Run a step inside; yields its Step. An exception leaves a cross and goes on up.

        head: which step it is.
        """
        began = time.monotonic()
        mark, style = self._cross, "bold red"
        step = None
        try:
            with self._progress(f"{head}  {title}") as show:
                step = Step(show)
                yield step
            mark, style = self._tick, "bold green"
        finally:
            self._finish(mark, style, title, time.monotonic() - began, step.details)

    def _progress(self, title):
        return self._spinner(title) if self.console.is_terminal else self._lines(title)

    @contextlib.contextmanager
    def _spinner(self, title):
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(title, total=None)

            def show(text):
                progress.update(task, description=f"{title} [dim]· {text}")

            yield show

    @contextlib.contextmanager
    def _lines(self, title):
        self.line(f"... {title}")
        yield lambda text: self.line(f"    . {text}")

    def _finish(self, mark, style, title, seconds, details):
        text = Text.assemble(
            (f"{mark} ", style), (f"{title}  ", "bold"), (f"{seconds:.1f} s", "dim")
        )
        self.console.print(text, soft_wrap=True)
        for detail in details:
            self.line(" " * INDENT + detail)

    def failure(self, what, expected, seen, tail):
        """Why a step failed: what was looked at, what should have been there, what was."""
        for name, text in (("looked at", what), ("expected", expected), ("seen", seen)):
            self.console.print(Text.assemble((f"    {name:<10}", "bold"), text), soft_wrap=True)
        if tail:
            self.line()
            self.line(tail, "dim")

    def figures(self, rows):
        """A table of (what, figure) pairs."""
        table = Table.grid(padding=(0, 2))
        for what, figure in rows:
            table.add_row(Text(what, "dim"), Text(figure))
        self.console.print(Padding(table, (0, 0, 0, INDENT)))
