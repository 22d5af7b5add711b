"""What an evaluation was asked to do."""

from __future__ import annotations

from dataclasses import dataclass

from demur.monitor.evaluate.open_set import Costs


@dataclass(frozen=True)
class Settings:
    """What was asked for: resamples (0: no intervals), their seed, the confidence of every interval, SCOD's costs."""

    bootstrap: int
    seed: int
    confidence: float
    costs: Costs
    novel_share: float
