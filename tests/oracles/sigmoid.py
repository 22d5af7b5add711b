"""Scores of heads with a sigmoid for each class, one number at a time."""

from __future__ import annotations

import math

import numpy as np

from tests.oracles.sample import Float


def softplus(z: float) -> float:
    return max(z, 0.0) + math.log1p(math.exp(-abs(z)))


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def joint_energy(logits: Float) -> Float:
    """-sum_c log(1 + e^z_c) (Wang et al. 2021)."""
    return np.array([-math.fsum(softplus(float(z)) for z in row) for row in logits])


def objectness_gap(objectness: Float, logits: Float) -> Float:
    """|o - max_c sigmoid(z_c)|."""
    return np.array(
        [abs(float(o[0]) - max(sigmoid(float(z)) for z in row)) for o, row in zip(objectness, logits, strict=True)]
    )
