"""The same synthetic rows for both sides, and our score of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from demur.detectors.build import build_score
from demur.detectors.compile import compile_scores, serialize
from demur.detectors.score import Reference, Score
from demur.monitor.session import Session

RTOL = 1e-4
ROWS, WIDTH, CLASSES = 601, 41, 11  # quantiles at .9 of ROWS * WIDTH and of WIDTH * CLASSES numbers fall on one of them
Float32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Rows:
    """A classifier's activations: reference (n, D) with labels, test rows (m, D), and its last layer."""

    features: Float32
    labels: NDArray[np.int64]
    test: Float32
    weight: Float32
    bias: Float32

    @classmethod
    def made(
        cls, seed: int, *, rows: int = ROWS, width: int = WIDTH, classes: int = CLASSES, sparse: bool = False
    ) -> Self:
        """Activations after a ReLU, nearly all above 0 unless `sparse`; a head that finds about nine rows in ten."""
        rng = np.random.default_rng(seed)
        centres = rng.normal(size=(classes, width))
        labels = np.arange(rows) % classes
        spread, lift = np.linspace(0.4, 1.2, width), 0.0 if sparse else 5.0
        near = centres[rng.integers(classes, size=80)] + rng.normal(size=(80, width)) * spread
        test = np.concatenate([near, 2.0 * rng.normal(size=(40, width))]) + lift
        features = centres[labels] + rng.normal(size=(rows, width)) * spread + lift
        weight = 0.4 * centres
        bias = 0.1 * rng.normal(size=classes) - weight.sum(axis=1) * lift
        kept = (np.maximum(features, 0.0), np.maximum(test, 0.0), weight, bias)
        features32, test32, weight32, bias32 = (array.astype(np.float32) for array in kept)
        return cls(features32, labels, test32, weight32, bias32)

    def logits(self, features: Float32) -> Float32:
        exact = features.astype(np.float64) @ self.weight.astype(np.float64).T + self.bias.astype(np.float64)
        return exact.astype(np.float32)

    @property
    def reference(self) -> Reference:
        """Every row counts as right, as it does to the peers."""
        given = {"features": self.features, "logits": self.logits(self.features)}
        return Reference(given, self.labels, self.weight, self.bias)

    @property
    def given(self) -> dict[str, Float32]:
        return {"features": self.test, "logits": self.logits(self.test)}

    def but(self, **changed: Any) -> Self:
        return replace(self, **changed)

    def ours(self, name: str, **hyper: Any) -> NDArray[np.float64]:
        """Our score of the test rows, fitted on the reference, as the compiled graph gives it."""
        return scored(build_score(name, hyper, self.reference), self.given)


def scored(score: Score, given: dict[str, Float32]) -> NDArray[np.float64]:
    session = Session(serialize(compile_scores({"score": score}, {n: a.shape[1] for n, a in given.items()})))
    return session.run({n: given[n] for n in session.inputs})["scores"][:, 0].astype(np.float64)


def assert_same(ours: NDArray[np.floating], theirs: NDArray[np.floating]) -> None:
    """Every row to 1e-4 relative; a score that crosses 0 to 1e-4 of its median size."""
    assert ours.shape == theirs.shape
    assert np.isfinite(theirs).all()
    room = RTOL * np.maximum(np.abs(theirs), np.median(np.abs(theirs)))
    error = np.abs(ours - theirs)
    worst = int(np.argmax(error - room))
    assert (error <= room).all(), f"row {worst}: ours {ours[worst]!r}, theirs {theirs[worst]!r}"
    assert np.std(theirs) > 10 * np.median(room), "scores that hardly differ show nothing"
