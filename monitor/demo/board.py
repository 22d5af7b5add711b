"""The live table of the tour: one line a stream, growing while verdicts come in."""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from demur.detectors.promises.binomial import lower
from demur.detectors.reason import Reason
from demur.monitor.demo.traffic import Traffic
from demur.monitor.verdicts import Verdicts

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

HEADS = ("accepted", "NOVEL", "AMBIG.", "BROKEN", "wrong", "promised", "p50 ms", "p99")
KINDS = (Reason.NOVEL, Reason.AMBIGUOUS, Reason.INVALID, Reason.UNAVAILABLE)
DOUBT = 0.01  # a promise counts as broken when the exact one-sided 99 % lower bound of the test error exceeds it


@dataclass
class Tally:
    """What happened to one stream so far."""

    total: int
    done: int = 0
    accepted: int = 0
    wrong: int = 0
    reasons: Counter[Reason] = field(default_factory=Counter)
    milliseconds: list[float] = field(default_factory=list)

    @property
    def error(self) -> str:
        """The error rate among the accepted, in words."""
        if not self.accepted:
            return "-"
        return "100%" if self.wrong == self.accepted else f"{self.wrong / self.accepted:.1%}"


class Board:
    """Tallies of all streams and the table that shows them."""

    def __init__(self, traffic: list[Traffic], risk: float) -> None:
        self.streams, self.risk = traffic, risk
        self.tallies = [Tally(len(t.images)) for t in traffic]
        self._live: Live | None = None

    def live(self, console: Console) -> AbstractContextManager[Any]:
        """Show the table while verdicts come in."""
        from rich.live import Live

        self._live = Live(self.table(), console=console, refresh_per_second=12)
        return self._live

    def add(self, number: int, verdicts: Verdicts, correct: NDArray[np.bool_], seconds: float) -> None:
        """Count one answered request."""
        tally = self.tallies[number]
        tally.done += len(verdicts)
        tally.accepted += int(verdicts.accept.sum())
        tally.wrong += int((verdicts.accept & ~correct).sum())
        for kind in KINDS:
            tally.reasons[kind] += int(np.count_nonzero(verdicts.reason_bits & kind))
        tally.milliseconds.append(seconds * 1e3)
        if self._live is not None:
            self._live.update(self.table())

    def table(self) -> Table:
        """One line a stream; fits 80 columns."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
        for name in ("stream", "", *HEADS):
            table.add_column(name, justify="right" if name in HEADS else "left", overflow="fold")
        for traffic, tally in zip(self.streams, self.tallies, strict=True):
            bar = ProgressBar(total=tally.total, completed=tally.done, width=5)
            table.add_row(traffic.name, bar, *self._cells(traffic, tally))
        return table

    def _cells(self, traffic: Traffic, tally: Tally) -> tuple[str, ...]:
        if not tally.done:
            return ("",) * len(HEADS)
        broken = tally.reasons[Reason.INVALID] + tally.reasons[Reason.UNAVAILABLE]
        counts = (tally.reasons[Reason.NOVEL], tally.reasons[Reason.AMBIGUOUS], broken)
        colours = ("magenta", "yellow", "red")
        promised = f"≤ {self.risk:.1%}" if traffic.promised else "[dim]nothing[/]"
        p50, p99 = np.percentile(tally.milliseconds, (50, 99))
        return (
            f"{tally.accepted} [dim]{tally.accepted / tally.done:>4.0%}[/]",
            *(f"[{c}]{n}[/]" if n else "[dim]0[/]" for n, c in zip(counts, colours, strict=True)),
            tally.error,
            promised,
            f"{p50:.1f}",
            f"{p99:.1f}",
        )

    @property
    def unanswered(self) -> int:
        """Units that no monitor judged."""
        return sum(t.reasons[Reason.UNAVAILABLE] for t in self.tallies)

    @property
    def kept(self) -> bool:
        """Whether the promised streams are consistent with their promise."""
        pairs = zip(self.streams, self.tallies, strict=True)
        return all(not t.accepted or lower(t.wrong, t.accepted, DOUBT) <= self.risk for s, t in pairs if s.promised)

    @property
    def sentence(self) -> str:
        """What became of the promise."""
        tally = next(t for s, t in zip(self.streams, self.tallies, strict=True) if s.promised)
        verb = "kept" if self.kept else "BROKEN"
        return f"promise {verb}: {tally.wrong} of {tally.accepted} accepted known digits were wrong ({tally.error}), promised at most {self.risk:.1%}"
