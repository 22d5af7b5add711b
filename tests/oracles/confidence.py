"""Further scores of logits z (N, C): margins, doubts, matched posteriors, recalibrated and combined confidences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq
from scipy.special import logsumexp, softmax

from tests.oracles.sample import Float, Sample

LEAST_NORMAL = float(np.finfo(np.float32).tiny)


def log_p(logits: Float) -> Float:
    return logits - logsumexp(logits, axis=1, keepdims=True)


def log_others(logits: Float) -> Float:
    """log(1 - p_c) of every class as the logarithm of the probability of all the others, (N, C): nothing cancels."""
    without = [logsumexp(np.delete(logits, c, axis=1), axis=1) for c in range(logits.shape[1])]
    return np.array(without).T - logsumexp(logits, axis=1, keepdims=True)


def nll_slope(logits: Float, labels: np.ndarray, inverse: float) -> float:
    """d/d(1/T) of the mean negative log-likelihood of softmax(z / T): mean (E_p z - z_y), increasing in 1/T."""
    p = softmax(logits * inverse, axis=1)
    return float(((p * logits).sum(axis=1) - logits[np.arange(len(logits)), labels]).mean())


def best_temperature(logits: Float, labels: np.ndarray, low: float = 0.05, high: float = 20.0) -> float:
    """T of the least negative log-likelihood in [low, high] (Guo et al. 2017): the likelihood is convex in 1/T."""
    if nll_slope(logits, labels, 1 / high) > 0:
        return high
    if nll_slope(logits, labels, 1 / low) < 0:
        return low
    return float(1 / brentq(lambda inverse: nll_slope(logits, labels, inverse), 1 / high, 1 / low, xtol=1e-14))


def max_softmax_risk(logits: Float, temperature: float) -> Float:
    """1 - max_c softmax(z / T)_c (Guo et al. 2017)."""
    return np.exp(log_others(logits / temperature)).min(axis=1)


def odin(logits: Float, temperature: float = 1000.0) -> Float:
    """1/C - max_c softmax(z / T)_c: ODIN without its input step (Liang et al. 2018), less a constant that float32 lacks room for."""
    return 1 / logits.shape[1] - softmax(logits / temperature, axis=1).max(axis=1)


def margin(logits: Float, by: str = "logits") -> Float:
    """Second largest less largest, of logits or of probabilities; from -inf or -1 to 0."""
    values = np.sort(logits if by == "logits" else softmax(logits, axis=1), axis=1)
    return values[:, -2] - values[:, -1]


def gen(logits: Float, gamma: float = 0.1, top: int = 100) -> Float:
    """sum over the `top` largest p of p^g (1 - p)^g (Liu et al. 2023, equation 4, as a risk)."""
    order = np.argsort(-logits, axis=1)[:, :top]
    terms = np.exp(gamma * (log_p(logits) + log_others(logits)))
    return np.take_along_axis(terms, order, axis=1).sum(axis=1)


def doctor(logits: Float, by: str = "alpha") -> Float:
    """alpha: g / (1 - g) with g = 1 - sum p^2; beta: (1 - max p) / max p (Granese et al. 2021, D_alpha and D_beta)."""
    p, others = softmax(logits, axis=1), np.exp(log_others(logits))
    if by == "beta":
        return others.min(axis=1) / p.max(axis=1)
    return (p * others).sum(axis=1) / (p**2).sum(axis=1)


def kl_matching(sample: Sample, logits: Float) -> Float:
    """min_k KL(p || d_k), d_k the mean posterior of the reference rows predicted k (Hendrycks et al. 2022, 3.2).

    Classes never predicted are left out; d_k is at least the smallest normal float32.
    """
    posterior, predicted = softmax(sample.logits, axis=1), sample.logits.argmax(axis=1)
    log_q = log_p(logits)
    found = []
    for k in np.unique(predicted):
        template = np.log(np.maximum(posterior[predicted == k].mean(axis=0), LEAST_NORMAL))
        found.append((np.exp(log_q) * (log_q - template)).sum(axis=1))
    return np.min(found, axis=0)


def mean_logits(sample: Sample) -> dict[int, Float]:
    """Mean activation vector of the correct rows of each class."""
    return {
        int(c): sample.logits[(sample.labels == c) & sample.correct].mean(axis=0)
        for c in np.unique(sample.labels[sample.correct])
    }


def open_max_tail(sample: Sample, label: int, tail: int = 20) -> Float:
    """The `tail` largest distances of correct rows to their class's mean activation vector, ascending."""
    mine = sample.logits[(sample.labels == label) & sample.correct]
    return np.sort(np.linalg.norm(mine - mine.mean(axis=0), axis=1))[-tail:]


def weibull(values: Float, unit: float) -> tuple[float, float]:
    """Shape k and log(scale / unit) of the largest Weibull likelihood (Cohen 1965).

    1/k + mean l - sum l e^(k l) / sum e^(k l) = 0 with l = log(x / unit), then scale^k = mean x^k. `unit` lies near the
    values, so that l keeps its digits.
    """
    logs = np.log1p((values - unit) / unit)

    def slope(shape: float) -> float:
        powers = softmax(shape * logs)
        return 1 / shape + logs.mean() - float(powers @ logs)

    shape = brentq(slope, 1e-3, 1e3 / (logs.max() - logs.mean()), xtol=1e-12, rtol=1e-14)
    return shape, float(logsumexp(shape * logs) - np.log(len(logs))) / shape


LIBMR_SHIFT = 10_000.0


def unseen(sample: Sample, label: int, tail: int) -> Callable[[Float], Float]:
    """F_c: the Weibull probability of a distance, of d - min(tail) + 10000 as libmr shifts it."""
    ends = open_max_tail(sample, label, tail)
    shape, log_scale = weibull(ends - ends[0] + LIBMR_SHIFT, LIBMR_SHIFT)

    def probability(distance: Float) -> Float:
        moved = np.maximum((distance - ends[0]) / LIBMR_SHIFT, -1.0)
        with np.errstate(divide="ignore", over="ignore"):
            return -np.expm1(-np.exp(shape * (np.log1p(moved) - log_scale)))

    return probability


def open_max(sample: Sample, logits: Float, tail: int = 20, alpha: int = 3) -> Float:
    """P(unknown) of OpenMax (Bendale and Boult 2016, algorithm 2 with the ranks of the reference code).

    The class ranked i-th of alpha loses (alpha + 1 - i) / alpha F_c(|z - m_c|) of its logit; what all lose is the
    unknown's.
    """
    means = mean_logits(sample)
    laws = {c: unseen(sample, c, tail) for c in means}
    out = []
    for z in logits:
        kept = z.copy()
        ranks = min(alpha, len(z))
        for rank, c in enumerate(np.argsort(-z, kind="stable")[:ranks]):
            lost = (ranks - rank) / ranks * laws[int(c)](np.linalg.norm(z - means[int(c)]))
            kept[c] = z[c] * (1 - lost)
        out.append(softmax(np.append(kept, (z - kept).sum()))[-1])
    return np.array(out)


def weighted_energy(logits: Float, weights: Float) -> Float:
    """-log sum_c w_c exp z_c (Du et al. 2022, section 3.2)."""
    return -np.array([logsumexp(z, b=weights) for z in logits])


def class_weights(labels: np.ndarray, classes: int) -> Float:
    """How often each class is seen, in units of the mean."""
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    return counts / counts.mean()


def max_sup(logits: Float) -> Float:
    """mean z - max z (Zhou et al. 2025, the term that MaxSup suppresses)."""
    return logits.mean(axis=1) - logits.max(axis=1)


def log_doubt(logits: Float, of: str) -> Float:
    """log(S1max - S1): of 1 - max p, of the entropy, of DOCTOR's alpha; no probability rounds to 0 or 1 on the way."""
    log_q, log_rest = log_p(logits), log_others(logits)
    if of == "msp":
        return log_rest.min(axis=1)
    if of == "doctor":
        return logsumexp(log_q + log_rest, axis=1) - logsumexp(2 * log_q, axis=1)
    surprise = np.where(
        log_q < -1e-3, -log_q, -np.log1p(-np.exp(np.minimum(log_rest, -1e-3)))
    )  # -log p, of p near 1 from 1 - p
    log_surprise = np.where(surprise > 1e-300, np.log(np.maximum(surprise, 1e-300)), log_rest)
    return logsumexp(log_q + log_surprise, axis=1)


def sirc(log_doubts: Float, second: Float, second_of_reference: Float) -> Float:
    """log (S1max - S1) + log(1 + exp(-k (S2 - a))), a = mean - 3 sigma, k = 1 / sigma (Xia and Bouganis 2022, eq. 11)."""
    mean, sigma = second_of_reference.mean(), second_of_reference.std()
    return log_doubts + np.logaddexp(0.0, -(second - (mean - 3 * sigma)) / sigma)
