"""A small graph of known weights, and its outputs written in loops: the oracle of every collecting test."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

INPUT, HIDDEN, CLASSES = 12, 5, 3


def weights(seed=7):
    rng = np.random.default_rng(seed)
    shapes = {"w1": (INPUT, HIDDEN), "b1": (HIDDEN,), "w2": (HIDDEN, CLASSES), "b2": (CLASSES,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def graph(*, batch="N", shape=(INPUT,), extra=(), datatype=TensorProto.FLOAT, softmax=False):
    """Input `image` (batch, *shape), outputs `features`, `logits` and `pooled` (N, HIDDEN, 1, 1)."""
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "w1", "b1"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["features"]),
        helper.make_node("Gemm", ["features", "w2", "b2"], ["before" if softmax else "logits"]),
        *([helper.make_node("Softmax", ["before"], ["logits"])] if softmax else []),
        helper.make_node("Unsqueeze", ["features", "axes"], ["pooled"]),
        helper.make_node("ArgMax", ["logits"], ["answer"], axis=1, keepdims=0),
        *extra,
    ]
    tensors = [*(numpy_helper.from_array(a, n) for n, a in weights().items())]
    tensors.append(numpy_helper.from_array(np.array([2, 3], np.int64), "axes"))
    outputs = [
        helper.make_tensor_value_info("features", TensorProto.FLOAT, [batch, HIDDEN]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, CLASSES]),
        helper.make_tensor_value_info("pooled", TensorProto.FLOAT, [batch, HIDDEN, 1, 1]),
        helper.make_tensor_value_info("answer", TensorProto.INT64, [batch]),
    ]
    made = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info("image", datatype, [batch, *shape])], outputs, tensors
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def expected(rows):
    """Features and logits in float64, written in loops."""
    w = {name: array.astype(np.float64) for name, array in weights().items()}
    features, logits = np.zeros((len(rows), HIDDEN)), np.zeros((len(rows), CLASSES))
    for n, row in enumerate(np.asarray(rows, np.float64).reshape(len(rows), -1)):
        for j in range(HIDDEN):
            total = w["b1"][j] + sum(row[i] * w["w1"][i, j] for i in range(INPUT))
            features[n, j] = max(total, 0.0)
        for c in range(CLASSES):
            logits[n, c] = w["b2"][c] + sum(features[n, j] * w["w2"][j, c] for j in range(HIDDEN))
    return features, logits


def inputs(rows=50, seed=1):
    return np.random.default_rng(seed).normal(size=(rows, INPUT)).astype(np.float32)
