"""The pairs that `make bench-peers` times: our score, the peer's class and its arguments, and the rows of both."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.differential.peers import Peers
from tests.differential.rows import Rows

CLASSES, WIDTH, COLUMNS, REFERENCE = 1000, 512, 16, 10_000
BATCHES = (1, 64, 4096)
Call = Callable[[], object]


@dataclass(frozen=True)
class Pair:
    """A score of ours and the peer's: how ours is configured, and their class with its arguments."""

    score: str
    peer: str
    hyper: dict[str, Any] = field(default_factory=dict)
    kind: str = "logits"  # what theirs reads: logits, features, maps, model or table
    given: dict[str, Any] = field(default_factory=dict)
    most_rows: int = 4096  # theirs needs more memory beyond it

    @property
    def name(self) -> str:
        return (
            "+".join(t if isinstance(t, str) else next(iter(t)) for t in self.hyper["transforms"][:1])
            if "transforms" in self.hyper
            else self.score
        )


def shaped(transform: str | dict[str, Any]) -> dict[str, Any]:
    return {"transforms": [transform, "linear_head"], "score": "energy"}


HEAD = {"head": "head"}
PAIRS = (
    Pair("msp", "MaxSoftmax"),
    Pair("max_logit", "MaxLogit"),
    Pair("energy", "EnergyBased"),
    Pair("entropy", "Entropy"),
    Pair("gen", "GEN", given={"M": 100}),
    Pair("kl_matching", "KLMatching"),
    Pair("weighted_energy", "WeightedEBO", given={"weights": "prior"}),
    Pair("mahalanobis", "Mahalanobis", kind="features"),
    Pair("relative_mahalanobis", "RMD", kind="features"),
    Pair("vim", "ViM", {"dim": 256}, "features", {"d": 256, "w": "weight", "b": "bias"}),
    Pair("knn", "KNN", kind="features"),
    Pair("nnguide", "NNGuide", kind="features", given=HEAD),
    Pair("she", "SHE", kind="features", given=HEAD),
    Pair("nci", "NCI", {"alpha": 1e-3}, "features", {"head": "head", "alpha": 1e-3}),
    Pair("pnml", "PNML", kind="features", given=HEAD),
    Pair("grad_norm", "GradNorm", kind="model"),
    Pair("react_energy", "ReAct", kind="maps"),
    Pair("shaped", "ASH", shaped({"ash_s": {"percentile": 65}}), "maps"),
    Pair("shaped", "SCALE", shaped({"scale": {"percentile": 65}}), "maps"),
    Pair("shaped", "LTS", {"transforms": ["lts"], "score": "energy"}, "features", HEAD),
    Pair(
        "shaped",
        "DICE",
        {"transforms": ["dice"], "score": "energy"},
        "features",
        {"w": "weight", "b": "bias", "p": 0.9},
        64,
    ),
    Pair("knn", "knn.KNN", {"k": 5, "metric": "euclidean"}, "table"),
    Pair("lof", "lof.LOF", kind="table"),
    Pair("isolation_forest", "iforest.IForest", kind="table", given={"random_state": 0}),
    Pair("ecod", "ecod.ECOD", kind="table"),
    Pair("copod", "copod.COPOD", kind="table"),
    Pair("hbos", "hbos.HBOS", kind="table"),
    Pair("pca", "pca.PCA", kind="table"),
)


@functools.cache
def world(kind: str) -> Rows:
    """Reference and 4,096 test rows: a classifier's, or a table's."""
    width, classes = (COLUMNS, 2) if kind == "table" else (WIDTH, CLASSES)
    made = Rows.made(1, rows=REFERENCE, width=width, classes=classes)
    more = np.random.default_rng(2).choice(len(made.features), max(BATCHES))
    noise = 0.3 * np.random.default_rng(3).random((max(BATCHES), width))
    small = 1 / np.sqrt(width)
    return made.but(
        test=(made.features[more] + noise).astype(np.float32), weight=made.weight * small, bias=made.bias * small
    )


@functools.cache
def peers() -> Peers:
    return Peers(world("features"))


def theirs(pair: Pair) -> Callable[[int], Call]:
    """Their fitted score, as a call on the first n test rows."""
    if pair.kind == "table":
        module, name = pair.peer.split(".")
        table = getattr(importlib.import_module(f"pyod.models.{module}"), name)(**pair.given)
        table.fit(world("table").features.astype(np.float64))
        test = world("table").test.astype(np.float64)
        return lambda n: functools.partial(table.decision_function, test[:n])
    p = peers()
    known = {"head": p.head, "weight": p.weights[0], "bias": p.weights[1], "prior": p.torch.ones(CLASSES)}
    named = {k: known.get(v, v) if isinstance(v, str) else v for k, v in pair.given.items()}
    kind = getattr(p.detectors, pair.peer)
    if pair.kind == "model":
        found = kind(p.head, param_filter=lambda name: name == "weight")
        return lambda n: functools.partial(found.predict, p.test[:n])
    first = (None, p.map_head) if pair.kind == "maps" else (None,)
    found = kind(*first, **named)
    known_rows, asked = {"logits": (p.logits, p.test_logits), "features": (p.features, p.test)}.get(
        pair.kind, (p.features[:, :, None, None], p.test[:, :, None, None])
    )
    word = {"maps": "feature_maps"}.get(pair.kind, pair.kind)
    if getattr(found, "requires_fit", False):
        getattr(found, f"fit_{word}")(known_rows, p.labels)
    if pair.peer == "KNN":
        found.knn.n_jobs = 1
    predict = getattr(found, f"predict_{word}")
    return lambda n: functools.partial(predict, asked[:n])
