"""One evaluation of the toy bundle for every test that only reads it."""

from __future__ import annotations

import numpy as np
import pytest

import demur


def noisy(sample, rows, seed, spread):
    """Toy rows with noise on the features, so that the model errs; the label stays."""
    found = sample(rows, seed)
    head = np.random.default_rng(99).normal(size=(8, 4))
    features = found["features"] + spread * np.random.default_rng(seed).normal(size=(rows, 8)).astype(np.float32)
    return {"features": features, "logits": (3 * features @ head).astype(np.float32), "label": found["label"]}


def graded_rows(sample, rows, seed, spread=0.5):
    """Losses that grow with what the model gives to other classes, some of them 0."""
    found = noisy(sample, rows, seed, spread)
    z = found["logits"] - found["logits"].max(axis=1, keepdims=True)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    away = 1 - p[np.arange(rows), found.pop("label")]
    return found | {"loss": np.clip(away, 0, 1) * (np.random.default_rng([seed, 5]).random(rows) < 0.7)}


@pytest.fixture(scope="session")
def tables(sample):
    """A labelled test set with errors, two novelty sets, two shifted ones of rising severity."""
    far, near = sample(150, 12, shift=3.0), sample(120, 13, shift=0.7)
    return {
        "test": noisy(sample, 400, 11, 0.5),
        "ood": {n: {k: t[k] for k in ("features", "logits")} for n, t in (("near", near), ("far", far))},
        "shifted": {"mild": noisy(sample, 200, 14, 0.9), "strong": noisy(sample, 200, 15, 1.6)},
        "severity": {"mild": 1.0, "strong": 2.0},
    }


@pytest.fixture(scope="session")
def evaluation(bundle, tables):
    given = {k: v for k, v in tables.items() if k != "test"}
    return demur.evaluate(bundle, tables["test"], **given, bootstrap=100)
