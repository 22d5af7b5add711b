"""Perturbations of feature vectors (D,): what a drifting or broken model, or an input between classes, would produce."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from demur.monitor.perturb.context import Context
from demur.monitor.perturb.errors import PerturbationError

Float64 = NDArray[np.float64]
Rng = np.random.Generator


def around(context: Context | None) -> Context:
    """The context, for a change that cannot do without.

    Raises: PerturbationError.
    """
    if context is None:
        raise PerturbationError("expected a context, got none; make one with Context.of(rows)")
    return context


def some(count: int, share: float, rng: Rng) -> NDArray[np.int64]:
    """At least one of `count` places; with the same generator a larger share holds the smaller one's places."""
    return rng.permutation(count)[: max(1, round(share * count))]


def gaussian_noise(row: Float64, level: float, rng: Rng, context: Context | None) -> Float64:
    """Noise of `level` standard deviations of each dimension; a dimension that never varies stays."""
    return row + level * around(context).std * rng.standard_normal(len(row))


def dropout(row: Float64, share: float, rng: Rng, _context: Context | None) -> Float64:
    """A share of the dimensions becomes 0."""
    result = row.copy()
    result[some(len(row), share, rng)] = 0.0
    return result


def permute(row: Float64, share: float, rng: Rng, _context: Context | None) -> Float64:
    """A share of the dimensions exchange their values in a ring."""
    places, result = some(len(row), share, rng), row.copy()
    result[places] = row[np.roll(places, 1)]
    return result


def extrapolate(row: Float64, factor: float, _rng: Rng, context: Context | None) -> Float64:
    """Further from the middle of the data: mean + (1 + factor) (row - mean)."""
    return row + factor * (row - around(context).mean)


def scale(row: Float64, factor: float, _rng: Rng, _context: Context | None) -> Float64:
    """The row times `factor`."""
    return factor * row


def mix(row: Float64, share: float, rng: Rng, context: Context | None) -> Float64:
    """(1 - share) row + share other, another row of the data: between two inputs, often between two classes."""
    return (1 - share) * row + share * around(context).partner(row, rng)


def sign_flip(row: Float64, share: float, rng: Rng, _context: Context | None) -> Float64:
    """A share of the dimensions change their sign."""
    places, result = some(len(row), share, rng), row.copy()
    result[places] = -row[places]
    return result
