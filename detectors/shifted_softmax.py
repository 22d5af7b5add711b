"""LogSoftmax made exact where a runtime is not: its rows shifted by their largest value first."""

from __future__ import annotations

import onnx
from onnx import helper

SOFTMAX = ("LogSoftmax", "Softmax")
AXES, SHIFTED = "shifted_softmax.axes", "/shifted"


def shifted_softmax(model: bytes) -> bytes:
    """The graph with every (Log)Softmax over the last axis reading x - max(x): the same function, of numbers that are small.

    CUDA's LogSoftmax subtracts max + log(sum) in one float32 number: from logits of 1e8 on, equal classes come out as
    sure, and of logits of 60 the entropy of a sure row loses its digits. Opset 18; older graphs come back as they are, and so
    do those that were shifted before.
    """
    loaded = onnx.load_model_from_string(model)
    opset = next((o.version for o in loaded.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < 18 or not any(_over_last_axis(node) for node in loaded.graph.node):
        return model
    nodes: list[onnx.NodeProto] = []
    for node in loaded.graph.node:
        if _over_last_axis(node):
            x, largest, small = node.input[0], f"{node.output[0]}/largest", f"{node.output[0]}{SHIFTED}"
            nodes.append(helper.make_node("ReduceMax", [x, AXES], [largest], name=largest, keepdims=1))
            nodes.append(helper.make_node("Sub", [x, largest], [small], name=small))
            node.input[0] = small
        nodes.append(node)
    del loaded.graph.node[:]
    loaded.graph.node.extend(nodes)
    loaded.graph.initializer.append(helper.make_tensor(AXES, onnx.TensorProto.INT64, [1], [-1]))
    return loaded.SerializeToString()


def _over_last_axis(node: onnx.NodeProto) -> bool:
    if node.op_type not in SOFTMAX or node.domain not in ("", "ai.onnx") or node.input[0].endswith(SHIFTED):
        return False
    return next((a.i for a in node.attribute if a.name == "axis"), -1) == -1
