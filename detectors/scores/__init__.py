"""Every score, by the name configurations and telemetry use for it."""

from __future__ import annotations

from typing import Any

from demur.detectors.scores.logit import MSP, Energy, Entropy, MaxLogit

SCORES: dict[str, type[Any]] = {
    "msp": MSP,
    "max_logit": MaxLogit,
    "energy": Energy,
    "entropy": Entropy,
}
