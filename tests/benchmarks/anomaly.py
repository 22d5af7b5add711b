"""One-class anomaly detection: fitted on half of the normal rows, judged on the other half and the anomalies."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from demur.detectors.score import Reference
from tests.benchmarks import peers
from tests.benchmarks.probe import Probe, area
from tests.benchmarks.sources import anomalies

SCORES: dict[str, tuple[str, dict]] = {
    "knn, euclidean, k 5": ("knn", {"metric": "euclidean", "k": 5}),
    "knn, euclidean, mean of 5": ("knn", {"metric": "euclidean", "k": 5, "aggregate": "mean"}),
    "knn, cosine, k 5": ("knn", {"k": 5}),
    "lof": ("lof", {}),
    "isolation_forest": ("isolation_forest", {}),
    "ecod": ("ecod", {}),
    "copod": ("copod", {}),
    "hbos": ("hbos", {}),
    "pca": ("pca", {}),
    "pca, reconstruction": ("pca", {"by": "reconstruction"}),
    "robust_pca": ("robust_pca", {}),
    "mahalanobis, one class": ("mahalanobis", {}),
    "robust_mahalanobis": ("robust_mahalanobis", {}),
    "gmm": ("gmm", {}),
    "drpo": ("drpo", {}),
    "magnitude": ("magnitude", {}),
    "mean_shifted": ("mean_shifted", {}),
    "cfood": ("cfood", {}),
    "auto_encoder": ("auto_encoder", {}),
}
OURS, PYOD = "demur", "PyOD"


def run() -> dict[str, Any]:
    """AUROC of each set by (whose, score), and why a score was refused."""
    sets: dict[str, dict[str, float]] = {}
    refused: dict[str, dict[str, str]] = {}
    shapes = {}
    for name, first, second, strange in anomalies(seed=0):
        tested = np.concatenate([second, strange])
        bad = np.repeat([False, True], [len(second), len(strange)])
        shapes[name] = {"fitted": len(first), "normal": len(second), "anomalies": len(strange), "width": first.shape[1]}
        sets[name], refused[name] = ours(first, tested, bad)
        sets[name] |= {f"{PYOD}: {n}": area(bad, scores) for n, scores in peers.pyod(first, tested)}
        sys.stderr.write(f"{name}: best {max(sets[name], key=sets[name].__getitem__)}\n")
    return {"sets": sets, "refused": {n: r for n, r in refused.items() if r}, "shapes": shapes}


def ours(first: np.ndarray, tested: np.ndarray, bad: np.ndarray) -> tuple[dict[str, float], dict[str, str]]:
    """AUROC of each of our scores; the refused ones with the reason. One class: every label is 0."""
    reference = Reference({"features": first}, np.zeros(len(first), np.int64))
    found, refused = {}, {}
    for name, (kind, hyper) in SCORES.items():
        try:
            probe = Probe.fitted(kind, hyper, reference)
        except ValueError as error:
            refused[name] = str(error)
            continue
        found[f"{OURS}: {name}"] = area(bad, probe.scores({"features": tested}))
    return found, refused


def ranking(sets: Mapping[str, Mapping[str, float]]) -> list[tuple[str, float, float, float, float, int, int]]:
    """Of each score, best mean first: mean AUROC, its worst, mean rank, worst rank, sets below chance, sets judged."""
    names = list(dict.fromkeys(n for values in sets.values() for n in values))
    ranks: dict[str, list[float]] = {n: [] for n in names}
    for values in sets.values():
        for name in values:
            better = sum(v > values[name] for v in values.values())
            ranks[name].append(better + (1 + sum(v == values[name] for v in values.values())) / 2)
    rows = []
    for name in names:
        areas = [v[name] for v in sets.values() if name in v]
        below = sum(a < 0.5 for a in areas)
        rows.append(
            (name, float(np.mean(areas)), min(areas), float(np.mean(ranks[name])), max(ranks[name]), below, len(areas))
        )
    return sorted(rows, key=lambda r: -r[1])
