"""Other people's models as scores: converted, inlined under their score's name, or refused with the reason."""

from __future__ import annotations

import inspect

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from demur.detectors import evaluate as evaluating
from demur.detectors import transforms
from demur.detectors.evaluate import evaluate
from demur.detectors.numpy_ops import NumpyOps
from demur.detectors.scores import SCORES, stream
from demur.detectors.scores.onnx_score import OnnxScore
from demur.detectors.storage import attachments
from tests.contract.entries import D, entries, near, reference, small_network

AXES = {"axes": np.array([1], np.int64)}
SUM = helper.make_node("ReduceSum", ["features", "axes"], ["risk"], keepdims=0)


def network(nodes, weights=AXES, *, inputs=("features",), outputs=("risk",), shape=("batch",), domain=""):
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", D]) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in outputs],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    opsets = [helper.make_opsetid("", 18)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_model_of_another_opset_is_converted(opset):
    score = OnnxScore.of(small_network(opset), reference())
    expected = evaluate({"s": entries()["onnx_score"].score}, near(9))["s"]
    np.testing.assert_allclose(evaluate({"s": score}, near(9))["s"], expected, rtol=1e-6)


def test_flat_output_is_accepted_and_the_bytes_are_kept():
    score = OnnxScore.of(network([SUM]).SerializeToString(), reference())
    np.testing.assert_allclose(evaluate({"s": score}, near(5))["s"], near(5)["features"].sum(axis=1), rtol=1e-5)
    assert list(attachments(score)) == ["model"]


def refused():
    node = helper.make_node
    branch = helper.make_graph(
        [node("Identity", ["features"], ["o"])], "b", [], [helper.make_empty_tensor_value_info("o")]
    )
    choose = node("If", ["c"], ["risk"], then_branch=branch, else_branch=branch)
    outside = network([SUM])
    outside.graph.initializer[0].data_location = TensorProto.EXTERNAL
    gelu = node("Gelu", ["features"], ["risk"], domain="com.microsoft")
    mixed = [
        node("ReduceMax", ["features"], ["m"], keepdims=1),
        node("Sub", ["features", "m"], ["d"]),
        node("ReduceSum", ["d", "axes"], ["risk"], keepdims=0),
    ]
    noise = [node("RandomNormalLike", ["features"], ["n"]), node("ReduceSum", ["n", "axes"], ["risk"], keepdims=0)]
    yield "domain", network([gelu], domain="com.microsoft"), "default ONNX domain"
    yield "control flow", network([choose], {"c": np.array(True)}), r"\['If'\] cannot be part"
    yield "randomness", network(noise), "RandomNormalLike"
    yield "external data", outside, "in another file"
    yield "two outputs", network([SUM, node("Neg", ["risk"], ["b"])], outputs=("risk", "b")), "expected one output"
    yield "no such signal", network([SUM], inputs=("features", "pixels")), r"expected signals \['features', 'pixels'\]"
    yield "matrix", network([node("Identity", ["features"], ["risk"])], {}, shape=("batch", D)), r"float32 \(4,\)"
    yield "invalid", network([SUM], shape=("batch", 5, 1)), "not a valid ONNX model"
    yield "rows depend", network(mixed), "depends on the other rows"


CASES = list(refused())


@pytest.mark.parametrize(("model", "message"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_model_that_cannot_be_inlined_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        OnnxScore.of(model.SerializeToString(), reference())


def test_noise_is_no_model():
    with pytest.raises(ValueError, match="not an ONNX model"):
        OnnxScore.of(b"\xff\x00 not a model", reference())


def test_weights_are_named_after_the_score():
    names = {i.name for i in entries()["onnx_score"].model.graph.initializer}
    assert {"onnx_score.fc1", "onnx_score.fc2", "onnx_score.bias2"} <= names
    onnx.checker.check_model(entries()["onnx_score"].model, full_check=True)


def test_every_operation_of_the_vocabulary_is_used():
    """An operation that no score, transform or guard uses is a lowering that nobody tests."""
    modules = {inspect.getmodule(kind) for kind in (*SCORES.values(), *transforms.TRANSFORMS.values())}
    text = "".join(inspect.getsource(m) for m in [*modules, evaluating, stream])
    public = [n for n, _ in inspect.getmembers(NumpyOps, inspect.isfunction) if not n.startswith("_")]
    assert [n for n in public if f"xp.{n}(" not in text] == []
