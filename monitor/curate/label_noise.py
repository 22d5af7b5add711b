"""Wrong labels, found by what a row's neighbours are called."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from demur.monitor.curate.checked import CurationError, block_rows, matrix

Float64 = NDArray[np.float64]
EDGE, SUSPECT, POWER, PASSES = 0.03, 0.05, 4, 2


class LabelNoise(NamedTuple):
    """score (n,) in [-1, 1]: higher is less trustworthy, the label disagrees with its surroundings; suspect (n,) bool."""

    score: Float64
    suspect: NDArray[np.bool_]


def label_noise(
    features: Any,
    probabilities: Any,
    labels: Any,
    *,
    power: float = POWER,
    edge: float = EDGE,
    suspect_above: float = SUSPECT,
    passes: int = PASSES,
) -> LabelNoise:
    """Sum over the other rows of k^power, negative for those of the same label, divided by their number.

    k(i, j) = max(0, cos(f_i, f_j)) p_i . p_j; edges up to `edge` are dropped, and a row's edge to itself is left out.
    After each pass but the last, the edges of the rows that are suspect so far change their sign: a wrong label in the
    surroundings speaks for the opposite. Suspect are rows whose score exceeds `suspect_above` of the largest magnitude.
    Shapes: features (n, D), probabilities (n, C) with rows that sum to 1, labels (n,) -> (n,). Cost O(n^2 (D + C)) a
    pass, temporaries of 16 MiB. Limits: a class of few rows, or labels that are wrong in the same way nearby, look right.
    Raises: CurationError for other shapes, values that are not finite, rows that are no probabilities.
    Source: Kim et al. 2023, arXiv:2301.12321, eq. 1-4 and algorithm 1 (relation graph); differs: self edges are left out.
    """
    rows = matrix(features, "features", least=2)
    p = matrix(probabilities, "probabilities", rows=len(rows))
    names = np.asarray(labels)
    if names.shape != (len(rows),):
        raise CurationError(f"labels: expected ({len(rows)},), got {names.shape}")
    if passes < 1:
        raise CurationError(f"passes: expected at least 1, got {passes}")
    if (p < 0).any() or not np.allclose(p.sum(axis=1), 1, atol=1e-3):
        raise CurationError("probabilities: expected rows that sum to 1; apply softmax to logits first")
    units = unit_rows(rows)
    sign = np.ones(len(rows))
    for turn in range(passes):
        score = _disagreement(units, p, names, sign, power, edge) / (len(rows) - 1)
        suspect = score > suspect_above * np.abs(score).max()
        if turn < passes - 1:
            sign = np.where(suspect, -1.0, 1.0)
    return LabelNoise(score, suspect)


def relation(units: Float64, p: Float64, bank_units: Float64, bank_p: Float64) -> Float64:
    """(n, M) relation max(0, cos) p . p' of unit rows."""
    return np.maximum(units @ bank_units.T, 0.0) * (p @ bank_p.T)


def unit_rows(rows: Float64) -> Float64:
    """Rows of length 1; a zero row stays, related to nothing."""
    scaled = rows / np.maximum(np.abs(rows).max(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    return np.asarray(scaled / np.where(length > 0, length, 1.0))


def _disagreement(
    units: Float64, p: Float64, labels: NDArray[Any], sign: Float64, power: float, edge: float
) -> Float64:
    score = np.empty(len(units))
    step = block_rows(len(units))
    for start in range(0, len(units), step):
        part = slice(start, start + step)
        k = relation(units[part], p[part], units, p)
        k[k <= edge] = 0.0
        k[np.arange(len(k)), np.arange(start, start + len(k))] = 0.0
        k = k**power
        k[labels[part, None] == labels[None]] *= -1.0
        score[part] = k @ sign
    return score
