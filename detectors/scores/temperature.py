"""Temperature scaling: the one number that makes a softmax's confidence match its labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from demur.detectors.accumulate import Float64, Sums
from demur.detectors.score import Batch, Reference

COLDEST, HOTTEST = 0.05, 20.0
PASSES, POINTS = 6, 32  # log T to 6 / 33^6 = 5e-9


def fitted_temperature(reference: Reference, score: str) -> float:
    """The T in [0.05, 20] that minimises the mean of -log softmax(logits / T)[label] over all labelled reference rows.

    The loss is convex in 1/T, so the sign of its slope, mean(E_p[z] - z_label), brackets the minimum; each pass tries 32
    temperatures, equally spaced in log T. An end of the range is returned when the loss falls all the way to it.
    Raises: ValueError without labels, or when a label is no position of the logits.
    Source: Guo et al. 2017, arXiv:1706.04599, section 4.2.
    """
    low, high = np.log(COLDEST), np.log(HOTTEST)
    for number in range(PASSES):
        inner = np.linspace(low, high, POINTS + 2)
        points = inner if number == 0 else inner[1:-1]
        slopes = _slopes(reference, score, np.exp(-points))
        too_hot, too_cold = points[slopes < 0], points[slopes >= 0]
        low, high = float(too_cold.max(initial=low)), float(too_hot.min(initial=high))
        if high <= low:
            break
    return float(np.exp((low + high) / 2))


def _slopes(reference: Reference, score: str, inverses: Float64) -> Float64:
    """d(loss)/d(1/T) at each 1/T: mean over the rows of E_p[z] - z_label, p = softmax(z / T)."""

    def part(batch: Batch) -> Sums:
        z = batch.signals["logits"].astype(np.float64)
        own = z[np.arange(len(z)), labels_of(batch, z.shape[1], score)]
        z, own = z - z.max(axis=1, keepdims=True), own - z.max(axis=1)
        return Sums(len(z), {"slope": np.array([(_mean_under(z, b) - own).sum() for b in inverses])})

    return reference.reduce(part, "logits").mean("slope")


def _mean_under(z: Float64, inverse: float) -> Float64:
    """E_p[z] with p = softmax(inverse * z), for rows whose largest z is 0."""
    weights = np.exp(inverse * z)
    return np.asarray((weights * z).sum(axis=1) / weights.sum(axis=1))


def labels_of(batch: Batch, classes: int, score: str) -> NDArray[np.int64]:
    """The labels as positions of the logits. Raises: ValueError naming `score` without labels, or outside 0..C-1."""
    if batch.labels is None:
        raise ValueError(f"{score}: expected labels in the reference")
    if batch.labels.min() < 0 or batch.labels.max() >= classes:
        found = f"labels from {batch.labels.min()} to {batch.labels.max()}"
        raise ValueError(f"{score}: expected labels in 0..{classes - 1}, positions of the logits; got {found}")
    return batch.labels
