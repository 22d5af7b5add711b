"""Scores of pixels, written as loops from the papers' formulas."""

from __future__ import annotations

import math

import numpy as np

from tests.oracles.sample import Float


def evidence(class_logits: Float, mask_logits: Float) -> Float:
    """L_k of one pixel: class logits (Q, K + 1), the last one "no object", and mask logits (Q,) -> (K,)."""
    queries, classes = class_logits.shape
    found = np.zeros(classes - 1)
    for q in range(queries):
        shares = [math.exp(z - max(class_logits[q])) for z in class_logits[q]]
        inside = 1 / (1 + math.exp(-mask_logits[q]))
        for k in range(classes - 1):
            found[k] += shares[k] / sum(shares) * inside
    return found


def rba(found: Float) -> float:
    """-sum_k tanh(L_k) of one pixel (Nayal et al. 2023)."""
    return -sum(math.tanh(level) for level in found)


def class_statistics(logits: Float) -> dict[int, tuple[float, float]]:
    """Mean and std of the largest logit of the rows predicted as each class (Jung et al. 2021, equations 2 and 3);
    1 in the place of a std of 0."""
    held: dict[int, list[float]] = {}
    for z in logits:
        held.setdefault(int(np.argmax(z)), []).append(float(max(z)))
    means = {c: math.fsum(values) / len(values) for c, values in held.items()}
    found = {c: (m, math.sqrt(math.fsum((v - m) ** 2 for v in held[c]) / len(held[c]))) for c, m in means.items()}
    return {c: (m, std if len(set(held[c])) > 1 else 1.0) for c, (m, std) in found.items()}


def standardised_max_logit(logits: Float, known: dict[int, tuple[float, float]]) -> Float:
    """-(max z - mean_c) / std_c, c the predicted class (equation 4, negated); infinite for a class never predicted."""
    found = []
    for z in logits:
        mean, std = known.get(int(np.argmax(z)), (-np.inf, 1.0))
        found.append(-(float(max(z)) - mean) / std if math.isfinite(mean) else np.inf)
    return np.array(found)
