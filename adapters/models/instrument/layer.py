"""One linear layer: what it reads, its weights as (C, D), or why they stay where they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from demur.adapters.models.graph import Graph, attribute

QUANTISED = frozenset(
    """QLinearMatMul QLinearConv QGemm MatMulInteger MatMulIntegerToFloat DynamicQuantizeMatMul MatMulNBits MatMulBnb4
    MatMulFpQ4""".split()
)
LARGEST_WEIGHT = 1 << 27  # values: in float64 they are 1 GiB

Made: TypeAlias = "tuple[NDArray[np.float32], NDArray[np.float32]]"


@dataclass(frozen=True, eq=False)
class Head:
    """logits = features @ weight.T + bias; features are what `reads` becomes after `steps`.

    weight (C, D), bias (C,) float32, or None with the `problem` that keeps them in. `logits` is "" when the layer keeps
    them to itself (LinearClassifier). `tail`: operators between logits and output.
    """

    node: onnx.NodeProto
    reads: str
    logits: str
    weight: NDArray[np.float32] | None = None
    bias: NDArray[np.float32] | None = None
    steps: tuple[onnx.NodeProto, ...] = ()
    tail: tuple[str, ...] = ()
    problem: str = ""

    @property
    def convolution(self) -> bool:
        """Whether the layer's features are channels (axis 1), not the last axis."""
        return self.node.op_type in ("Conv", "QLinearConv")

    @property
    def single(self) -> bool:
        """Whether it gives one logit, through a sigmoid."""
        return self.final == "Sigmoid" and self.weight is not None and len(self.weight) == 1

    @property
    def divided(self) -> bool:
        """Whether the model divides the layer's answers before a softmax, or without any: only a part are class logits."""
        before = self.tail[: self.tail.index(self.final)] if self.final else self.tail
        return "Split" in before

    @property
    def final(self) -> str:
        """What the model makes of its logits: Softmax, LogSoftmax, Sigmoid, or "" when it returns them."""
        return next((op for op in self.tail if op in ("Softmax", "LogSoftmax", "Sigmoid")), "")


def layer(graph: Graph, node: onnx.NodeProto, tensor: str) -> Head | None:
    """The linear layer this node is, or None: Gemm, MatMul, a 1x1 convolution with constant weights, or a quantised one."""
    if node.op_type in QUANTISED:
        return Head(node, _float_input(graph, node), tensor, problem=f"its weights are quantised ({node.op_type})")
    if node.op_type == "LinearRegressor":
        return _coefficients(node, tensor)
    if node.op_type not in ("Gemm", "MatMul", "FusedMatMul", "Conv") or not graph.is_constant(node.input[1]):
        return None
    if graph.constant_values(node.input[1]) > LARGEST_WEIGHT:
        return Head(node, node.input[0], tensor, problem=f"its weight has more than {LARGEST_WEIGHT:,} values")
    weight = graph.constant(node.input[1])
    made = None if weight is None else {"Gemm": _gemm, "Conv": _conv}.get(node.op_type, _matmul)(graph, node, weight)
    return None if made is None else Head(node, node.input[0], tensor, *made)


def _gemm(graph: Graph, node: onnx.NodeProto, weight: NDArray[Any]) -> Made | None:
    if attribute(node, "transA", 0) or weight.ndim != 2:
        return None
    weight = weight if attribute(node, "transB", 0) else weight.T
    offset: NDArray[Any] | None = np.zeros(1)
    if len(node.input) > 2 and node.input[2]:
        offset = graph.constant(node.input[2])
    if offset is None or offset.size not in (1, len(weight)):
        return None
    scale, part = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
    return _made(scale * weight.astype(np.float64), part * offset.astype(np.float64).reshape(-1))


def _matmul(graph: Graph, node: onnx.NodeProto, weight: NDArray[Any]) -> Made | None:
    if weight.ndim != 2 or graph.is_constant(node.input[0]) or attribute(node, "transA", 0):
        return None
    weight = weight if attribute(node, "transB", 0) else weight.T
    return _made(attribute(node, "alpha", 1.0) * weight.astype(np.float64), np.zeros(1))


def _conv(graph: Graph, node: onnx.NodeProto, weight: NDArray[Any]) -> Made | None:
    plain = all(v == 1 for v in (*weight.shape[2:], *attribute(node, "strides", ()), attribute(node, "group", 1)))
    if not plain or weight.ndim < 3 or any(attribute(node, "pads", ())):
        return None
    offset: NDArray[Any] | None = np.zeros(1)
    if len(node.input) > 2 and node.input[2]:
        offset = graph.constant(node.input[2])
    return None if offset is None else _made(weight.reshape(weight.shape[:2]).astype(np.float64), offset.reshape(-1))


def _made(weight: NDArray[Any], bias: NDArray[Any]) -> Made:
    return weight.astype(np.float32), np.broadcast_to(bias, len(weight)).astype(np.float32)


def linear_classifier(node: onnx.NodeProto) -> Head | None:
    """ai.onnx.ml's classifier: coefficients are attributes, and logits come out only without a post-transform."""
    if node.op_type != "LinearClassifier" or len(node.output) < 2:
        return None
    final = attribute(node, "post_transform", b"NONE")
    head = _coefficients(node, node.output[1] if final == b"NONE" else "")
    if head is None or head.weight is None or head.bias is None:
        return None
    if final == b"LOGISTIC" and len(head.weight) == 2 and (head.weight[0] == -head.weight[1]).all():
        # The sigmoid of one score and of its negative: a softmax over halves of them.
        half = np.float32(0.5)
        return replace(head, weight=half * head.weight, bias=half * head.bias, tail=("Softmax",))
    return replace(head, tail={b"SOFTMAX": ("Softmax",), b"LOGISTIC": ("Sigmoid",)}.get(final, ()))


def _coefficients(node: onnx.NodeProto, logits: str) -> Head | None:
    weight = np.array(attribute(node, "coefficients", ()), np.float64)
    bias = np.array(attribute(node, "intercepts", ()), np.float64)
    count = len(bias) or attribute(node, "targets", 1)
    if not len(weight) or len(weight) % count:
        return None
    return Head(node, node.input[0], logits, *_made(weight.reshape(count, -1), bias if len(bias) else np.zeros(1)))


def _float_input(graph: Graph, node: onnx.NodeProto) -> str:
    """What a quantised layer reads, before quantisation; "" when only integers are there."""
    maker = graph.producers.get(node.input[0])
    if maker is not None and maker.op_type in ("QuantizeLinear", "DynamicQuantizeLinear"):
        return maker.input[0]
    return "" if node.op_type in ("QLinearMatMul", "QLinearConv", "QGemm", "MatMulInteger") else node.input[0]
