"""What the commands share with a person at a terminal."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from demur.detectors.promises.promise import CalibrationRefused
from demur.monitor.errors import DemurError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

REFUSED, FOUND = 1, 3
ERRORS = (DemurError, CalibrationRefused, ValueError, OSError)
WORD = re.compile(r"\s*(?:`[^`\n]*`|\S)+\s*")  # a path, and a command between backticks, is one
NARROWEST = 20  # what a heading leaves to its text


@cache
def out() -> Console:
    """Standard output, coloured only on a terminal."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def say(text: str | Text, heading: str = "") -> None:
    """Text, with markup when it is no `Text` yet, in lines of the terminal's width that stand under their heading.

    Paths, and commands between backticks, are to be copied: they stay on one line, however long it gets. In a file or a
    pipe so does everything, unless COLUMNS says how wide it may be.
    """
    _say(out(), text, heading)


def note(text: str) -> None:
    """Something a person should know."""
    from rich.text import Text

    say(Text(text), "[yellow]note[/]  ")


def grid(*heads: str, **look: Any) -> Table:
    """A table without rules. What does not fit its column goes on in the next line, and nothing is cut."""
    from rich.table import Table

    made = Table(**{"box": None, "pad_edge": False, "header_style": "bold", **look})
    for head in heads:
        made.add_column(head, overflow="fold")
    return made


@contextmanager
def bars(unit: str = "rows") -> Iterator[Callable[[str, int, int], None]]:
    """Progress bars on a terminal, one for each stage; elsewhere nothing. Gives the function that moves them.

    What is done when a stage begins is of an earlier run, and does not count for the time that remains.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    look = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
    )
    with Progress(*look, console=out(), transient=True, disable=not out().is_terminal) as progress:
        stages: dict[str, Any] = {}

        def tick(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                stages[stage] = progress.add_task(stage, total=total, completed=done)
            progress.update(stages[stage], completed=done, total=total)

        yield tick


def fail(error: BaseException) -> None:
    """The error's own words on stderr, without a traceback."""
    from rich.console import Console
    from rich.text import Text

    told = Console(stderr=True, highlight=False, soft_wrap=True)
    _say(told, Text(str(error) or type(error).__name__), "[bold red]refused[/]  ")


def _say(console: Console, text: str | Text, heading: str) -> None:
    from rich.text import Text

    body = text if isinstance(text, Text) else Text.from_markup(text, emoji=False)
    before = Text.from_markup(heading)
    wrapped = console.is_terminal or "COLUMNS" in os.environ
    room = max(console.width - before.cell_len, NARROWEST)
    for paragraph in body.split("\n", allow_blank=True):
        for line in paragraph.divide(_breaks(paragraph.plain, room) if wrapped else ()):
            whole = before + line
            whole.rstrip()
            console.print(whole)
            before = Text(" " * before.cell_len)


def _breaks(text: str, width: int) -> Iterator[int]:
    """Where lines of at most `width` cells begin, the first one apart; a longer word has a line of its own."""
    from rich.cells import cell_len

    used = 0
    for word in WORD.finditer(text):
        if used and used + cell_len(word[0].rstrip()) > width:
            yield word.start()
            used = 0
        used += cell_len(word[0])
