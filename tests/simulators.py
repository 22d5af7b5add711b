"""The simulator whose population risk is known in closed form, and when a promise is broken over many draws.

A novelty score v and an ambiguity score s are independent and uniform; P(wrong | s, v) = a s^b g(v) with E[g] = 1. So the
share refused above t is 1 - t, and the error rate of {v <= t, s <= u} is a u^b / (b + 1) times the mean of g below t.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np

from demur.detectors.promises import (
    CalibrationRefused,
    CalibrationSample,
    ErrorWhenAcceptedAtMost,
    RefuseGoodAtMost,
    RuleSpec,
    calibrate,
)
from demur.detectors.reason import Reason

DATA = Path(os.environ.get("DEMUR_DATA", Path(__file__).resolve().parents[1] / ".." / "shared" / "data"))
OPTION_LOGITS = DATA / "llm" / "cosmosqa_option_logits.npz"
DRAWS = 1000
TOP = 0.4
POWER = 2
RISK = 0.08
ERROR = RuleSpec("ambiguous", "s", Reason.AMBIGUOUS, ErrorWhenAcceptedAtMost(RISK, 0.9))


def novel(alpha=0.05, confidence=None, **more):
    good, by = more.pop("good", "id"), more.pop("by", "split")
    return RuleSpec("novel", "v", Reason.NOVEL, RefuseGoodAtMost(alpha, confidence, good, by), **more)


def within(violations, delta):
    return np.mean(violations) <= delta + 3 * math.sqrt(delta * (1 - delta) / len(violations))


def on_average(rates, alpha):
    return np.mean(rates) <= alpha + 3 * np.std(rates) / math.sqrt(len(rates))


def easy_when_novel(v):
    """g: rows in the top quarter of v are never wrong, so refusing them leaves the harder ones."""
    return np.where(v > 0.75, 0.0, 4 / 3)


def draw(rng, n, g=np.ones_like):
    s, v = rng.random((2, n)).astype(np.float32)
    return CalibrationSample({"v": v, "s": s}, loss=(rng.random(n) < TOP * s**POWER * g(v)).astype(np.float64))


def risk_below(u, t=1.0, g=np.ones_like):
    grid = (np.arange(4000) + 0.5) / 4000 * t
    return TOP * u**POWER / (POWER + 1) * float(np.mean(g(grid)))


def thresholds(specs, samples):
    """(draws, rules) thresholds; a refused calibration accepts nothing and cannot break a promise."""
    found = []
    for sample in samples:
        try:
            found.append([float(r.threshold[0]) for r in calibrate(specs, sample).rules])
        except CalibrationRefused:
            found.append([0.0] * len(specs))
    return np.array(found)


def answers(model):
    """Real answers of a language model to multiple-choice questions: ambiguity -log max p, and whether each is wrong."""
    with np.load(OPTION_LOGITS) as data:
        logits, labels = data[f"logits_{model}"], data["labels"]
    kept = np.setdiff1d(np.arange(len(labels)), [1, 3, 5, 7, 9])
    z = logits[kept].astype(np.float64)
    s = (np.log(np.exp(z - z.max(axis=1, keepdims=True)).sum(axis=1))).astype(np.float32)
    return s, (z.argmax(axis=1) != labels[kept]).astype(np.float64)
