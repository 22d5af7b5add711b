"""Neuron activation coverage: how often the reference put each neuron in the state a row puts it in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from demur.detectors.accumulate import Counts, Float64
from demur.detectors.hyper import between, whole
from demur.detectors.numpy_ops import Array
from demur.detectors.score import EXACT_MERGE, Batch, Reference, Scaling
from demur.detectors.scores.class_fit import f32
from demur.detectors.scores.seen import checked_head
from demur.detectors.tensor import Ops, Signal, Signals, T

MOST_CELLS = 1 << 24  # positions beyond it are not exact in float32


@dataclass(frozen=True, eq=False)
class NAC:
    """Minus the mean coverage of the neurons' states, of the last layer in closed form.

    The state of neuron i is a_i = sigmoid(alpha h_i g_i), g = W'(p - 1/C) the gradient of KL(uniform | p). Bin j of M edges
    is [t_j, t_j+1): with x an even grid of M/2 points over [1, sqrt(1000)] and l = log_1000 x, the edges are l_1 .. l_M/2
    = 0.5, then 1 - l_M/2-1 .. 1 - l_2, 1.01, 1.2: M edges, M - 1 bins, the last out of reach. c_ij counts the reference
    rows (all of them) with neuron i in bin j; Phi_ij = min(c_ij / saturation, 1); the score is -mean_i Phi_i,bin(a_i).
    It moves in steps where a state crosses an edge. alpha is `sharpness`.
    Shapes: features (N, D), logits (N, C) -> (N,). Range: [-1, 0], dimensionless. Higher is less trustworthy.
    Raises: ValueError in fit without a head of the signals' widths, when `edges` is odd or under 4, or D (edges - 2) > 2^24.
    Source: Liu et al. 2024, arXiv:2306.02879, eq. 4 to 6 (NAC-UE) and the authors' bins; differs: the gradient in closed
    form, the last layer alone, counts over the whole reference.
    """

    weight: Array  # (C, D), less its mean over classes: g = p @ weight
    cuts: Array  # (edges - 3,), logit(t) / alpha
    start: Array  # (D,), a neuron's first place in the table
    table: Array  # (D * (edges - 2),), Phi / D
    edges: int
    saturation: int
    sharpness: float
    inputs: ClassVar[tuple[Signal, ...]] = ("features", "logits")
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Liu et al. 2024, arXiv:2306.02879, eq. 4 to 6"

    @classmethod
    def fit(cls, reference: Reference, *, edges: int = 50, saturation: int = 50, sharpness: float = 100.0) -> Self:
        cuts = _cuts("nac", edges) / between("nac", "sharpness", sharpness, 0.0, 1e6)
        whole("nac", "saturation", saturation)
        weight, _ = checked_head(reference, "nac")
        centred = weight - weight.mean(axis=0)

        def influence(batch: Batch) -> Float64:
            logits = batch.signals["logits"].astype(np.float64)
            p = np.exp(logits - logits.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            return np.asarray(batch.signals["features"] * (p @ centred), np.float64)

        size = weight.shape[1]
        counts = _counts("nac", reference, influence, np.tile(cuts, (size, 1)), ("features", "logits"))
        table = np.minimum(counts / saturation, 1.0) / size
        start = np.arange(size, dtype=np.float64) * (edges - 2)
        return cls(f32(centred), f32(cuts), f32(start), f32(table.ravel()), edges, saturation, float(sharpness))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        p = xp.exp(xp.log_softmax(signals["logits"]))
        gradient = (p - xp.min(p, keepdims=True)) @ self.weight  # 0 for equal p: the weights of all classes sum to 0
        return _uncovered(xp, signals["features"] * gradient, self.cuts, self.start, self.table)  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class LayersNAC:
    """Minus the mean coverage of the neurons' states in several layers, whose gradients come as signals.

    For each layer the state is a_i = sigmoid(alpha o_i g_i), o the signal `<layer>` and g the signal `<layer>_grad`, the
    gradient of KL(uniform | p) with respect to it, each pooled by itself; bins and coverage as in `NAC`. The score is the
    mean over layers of -mean_i Phi_i,bin(a_i). `saturation` and `sharpness` are one number, or one a layer.
    Shapes: each layer and its gradient (N, K) -> (N,). Range: [-1, 0], dimensionless. Higher is less trustworthy.
    Raises: ValueError in fit without layers, when a signal is missing or a layer and its gradient differ in width, when a
    list has not one number a layer, or as `NAC`.
    Source: Liu et al. 2024, arXiv:2306.02879, eq. 4 to 6 (NAC-UE); differs: counts over the whole reference.
    """

    layers: tuple[str, ...]
    cuts: Array  # (sum of widths, edges - 3)
    start: Array  # (sum of widths,)
    table: Array  # (sum of widths * (edges - 2),), Phi / (layers * width of the layer)
    edges: int
    saturation: tuple[int, ...]
    sharpness: tuple[float, ...]
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "Liu et al. 2024, arXiv:2306.02879, eq. 4 to 6"

    @property
    def inputs(self) -> tuple[Signal, ...]:
        return signals_of(self.layers)

    @classmethod
    def fit(
        cls,
        reference: Reference,
        *,
        layers: Sequence[str],
        edges: int = 50,
        saturation: int | Sequence[int] = 50,
        sharpness: float | Sequence[float] = 100.0,
    ) -> Self:
        layers = _layer_names(layers)
        full = [whole("nac_layers", "saturation", v) for v in _a_layer("saturation", saturation, len(layers))]
        sharp = [between("nac_layers", "sharpness", v, 0.0, 1e6) for v in _a_layer("sharpness", sharpness, len(layers))]
        widths = _layer_widths(reference, layers)
        cuts = np.repeat(_cuts("nac_layers", edges) / np.array(sharp)[:, None], widths, axis=0)

        def influence(batch: Batch) -> Float64:
            pairs = [(batch.signals[n].astype(np.float64), batch.signals[f"{n}_grad"]) for n in layers]
            return np.concatenate([rows * gradient for rows, gradient in pairs], axis=1)

        counts = _counts("nac_layers", reference, influence, cuts, signals_of(layers))
        coverage = np.minimum(counts / np.repeat(full, widths)[:, None], 1.0)
        table = coverage / np.repeat(np.array(widths) * len(layers), widths)[:, None]
        start = np.arange(len(table), dtype=np.float64) * (edges - 2)
        return cls(layers, f32(cuts), f32(start), f32(table.ravel()), edges, tuple(full), tuple(sharp))

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        influence = [signals[n] * signals[f"{n}_grad"] for n in self.layers]
        return _uncovered(xp, xp.concat(influence), self.cuts, self.start, self.table)  # type: ignore[no-any-return]


def nac_edges(count: int) -> Float64:
    """The M edges of the states' bins, as in `NAC`."""
    low = np.log(np.linspace(1, np.sqrt(1000), count // 2)) / np.log(1000)
    mirrored = 1 - low[::-1]
    mirrored[-1] += 0.01
    return np.concatenate([low[:-1], mirrored, [1.2]])


def signals_of(layers: Sequence[str]) -> tuple[Signal, ...]:
    return tuple(s for name in layers for s in (name, f"{name}_grad"))


def _cuts(score: str, edges: int) -> Float64:
    """The edges strictly inside (0, 1) as arguments of the sigmoid: states beyond it do not occur."""
    if whole(score, "edges", edges, least=4) % 2:
        raise ValueError(f"{score}: edges must be even, half of them on either side of 0.5; got {edges}")
    inner = nac_edges(edges)[1:-2]
    return np.asarray(np.log(inner / (1 - inner)), np.float64)


def _counts(
    score: str,
    reference: Reference,
    influence: Callable[[Batch], Float64],
    cuts: Float64,
    needs: tuple[Signal, ...],
) -> NDArray[np.int64]:
    """How many rows have each neuron in each bin, (D, bins), in one pass."""
    size, bins = len(cuts), cuts.shape[1] + 1
    if size * bins > MOST_CELLS:
        raise ValueError(f"{score}: {size} neurons with {bins} bins are more than {MOST_CELLS} cells; use fewer edges")

    def part(batch: Batch) -> Counts:
        values = influence(batch)
        places = np.stack([np.searchsorted(cuts[d], values[:, d], side="right") for d in range(size)], axis=1)
        return Counts(np.bincount((places + np.arange(size) * bins).ravel(), minlength=size * bins))

    return reference.reduce(part, *needs).of.reshape(size, bins)


def _uncovered(xp: Ops[T], influence: Any, cuts: Array, start: Array, table: Array) -> Any:
    place = xp.rank(influence, cuts, equal=True) + start
    return -xp.sum(xp.take(table, xp.index(place)))


def _layer_names(layers: object) -> tuple[str, ...]:
    names = tuple(layers) if isinstance(layers, list | tuple) else ()
    if not names or not all(isinstance(n, str) for n in names) or len(set(names)) < len(names):
        raise ValueError(f"nac_layers: layers must be a list of different signal names, got {layers!r}")
    return names


def _a_layer(name: str, value: object, layers: int) -> list[object]:
    values = list(value) if isinstance(value, list | tuple) else [value] * layers
    if len(values) != layers:
        raise ValueError(f"nac_layers: expected one {name}, or {layers}, one a layer; got {len(values)}")
    return values


def _layer_widths(reference: Reference, layers: tuple[str, ...]) -> list[int]:
    first = next(reference.batches(*signals_of(layers), size=1)).signals
    for name in layers:
        if first[name].shape != first[f"{name}_grad"].shape:
            shapes = f"{first[name].shape[1]} and {first[f'{name}_grad'].shape[1]}"
            raise ValueError(f"nac_layers: {name!r} and its gradient must have one width, got {shapes}")
    return [first[name].shape[1] for name in layers]
