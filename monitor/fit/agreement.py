"""Whether labels belong to their rows: then answers are right more often than with the labels in any other order."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from demur.monitor.fit.finding import Finding, warning
from demur.monitor.fit.table import SignalsTable

SPREADS = 2.0  # standard deviations of the shuffled count that right answers must lie above its mean


def check_agreement(table: SignalsTable, role: str) -> list[Finding]:
    """A warning when the model is not right more often than shuffled labels would make it; nothing where losses are given."""
    label, prediction = table.label, table.prediction
    if label is None or prediction is None or "loss" in table.given or table.widths.get("logits", 0) < 2:
        return []
    right = int(np.count_nonzero(label == prediction))
    mean, spread = shuffled(label, prediction)
    if spread == 0:  # one class only, in labels or answers: no order says more than another
        mean = len(label) / table.widths["logits"]
    if right > mean + SPREADS * spread:
        return []
    message = f"{role}: the model is right in {right / len(label):.1%} of rows, chance is {mean / len(label):.1%}"
    return [warning("labels_misaligned", f"{message}; do labels belong to these rows?")]


def shuffled(label: NDArray[np.int64], prediction: NDArray[np.int64]) -> tuple[float, float]:
    """Mean and standard deviation of the number of rows where a random order of the labels meets the predictions (N,).

    Source: Hoeffding 1951, a combinatorial central limit theorem, for the indicator of equal classes.
    """
    rows = len(label)
    classes = np.unique(np.concatenate([label, prediction]))
    labels, predictions = (
        np.bincount(np.searchsorted(classes, a), minlength=len(classes)).astype(np.float64) for a in (label, prediction)
    )
    both = float(labels @ predictions)
    if rows < 2:
        return both / rows, 0.0
    squares = both - float(labels @ predictions**2 + labels**2 @ predictions) / rows + (both / rows) ** 2
    return both / rows, math.sqrt(max(squares, 0.0) / (rows - 1))
