"""Maps of risk and their regions, as loops over pixels."""

from __future__ import annotations

import itertools
import math

import numpy as np

from tests.oracles.sample import Float

Places = set[tuple[int, int]]


def square(risk: Float, radius: int, of: object) -> Float:
    """The least (or largest) risk of each square of side 2 radius + 1, as far as it is in the frame."""
    height, width = risk.shape
    found = np.empty_like(risk)
    for i, j in itertools.product(range(height), range(width)):
        rows, columns = range(max(0, i - radius), i + radius + 1), range(max(0, j - radius), j + radius + 1)
        found[i, j] = of(risk[a, b] for a in rows for b in columns if a < height and b < width)
    return found


def opened(risk: Float, radius: int) -> Float:
    return square(square(risk, radius, min), radius, max)


def parts(mask: Float) -> list[Places]:
    """Connected sets of pixels, by neighbours above, below, left and right."""
    left = {(int(i), int(j)) for i, j in np.argwhere(mask)}
    found = []
    while left:
        grown, front = set(), [left.pop()]
        while front:
            i, j = front.pop()
            grown.add((i, j))
            near = {(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)} & left
            left -= near
            front.extend(near)
        found.append(grown)
    return found


def peak(surface: Float, least_area: int) -> float:
    """The highest of the surface's values at or above which that many pixels hang together; the lowest without one."""
    values = sorted({float(v) for v in surface.ravel() if v > -math.inf}, reverse=True)
    for level in values:
        if any(len(part) >= least_area for part in parts(surface >= level)):
            return level
    return values[-1] if values else -math.inf


def suppressed(risk: Float, predicted: Float, width: int) -> Float:
    """Jung et al. 2021, section 3.3: passes of width r, r - 2, ...; boundary pixels take the mean of those beside them."""
    height, wide = risk.shape
    places = list(itertools.product(range(height), range(wide)))
    for reach in range(width, 0, -2):
        boundary = {
            (i, j)
            for i, j in places
            if any(predicted[a, b] != predicted[i, j] for a, b in places if abs(a - i) + abs(b - j) <= reach)
        }
        after = risk.copy()
        for i, j in boundary:
            beside = [risk[a, b] for a, b in places if abs(a - i) <= 1 and abs(b - j) <= 1 and (a, b) not in boundary]
            if beside:
                after[i, j] = math.fsum(beside) / len(beside)
        risk = after
    return risk


def smoothed(risk: Float) -> Float:
    """The same section: 7 x 7 Gaussian, sigma 1, dilation 6; the edge repeats."""
    height, width = risk.shape
    weights = {(a, b): math.exp(-(a * a + b * b) / 2) for a in range(-3, 4) for b in range(-3, 4)}
    total = math.fsum(weights.values())
    found = np.empty_like(risk)
    for i, j in itertools.product(range(height), range(width)):
        terms = (
            w * risk[min(max(i + 6 * a, 0), height - 1), min(max(j + 6 * b, 0), width - 1)]
            for (a, b), w in weights.items()
        )
        found[i, j] = math.fsum(terms) / total
    return found
