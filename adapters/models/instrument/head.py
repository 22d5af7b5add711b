"""The classifier head: the last linear layer before the logits, and the way from it to the outputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from demur.adapters.models.graph import Graph
from demur.adapters.models.instrument.layer import QUANTISED, Head, layer, linear_classifier

# What may stand between the logits and an output; none of it is undone, the logits are what goes in.
TAIL = frozenset(
    """Softmax LogSoftmax Sigmoid HardSigmoid Log Exp Identity Cast Reshape Squeeze Unsqueeze Flatten Transpose ArgMax TopK Clip Concat
    Sub Split Slice Gather ArrayFeatureExtractor Normalizer ZipMap Dropout Resize Upsample LabelEncoder Greater GreaterOrEqual Round
    QuantizeLinear DequantizeLinear GatherElements GatherND ReduceMax Expand Tile""".split()
)
PASSED = frozenset("Identity Cast Dropout QuantizeLinear DequantizeLinear".split())
STEPS = frozenset(
    "GlobalAveragePool ReduceMean Gather GatherND Slice Squeeze Unsqueeze Flatten Reshape Transpose".split()
)
LONGEST = 24  # nodes from an output to its logits, or from the logits to the layer


@dataclass(frozen=True, eq=False)
class Stop:
    """Where a walk back met no linear layer: the tensor, its maker (None for an input), and the softmax's input if one
    was passed.
    """

    tensor: str
    node: onnx.NodeProto | None
    before_softmax: str = ""

    @property
    def maker(self) -> str:
        """The operator that makes the tensor."""
        return "an input" if self.node is None else self.node.op_type


@dataclass(frozen=True, eq=False)
class Search:
    """The heads behind a model's outputs, and where the walks back from outputs without any had to stop."""

    heads: tuple[Head, ...]
    stops: dict[str, Stop]


def search(graph: Graph) -> Search:
    """Walk back from every output. The same layer behind several outputs (label, probabilities) is one head."""
    found: dict[int, Head] = {}
    stops: dict[str, Stop] = {}
    for output in graph.outputs:
        met = False
        for head in _behind(graph, output, stops):
            met = True
            known = found.get(id(head.node))
            if known is None or _length(head) < _length(known):
                found[id(head.node)] = head
        if met:
            stops.pop(output, None)
    return Search(tuple(found.values()), stops)


def _length(head: Head) -> tuple[int, int]:
    """How far the logits are from the output, and then from the layer: of z and mean(z) behind z - mean(z), z is meant."""
    return len(head.tail), len(head.steps)


def _behind(graph: Graph, output: str, stops: dict[str, Stop]) -> Iterator[Head]:
    wanted: list[tuple[str, tuple[str, ...]]] = [(output, ())]
    softmax = ""
    seen = {output}
    while wanted:
        tensor, tail = wanted.pop()
        node = graph.producers.get(tensor)
        head = linear_classifier(node) if node is not None else None
        head = head or affine(graph, tensor)
        if head is not None:
            yield replace(head, tail=(*head.tail, *tail[::-1]))
            continue
        if node is None or node.op_type not in TAIL or len(tail) >= LONGEST:
            stops.setdefault(output, Stop(tensor, node, softmax))
            continue
        softmax = node.input[0] if node.op_type in ("Softmax", "LogSoftmax") else softmax
        new = [i for i in _carried(node) if i and i not in seen and not graph.is_constant(i)]
        seen.update(new)
        wanted.extend((i, (*tail, node.op_type)) for i in new)


def _carried(node: onnx.NodeProto) -> list[str]:
    """The inputs a tail operator passes on; the others are indices and shapes."""
    if node.op_type in ("Concat", "Sub"):
        return list(node.input)
    return list(node.input[1:2] if node.op_type == "ArrayFeatureExtractor" else node.input[:1])


def affine(graph: Graph, tensor: str, depth: int = 0) -> Head | None:
    """The linear layer that `tensor` is an affine function of, scales, offsets and pooling on the way folded in; or None."""
    node = graph.producers.get(tensor)
    if node is None or depth > LONGEST:
        return None
    head = layer(graph, node, tensor)
    if head is None:
        head = _through(graph, node, depth)
    return None if head is None else replace(head, logits=tensor)


def _through(graph: Graph, node: onnx.NodeProto, depth: int) -> Head | None:
    """One node further back: what scales, shifts, picks or pools the layer's answers."""
    if node.op_type in PASSED:
        return affine(graph, node.input[0], depth + 1)
    if node.op_type in STEPS and not graph.is_constant(node.input[0]):
        head = affine(graph, node.input[0], depth + 1)
        return None if head is None else replace(head, steps=(*head.steps, node))
    if node.op_type not in ("Add", "Sub", "Mul", "Div"):
        return None
    return _scaled(graph, node, depth)


def _scaled(graph: Graph, node: onnx.NodeProto, depth: int) -> Head | None:
    constant = [graph.is_constant(i) for i in node.input]
    if not any(constant):
        return _dequantised(graph, node, depth)
    if all(constant) or (node.op_type == "Div" and not constant[1]):
        return None
    head = affine(graph, node.input[constant.index(False)], depth + 1)
    if head is None or head.weight is None or head.bias is None:
        return head
    value = graph.constant(node.input[constant.index(True)])
    vector = None if value is None else _per_class(value, len(head.weight), head)
    return None if vector is None else _folded(head, node.op_type, vector, left=constant[0])


def _dequantised(graph: Graph, node: onnx.NodeProto, depth: int) -> Head | None:
    """Dynamic quantisation multiplies the integers of a MatMulInteger by scales known only at run time."""
    sides = [affine(graph, i, depth + 1) for i in node.input] if node.op_type == "Mul" else []
    return next((s for s in sides if s is not None and s.node.op_type in QUANTISED), None)


def _per_class(value: NDArray[Any], classes: int, head: Head) -> NDArray[np.float64] | None:
    """A number a class, or one for all; None for anything else (a number a position)."""
    if value.size == 1:
        return np.broadcast_to(value.astype(np.float64).reshape(()), classes)
    axis = -3 if head.convolution and not head.steps else -1
    fits = value.size == classes and value.ndim >= -axis and value.shape[axis] == classes
    return value.astype(np.float64).reshape(-1) if fits else None


def _folded(head: Head, op: str, value: NDArray[np.float64], *, left: bool) -> Head:
    weight, bias = np.float64(1) * head.weight, np.float64(1) * head.bias  # type: ignore[operator]
    if op in ("Mul", "Div"):
        factor = 1 / value if op == "Div" else value
        return replace(
            head, weight=(factor[:, None] * weight).astype(np.float32), bias=(factor * bias).astype(np.float32)
        )
    if op == "Sub" and left:
        return replace(head, weight=(-weight).astype(np.float32), bias=(value - bias).astype(np.float32))
    return replace(head, bias=(bias + (value if op == "Add" else -value)).astype(np.float32))
