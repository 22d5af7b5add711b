"""What can be chosen: scores of the catalogue with a few values of their hyper-parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from demur.detectors.score import Reference
from demur.detectors.scores import SCORES
from demur.detectors.transforms import TRANSFORMS
from demur.detectors.transforms.probability import UNIT_TOLERANCE
from demur.monitor.fit.scores import OF_SUMS

LOGITS: dict[str, tuple[str, dict[str, Any]]] = {
    "msp": ("msp", {}),
    "doctor": ("doctor", {}),
    "margin": ("margin", {}),
    "entropy": ("entropy", {}),
    "gen": ("gen", {}),
    "max_logit": ("max_logit", {}),
    "energy": ("energy", {}),
    "max_sup": ("max_sup", {}),
    "kl_matching": ("kl_matching", {}),
}
FEATURES: dict[str, tuple[str, dict[str, Any]]] = {
    "mahalanobis": ("mahalanobis", {}),
    "relative_mahalanobis": ("relative_mahalanobis", {}),
    "knn_1": ("knn", {"k": 1, "bank": 2000}),
    "knn_10": ("knn", {"k": 10, "bank": 2000}),
    "knn_50": ("knn", {"k": 50, "bank": 2000}),
    "robust_mahalanobis": ("robust_mahalanobis", {}),
    "drpo": ("drpo", {}),
    "she": ("she", {}),
}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "knn_mean_5": ("knn", {"k": 5, "bank": 2000, "metric": "euclidean", "aggregate": "mean"}),
    "knn_1": ("knn", {"k": 1, "bank": 2000, "metric": "euclidean"}),
    "knn_10": ("knn", {"k": 10, "bank": 2000, "metric": "euclidean"}),
    "lof": ("lof", {"bank": 2000}),
    "isolation_forest": ("isolation_forest", {}),
    "pca": ("pca", {}),
    "gmm": ("gmm", {"components": 4}),
    "ecod": ("ecod", {"bank": 2000}),
    "copod": ("copod", {"bank": 2000}),
    "hbos": ("hbos", {}),
}
WIDEST = {"robust_mahalanobis": 512}  # medians of D^2 products: 80 s a fit at D = 2048, of 21 fits
HEAD: dict[str, tuple[str, dict[str, Any]]] = {
    "vim": ("vim", {}),
    "residual": ("residual", {}),
    "core": ("core", {}),
    "fdbd": ("fdbd", {}),
    "nci": ("nci", {}),
    "grad_norm": ("grad_norm", {}),
    "nac": ("nac", {}),
    "nnguide": ("nnguide", {"bank": 2000}),
    "relation": ("relation", {"bank": 2000}),
    "react_energy": ("react_energy", {}),
}
SHAPED = {"scale": (65.0, 85.0), "ash_s": (65.0, 85.0), "ash_b": (65.0,), "lts": (None,), "dice": (90.0,)}


@dataclass(frozen=True)
class Candidate:
    """A score as a policy would write it."""

    name: str
    type: str
    hyper: Mapping[str, Any] = field(default_factory=dict)

    def entry(self, name: str | None = None) -> dict[str, Any]:
        """The score as an entry of `scores:`."""
        return {name or self.name: {"type": self.type, **self.hyper}}


def candidates(reference: Reference) -> list[Candidate]:
    """Every candidate whose signals the reference holds, and whose fit takes seconds on them, simplest first: of equals the
    first one is chosen.
    """
    width = reference.signals["features"].shape[1] if "features" in reference.signals else 0
    return [c for c in _all(reference) if c.type in SCORES and width <= WIDEST.get(c.type, width)]


def _all(reference: Reference) -> Iterator[Candidate]:
    held = set(reference.signals)
    idle = OF_SUMS if "logits" in held and _normalised(reference) else frozenset[str]()
    if "logits" in held:
        yield from (Candidate(n, t, h) for n, (t, h) in LOGITS.items() if t not in idle)
    if "features" in held:
        known = FEATURES if "logits" in held else ROWS  # rows of a table: lengths matter, and there is no class
        yield from (Candidate(n, t, h) for n, (t, h) in known.items())
    if {"features", "logits"} <= held:
        yield from (Candidate(n, t, h) for n, (t, h) in HEAD.items() if t not in idle)
        yield from _shaped()


def _normalised(reference: Reference) -> bool:
    """Whether the logits are logarithms of probabilities: their energy is 0 in every row, and tells nothing of rows to come."""
    first = next(reference.batches("logits")).signals["logits"].astype(np.float64)
    with np.errstate(over="ignore"):
        return bool((np.abs(np.exp(first[np.isfinite(first).all(axis=1)]).sum(axis=1) - 1) < UNIT_TOLERANCE).all())


def _shaped() -> Iterator[Candidate]:
    for transform, percentiles in SHAPED.items():
        for percentile in percentiles if transform in TRANSFORMS else ():
            first = transform if percentile is None else {transform: {"percentile": percentile}}
            chain = [first] if transform in ("lts", "dice") else [first, "linear_head"]
            name = f"{transform}_energy" if percentile is None else f"{transform}{percentile:g}_energy"
            yield Candidate(name, "shaped", {"transforms": chain, "score": "energy"})
