"""Tiny bundles whose verdicts are known by heart: a row is refused exactly when its largest logit is below `LIMIT`."""

from __future__ import annotations

from typing import Any

import numpy as np

from demur.detectors.compile import compile_monitor, serialize
from demur.detectors.policy import Column, Rule
from demur.detectors.reason import Reason
from demur.detectors.scores.logit import MaxLogit
from demur.detectors.scores.stream import MeanNLL
from demur.detectors.stream import compile_stream, state_size
from demur.monitor.bundle import Bundle
from demur.monitor.bundle.bundle import GRAPH
from demur.monitor.fit import vectors
from demur.monitor.session import Session, environment

WIDTH = 4
LIMIT = 2.0
TABLE = np.linspace(-6, -1, 51, dtype=np.float32)
GOOD, BAD = [5.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]
STREAM_LIMIT = 2.0


def row_bundle(version: int = 1, *, limit: float = LIMIT, model: dict[str, str] | None = None) -> Bundle:
    """Signal `logits` (N, 4), rule "weak"."""
    columns, rules = [Column("weak", "weak", calibration=(TABLE,))], [_rule("weak", -limit)]
    graph = serialize(compile_monitor({"weak": MaxLogit()}, columns, rules, {"logits": WIDTH}))
    feed = {"logits": _rows()}
    return _bundle(graph, feed, version, [("weak", "row", "max")], rules, model=model or {})


def group_bundle(version: int = 1) -> Bundle:
    """Signal `logits`, rule "weak" for rows and "crowd" for the mean of a group."""
    columns = [
        Column("weak", "weak", calibration=(TABLE,)),
        Column("crowd", "weak", unit="group", aggregate="mean", calibration=(TABLE,)),
    ]
    rules = [_rule("weak", -LIMIT), _rule("crowd", -3.0)]
    graph = serialize(compile_monitor({"weak": MaxLogit()}, columns, rules, {"logits": WIDTH}))
    rows = _rows()
    feed = {"logits": rows, "group_id": np.arange(len(rows), dtype=np.int64), "group_count": np.array([len(rows)])}
    return _bundle(graph, feed, version, [("weak", "row", None), ("crowd", "group", "mean")], rules)


def stream_bundle(version: int = 1) -> Bundle:
    """Signal `token_logprob` (1, 1): the running maximum of the mean NLL above 2 refuses."""
    table = np.linspace(0, 3, 31, dtype=np.float32)
    columns, rules = [Column("nll", "nll", unit="stream", calibration=(table,))], [_rule("nll", STREAM_LIMIT)]
    graph = serialize(compile_stream({"nll": MeanNLL()}, columns, rules, {"token_logprob": 1}))
    size = state_size({"nll": MeanNLL()}, columns)
    logprobs = np.array([[-0.1], [-1.0], [-3.0], [np.nan], [np.inf]], np.float32)
    feed = {"state": np.zeros((5, size), np.float32), "token_logprob": logprobs}
    return _bundle(graph, feed, version, [("nll", "stream", None)], rules, kind="stream", state_size=size)


def _rule(name: str, threshold: float) -> Rule:
    return Rule(name, name, Reason.NOVEL, np.array([threshold], np.float32), np.array([False]))


def _rows() -> np.ndarray:
    rows = np.array([GOOD, BAD, GOOD, GOOD], np.float32)
    rows[2, 3], rows[3, 0] = np.nan, np.inf
    return rows


def _bundle(
    graph: bytes,
    feed: dict[str, np.ndarray],
    version: int,
    columns: list[tuple[str, str, str | None]],
    rules: list[Rule],
    **fields: Any,
) -> Bundle:
    members = {GRAPH: graph, **vectors.members(feed, Session(graph))}
    units = {name: unit for name, unit, _ in columns}
    signals = [n for n in feed if n in ("logits", "token_logprob")]
    about: dict[str, Any] = {"kind": "rows", "model": {}} | fields
    return Bundle.build(
        members,
        monitor="toy",
        version=version,
        demur="0.0.0",
        signals=[{"name": n, "width": feed[n].shape[1], "kind": "logits"} for n in signals],
        scores=[
            {"name": n, "type": "max_logit", "settings": {}, "parameters": [], "source": "test", "scales": "exact_merge"}
            for n in ("weak", "nll")
        ],
        columns=[
            {"name": n, "score": "weak" if n == "crowd" else n, "unit": u, "aggregate": a if u == "group" else None, "units": [51]}
            for n, u, a in columns
        ],
        rules=[
            {
                "name": r.name, "column": r.column, "unit": units[r.column], "reason": int(r.reason),
                "thresholds": [float(r.threshold[0])], "pooled": [False], "promise": {}, "statement": f"{r.name} promises",
                "level": 0.05,
            }
            for r in rules
        ],
        statements=[], cautions=[], policy={}, policy_digest="0" * 64, digests={}, counts={},
        environment=dict(environment()),
        **about,
    )  # fmt: skip
