"""Sensor and pipeline faults in a window (T, C). Levels are in standard deviations of the channel in the window, and in
units where a channel is constant.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from demur.monitor.perturb.context import Context
from demur.monitor.perturb.features import some

Float64 = NDArray[np.float64]
Changed = tuple[Float64, NDArray[np.bool_]]
Rng = np.random.Generator
SPIKE = 6.0


def spread(window: Float64) -> Float64:
    """(C,) standard deviations, 1 where a channel is constant."""
    std = window.std(axis=0)
    return np.where(np.ptp(window, axis=0) > 0, std, 1.0)


def missing(window: Float64, share: float, rng: Rng, _context: Context | None) -> Changed:
    """A share of the steps is lost in every channel: NaN."""
    touched, result = np.zeros(window.shape, bool), window.copy()
    touched[some(len(window), share, rng)] = True
    result[touched] = np.nan
    return result, touched


def stuck(window: Float64, share: float, rng: Rng, _context: Context | None) -> Changed:
    """One interval of `share` of the window stands at its first value."""
    size = max(2, round(share * len(window)))
    start = int(rng.random() * max(1, len(window) - size + 1))
    result, touched = window.copy(), np.zeros(window.shape, bool)
    result[start : start + size] = window[start]
    touched[start + 1 : start + size] = True
    return result, touched


def drift(window: Float64, level: float, rng: Rng, _context: Context | None) -> Changed:
    """From a step in the first half on, a straight line that ends at `level` standard deviations."""
    start = int(rng.random() * (len(window) // 2))
    line: Float64 = np.clip(np.arange(1 - start, len(window) - start + 1) / (len(window) - start), 0, None)
    return _added(window, level * line[:, None], rng)


def level_shift(window: Float64, level: float, rng: Rng, _context: Context | None) -> Changed:
    """From a step in the middle half on, `level` standard deviations."""
    start = int((0.25 + 0.5 * rng.random()) * len(window))
    return _added(window, level * (np.arange(len(window)) >= start).astype(np.float64)[:, None], rng)


def jitter(window: Float64, level: float, rng: Rng, _context: Context | None) -> Changed:
    """Gaussian noise of `level` standard deviations at every step."""
    noise = level * rng.standard_normal(window.shape)
    return window + noise * spread(window), np.ones(window.shape, bool)


def spikes(window: Float64, share: float, rng: Rng, _context: Context | None) -> Changed:
    """A share of the steps, at least one, stands 6 standard deviations too high or too low in every channel."""
    sign = np.where(rng.random(window.shape) < 0.5, -SPIKE, SPIKE)
    touched = np.zeros(window.shape, bool)
    touched[some(len(window), share, rng)] = True
    return np.where(touched, window + sign * spread(window), window), touched


def gain(window: Float64, factor: float, _rng: Rng, _context: Context | None) -> Changed:
    """Distances from each channel's mean multiplied by `factor`."""
    mean = window.mean(axis=0)
    return mean + factor * (window - mean), np.ones(window.shape, bool)


def time_warp(window: Float64, amplitude: float, rng: Rng, _context: Context | None) -> Changed:
    """Time runs ahead or behind by up to `amplitude` of the window in its middle, and is right at both ends."""
    steps = np.arange(len(window))
    last = max(1, len(window) - 1)
    ahead = amplitude * last * np.sin(np.pi * steps / last) ** 2 * (1 if rng.random() < 0.5 else -1)
    result = np.stack([np.interp(steps + ahead, steps, channel) for channel in window.T], axis=1)
    return result, np.broadcast_to((np.abs(ahead) > 0)[:, None], window.shape).copy()


def _added(window: Float64, change: Float64, rng: Rng) -> Changed:
    sign = np.where(rng.random(window.shape[1]) < 0.5, -1.0, 1.0)
    touched = np.broadcast_to(change > 0, window.shape).copy()
    return window + sign * spread(window) * change, touched
