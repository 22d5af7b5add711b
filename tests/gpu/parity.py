"""How far one execution provider may be from another, and a place to note how far it was."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CPU = ("CPUExecutionProvider",)
DEVICE = tuple(dict.fromkeys((os.environ.get("DEMUR_TEST_PROVIDER", "CUDAExecutionProvider"), *CPU)))
TOLERANCE = 1e-4
Float32 = NDArray[np.float32]


def scale(scores: Float32) -> NDArray[np.float64]:
    """What 1e-4 is relative to: the score's size, or its spread over the rows where it crosses 0."""
    finite = scores[np.isfinite(scores)].astype(np.float64)
    spread = float(np.ptp(finite)) if len(finite) else 0.0
    return np.maximum(np.abs(scores, dtype=np.float64), min(spread, float(np.median(np.abs(finite))) if len(finite) else 0.0))


def worst(got: Float32, want: Float32) -> float:
    """The largest relative difference over finite rows; infinite when one side is finite alone."""
    if not np.array_equal(np.isfinite(got), np.isfinite(want)):
        return float("inf")
    kept = np.isfinite(want)
    if not kept.any():
        return 0.0
    difference = np.abs(got[kept].astype(np.float64) - want[kept])
    return float(np.max(difference / np.maximum(scale(want)[kept], 1e-30)))


def noted(test: str, name: str, value: object) -> None:
    """Append one figure to the results of this run, when DEMUR_GPU_RESULTS names a file."""
    path = os.environ.get("DEMUR_GPU_RESULTS")
    if path:
        with Path(path).open("a") as file:
            file.write(json.dumps({"test": test, "name": name, "value": value}) + "\n")
