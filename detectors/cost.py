"""What a score costs, read off its compiled graph: bytes that must be held and read, multiplications a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import onnx

from demur.detectors.compile import compile_scores
from demur.detectors.score import Score
from demur.detectors.tensor import Signal


@dataclass(frozen=True)
class Cost:
    """`state_bytes` of fitted parameters; `multiply_adds` of matrix products for one row; `nodes` of the graph."""

    state_bytes: int
    multiply_adds: int
    nodes: int


def cost(score: Score, widths: Mapping[Signal, int]) -> Cost:
    """The cost of one score on signals of these widths.

    Raises: ValueError for a score that reads p-values: its members cost, it does not.
    """
    return cost_of(compile_scores({"score": score}, widths))


def cost_of(model: onnx.ModelProto) -> Cost:
    """The cost of a compiled graph."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    known = (*graph.input, *graph.value_info, *graph.output)
    shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in known}
    held = {w.name: tuple(w.dims) for w in graph.initializer}
    products = sum(_multiply_adds(node, shapes | held) for node in graph.node)
    return Cost(sum(len(w.raw_data) for w in model.graph.initializer), products, len(graph.node))


def _multiply_adds(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Of one row: the output without its first axis, times the length that is summed over."""
    if node.op_type not in ("MatMul", "Gemm"):
        return 0
    return prod(shapes.get(node.output[0], ())[1:]) * shapes.get(node.input[0], (0,))[-1]
