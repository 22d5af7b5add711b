"""Stochastic descent by Adam, seeded."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from demur.detectors.learned.layer import Float64
from demur.detectors.learned.network import one_thread

BATCH = 256
STEP, DECAY, DECAY_SQUARES, LEAST = 2e-3, 0.9, 0.999, 1e-8
Slopes = Callable[[list[Float64], NDArray[np.int64]], tuple[float, list[Float64]]]


def adam(weights: list[Float64], slopes: Slopes, rows: int, epochs: int, rng: np.random.Generator) -> list[Float64]:
    """The weights after `epochs` passes in shuffled batches of 256; `slopes` gives loss and gradients on chosen rows.

    The step falls linearly from 2e-3 to 0, and gradients are cut to norm 10.
    Source: Kingma & Ba 2015, arXiv:1412.6980, algorithm 1.
    """
    weights = [w.copy() for w in weights]
    first, second = ([np.zeros_like(w) for w in weights] for _ in range(2))
    total = epochs * -(-rows // BATCH)
    with one_thread():
        for count, chosen in enumerate(_batches(rows, epochs, rng), 1):
            _, found = slopes(weights, chosen)
            size = np.sqrt(sum(float((g * g).sum()) for g in found))
            cut, step = min(1.0, 10.0 / max(size, 1e-300)), STEP * (1 - (count - 1) / total)
            for place, slope in enumerate(found):
                first[place] += (1 - DECAY) * (cut * slope - first[place])
                second[place] += (1 - DECAY_SQUARES) * ((cut * slope) ** 2 - second[place])
                spread = np.sqrt(second[place] / (1 - DECAY_SQUARES**count)) + LEAST
                weights[place] -= step * (first[place] / (1 - DECAY**count)) / spread
    return weights


def _batches(rows: int, epochs: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    for _ in range(epochs):
        order = rng.permutation(rows)
        yield from (order[i : i + BATCH] for i in range(0, rows, BATCH))
