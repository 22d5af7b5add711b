"""A graph as an accelerator wants it: the same function, of other nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx
from onnx import helper, numpy_helper

SOFTMAX = ("LogSoftmax", "Softmax")
AXES, SHIFTED = "accelerator.axes", "/shifted"


def for_accelerator(model: bytes) -> bytes:
    """The graph with every (Log)Softmax over the last axis reading x - max(x), and ArgMax or ArgMin for a TopK of one place.

    CUDA's LogSoftmax subtracts max + log(sum) in one float32 number: from logits of 1e8 on, equal classes come out as
    sure, and of logits of 60 the entropy of a sure row loses its digits. Its TopK sorts the row. Opset 18; older graphs come
    back as they are, and so do those that were changed before.
    """
    loaded = onnx.load_model_from_string(model)
    graph = loaded.graph
    opset = next((o.version for o in loaded.opset_import if o.domain in ("", "ai.onnx")), 0)
    firsts = _firsts(graph)
    if opset < 18 or not (firsts or any(_over_last_axis(node) for node in graph.node)):
        return model
    nodes = [made for node in graph.node for made in _made(node, firsts)]
    del graph.node[:]
    graph.node.extend(nodes)
    if not any(held.name == AXES for held in graph.initializer):
        graph.initializer.append(helper.make_tensor(AXES, onnx.TensorProto.INT64, [1], [-1]))
    return loaded.SerializeToString()


def _made(node: onnx.NodeProto, firsts: frozenset[str]) -> Iterator[onnx.NodeProto]:
    if _over_last_axis(node):
        x, largest, small = node.input[0], f"{node.output[0]}/largest", f"{node.output[0]}{SHIFTED}"
        yield helper.make_node("ReduceMax", [x, AXES], [largest], name=largest, keepdims=1)
        yield helper.make_node("Sub", [x, largest], [small], name=small)
        node.input[0] = small
    elif node.op_type == "TopK" and node.output[1] in firsts:
        kind = "ArgMax" if _number(node, "largest", 1) else "ArgMin"
        node = helper.make_node(kind, node.input[:1], node.output[1:], name=node.name, axis=-1, keepdims=1)
    yield node


def _over_last_axis(node: onnx.NodeProto) -> bool:
    if node.op_type not in SOFTMAX or node.domain not in ("", "ai.onnx") or node.input[0].endswith(SHIFTED):
        return False
    return _number(node, "axis", -1) == -1


def _firsts(graph: onnx.GraphProto) -> frozenset[str]:
    """The places found by a TopK of one over the last axis whose values nobody reads. None where nodes hold graphs of their own,
    which may read what they like.
    """
    if any(a.HasField("g") or a.graphs for node in graph.node for a in node.attribute):
        return frozenset()
    ones = {held.name for held in graph.initializer if _is_one(held)} - {given.name for given in graph.input}
    read = Counter(name for node in graph.node for name in node.input) + Counter(o.name for o in graph.output)
    found = (n for n in graph.node if n.op_type == "TopK" and n.domain in ("", "ai.onnx") and n.input[1] in ones)
    return frozenset(n.output[1] for n in found if not read[n.output[0]] and _number(n, "axis", -1) == -1)


def _is_one(held: onnx.TensorProto) -> bool:
    """Held elsewhere, it is not looked at."""
    here = held.data_location != onnx.TensorProto.EXTERNAL
    return here and list(held.dims) == [1] and bool(numpy_helper.to_array(held)[0] == 1)


def _number(node: onnx.NodeProto, name: str, otherwise: int) -> int:
    return next((a.i for a in node.attribute if a.name == name), otherwise)
