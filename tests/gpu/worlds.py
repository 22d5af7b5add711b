"""Scores at the size that people serve: 1,000 classes, 768 features, a bank of 10,000 rows; tables of 16 columns."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.detectors.build import build_score
from demur.detectors.score import Score
from tests.differential.rows import Rows

CLASSES, WIDTH, COLUMNS, REFERENCE, MOST = 1000, 768, 16, 10_000, 65_536
LARGE: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in "msp max_logit energy entropy gen margin kl_matching weighted_energy".split()},
    **{
        name: (name, {}) for name in "mahalanobis relative_mahalanobis vim residual she nci pnml grad_norm fdbd".split()
    },
    "knn": ("knn", {}),
    "nnguide": ("nnguide", {}),
    "react_energy": ("react_energy", {}),
    "ash_s_energy": ("shaped", {"transforms": [{"ash_s": {"percentile": 65}}, "linear_head"], "score": "energy"}),
    "lts_energy": ("shaped", {"transforms": ["lts"], "score": "energy"}),
}
TABULAR: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in "isolation_forest ecod copod hbos pca lof".split()},
    "knn_table": ("knn", {"k": 5, "metric": "euclidean"}),
}
NAMES = (*LARGE, *TABULAR)


@functools.cache
def rows(kind: str) -> Rows:
    width, classes = (COLUMNS, 2) if kind == "table" else (WIDTH, CLASSES)
    made = Rows.made(1, rows=REFERENCE, width=width, classes=classes)
    small = 1 / np.sqrt(width)
    return made.but(weight=made.weight * small, bias=made.bias * small)


@functools.cache
def fitted(name: str) -> Score:
    kind, hyper = (LARGE | TABULAR)[name]
    return build_score(kind, hyper, rows(_kind(name)).reference)


def sample_rows(name: str, count: int, seed: int = 3) -> dict[str, NDArray[np.float32]]:
    """Known rows with noise, every tenth far away, and what the head makes of them; the signals the score reads."""
    known, rng = rows(_kind(name)), np.random.default_rng(seed)
    base = known.features[rng.choice(len(known.features), count)]
    scale = np.where(np.arange(count) % 10 == 0, 3.0, 0.3)[:, None].astype(np.float32)
    features = np.maximum(base + scale * rng.standard_normal(base.shape, np.float32), 0).astype(np.float32)
    logits = (features @ known.weight.T + known.bias).astype(np.float32)
    return {n: a for n, a in {"features": features, "logits": logits}.items() if n in fitted(name).inputs}


def widths(name: str) -> dict[str, int]:
    return {n: a.shape[1] for n, a in sample_rows(name, 1).items()}


def _kind(name: str) -> str:
    return "table" if name in TABULAR else "classifier"
