"""What an oracle is fitted on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """features (N, D), logits (N, C), labels (N,), head_weight (C, D), head_bias (C,), correct (N,) bool."""

    features: Float
    logits: Float
    labels: NDArray[np.int64]
    head_weight: Float
    head_bias: Float
    correct: NDArray[np.bool_]
