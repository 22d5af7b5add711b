"""One small world for every score: classes with a head that is optimal for them, ordinary rows and strange ones."""

from __future__ import annotations

import functools

import numpy as np

from demur.detectors.score import Reference

C, D, M, P = 7, 16, 420, 8
VIEWS, TURNS, PATCH = 3, 4, 4
WIDTHS = {
    "features": D,
    "logits": C,
    "features_grad": D,
    "projection": P,
    "view_logits": VIEWS * C,
    "rotation_logits": TURNS**2,
    "attention": D,
    "activations": D,
    "evidence": C,
    "objectness": 1,
    **dict.fromkeys(("table", "features_missing", "window_embeddings", "photometric_error"), D),
    **dict.fromkeys(("estimate", "spread", "low", "high", "truth"), 1),
}
Signals = dict[str, np.ndarray]


@functools.cache
def world() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class centres (C, D) and the head (C, D), (C,) that is optimal for them."""
    centres = np.abs(np.random.default_rng(5).normal(size=(C, D))) * 2
    return centres.astype(np.float32), centres.astype(np.float32), (-(centres**2).sum(axis=1) / 2).astype(np.float32)


def with_logits(features: np.ndarray) -> Signals:
    _, weight, bias = world()
    features = np.ascontiguousarray(features, np.float32)
    with np.errstate(all="ignore"):
        logits = (features @ weight.T + bias).astype(np.float32)
        projection = (features @ mixing()).astype(np.float32)
    known = {"features": features, "logits": logits, "features_grad": gradient(logits), "projection": projection}
    return {
        **known,
        **views(features),
        **health(features),
        "evidence": evidence(features),
        **modalities(features),
        **objectness(features),
    }


def views(features: np.ndarray) -> Signals:
    """Logits of views that turn some activations up and others down; a rotation head that knows the class centres."""
    centres, weight, bias = world()
    rows = np.clip(np.nan_to_num(features.astype(np.float64)), -1e30, 1e30)
    gains = 1 + 0.3 * np.random.default_rng(19).normal(size=(VIEWS, 1, D))
    of_views = (rows * gains) @ weight.T + bias
    apart = np.sqrt(((rows[:, None] - centres) ** 2).sum(axis=2)).min(axis=1)
    turns = np.tile(0.1 * rows[:, :TURNS], TURNS) + np.eye(TURNS).ravel() * (5 - apart[:, None])
    found = {"view_logits": np.concatenate(list(of_views), axis=1), "rotation_logits": turns}
    return {name: array.astype(np.float32) for name, array in found.items()}


def evidence(features: np.ndarray) -> np.ndarray:
    """For each class, at least 0: much near its centre, little far from it."""
    rows = np.clip(np.nan_to_num(features.astype(np.float64)), -1e30, 1e30)
    return (2 * np.exp(-((rows[:, None] - world()[0]) ** 2).sum(axis=2) / 4)).astype(np.float32)


def objectness(features: np.ndarray) -> Signals:
    """(N, 1), near 1 around the class centres."""
    return {"objectness": np.minimum(1, evidence(features).max(axis=1, keepdims=True) + np.float32(0.01))}


def modalities(features: np.ndarray) -> Signals:
    """A table that lacks its small cells; a number, how well it is known and the one that came later; patches; a map."""
    rows = np.clip(np.nan_to_num(features.astype(np.float64)), -1e30, 1e30)
    apart = np.sqrt(((rows[:, None] - world()[0]) ** 2).sum(axis=2)).min(axis=1, keepdims=True)
    estimate, spread = rows[:, :1], 0.5 + apart + 0.01 * np.abs(rows[:, 1:2])
    found = {
        "table": np.where(np.abs(rows) < 0.2, np.nan, rows),
        "features_missing": np.abs(rows) < 0.2,
        "window_embeddings": np.tile(rows[:, :PATCH], D // PATCH) + 0.1 * rows,
        "photometric_error": np.abs(rows),
        "estimate": estimate,
        "spread": spread,
        "low": estimate - spread,
        "high": estimate + spread,
        "truth": np.minimum(estimate + apart**2 + 0.1 * rows[:, 1:2], 1e30),
    }
    return {name: array.astype(np.float32) for name, array in found.items()}


def health(features: np.ndarray) -> Signals:
    """Activations, and attention that goes where they are large: column sums over D queries."""
    size = np.abs(np.clip(np.nan_to_num(features.astype(np.float64)), -1e30, 1e30))
    attention = D * size / np.maximum(size.sum(axis=1, keepdims=True), 1e-300)
    return {"attention": attention.astype(np.float32), "activations": features.copy()}


@functools.cache
def mixing() -> np.ndarray:
    """Weights (D, P) of a projection head."""
    return np.random.default_rng(13).normal(size=(D, P)).astype(np.float32)


def gradient(logits: np.ndarray) -> np.ndarray:
    """Of KL(uniform | softmax) with respect to the features, (N, D)."""
    shifted = np.clip(np.nan_to_num(logits), -1e38, 1e38).astype(np.float64)
    p = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    return ((p / p.sum(axis=1, keepdims=True) - 1 / C) @ world()[1]).astype(np.float32)


def near(count: int, seed: int = 1) -> Signals:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % C
    return with_logits(np.abs(world()[0][labels] + 0.3 * rng.normal(size=(count, D))))


def between_classes(count: int) -> Signals:
    """Halfway between two centres: ambiguous to the head, and off the data."""
    centres = world()[0]
    noise = 0.1 * np.random.default_rng(3).normal(size=(count, D))
    i = np.arange(count)
    return with_logits(np.abs((centres[i % C] + centres[(i + 3) % C]) / 2 + noise))


def permuted(count: int) -> Signals:
    """Ordinary activations in the wrong places."""
    return with_logits(np.random.default_rng(9).permuted(near(count)["features"], axis=1))


def healthy(count: int) -> Signals:
    return with_logits(np.random.default_rng(11).normal(size=(count, D)))


def spiked(count: int) -> Signals:
    """One activation carries everything."""
    features = healthy(count)["features"].copy()
    features[:, 4] = 80
    return with_logits(features)


@functools.cache
def reference() -> Reference:
    signals = near(M, seed=0)
    labels = np.arange(M) % C
    correct = signals["logits"].argmax(axis=1) == labels
    sides = {"outliers": Reference(outliers(300)), "wild": Reference(wild(400))}
    known = {"target": signals["truth"][:, 0].astype(np.float64), "absent": frozenset({"table"})}
    return Reference(signals, labels, world()[1], world()[2], correct, sides=sides, **known)


def outliers(count: int) -> Signals:
    """Rows known to be foreign: permuted activations, like those of `permuted` but others."""
    return with_logits(np.random.default_rng(17).permuted(near(count, seed=4)["features"], axis=1))


def wild(count: int) -> Signals:
    """Unlabelled traffic: three rows in ten are foreign."""
    foreign = 3 * count // 10
    rows = (near(count - foreign, seed=6)["features"], outliers(foreign)["features"])
    return with_logits(np.concatenate(rows))
