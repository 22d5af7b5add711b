"""The second step of standardised max logit: what neighbouring pixels say about boundaries and small irregularities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

STEP = 2  # pixels by which a boundary narrows from one pass to the next
TAPS, DILATION, SIGMA = 7, 6, 1.0
Map = NDArray[np.float32]


def suppressed(risk: Map, predicted: NDArray[np.uint16], width: int) -> Map:
    """Boundaries overwritten from beside, pass after pass, from the outside to the middle: risk (h, w), classes (h, w).

    In the pass of width r a pixel is on a boundary when a pixel at most r steps away (|rows| + |columns|) has another class;
    it takes the mean of the 3 x 3 neighbours that are not, and keeps its value where there are none. r is `width`, then 2
    less each time while it is at least 1.
    Source: Jung et al. 2021, arXiv:2107.11264, section 3.3 (iterative boundary suppression; there width 8, 4 passes).
    """
    edges = _edges(predicted)
    for reach in range(width, 0, -STEP):
        near = ndimage.binary_dilation(edges, iterations=reach - 1) if reach > 1 else edges
        count = _box_sum(np.where(near, np.float32(0), np.float32(1)))
        total = _box_sum(np.where(near, np.float32(0), risk))
        risk = np.where(near & (count > 0), total / np.maximum(count, 1), risk)
    return risk


def smoothed(risk: Map) -> Map:
    """A Gaussian of 7 x 7 taps, sigma 1 tap, taps 6 pixels apart, weights of sum 1; beyond the frame its edge repeats.

    Source: Jung et al. 2021, arXiv:2107.11264, section 3.3 (dilated smoothing).
    """
    offsets = np.arange(TAPS) - TAPS // 2
    kernel = np.zeros((TAPS - 1) * DILATION + 1)
    kernel[::DILATION] = np.exp(-0.5 * (offsets / SIGMA) ** 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        risk = ndimage.correlate1d(risk, kernel, axis=axis, output=np.float32, mode="nearest")
    return risk


def _edges(predicted: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Pixels with a pixel of another class above, below, left or right."""
    found = np.zeros(predicted.shape, np.bool_)
    down, across = predicted[1:] != predicted[:-1], predicted[:, 1:] != predicted[:, :-1]
    found[1:] |= down
    found[:-1] |= down
    found[:, 1:] |= across
    found[:, :-1] |= across
    return found


def _box_sum(values: Map) -> Map:
    """Sums over 3 x 3 pixels, nothing beyond the frame."""
    padded = np.pad(values, 1)
    tall = padded[:-2] + padded[1:-1] + padded[2:]
    return np.asarray(tall[:, :-2] + tall[:, 1:-1] + tall[:, 2:])
