"""An auto-encoder with two heads while it is trained: the mean of what went in, and its log variance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from demur.detectors.learned.adam import adam
from demur.detectors.learned.layer import Float64
from demur.detectors.learned.network import Layers, backward, forward, start

LOG_VARIANCE = 6.0  # cut to [-6, 6]


def squared(out: Float64, rows: Float64) -> tuple[float, Float64]:
    """Mean over rows and dimensions of (x - m)^2, and its gradient in the output (n, 2 D); the variance is not used."""
    width = rows.shape[1]
    off = out[:, :width] - rows
    slope = np.concatenate([2 * off, np.zeros_like(off)], axis=1) / off.size
    return float((off**2).mean()), slope


def weighted(out: Float64, rows: Float64) -> tuple[float, Float64]:
    """Mean over rows and dimensions of 0.5 ((x - m)^2 / v + log v), log v cut to [-6, 6], and its gradient."""
    width = rows.shape[1]
    raw = out[:, width:]
    log_variance = np.clip(raw, -LOG_VARIANCE, LOG_VARIANCE)
    off, share = out[:, :width] - rows, np.exp(-log_variance)
    inside = np.abs(raw) < LOG_VARIANCE
    slope = np.concatenate([off * share, 0.5 * (1 - off**2 * share) * inside], axis=1) / off.size
    return 0.5 * float((off**2 * share + log_variance).mean()), slope


def auto_encoder(rows: Float64, by: str, sizes: tuple[int, ...], epochs: int, seed: int) -> Layers:
    """The layers of sizes (D, hidden, code, hidden, 2 D) after `epochs` passes over the rows (n, D)."""
    rng = np.random.default_rng(seed)
    loss = weighted if by == "apre" else squared

    def slopes(weights: list[Float64], chosen: NDArray[np.int64]) -> tuple[float, list[Float64]]:
        layers = _paired(weights)
        out, held = forward(layers, rows[chosen])
        value, slope = loss(out, rows[chosen])
        found, _ = backward(layers, held, slope)
        return value, [part for layer in found for part in layer]

    begin = [part for layer in start(sizes, rng) for part in layer]
    return _paired(adam(begin, slopes, len(rows), epochs, rng))


def _paired(weights: list[Float64]) -> Layers:
    return list(zip(weights[::2], weights[1::2], strict=True))
