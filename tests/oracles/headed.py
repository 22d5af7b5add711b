"""Scores of features h (N, D) and the model's last layer W (C, D), b (C,), one row at a time."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, log_softmax, logsumexp, softmax

from tests.oracles.sample import Float, Sample


def fdbd(sample: Sample, features: Float, logits: Float) -> Float:
    """-mean over c != c^ of |z_c^ - z_c| / |W_c^ - W_c|, over |h - mu| (Liu and Qin 2024, equation 7)."""
    weight, mean = sample.head_weight, sample.features.mean(axis=0)
    out = []
    for h, z in zip(features, logits, strict=True):
        best = int(z.argmax())
        others = [c for c in range(len(z)) if c != best]
        gaps = [abs(z[best] - z[c]) / np.linalg.norm(weight[best] - weight[c]) for c in others]
        out.append(-np.mean(gaps) / np.linalg.norm(h - mean))
    return np.array(out)


def nci(sample: Sample, features: Float, logits: Float, alpha: float = 0.001) -> Float:
    """-(W_c^ . (h - mu) / |h - mu| + alpha |h|_1) (Liu and Qin 2025, equation 7); the first term is 0 where h = mu."""
    mean = sample.features.mean(axis=0)
    out = []
    for h, z in zip(features, logits, strict=True):
        length = np.linalg.norm(h - mean)
        first = sample.head_weight[z.argmax()] @ (h - mean) / length if length > 0 else 0.0
        out.append(-(first + alpha * np.abs(h).sum()))
    return np.array(out)


def beside_the_head(sample: Sample, rows: Float) -> Float:
    """Rows less their projection on the space that the rows of W span."""
    _, values, basis = np.linalg.svd(sample.head_weight, full_matrices=False)
    basis = basis[values > 1e-10 * values[0]]
    return rows - rows @ basis.T @ basis


def core(sample: Sample, features: Float) -> Float:
    """1 - max_c cos(r, m_c): r the part of h - mu that the head cannot see, m_c its mean over the correct rows of c."""
    mean = sample.features.mean(axis=0)
    known = beside_the_head(sample, sample.features - mean)
    asked = beside_the_head(sample, features - mean)
    cosines = []
    for label in np.unique(sample.labels[sample.correct]):
        m = known[(sample.labels == label) & sample.correct].mean(axis=0)
        cosines.append(asked @ m / (np.linalg.norm(asked, axis=1) * np.linalg.norm(m)))
    return 1.0 - np.max(cosines, axis=0)


def grad_norm_by_differences(weight: Float, bias: Float, h: Float, *, with_bias: bool) -> float:
    """L1 norm of d/dW mean_c -log softmax(W h + b)_c, by central differences (Huang et al. 2021, equation 4)."""

    def loss(w: Float, b: Float) -> float:
        return -float(log_softmax(w @ h + b).mean())

    step, total = 1e-6, 0.0
    for place in np.ndindex(weight.shape):
        moved = np.zeros_like(weight)
        moved[place] = step
        total += abs(loss(weight + moved, bias) - loss(weight - moved, bias)) / (2 * step)
    for place in range(len(bias)) if with_bias else ():
        moved = np.zeros_like(bias)
        moved[place] = step
        total += abs(loss(weight, bias + moved) - loss(weight, bias - moved)) / (2 * step)
    return total


def grad_norm(features: Float, logits: Float, *, bias: bool = False) -> Float:
    """-(|h|_1 [+ 1]) sum_c |p_c - 1/C|: the gradient in closed form."""
    p = softmax(logits, axis=1)
    return -(np.abs(features).sum(axis=1) + bias) * np.abs(p - 1 / logits.shape[1]).sum(axis=1)


def nac_edges(count: int = 50) -> Float:
    """The official bins: log_1000 of an even grid of 1..sqrt(1000) below a half, mirrored above; then 1.01 and 1.2."""
    left = np.log(np.linspace(1, np.sqrt(1000), count // 2)) / np.log(1000)
    edges = np.concatenate([left[:-1], (1 - left)[::-1]])
    edges[-1] += 0.01
    return np.append(edges, 1.2)


def nac_states(weight: Float, features: Float, logits: Float, sharpness: float) -> Float:
    """sigmoid(alpha h g), g = W'(p - 1/C) the gradient of KL(uniform | p) (Liu et al. 2024, equation 4)."""
    gradient = (softmax(logits, axis=1) - 1 / logits.shape[1]) @ weight
    return expit(sharpness * features * gradient)


def nac_room(weight: Float, features: Float, logits: Float, sharpness: float, eps: float) -> Float:
    """How far float32 may move the states: p by its exponents, g by the terms of its sum, the sigmoid by its slope."""
    p, a = softmax(logits, axis=1), nac_states(weight, features, logits, sharpness)
    of_p = p * (1 - p) * 4 * eps * np.abs(logits).max(axis=1, keepdims=True) + 4 * eps * np.abs(p - 1 / p.shape[1])
    room = a * (1 - a) * sharpness * np.abs(features) * (of_p @ np.abs(weight)) + 8 * eps * a * (1 - a) + eps
    return np.where(features == 0, 0.0, room)  # sigmoid(0) is a half exactly, which is an edge


def bins(edges: Float, states: Float) -> np.ndarray:
    """j of [t_j, t_j+1)."""
    return np.searchsorted(edges, states, side="right") - 1


def nac_counts(edges: Float, states: Float, room: Float) -> tuple[Float, Float]:
    """Least and greatest number of states of each neuron that may lie in each bin, (D, bins) each."""
    least, most = np.zeros((2, states.shape[1], len(edges) - 1))
    for value, off in zip(states, room, strict=True):
        first, last = bins(edges, np.maximum(value - off, 0.0)), bins(edges, np.minimum(value + off, 1.0))
        for neuron, (low, high) in enumerate(zip(first, last, strict=True)):
            most[neuron, low : high + 1] += 1
            least[neuron, low] += low == high
    return least, most


def nac_range(coverage: Float, edges: Float, states: Float, room: Float) -> tuple[Float, Float]:
    """Least and greatest -mean_i Phi_i,bin(state_i), as bins end where float32 cannot say; coverage is Phi (D, bins)."""
    low, high = np.zeros(len(states)), np.zeros(len(states))
    for row, (value, off) in enumerate(zip(states, room, strict=True)):
        first, last = bins(edges, np.maximum(value - off, 0.0)), bins(edges, np.minimum(value + off, 1.0))
        for neuron, (i, j) in enumerate(zip(first, last, strict=True)):
            reachable = -coverage[neuron, i : j + 1] / len(value)
            low[row] += reachable.min()
            high[row] += reachable.max()
    return low, high


def pnml(sample: Sample, features: Float) -> Float:
    """log_C sum_i p_i / (p_i + p_i^g (1 - p_i)): regret of the predictive normalised maximum likelihood (Bibas 2021, 3.2).

    The authors' form: p of the head on the unit feature u, g from `leverage`.
    """
    return regret(sample, features, leverage(sample, features))


def leverage(sample: Sample, features: Float) -> Float:
    """g = max(a / (1 + a), |x_perp|^2), x = [1, u], a = x' (X'X)^+ x, x_perp the part of x outside the reference's span."""
    basis, values = span(sample)
    asked = with_one(features)
    inside = asked @ basis.T
    spread = ((inside / values) ** 2).sum(axis=1)
    return np.maximum(spread / (1 + spread), ((asked - inside @ basis) ** 2).sum(axis=1))


def span(sample: Sample) -> tuple[Float, Float]:
    """Directions and singular values of the reference's [1, u], down to the rounding of float32 features."""
    known = with_one(sample.features)
    _, values, basis = np.linalg.svd(known, full_matrices=False)
    seen = values > np.sqrt(known.shape[1]) * 2.0**-23 * values[0]
    return basis[seen], values[seen]


def regret(sample: Sample, features: Float, g: Float) -> Float:
    log_p = log_softmax(unit_logits(sample, features), axis=1)
    classes = log_p.shape[1]
    log_rest = np.array([logsumexp(np.delete(log_p, c, axis=1), axis=1) for c in range(classes)]).T
    powers = g[:, None] * log_p
    grown = np.exp(log_p + log_rest - np.logaddexp(log_p, powers + log_rest)) * -np.expm1(powers)
    return np.log1p(grown.sum(axis=1)) / np.log(classes)


def unit_logits(sample: Sample, features: Float) -> Float:
    return with_one(features)[:, 1:] @ sample.head_weight.T + sample.head_bias


def with_one(rows: Float) -> Float:
    """[1, h / |h|]."""
    return np.column_stack([np.ones(len(rows)), rows / np.linalg.norm(rows, axis=1, keepdims=True)])
