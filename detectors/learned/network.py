"""A rectified network while it is trained: values, gradients, and its weights as one vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from demur.detectors.learned.layer import Float64, Layer

Layers = list[Layer]
Loss = Callable[[Float64], tuple[float, Float64]]


def start(sizes: Sequence[int], rng: np.random.Generator) -> Layers:
    """Normal weights of variance 2 / in, biases 0."""
    return [(rng.normal(size=(o, i)) * np.sqrt(2 / i), np.zeros(o)) for i, o in pairwise(sizes)]


def forward(layers: Layers, rows: Float64) -> tuple[Float64, list[Float64]]:
    """The output, and what went into each layer."""
    held: list[Float64] = []
    for place, (weight, bias) in enumerate(layers):
        held.append(np.maximum(rows, 0) if place else rows)
        rows = held[-1] @ weight.T + bias
    return rows, held


def backward(layers: Layers, held: list[Float64], slope: Float64) -> tuple[Layers, Float64]:
    """Gradients of the layers, and of the rows, from that of the output (n, out)."""
    found: Layers = []
    for place in reversed(range(len(layers))):
        found.append((slope.T @ held[place], slope.sum(axis=0)))
        slope = slope @ layers[place][0]
        if place:
            slope = slope * (held[place] > 0)
    return found[::-1], slope


def flat(layers: Layers) -> Float64:
    return np.concatenate([part.ravel() for layer in layers for part in layer])


def unflat(vector: Float64, sizes: Sequence[int]) -> Layers:
    """The layers of a vector that `flat` made."""
    layers: Layers = []
    at = 0
    for i, o in pairwise(sizes):
        middle = at + i * o
        layers.append((vector[at:middle].reshape(o, i), vector[middle : middle + o]))
        at = middle + o
    return layers


def one_thread() -> Any:
    """A context in which matrix products use one thread: on a busy machine, two that wait for each other took 30 times as
    long on small matrices; and the sums do not depend on how many cores there are.
    """
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1)


def trained(loss: Loss, begin: Float64, iterations: int) -> Float64:
    """Where L-BFGS gets to in so many iterations."""
    from scipy.optimize import minimize  # only a fit needs it

    with one_thread():
        found = minimize(loss, begin, jac=True, method="L-BFGS-B", options={"maxiter": iterations, "maxcor": 20})
    return np.asarray(found.x, np.float64)
