"""What the commands share with a person at a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from demur.detectors.promises.promise import CalibrationRefused
from demur.monitor.errors import DemurError

if TYPE_CHECKING:
    from rich.console import Console

REFUSED, FOUND = 1, 3
ERRORS = (DemurError, CalibrationRefused, ValueError, OSError)


@cache
def out() -> Console:
    """Standard output, coloured only on a terminal."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def note(text: str) -> None:
    """Something a person should know, in lines of the terminal's width."""
    from rich.markup import escape

    out().print(f"[yellow]note[/]  {escape(text)}", soft_wrap=False)


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

    Console(stderr=True, highlight=False, soft_wrap=True).print("[bold red]refused[/]  ", end="")
    Console(stderr=True, highlight=False, soft_wrap=True, markup=False).print(str(error) or type(error).__name__)
