"""How far one execution provider may be from another, and a place to note how far it was."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CPU = ("CPUExecutionProvider",)
DEVICE = tuple(dict.fromkeys((os.environ.get("DEMUR_TEST_PROVIDER", "CUDAExecutionProvider"), *CPU)))
TOLERANCE, STEP = 1e-4, 2e-6
Float32 = NDArray[np.float32]


def worst(got: Float32, want: Float32) -> float:
    """The largest |got - want| over finite rows, in parts of what is allowed.

    Allowed are 1e-4 of the score's size, or of the median size for scores that cross 0, and 2e-6: what float32 keeps of
    1 - p and of sums of logits. Infinite when one side is finite alone.
    """
    if not np.array_equal(np.isfinite(got), np.isfinite(want)):
        return float("inf")
    kept = np.isfinite(want)
    if not kept.any():
        return 0.0
    exact = want[kept].astype(np.float64)
    size = np.maximum(np.abs(exact), np.median(np.abs(exact)))
    return float(np.max(np.abs(got[kept] - exact) / (TOLERANCE * size + STEP)))


def noted(test: str, name: str, value: object) -> None:
    """Append one figure to the results of this run, when DEMUR_GPU_RESULTS names a file."""
    path = os.environ.get("DEMUR_GPU_RESULTS")
    if path:
        with Path(path).open("a") as file:
            file.write(json.dumps({"test": test, "name": name, "value": value}) + "\n")
