"""The live table of the proxy's tour: one line a stream, growing while demur's own counters do."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

HEADS = ("same", "accepted", "NOVEL", "AMBIG.", "BROKEN", "ms direct", "ms demur")
KINDS = (("novel", "magenta"), ("ambiguous", "yellow"))
BROKEN = ("invalid", "unavailable")


@dataclass
class Line:
    """What is known of one stream so far."""

    name: str
    total: int
    counts: dict[str, int] = field(default_factory=dict)
    same: int = -1  # predictions that were the same both ways; -1 while the client runs
    direct_ms: float = 0.0
    demur_ms: float = 0.0

    @property
    def judged(self) -> int:
        """Rows with a verdict."""
        return sum(self.counts.values())

    @property
    def broken(self) -> int:
        """Rows that could not be judged."""
        return sum(self.counts.get(kind, 0) for kind in BROKEN)


class ProxyBoard:
    """Lines of all streams and the table that shows them."""

    def __init__(self, lines: list[Line]) -> None:
        self.lines = lines
        self._live: Live | None = None

    def live(self, console: Console) -> AbstractContextManager[Any]:
        """Show the table while the client runs."""
        from rich.live import Live

        self._live = Live(self.table(), console=console, refresh_per_second=12)
        return self._live

    def look(self) -> None:
        """Draw what has changed."""
        if self._live is not None:
            self._live.update(self.table())

    @property
    def good(self) -> bool:
        """Whether every prediction was the same both ways and every row was judged."""
        return all(line.same == line.total == line.judged and not line.broken for line in self.lines)

    def table(self) -> Table:
        """One line a stream; fits 80 columns."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
        for name in ("stream", "", *HEADS):
            table.add_column(name, justify="right" if name in HEADS else "left", overflow="fold")
        for line in self.lines:
            bar = ProgressBar(total=line.total, completed=line.judged, width=4)
            table.add_row(line.name, bar, *_cells(line))
        return table


def _cells(line: Line) -> tuple[str, ...]:
    if not line.judged:
        return ("",) * len(HEADS)
    accepted = line.counts.get("none", 0)
    done = line.same >= 0
    colour = "green" if line.same == line.total else "red"
    return (
        f"[{colour}]{line.same}/{line.total}[/]" if done else "",
        f"{accepted} [dim]{accepted / line.judged:>4.0%}[/]",
        *(_count(line.counts.get(kind, 0), shade) for kind, shade in KINDS),
        _count(line.broken, "red"),
        f"{line.direct_ms:.1f}" if done else "",
        f"{line.demur_ms:.1f}" if done else "",
    )


def _count(number: int, colour: str) -> str:
    return f"[{colour}]{number}[/]" if number else "[dim]0[/]"
