"""What a classifier is taught about outliers: losses of logits, with their gradients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from demur.detectors.learned.layer import Float64
from demur.detectors.learned.network import Layers, backward, flat, forward, start, trained, unflat

OE_WEIGHT, MIX_WEIGHT, ENERGY_WEIGHT = 0.5, 1.0, 0.1
MIX_ALPHA, MIX_BETA = 0.1, 1.0


def log_softmax(logits: Float64) -> Float64:
    """(n, C) -> (n, C)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def cross_entropy(logits: Float64, targets: Float64) -> tuple[float, Float64]:
    """Mean of -sum_k t_k log softmax_k, and its gradient (n, C); targets (n, C) sum to 1.

    For targets 1/C it is logsumexp z - mean z.
    """
    log_p = log_softmax(logits)
    return float(-(targets * log_p).sum() / len(logits)), (np.exp(log_p) - targets) / len(logits)


def energy_hinge(logits: Float64, bound: float, *, above: bool) -> tuple[float, Float64]:
    """Mean of relu(E - bound)^2 (`above`) or relu(bound - E)^2 with E = -logsumexp z, and its gradient (n, C)."""
    log_p = log_softmax(logits)
    energy = log_p[:, 0] - logits[:, 0]
    sign = 1.0 if above else -1.0
    over = np.maximum(sign * (energy - bound), 0)
    p = np.exp(log_p)
    return float((over**2).mean()), -p * (sign * 2 * over / len(logits))[:, None]


@dataclass(frozen=True, eq=False)
class Exposure:
    """Rows (n, D) of known classes `targets` (n, C), foreign rows (m, D), and how they are told apart."""

    rows: Float64
    targets: Float64
    foreign: Float64
    by: str
    margins: tuple[float, float]
    penalty: float
    sizes: tuple[int, ...]

    def loss(self, vector: Float64) -> tuple[float, Float64]:
        """Loss and gradient at the weights of a vector: mean cross entropy + weight * outlier term + penalty/2 |W|^2."""
        layers = unflat(vector, self.sizes)
        both = np.concatenate([self.rows, self.foreign])
        logits, held = forward(layers, both)
        value, slope = self._of_logits(logits)
        slopes, _ = backward(layers, held, slope)
        value += 0.5 * self.penalty * sum(float((w * w).sum()) for w, _ in layers)
        return value, flat([(g + self.penalty * w, b) for (g, b), (w, _) in zip(slopes, layers, strict=True)])

    def _of_logits(self, logits: Float64) -> tuple[float, Float64]:
        known, foreign = logits[: len(self.rows)], logits[len(self.rows) :]
        value, slope = cross_entropy(known, self.targets)
        if self.by == "energy_margin":
            inside, outside = self.margins
            low, low_slope = energy_hinge(known, inside, above=True)
            high, high_slope = energy_hinge(foreign, outside, above=False)
            slope, value = slope + ENERGY_WEIGHT * low_slope, value + ENERGY_WEIGHT * (low + high)
            return value, np.concatenate([slope, ENERGY_WEIGHT * high_slope])
        even = np.full((len(foreign), logits.shape[1]), 1 / logits.shape[1])
        term, term_slope = cross_entropy(foreign, even)
        return value + OE_WEIGHT * term, np.concatenate([slope, OE_WEIGHT * term_slope])

    def train(self, rng: np.random.Generator, iterations: int) -> Layers:
        return unflat(trained(self.loss, flat(start(self.sizes, rng)), iterations), self.sizes)


@dataclass(frozen=True, eq=False)
class Mixture(Exposure):
    """Foreign rows are blends l x + (1 - l) x_out, to be told with confidence l: targets l onehot + (1 - l)/C."""

    blend: Float64  # (m, C), the targets of the foreign rows

    def _of_logits(self, logits: Float64) -> tuple[float, Float64]:
        value, slope = cross_entropy(logits[: len(self.rows)], self.targets)
        term, term_slope = cross_entropy(logits[len(self.rows) :], self.blend)
        return value + MIX_WEIGHT * term, np.concatenate([slope, MIX_WEIGHT * term_slope])


def blended(rows: Float64, targets: Float64, foreign: Float64, rng: np.random.Generator) -> tuple[Float64, Float64]:
    """Each foreign row blended with a known row drawn with replacement, l ~ Beta(0.1, 1) a row: rows (m, D), targets (m, C)."""
    share = rng.beta(MIX_ALPHA, MIX_BETA, (len(foreign), 1))
    drawn = rng.integers(len(rows), size=len(foreign))
    classes = targets.shape[1]
    return share * rows[drawn] + (1 - share) * foreign, share * targets[drawn] + (1 - share) / classes
