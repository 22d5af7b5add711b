"""A class-conditional flow while it is trained: affine couplings, then a normal distribution for each class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demur.detectors.learned.adam import adam
from demur.detectors.learned.layer import Float64, Layer

BOUND = 2.0  # of the log scale of one coupling
LOG_TAU = float(np.log(2 * np.pi))
PER_LAYER = 6  # inner, scale and shift, each a weight and a bias
FLOOR = -5.0  # of a class's log deviation: repeated values would take it to -inf


@dataclass(frozen=True, eq=False)
class Couplings:
    """How the weights are laid out: 6 arrays a layer, then means (C, D) and log deviations (C, D).

    masks (L, D): 1 where a layer leaves the entry as it is and reads it, 0 where it moves it.
    """

    masks: Float64

    def start(self, hidden: int, classes: int, rng: np.random.Generator) -> list[Float64]:
        """Couplings that move nothing yet; class means drawn small."""
        width = self.masks.shape[1]
        weights: list[Float64] = []
        for mask in self.masks:
            weights += [rng.normal(size=(hidden, width)) * np.sqrt(2 / width) * mask, np.zeros(hidden)]
            weights += [np.zeros((width, hidden)), np.zeros(width), np.zeros((width, hidden)), np.zeros(width)]
        return [*weights, 0.1 * rng.normal(size=(classes, width)), np.zeros((classes, width))]

    def slopes(self, weights: list[Float64], rows: Float64, places: NDArray[np.int64]) -> tuple[float, list[Float64]]:
        """Mean of -log p(row | class) and its gradient in every weight; rows (n, D), classes (n,)."""
        held, y, volume = [], rows, np.zeros(len(rows))
        for layer in range(len(self.masks)):
            a = y @ weights[6 * layer].T + weights[6 * layer + 1]
            h = np.maximum(a, 0)
            bent = np.tanh(h @ weights[6 * layer + 2].T + weights[6 * layer + 3])
            held.append((y, a, bent))
            y = y * np.exp(BOUND * bent) + h @ weights[6 * layer + 4].T + weights[6 * layer + 5]
            volume = volume + BOUND * bent.sum(axis=1)
        value, slope, of_means, of_logs = _base(y, places, weights[-2], weights[-1])
        found = [of_logs, of_means]
        for layer in reversed(range(len(self.masks))):
            slope, of_layer = self._back(weights[6 * layer : 6 * layer + 6], held[layer], slope, self.masks[layer])
            found += of_layer[::-1]
        return value - float(volume.mean()), found[::-1]

    def _back(
        self, weights: list[Float64], held: tuple[Float64, Float64, Float64], slope: Float64, mask: Float64
    ) -> tuple[Float64, list[Float64]]:
        """Gradient of what went in, and of the layer's weights, from that of what came out."""
        x, a, bent = held
        h, grown = np.maximum(a, 0), np.exp(BOUND * bent)
        move = 1 - mask
        of_raw = (slope * x * grown - 1 / len(x)) * BOUND * (1 - bent**2) * move
        of_shift = slope * move
        of_a = (of_raw @ weights[2] + of_shift @ weights[4]) * (a > 0)
        of_weights = [of_a.T @ x * mask, of_a.sum(axis=0)]
        of_weights += [of_raw.T @ h, of_raw.sum(axis=0), of_shift.T @ h, of_shift.sum(axis=0)]
        return slope * grown + of_a @ weights[0], of_weights

    def train(
        self, rows: Float64, places: NDArray[np.int64], classes: int, hidden: int, epochs: int, seed: int
    ) -> list[Float64]:
        rng = np.random.default_rng(seed)

        def slopes(weights: list[Float64], chosen: NDArray[np.int64]) -> tuple[float, list[Float64]]:
            return self.slopes(weights, rows[chosen], places[chosen])

        weights = adam(self.start(hidden, classes, rng), slopes, len(rows), epochs, rng)
        return [*weights[:-1], np.maximum(weights[-1], FLOOR)]


def _base(
    y: Float64, places: NDArray[np.int64], means: Float64, logs: Float64
) -> tuple[float, Float64, Float64, Float64]:
    """Mean of -sum_d log N(y_d; m_cd, exp(l_cd)); its gradients in y, means, logs."""
    z = (y - means[places]) * np.exp(-logs[places])
    value = 0.5 * float((z**2).sum() / len(y)) + float(logs[places].sum() / len(y)) + 0.5 * y.shape[1] * LOG_TAU
    slope = z * np.exp(-logs[places]) / len(y)
    of_means, of_logs = np.zeros_like(means), np.zeros_like(logs)
    np.add.at(of_means, places, -slope)
    np.add.at(of_logs, places, (1 - z**2) / len(y))
    return value, slope, of_means, of_logs


def layers_of(weights: list[Float64]) -> list[tuple[Layer, Layer, Layer]]:
    """inner, scale and shift of each coupling."""
    return [
        ((w[0], w[1]), (w[2], w[3]), (w[4], w[5]))
        for w in (weights[i : i + PER_LAYER] for i in range(0, len(weights) - 2, PER_LAYER))
    ]


def alternating(width: int, layers: int, seed: int) -> Float64:
    """Masks (L, D): a seeded half of the entries and the other half in turn, halves drawn anew every two layers."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((layers, width))
    for layer in range(0, layers, 2):
        masks[layer, rng.permutation(width)[: width // 2]] = 1
        if layer + 1 < layers:
            masks[layer + 1] = 1 - masks[layer]
    return masks
