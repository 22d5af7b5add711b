"""Our compiled scores beside pytorch-ood on PyTorch, PyOD, and NumPy, one thread each: `make bench-peers`."""

from __future__ import annotations

import argparse
import functools
import json
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper
from onnx.shape_inference import infer_shapes
from threadpoolctl import threadpool_limits

from demur.detectors.build import build_score
from demur.detectors.compile import FLOAT, compile_scores, model_of, serialize, signal_inputs, symbols
from demur.detectors.evaluate import evaluate
from demur.detectors.lift import lift
from demur.detectors.onnx_ops import IR_VERSION, OPSET, OnnxOps
from demur.detectors.policy import Column
from demur.detectors.score import Score
from demur.monitor.session import Session, environment
from tests.benchmarks import pages
from tests.benchmarks.pairs import BATCHES, CLASSES, PAIRS, Call, Pair, peers, theirs, world

ROUNDS, ROUND_SECONDS, MOST_SECONDS = 5, 0.05, 12.0
LARGE_BYTES = 2**18  # of a matrix, whose reading is then counted apart


def ours(pair: Pair) -> Callable[[int], dict[str, Call]]:
    """Our score as a graph and in NumPy, and what no graph of it can go below."""
    made = world(pair.kind)
    score = build_score(pair.score, pair.hyper, made.reference)
    given = {name: array for name, array in made.given.items() if name in score.inputs}
    widths = {n: a.shape[1] for n, a in given.items()}
    model = compile_scores({"score": score}, widths)
    session, alone = Session(serialize(model)), Session(serialize(operators(score, widths)))
    matrices, sort = products(model), sorting(model)

    def calls(n: int) -> dict[str, Call]:
        batch = {name: np.ascontiguousarray(given[name][:n]) for name in session.inputs}
        found: dict[str, Call] = {
            "ours": functools.partial(session.run_columns, batch),
            "numpy": functools.partial(evaluate, {"score": score}, batch),
        }
        rows = next(iter(batch.values()))
        if sort is not None and n > 1 and sort.width("x") == rows.shape[1]:
            found["sorting"] = functools.partial(sort.run_columns, {"x": rows})
        found["operators"] = functools.partial(alone.run_columns, batch)
        if n == 1 and matrices:
            found["products"] = matrices
        return found

    return calls


def operators(score: Score, widths: dict[str, int]) -> ModelProto:
    """The score's own operators, without those that make a row INVALID that is not finite."""
    xp = OnnxOps()
    inputs = signal_inputs({"score": score}, [Column("score", "score")], (), widths)
    value = lift(score, "score", xp)(xp, symbols(inputs, xp, widths))
    return model_of(xp, inputs, {"scores": value}, {"scores": (FLOAT, ["N", 1])})


def products(model: ModelProto) -> Call | None:
    """A row times each of the graph's large matrices, and nothing else; None without large matrices."""
    held = {i.name: i for i in model.graph.initializer}
    used = [n for n in model.graph.node if n.op_type in ("MatMul", "Gemm") and n.input[1] in held]
    nodes, inputs, outputs, weights = [], [], [], []
    for i, node in enumerate(n for n in used if held[n.input[1]].ByteSize() > LARGE_BYTES):
        weight = held[node.input[1]]
        turned = any(a.name == "transB" and a.i for a in node.attribute)
        width, out = weight.dims[::-1] if turned else weight.dims
        nodes.append(helper.make_node("Gemm", [f"x{i}", weight.name], [f"y{i}"], transB=int(turned)))
        inputs.append(helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, [1, width]))
        outputs.append(helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, [1, out]))
        weights.append(weight)
    if not nodes:
        return None
    session = plain(helper.make_graph(nodes, "products", inputs, outputs, weights))
    return functools.partial(
        session.run_columns, {n: np.ones((1, session.width(n)), np.float32) for n in session.inputs}
    )


def sorting(model: ModelProto) -> Session | None:
    """The graph's first TopK of more than one place, on rows `x` of its width, and nothing else; None without one."""
    held = {i.name: i for i in model.graph.initializer}
    shapes = {v.name: v.type.tensor_type.shape for v in infer_shapes(model).graph.value_info}
    for node in model.graph.node:
        if node.op_type == "TopK" and (k := int(numpy_helper.to_array(held[node.input[1]])[0])) > 1:
            width = shapes[node.input[0]].dim[-1].dim_value
            ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", w]) for n, w in (("x", width), ("y", k))]
            alone = helper.make_node("TopK", ["x", node.input[1]], ["y", "places"])
            alone.attribute.extend(node.attribute)
            return plain(helper.make_graph([alone], "sorting", ends[:1], ends[1:], [held[node.input[1]]]))
    return None


def plain(graph: GraphProto) -> Session:
    return Session(
        serialize(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION))
    )


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
        calls = mine(n)
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
    node = helper.make_node("ReduceMax", ["x", "axes"], ["y"])
    session = plain(helper.make_graph([node], "floor", [x], [y], [axes]))
    call = functools.partial(session.run_columns, {"x": np.ones((1, CLASSES), np.float32)})
    return 1e6 * (seconds({"floor": call}, ROUNDS)["floor"] or 0.0)


def misses(found: list[dict[str, Any]], floor: float) -> list[str]:
    """Where ours is under 3 times as fast for one row, or under 0.9 times for more; and what less than ours would reach."""
    below = []
    for row in found:
        for other in ("peer", "numpy"):
            times = (row.get(other) or np.inf) / row["ours"]
            if times < (3 if row["rows"] == 1 else 0.9) and (other == "peer" or row["rows"] > 1):
                name = row["beside"] if other == "peer" else "NumPy"
                below.append(
                    f"{row['score']} beside {name}, N = {row['rows']}: {times:.2f}{_reach(row, row[other], floor)}"
                )
    return below


def _reach(row: dict[str, Any], theirs: float, floor: float) -> str:
    """What their time would be over that of the products, of TopK, of the operators alone, and of one operator."""
    least = {
        "its products alone": row.get("products"),
        "its TopK alone": row.get("sorting"),
        "its own operators": row["operators"],
        "one operator": floor if row["rows"] == 1 else None,
    }
    return " (" + ", ".join(f"{name}: {theirs / time:.2f}" for name, time in least.items() if time) + ")"


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
