"""A stream's graph made into one that walks many steps in one run: what needs no state is done for all steps at once, and the
rest is the body of an ONNX `Scan`. A step costs a fifth of a run of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from demur.monitor.bundle.graph import IR_VERSION
from demur.monitor.errors import BundleError
from demur.monitor.session import Session

LOG = logging.getLogger("demur.streams")
STATE, NEXT = "state", "next_state"
# Operators that treat each row by itself and give each its own row: they may run over all steps before the walk.
BY_ROW = frozenset(
    """Abs Add And ArgMax ArgMin Cast Clip Concat CumSum Div Equal Exp Floor Greater GreaterOrEqual Identity IsInf IsNaN Less LessOrEqual
    Log LogSoftmax MatMul Max Min Mul Neg Not Or Pow Reciprocal ReduceMax ReduceMean ReduceMin ReduceSum Relu Round Sigmoid Sign
    Softmax Split Sqrt Sub TopK Where Xor""".split()
)
TRIED = 24  # steps that must come out as one by one, to the bit, before a graph is used


class Unrolled:
    """`state_after` many steps, as stepping gives it to the bit. Thread-safe as Session is."""

    def __init__(self, session: Session, state_size: int) -> None:
        self._session, self._size = session, state_size

    def state_after(
        self, state: NDArray[np.float32], signals: Mapping[str, NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """The state (1, S) after the rows of `signals`, (L, width) each, from `state` on."""
        feed = {n: a for n, a in signals.items() if n in self._session.inputs}
        return self._session.run_columns({STATE: state} | feed)[0]


def unrolled(graph: bytes, stepping: Session, widths: Mapping[str, int], state_size: int) -> Unrolled | None:
    """None where the graph cannot be unrolled, or does not give a stepped stream's bits."""
    try:
        found = Unrolled(Session(_whole(onnx.load_from_string(graph)), whole=True), state_size)
        signals = _tried({n: w for n, w in widths.items() if n in stepping.inputs})
        position = stepping.outputs.index(NEXT)
        state = blank = np.zeros((1, state_size), np.float32)
        for step in range(TRIED):
            row = {n: a[step : step + 1] for n, a in signals.items()}
            state = stepping.run_columns({STATE: state} | row)[position]
        if np.array_equal(found.state_after(blank, signals), state, equal_nan=True):
            return found
        LOG.warning("a stream's graph gives other bits unrolled; whole answers are judged step by step")
    except (BundleError, ValueError, RuntimeError) as error:
        LOG.warning("a stream's graph cannot be unrolled; whole answers are judged step by step: %s", error)
    return None


def _tried(widths: Mapping[str, int]) -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(0)
    signals = {n: random.uniform(-9, 0, (TRIED, w)).astype(np.float32) for n, w in sorted(widths.items())}
    for values in signals.values():
        values[TRIED // 2, 0], values[-2, 0], values[TRIED // 3] = np.nan, np.inf, 0
    return signals


def _whole(model: onnx.ModelProto) -> bytes:
    """The graph of many steps: inputs `state` (1, S) and the signals (L, width), output the last `next_state`."""
    graph = model.graph
    nodes, needed = _needed(graph, NEXT)
    stateful, moving = _parts(graph, nodes)
    outer = [n for n in nodes if id(n) not in stateful]
    inner = [n for n in nodes if id(n) in stateful]
    produced = {name for n in inner for name in n.output} | {STATE}
    crossing = sorted({name for n in inner for name in n.input if name in moving and name not in produced})
    if not crossing:
        raise ValueError("no signal reaches the state")
    body = helper.make_graph(
        inner,
        "step",
        [_value(n) for n in (f"{STATE}.before", *(f"{c}.step" for c in crossing))],
        [_value(NEXT)],
    )
    _rename(body, {STATE: f"{STATE}.before"} | {c: f"{c}.step" for c in crossing})
    one = helper.make_tensor("unrolled.axis", onnx.TensorProto.INT64, [1], [1])
    apart = [helper.make_node("Unsqueeze", [c, one.name], [f"{c}.steps"]) for c in crossing]
    scan = helper.make_node(
        "Scan", [STATE, *(f"{c}.steps" for c in crossing)], ["last"], body=body, num_scan_inputs=len(crossing)
    )
    inputs = [i for i in graph.input if i.name in needed]
    kept = [i for i in graph.initializer if i.name in needed]
    last = helper.make_tensor_value_info("last", onnx.TensorProto.FLOAT, None)
    made = helper.make_graph([*outer, *apart, scan], "steps", inputs, [last], [*kept, one])
    return helper.make_model(made, opset_imports=model.opset_import, ir_version=IR_VERSION).SerializeToString()


def _needed(graph: onnx.GraphProto, output: str) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes that `output` is made by, in their order, and the names that they read."""
    found, names = [], {output}
    for node in reversed(graph.node):
        if names & set(node.output):
            found.append(node)
            names |= set(node.input)
    return found[::-1], names


def _parts(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> tuple[set[int], set[str]]:
    """The nodes that belong into the walk, by id, and the names whose values change from step to step."""
    walked = {STATE}
    moving = {i.name for i in graph.input}
    stateful = set()
    for node in nodes:
        if not moving & set(node.input):
            continue
        moving |= set(node.output)
        if walked & set(node.input) or node.op_type not in BY_ROW:
            stateful.add(id(node))
            walked |= set(node.output)
    return stateful, moving


def _rename(body: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for node in body.node:
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)


def _value(name: str) -> onnx.ValueInfoProto:
    return onnx.ValueInfoProto(name=name)
