"""AnomalyBERT's degradations of a window (T, C): what it takes for anomalous when it learns from normal data alone.

Source: Jeong et al. 2023, arXiv:2305.04468; lengths, weight, ramps and speeds as in its code: intervals of 1.5 to 15 %
of the window, replacements of weight 0.7 with ramps of 10 %, speeds of 2 to 4. Our form: every channel is degraded.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from demur.monitor.perturb.context import Context
from demur.monitor.perturb.faults import Changed, spread
from demur.monitor.perturb.features import around

Float64 = NDArray[np.float64]
Rng = np.random.Generator
WEIGHT, RAMP, LONGEST = 0.7, 0.1, 0.15


def interval(length: int, share: float, rng: Rng) -> slice:
    """An interval of `share` of the window, at least one step, at a random place."""
    size = min(length, max(1, round(share * length)))
    start = int(rng.random() * (length - size + 1))
    return slice(start, start + size)


def soft_replacement(window: Float64, share: float, rng: Rng, context: Context | None) -> Changed:
    """An interval of another window, forwards, backwards or upside down, blended in with weight 0.7 between ramps."""
    place = interval(len(window), share, rng)
    other = _flipped(around(context).partner(window, rng)[place], int(rng.integers(3)))
    weight = WEIGHT * ramped(place.stop - place.start)[:, None]
    result = window.copy()
    result[place] = (1 - weight) * window[place] + weight * other
    return _marked(result, place)


def ramped(length: int) -> Float64:
    """1, rising over the first tenth and falling over the last."""
    ramp = max(1, round(RAMP * length))
    steps = np.arange(1, length + 1)
    return np.minimum(1.0, np.minimum(steps, steps[::-1]) / ramp)


def _flipped(part: Float64, how: int) -> Float64:
    if how == 1:
        return part[::-1]
    return part.min(axis=0) + part.max(axis=0) - part if how == 2 else part


def uniform_replacement(window: Float64, share: float, rng: Rng, _context: Context | None) -> Changed:
    """An interval in which each channel stands at one value, drawn between the channel's least and greatest."""
    place, result = interval(len(window), share, rng), window.copy()
    low, high = window.min(axis=0), window.max(axis=0)
    result[place] = low + rng.random(window.shape[1]) * (high - low)
    return _marked(result, place)


def peak_noise(window: Float64, height: float, rng: Rng, _context: Context | None) -> Changed:
    """One step raised or lowered by `height` standard deviations."""
    start, result = int(rng.integers(len(window))), window.copy()
    sign = np.where(rng.random(window.shape[1]) < 0.5, -1.0, 1.0)
    result[start] += sign * height * spread(window)
    return _marked(result, slice(start, start + 1))


def length_adjustment(window: Float64, speed: float, rng: Rng, _context: Context | None) -> Changed:
    """An interval of 15 % in which time runs `speed` times as fast, or as slow."""
    place, result = interval(len(window), LONGEST, rng), window.copy()
    rate = speed if rng.random() < 0.5 else 1 / speed
    result[place] = at_times(window, place.start + rate * np.arange(place.stop - place.start))
    return _marked(result, place)


def at_times(window: Float64, times: Float64) -> Float64:
    """(len(times), C) values between the steps, linearly; the last value after the end."""
    steps = np.arange(len(window))
    return np.stack([np.interp(times, steps, channel) for channel in window.T], axis=1)


def _marked(result: Float64, place: slice) -> Changed:
    touched = np.zeros(result.shape, bool)
    touched[place] = True
    return result, touched
