"""Perturbations of an image's brightness and colour. Images are (H, W, C) in [0, 1]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from demur.monitor.perturb.context import Context
from demur.monitor.perturb.errors import PerturbationError

Float64 = NDArray[np.float64]
Rng = np.random.Generator
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
FOG_SLOPE = 2.0


def brightness(image: Float64, step: float, _rng: Rng, _context: Context | None) -> Float64:
    """Every value raised by `step`."""
    return np.clip(image + step, 0, 1)


def contrast(image: Float64, factor: float, _rng: Rng, _context: Context | None) -> Float64:
    """Distances from each channel's mean multiplied by `factor`."""
    mean: Float64 = image.mean(axis=(0, 1))
    return np.clip(mean + factor * (image - mean), 0, 1)


def saturate(image: Float64, factor: float, _rng: Rng, _context: Context | None) -> Float64:
    """Distances from grey multiplied by `factor`.

    Raises: PerturbationError for images that have not three channels.
    """
    if image.shape[2] != 3:
        raise PerturbationError(f"saturate: expected 3 channels (red, green, blue), got {image.shape[2]}")
    grey: Float64 = (image @ LUMA)[..., None]
    return np.clip(grey + factor * (image - grey), 0, 1)


def fog(image: Float64, density: float, rng: Rng, _context: Context | None) -> Float64:
    """A white haze whose share varies smoothly from half of `density` to `density`: noise of a power-law spectrum."""
    height, width = image.shape[:2]
    down, across = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    distance = np.hypot(down, across)
    distance[0, 0] = np.inf
    cloud = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((height, width))) / distance**FOG_SLOPE, (height, width))
    span = np.ptp(cloud)
    cloud = (cloud - cloud.min()) / span if span > 0 else np.ones_like(cloud)
    share = density * (0.5 + 0.5 * cloud)[..., None]
    return np.clip(image * (1 - share) + share, 0, 1)


def invert(image: Float64, share: float, _rng: Rng, _context: Context | None) -> Float64:
    """The share of the way from the image to its negative."""
    return np.clip(image + share * (1 - 2 * image), 0, 1)
