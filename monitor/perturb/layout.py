"""Perturbations of what is where in an image (H, W, C): hidden, turned, taken apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import rotate as turned

from demur.monitor.perturb.context import Context
from demur.monitor.perturb.errors import PerturbationError

Float64 = NDArray[np.float64]
Rng = np.random.Generator
GRID = 4
GREY = 0.5


def occlude(image: Float64, share: float, rng: Rng, _context: Context | None) -> Float64:
    """A grey rectangle of the image's proportions over `share` of its area, at a random place."""
    result = image.copy()
    sides = [max(1, round(np.sqrt(share) * size)) for size in image.shape[:2]]
    starts = [int(rng.random() * (size - side + 1)) for size, side in zip(image.shape[:2], sides, strict=True)]
    result[starts[0] : starts[0] + sides[0], starts[1] : starts[1] + sides[1]] = GREY
    return result


def rotate(image: Float64, degrees: float, rng: Rng, _context: Context | None) -> Float64:
    """Turned about its centre to a random side; corners repeat the edge."""
    angle = degrees if rng.random() < 0.5 else -degrees
    result: Float64 = turned(image, angle, axes=(1, 0), reshape=False, order=1, mode="nearest")
    return np.clip(result, 0, 1)


def jigsaw(image: Float64, tiles: float, rng: Rng, _context: Context | None) -> Float64:
    """So many tiles of a 4 x 4 grid exchange their places in a ring; what the grid does not cover stays.

    Raises: PerturbationError for images below 4 x 4.
    """
    height, width = image.shape[0] // GRID, image.shape[1] // GRID
    if not height or not width:
        raise PerturbationError(f"jigsaw: expected images of at least {GRID} x {GRID}, got {image.shape[:2]}")
    places, result = rng.permutation(GRID * GRID)[: int(tiles)], image.copy()
    for here, there in zip(places, np.roll(places, 1), strict=True):
        result[_tile(here, height, width)] = image[_tile(there, height, width)]
    return result


def _tile(place: int, height: int, width: int) -> tuple[slice, slice]:
    down, across = divmod(int(place), GRID)
    return slice(down * height, (down + 1) * height), slice(across * width, (across + 1) * width)
