"""Our compiled scores beside pytorch-ood on PyTorch, PyOD, and NumPy, one thread each: `make bench-peers`."""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from onnx import TensorProto, helper
from threadpoolctl import threadpool_limits

from demur.detectors.build import build_score
from demur.detectors.compile import compile_scores, serialize
from demur.detectors.evaluate import evaluate
from demur.monitor.session import Session, environment
from tests.benchmarks import pages
from tests.differential.peers import Peers
from tests.differential.rows import Rows

CLASSES, WIDTH, COLUMNS, REFERENCE = 1000, 512, 16, 10_000
BATCHES = (1, 64, 4096)
ROUNDS, ROUND_SECONDS, MOST_SECONDS = 5, 0.05, 12.0
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


def ours(pair: Pair) -> Callable[[int], tuple[Call, Call]]:
    """Our score as a graph and in NumPy."""
    rows = world(pair.kind)
    score = build_score(pair.score, pair.hyper, rows.reference)
    given = {name: array for name, array in rows.given.items() if name in score.inputs}
    session = Session(serialize(compile_scores({"score": score}, {n: a.shape[1] for n, a in given.items()})))

    def calls(n: int) -> tuple[Call, Call]:
        batch = {name: np.ascontiguousarray(given[name][:n]) for name in session.inputs}
        return functools.partial(session.run_columns, batch), functools.partial(evaluate, {"score": score}, batch)

    return calls


def seconds(calls: dict[str, Call], rounds: int) -> dict[str, float | None]:
    """Of a call of each, the quietest of rounds taken in turns; None for one that would take too long."""
    repeats, best = {}, dict.fromkeys(calls)
    for name, call in calls.items():
        call()
        began = perf_counter()
        call()
        repeats[name] = max(1, int(ROUND_SECONDS / (perf_counter() - began)))
    for _ in range(rounds):
        for name, call in calls.items():
            times = np.empty(repeats[name])
            for i in range(repeats[name]):
                began = perf_counter()
                call()
                times[i] = perf_counter() - began
            best[name] = min(float(np.median(times)), best[name] or np.inf)
    return best


def measured(pair: Pair, rounds: int) -> Iterator[dict[str, Any]]:
    mine, other = ours(pair), theirs(pair)
    slow = 0.0
    for n in BATCHES:
        graph, in_numpy = mine(n)
        calls = {"ours": graph, "numpy": in_numpy}
        if n <= pair.most_rows and slow * n < MOST_SECONDS:
            calls["peer"] = other(n)
        found = seconds(calls, rounds if n < max(BATCHES) else min(rounds, 3))
        slow = (found.get("peer") or 0.0) / n if n > 1 else 0.0
        yield {"score": pair.name, "beside": pair.peer, "rows": n, **{k: v and v * 1e6 for k, v in found.items()}}


def show(found: list[dict[str, Any]]) -> str:
    """The table: µs of ours, and how many times as long the others take."""
    by: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for row in found:
        by.setdefault((row["score"], row["beside"]), {})[row["rows"]] = row
    heads = ["score", "peer", *(f"N = {n}: µs, x peer, x NumPy" for n in BATCHES)]
    return pages.table(heads, ([s, p, *(_cell(cells[n]) for n in BATCHES)] for (s, p), cells in by.items()))


def _cell(row: dict[str, Any]) -> str:
    peer, plain = (row.get(name) and row[name] / row["ours"] for name in ("peer", "numpy"))
    size = row["ours"]
    return f"{size:.0f}, {'not run' if peer is None else f'**{_short(peer)}**'}, {_short(plain)}"


def _short(x: float) -> str:
    return f"{x:.2f}" if x < 3 else f"{x:.1f}" if x < 10 else f"{x:,.0f}"


def one_node() -> float:
    """Microseconds of the smallest call there is: ONNX Runtime, one row of 1,000 numbers, one operator."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", CLASSES])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [-1])
    graph = helper.make_graph([helper.make_node("ReduceMax", ["x", "axes"], ["y"])], "floor", [x], [y], [axes])
    session = Session(serialize(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)))
    call = functools.partial(session.run_columns, {"x": np.ones((1, CLASSES), np.float32)})
    return 1e6 * (seconds({"floor": call}, ROUNDS)["floor"] or 0.0)


def misses(found: list[dict[str, Any]], floor: float) -> list[str]:
    """Where ours is under 3 times as fast for one row, or under 0.9 times for more; and what a call of one operator
    would reach.
    """
    asked = [r for r in found if r.get("peer")]
    below = [r for r in asked if r["peer"] / r["ours"] < (3 if r["rows"] == 1 else 0.9)]
    return [
        f"{r['score']} beside {r['beside']}, N = {r['rows']}: {r['peer'] / r['ours']:.2f}"
        + (f" (one operator alone: {r['peer'] / floor:.2f})" if r["rows"] == 1 else "")
        for r in below
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="scores or peers")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    chosen = parser.parse_args()
    peers().torch.set_num_threads(1)
    found: list[dict[str, Any]] = []
    with peers().torch.no_grad(), threadpool_limits(1), warnings.catch_warnings(action="ignore"):
        for pair in PAIRS:
            if not chosen.only or {pair.name, pair.peer} & set(chosen.only):
                for row in measured(pair, chosen.rounds):
                    found.append(row)
                    print(f"{row['score']:22} {row['beside']:16} {row['rows']:5} {_cell(row)}", flush=True)
        floor = one_node()
    below = misses(found, floor)
    print(f"\none operator: {floor:.1f} µs\nmissed:", *below, sep="\n  ")
    if not chosen.only:
        _written(found, below, floor)


def _written(found: list[dict[str, Any]], below: list[str], floor: float) -> None:
    said = {name: version(name) for name in ("torch", "pytorch-ood", "pyod", "scikit-learn")} | dict(environment())
    path = Path("out/bench-peers.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        json.dumps({"environment": said, "one_operator": floor, "microseconds": found, "missed": below}, indent=2)
        + "\n"
    )
    missed = "\n".join(f"- {line}" for line in below) or "None."
    pages.write(
        "performance.md",
        "peers",
        f"{show(found)}\n\nA call of one operator takes {floor:.1f} µs here. Below the targets in this run:\n\n{missed}",
    )


if __name__ == "__main__":
    main()
