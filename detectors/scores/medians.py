"""Location and scatter that a minority of foreign rows cannot move far."""

from __future__ import annotations

import numpy as np

from demur.detectors.accumulate import Float64

NORMAL = 1.4826  # of the median absolute deviation: the standard deviation of a normal sample


def l1_median(rows: Float64, *, iterations: int = 500, tolerance: float = 1e-10) -> Float64:
    """The point (D,) with the least sum of Euclidean distances to rows (n, D).

    Weiszfeld's iteration from the coordinate medians, until a step is below `tolerance` times the mean distance.
    Source: Vardi & Zhang 2000, "The multivariate L1-median and associated data depth", eq. 2.6, which also is right where
    the iterate meets a row.
    """
    here = np.median(rows, axis=0)
    for _ in range(iterations):
        apart = rows - here
        distance = np.linalg.norm(apart, axis=1)
        level = float(distance.mean())
        off = distance > 1e-14 * level
        if not off.any():
            break
        weight = 1 / distance[off]
        pull = weight @ apart[off]
        held = (len(rows) - int(off.sum())) / max(float(np.linalg.norm(pull)), 1e-300)
        step = max(0.0, 1 - held) * pull / weight.sum()
        here = here + step
        if np.linalg.norm(step) <= tolerance * level:
            break
    return np.asarray(here, np.float64)


def comedian(rows: Float64) -> tuple[Float64, Float64]:
    """The comedian scatter (D, D) of rows (n, D), and the variance of each entry.

    S_jk = 1.4826^2 med(y), y = (x_j - med x_j)(x_k - med x_k): squared normal-consistent median absolute deviations on the
    diagonal; not positive semidefinite in general. The variance is that of the median of a normal sample with the spread
    of y: 1.4826^4 (pi / 2 n) (1.4826 med|y - med y|)^2.
    Source: Falk 1997, "On MAD and comedians", eq. 2.
    """
    columns = np.ascontiguousarray((rows - np.median(rows, axis=0)).T)
    size, count = columns.shape
    scatter, variance = np.empty((size, size)), np.empty((size, size))
    for j in range(size):
        products = columns[j] * columns[j:]
        middle = np.median(products, axis=1)
        spread = NORMAL * np.median(np.abs(products - middle[:, None]), axis=1)
        scatter[j, j:] = scatter[j:, j] = NORMAL**2 * middle
        variance[j, j:] = variance[j:, j] = NORMAL**4 * np.pi / (2 * count) * spread**2
    return scatter, variance
