"""Synthetic logits and the bundle that the measurements assess."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demur.monitor.bundle import Bundle

CALIBRATION_ROWS = 1024
SCORES = ("msp", "max_logit", "energy", "entropy")


@dataclass(frozen=True, eq=False)
class Material:
    """A logits-only bundle of four scores with exact p-values, and batches for it."""

    classes: int
    bundle: Bundle

    def batch(self, rows: int) -> NDArray[np.float32]:
        """Logits (rows, classes)."""
        return logits(rows, self.classes, seed=rows)[0]


def logits(rows: int, classes: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits whose argmax is the label nine times in ten, and the labels."""
    rng = np.random.default_rng((seed, classes))
    label = rng.integers(0, classes, rows)
    values = rng.normal(0, 1, (rows, classes))
    right = rng.random(rows) < 0.9
    values[np.arange(rows)[right], label[right]] += rng.gamma(6, 1.5, int(right.sum()))
    return values.astype(np.float32), label


def material(classes: int) -> Material:
    """Fit and calibrate the bundle."""
    from demur.monitor.fit.pipeline import fit

    policy = {
        "monitor": f"bench-{classes}",
        "signals": {"logits": classes},
        "scores": list(SCORES),
        "rules": [{"novel": {"when": "energy", "promise": {"refuse_good_at_most": 0.05}}}],
    }
    reference, calibration = (
        dict(zip(("logits", "label"), logits(CALIBRATION_ROWS, classes, s), strict=True)) for s in (1, 2)
    )
    return Material(classes, fit(policy, reference=reference, calibration=calibration))
