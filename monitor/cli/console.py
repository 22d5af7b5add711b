"""What the commands share with a person at a terminal."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

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


def fail(error: BaseException) -> None:
    """The error's own words on stderr, without a traceback."""
    from rich.console import Console

    Console(stderr=True, highlight=False, soft_wrap=True).print("[bold red]refused[/]  ", end="")
    Console(stderr=True, highlight=False, soft_wrap=True, markup=False).print(str(error) or type(error).__name__)
