"""Conformalised early stopping: choose a checkpoint and calibrate it on the same rows, and still have valid p-values.

Choosing the checkpoint of least loss on the calibration rows and then reading p-values off their scores is not valid: those
rows look better than new ones. Here the test row joins the choice, t(z) = argmin_t [sum_i l_i(t) + l_z(t)], so that it is one
of n + 1 exchangeable rows whichever checkpoint is chosen.
Source: Liang, Zhou & Sesia 2023, arXiv:2301.11556.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating]


def chosen_checkpoints(calibration_losses: Floats, losses: Floats) -> NDArray[np.int64]:
    """The checkpoint of each test row, the first among equals. Shapes: (n, T), (N, T) -> (N,).

    Raises: ValueError when the shapes do not belong together, or a loss is not finite.
    """
    for name, array in (("calibration losses", calibration_losses), ("losses", losses)):
        if array.ndim != 2 or not array.size or array.shape[1] != calibration_losses.shape[1]:
            raise ValueError(f"{name}: expected a row of T losses for each input, got shape {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name}: expected finite losses; remove the inputs or the checkpoint that give others")
    # float64 sums in one order: a choice that flips with the order of the rows would single the test row out.
    total = np.sort(calibration_losses.astype(np.float64), axis=0).sum(axis=0)
    chosen: NDArray[np.int64] = np.argmin(total + losses.astype(np.float64), axis=1)
    return chosen


def p_values(
    calibration_scores: Floats,
    scores: Floats,
    calibration_losses: Floats | None = None,
    losses: Floats | None = None,
) -> NDArray[np.float64]:
    """(1 + #{i: S_i(t) >= S_z(t)}) / (n + 1) at t = t(z): for a good row P(p <= a) <= a, averaged over calibration draws.

    Shapes: calibration (n, T), test (N, T), by checkpoint -> (N,) in [1 / (n + 1), 1]. Higher scores are less trustworthy; the
    losses that choose default to the scores, as for one-class models. For a label y give the losses of (x, y), row by row.
    O(n T log n + N T). Raises: ValueError as `chosen_checkpoints`.
    """
    if (calibration_losses is None) != (losses is None):
        raise ValueError("losses: expected them for calibration and test rows alike, or for neither")
    chosen = chosen_checkpoints(
        calibration_scores if calibration_losses is None else calibration_losses, scores if losses is None else losses
    )
    n = len(calibration_scores)
    found = np.empty(len(scores))
    for t in np.unique(chosen):
        rows = chosen == t
        below = np.searchsorted(np.sort(calibration_scores[:, t]), scores[rows, t], side="left")
        found[rows] = (1 + n - below) / (n + 1)
    return found
