"""Noise on images (H, W, C) in [0, 1]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from demur.monitor.perturb.context import Context

Float64 = NDArray[np.float64]
Rng = np.random.Generator


def gaussian(image: Float64, level: float, rng: Rng, _context: Context | None) -> Float64:
    """Additive, standard deviation `level`."""
    return np.clip(image + level * rng.standard_normal(image.shape), 0, 1)


def shot(image: Float64, photons: float, rng: Rng, _context: Context | None) -> Float64:
    """Poisson counts when white is `photons` events a pixel."""
    return np.clip(rng.poisson(image * photons) / photons, 0, 1)


def impulse(image: Float64, share: float, rng: Rng, _context: Context | None) -> Float64:
    """A share of the values becomes 0 or 1."""
    hit, white = rng.random(image.shape) < share, rng.random(image.shape) < 0.5
    return np.where(hit, white.astype(np.float64), image)
