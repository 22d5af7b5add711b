"""What the whole policy refuses of good units: estimated, and promised where the policy says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from demur.detectors.promises.statement import BUNDLE_CONFIDENCE
from demur.detectors.promises.wording import listed, percent, percent_down, percent_up

if TYPE_CHECKING:
    from demur.detectors.promises.promise import Good, Level


@dataclass(frozen=True)
class TotalShare:
    """The share of good units that the whole policy refuses: estimated, and promised when the policy says so.

    `refused` of `n` calibration units were refused; `low` and `high` are the exact (Clopper-Pearson) 95 % interval.
    `shares` are the refusal rules' parts of alpha, by rule name; `promised` is the policy's total, or None.
    """

    refused: int
    n: int
    low: float
    high: float
    promised: Level | None
    shares: tuple[tuple[str, Level], ...]
    good: Good = "id"

    @property
    def text(self) -> str:
        share = self.refused / self.n if self.n else 0.0
        estimate = (
            f"The policy's total share of good inputs{self._which()} refused is estimated at {100 * share:.1f} % "
            f"({percent(BUNDLE_CONFIDENCE, 0)} interval {percent_down(self.low)} to {percent_up(self.high)}, n = {self.n})"
        )
        parts = listed([f"{name} {percent(level)}" for name, level in self.shares])
        if self.promised is None:
            return f"{estimate}, not promised."
        return (
            f"{estimate}; its refusal rules together are promised at most {percent(self.promised)} "
            f"on average over calibration draws, in shares: {parts}."
        )

    def _which(self) -> str:
        return "" if self.good == "id" else " (those the model answers correctly)"
