"""Synthetic references and test rows, each awkward in one way."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.oracles.sample import Float, Sample


@dataclass(frozen=True, eq=False)
class World:
    """A reference and test rows in float32, as a model hands them over; `sample` and the 64-bit views feed oracles."""

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    correct: NDArray[np.bool_]
    head_weight: NDArray[np.float32]
    head_bias: NDArray[np.float32]
    test_features: NDArray[np.float32]

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        weight, bias = self.head_weight.astype(np.float64), self.head_bias.astype(np.float64)
        return (features.astype(np.float64) @ weight.T + bias).astype(np.float32)

    @functools.cached_property
    def sample(self) -> Sample:
        return Sample(
            self.features.astype(np.float64),
            self.logits(self.features).astype(np.float64),
            self.labels,
            self.head_weight.astype(np.float64),
            self.head_bias.astype(np.float64),
            self.correct,
        )

    @property
    def test64(self) -> tuple[Float, Float]:
        """Test features and logits."""
        return self.test_features.astype(np.float64), self.logits(self.test_features).astype(np.float64)


WORLDS: dict[str, dict[str, Any]] = {
    "tall": {"rows": 300, "width": 12, "classes": 5},
    "wide": {"rows": 60, "width": 90, "classes": 2},
    "two_classes": {"rows": 200, "width": 10, "classes": 2},
    "many_unbalanced": {"rows": 700, "width": 20, "classes": 50, "unbalanced": True},
    "rank_deficient": {"rows": 300, "width": 24, "classes": 5, "rank": 10},
    "offset": {"rows": 300, "width": 12, "classes": 5, "offset": 1e3},
    "many_batches": {"rows": 9000, "width": 6, "classes": 3},
    "tiny_scale": {"rows": 200, "width": 8, "classes": 3, "scale": 1e-4},
    "rectified": {"rows": 300, "width": 40, "classes": 5, "rectified": True},
}


@functools.cache
def world(name: str, seed: int) -> World:
    return _world(seed, **WORLDS[name])


def _world(
    seed: int,
    rows: int,
    width: int,
    classes: int,
    *,
    unbalanced: bool = False,
    rank: int = 0,
    offset: float = 0.0,
    scale: float = 1.0,
    rectified: bool = False,
) -> World:
    """About 15 % of the rows are wrong, and lie away from their class; every class keeps at least 3 right ones."""
    rng = np.random.default_rng(seed)
    latent = rank or width
    centres, spread = 1.5 * rng.normal(size=(classes, latent)), np.linspace(0.2, 1.5, latent)
    share = 1.0 / np.arange(1, classes + 1) if unbalanced else np.ones(classes)
    labels = np.concatenate(
        [np.repeat(np.arange(classes), 3), rng.choice(classes, size=rows - 3 * classes, p=share / share.sum())]
    )
    correct = (rng.random(rows) > 0.15) | (np.arange(rows) < 3 * classes)
    features = centres[labels] + rng.normal(size=(rows, latent)) * spread
    features[~correct] += 3.0 * rng.normal(size=((~correct).sum(), latent))
    near = centres[rng.integers(classes, size=60)] + rng.normal(size=(60, latent)) * spread
    test = np.concatenate([near, 4.0 * rng.normal(size=(30, latent)), features[:10]])
    lift = rng.normal(size=(latent, width)) / np.sqrt(latent) if rank else np.eye(width)
    if rectified:
        features, test = np.maximum(features, 0.0), np.maximum(test, 0.0)
    return World(
        (features @ lift * scale + offset).astype(np.float32),
        labels,
        correct,
        (0.5 * rng.normal(size=(classes, width)) / scale).astype(np.float32),
        rng.normal(size=classes).astype(np.float32),
        (test @ lift * scale + offset).astype(np.float32),
    )
