"""`Monitor.assess` in this process, one thread, beside the graph alone and beside NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from demur.detectors.evaluate import evaluate
from demur.monitor.bench.material import Material
from demur.monitor.bench.process import microseconds
from demur.monitor.fit.scores import restore_scores
from demur.monitor.monitor import Monitor
from demur.monitor.telemetry import Telemetry

REPEATS = {1: 4000, 16: 2000, 256: 300}


def measure(material: Material, rows: int, telemetry: Telemetry, scale: float = 1.0) -> dict[str, Any]:
    """µs a call with metrics on, with metrics off, of the graph alone, and of the scores alone in NumPy."""
    batch = material.batch(rows)
    repeats = max(20, int(REPEATS.get(rows, 300) * scale))
    plain = Monitor.of(material.bundle)
    watched = Monitor.of(material.bundle, listeners=[telemetry.on_decision])
    session = plain.engine.loaded.session
    scores = restore_scores(material.bundle)
    found = {
        "assess": microseconds(lambda: watched.assess(logits=batch), repeats),
        "metrics_off": microseconds(lambda: plain.assess(logits=batch), repeats),
        "graph": microseconds(lambda: session.run_columns({"logits": batch}), repeats),
        "numpy_scores": microseconds(lambda: evaluate(scores, {"logits": batch}), max(20, repeats // 4)),
    }
    p50 = {name: times["p50"] for name, times in found.items()}
    return {
        "classes": material.classes,
        "rows": rows,
        "microseconds": {n: {k: round(v, 2) for k, v in t.items()} for n, t in found.items()},
        "microseconds_per_row": round(p50["assess"] / rows, 3),
        "ratio_to_graph": round(p50["assess"] / p50["graph"], 2),
        "ratio_to_numpy_scores": round(p50["assess"] / p50["numpy_scores"], 2),
        "finite": bool(np.isfinite(plain.assess(logits=batch).p_values).all()),
    }
