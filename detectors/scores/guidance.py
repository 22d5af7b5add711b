"""Neighbours weighted by how sure the model was of them."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass
from typing import ClassVar, Self

from scipy.special import logsumexp, softmax

from demur.detectors.hyper import between, whole
from demur.detectors.numpy_ops import TINY, Array
from demur.detectors.score import Reference, Scaling, sample
from demur.detectors.scores.bank import BANK_ROWS, kept_rows
from demur.detectors.scores.class_fit import f32
from demur.detectors.tensor import Ops, Signal, Signals, T

EDGE = 0.03  # weaker relations are no edges of the graph


@dataclass(frozen=True, eq=False)
class NNGuide:
    """Minus the energy of the logits times the mean of the k largest energy-scaled similarities to the bank.

    -E(x) mean_topk <u, E_i u_i>, u the unit features, E = log-sum-exp of the logits, in nats, of the row and of each bank
    row. The zero vector has no direction: 0. Meant for E > 0; where energies change sign, so do the factors.
    Shapes: features (N, D), logits (N, C) -> (N,). Range: (-inf, inf), square nats. Higher is less trustworthy.
    Raises: ValueError in fit when fewer than k rows with a direction remain.
    Source: Park et al. 2023, arXiv:2309.14888, eq. 5; differs: a bank of `bank` rows in the place of 1 % of training data.
    """

    bank: Array  # (M, D), energy times unit vector
    k: int
    inputs: ClassVar[tuple[Signal, ...]] = ("features", "logits")
    scales: ClassVar[Scaling] = sample(BANK_ROWS)
    source: ClassVar[str] = "Park et al. 2023, arXiv:2309.14888, eq. 5"

    @classmethod
    def fit(
        cls, reference: Reference, *, k: int = 10, bank: int = BANK_ROWS, select: str = "random", seed: int = 0
    ) -> Self:
        least = whole("nnguide", "k", k)
        kept = kept_rows(
            reference, "nnguide", "features", "logits", size=bank, seed=seed, select=select, unit=True, least=least
        ).signals
        return cls(f32(logsumexp(kept["logits"], axis=1)[:, None] * kept["features"]), k)

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        alike = xp.linear(xp.unit(signals["features"]), self.bank)
        return -xp.logsumexp(signals["logits"]) * xp.mean(xp.top(alike, self.k))  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class Relation:
    """Minus the mean strength of the relations to the bank: of k_i^power over all bank rows i, 0 where k_i <= 0.03.

    k_i = max(0, cos(h, h_i)) p.p_i, p the softmax of the logits. The zero vector relates to nothing: 0.
    Shapes: features (N, D), logits (N, C) -> (N,). Range: [-1, 0], dimensionless. Higher is less trustworthy.
    Raises: ValueError in fit when no row has a direction, or the power is not in (0, 100].
    Source: Kim et al. 2023, arXiv:2301.12321, eq. 1 and 5; differs: the mean over the bank in the place of the sum, so
    that a threshold does not depend on the bank's size.
    """

    bank: Array  # (M, D), unit vectors
    posteriors: Array  # (M, C)
    power: float
    inputs: ClassVar[tuple[Signal, ...]] = ("features", "logits")
    scales: ClassVar[Scaling] = sample(BANK_ROWS)
    source: ClassVar[str] = "Kim et al. 2023, arXiv:2301.12321, eq. 1 and 5"

    @classmethod
    def fit(
        cls, reference: Reference, *, power: float = 1, bank: int = BANK_ROWS, select: str = "random", seed: int = 0
    ) -> Self:
        exponent = between("relation", "power", power, 0.0, 100.0)
        kept = kept_rows(
            reference, "relation", "features", "logits", size=bank, seed=seed, select=select, unit=True
        ).signals
        return cls(f32(kept["features"]), f32(softmax(kept["logits"], axis=1)), exponent)

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        cosine = xp.maximum(xp.linear(xp.unit(signals["features"]), self.bank), 0.0)
        kernel = cosine * xp.linear(xp.exp(xp.log_softmax(signals["logits"])), self.posteriors)
        strength = _power(xp, kernel, self.power)
        return -xp.mean(xp.where(xp.greater(kernel, EDGE), strength, 0.0))  # type: ignore[no-any-return]


def _power(xp: Ops[T], kernel: T, power: float) -> T:
    """kernel^power; small whole powers as products, which cost one node each."""
    if power in (1, 2, 3, 4):
        product: T = functools.reduce(operator.mul, [kernel] * int(power))
        return product
    return xp.exp(power * xp.log(xp.maximum(kernel, TINY)))
