"""One small fitted bundle for everybody: four classes in eight dimensions, fitted once a session."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

C, D = 4, 8
POLICY: dict[str, Any] = {
    "monitor": "toy",
    "version": 2,
    "model": {"name": "toy-model", "version": "7"},
    "signals": {"logits": C, "features": D},
    "scores": [
        "msp",
        "energy",
        {"mahalanobis": {"shrinkage": "ledoit_wolf"}},
        {"knn": {"k": 3, "bank": 200}},
        {"fused": {"of": ["energy", "mahalanobis"], "by": "fisher"}},
    ],
    "rules": [
        {"novel": {"when": "fused", "promise": {"refuse_good_at_most": 0.05}}},
        {"ambiguous": {"when": "msp", "promise": {"error_when_accepted_at_most": 0.2, "confidence": 0.9}}},
    ],
}


def draw(rows: int, seed: int, shift: float = 0.0) -> dict[str, Any]:
    """Gaussian classes through a fixed linear head: signals and labels. `shift` moves the features away."""
    head = np.random.default_rng(99).normal(size=(D, C))
    rng = np.random.default_rng(seed)
    label = rng.integers(0, C, rows)
    centres = 2.0 * np.linalg.pinv(head)[np.arange(C)]
    features = (centres[label] + 0.25 * rng.normal(size=(rows, D)) + shift).astype(np.float32)
    return {"features": features, "logits": (3 * features @ head).astype(np.float32), "label": label}


@pytest.fixture(scope="session")
def sample():
    """`draw(rows, seed, shift)`."""
    return draw


@pytest.fixture(scope="session")
def policy():
    """The toy policy; copy before changing."""
    return POLICY


@pytest.fixture(scope="session")
def bundle():
    """The toy policy, fitted."""
    import demur

    return demur.fit(POLICY, reference=draw(400, 1), calibration=draw(600, 2))


@pytest.fixture(scope="session")
def signals():
    """64 rows of signals without labels."""
    found = draw(64, 3)
    return {n: found[n] for n in ("features", "logits")}
