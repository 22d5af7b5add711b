"""A score on its way to a table: fitted, compiled, run and timed, one thread of ONNX Runtime."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import threadpoolctl

from demur.detectors.build import build_score
from demur.detectors.compile import compile_scores, serialize
from demur.detectors.cost import Cost, cost_of
from demur.detectors.score import Reference
from demur.monitor.auto.measure import ranked
from demur.monitor.session import Session

BATCH = 256
LEAST_SECONDS, MOST_RUNS = 0.05, 300


@dataclass(frozen=True, eq=False)
class Probe:
    """A compiled score with what it costs; `seconds` of its fit."""

    session: Session
    cost: Cost
    seconds: float

    @classmethod
    def fitted(cls, name: str, hyper: Mapping[str, object], reference: Reference) -> Probe:
        """Raises: ValueError from the fit."""
        began = time.perf_counter()
        with threadpoolctl.threadpool_limits(1):
            score = build_score(name, hyper, reference)
        seconds = time.perf_counter() - began
        model = compile_scores({"s": score}, {n: a.shape[1] for n, a in reference.signals.items()})
        return cls(Session(serialize(model)), cost_of(model), seconds)

    def scores(self, signals: Mapping[str, np.ndarray]) -> np.ndarray:
        """Every row's score, in batches of 256; what is not finite is refused, so it ranks last."""
        feed = {n: signals[n] for n in self.session.inputs}
        rows = len(next(iter(feed.values())))
        parts = [self._run(feed, slice(i, i + BATCH)) for i in range(0, rows, BATCH)]
        return np.nan_to_num(np.concatenate(parts), nan=np.inf, posinf=np.inf)

    def _run(self, feed: Mapping[str, np.ndarray], rows: slice) -> np.ndarray:
        return self.session.run({n: a[rows] for n, a in feed.items()})["scores"][:, 0]

    def microseconds(self, signals: Mapping[str, np.ndarray], rows: int) -> float:
        """A row, in batches of `rows`: the best of the runs that fit into 50 ms, at least 3."""
        feed = {n: np.ascontiguousarray(signals[n][:rows]) for n in self.session.inputs}
        return 1e6 * best_seconds(lambda: self.session.run(feed)) / rows


def best_seconds(action: Callable[[], object]) -> float:
    action()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < LEAST_SECONDS and len(times) < MOST_RUNS):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return min(times)


def area(bad: np.ndarray, scores: np.ndarray) -> float:
    """AUROC of the rows marked bad, by the scores as float32."""
    scores = np.asarray(scores, np.float32)
    return ranked(scores[~bad], scores[bad])
