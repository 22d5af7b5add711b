"""A world of the oracles as the product sees it, and its scores from both backends."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from demur.detectors.compile import compile_scores, serialize
from demur.detectors.evaluate import evaluate
from demur.detectors.score import Reference, Score
from demur.monitor.session import Session
from tests.oracles.sample import Float
from tests.oracles.worlds import World

RTOL = 2e-5
Scored = dict[str, NDArray[np.float32]]


def reference(w: World) -> Reference:
    given = {"features": w.features, "logits": w.logits(w.features)}
    return Reference(given, w.labels, w.head_weight, w.head_bias, w.correct)


def signals(w: World) -> dict[str, NDArray[np.float32]]:
    """The test rows."""
    return {"features": w.test_features, "logits": w.logits(w.test_features)}


def on_both(scores: dict[str, Score], given: dict[str, NDArray[np.float32]]) -> list[Scored]:
    """The scores in NumPy, and as the compiled graph in ONNX Runtime."""
    session = Session(serialize(compile_scores(scores, {n: a.shape[1] for n, a in given.items()})))
    columns = session.run({n: given[n] for n in session.inputs})["scores"]
    return [evaluate(scores, given), dict(zip(scores, columns.T, strict=True))]


def assert_close(got: NDArray[np.floating], want: Float, limit: Float) -> None:
    """Every |got - want| at most its limit, all (N,)."""
    assert got.shape == want.shape
    error = np.abs(got - want)
    assert np.isfinite(error).all(), f"got {got}, oracle {want}"
    worst = int(np.argmax(error - limit))
    assert (error <= limit).all(), f"row {worst}: got {got[worst]!r}, oracle {want[worst]!r}, allowed {limit[worst]!r}"
