"""The graph that an accelerator gets is the same function, of rows shifted by their largest value."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from demur.detectors.compile import serialize
from demur.detectors.shifted_softmax import shifted_softmax
from demur.monitor.errors import ConfigurationError
from demur.monitor.session import Session
from tests.contract.checks import hostile
from tests.contract.entries import entries, near

SOFT = [n for n, e in entries().items() if "LogSoftmax" in {node.op_type for node in e.model.graph.node}]


@pytest.mark.parametrize("name", SOFT)
def test_same_scores_and_the_same_rows_not_finite(name):
    entry = entries()[name]
    raw = serialize(entry.model)
    shifted = shifted_softmax(raw)
    assert shifted != raw
    for rows, tolerance in ((near(40), 1e-5), (hostile(), 1e-3)):
        want, got = (Session(m).run(entry.feed(rows))["scores"] for m in (raw, shifted))
        np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
        kept = np.isfinite(want)
        np.testing.assert_allclose(got[kept], want[kept], rtol=tolerance, atol=tolerance / 10)


def test_every_softmax_reads_small_numbers():
    graph = onnx.load_model_from_string(shifted_softmax(serialize(entries()["msp"].model))).graph
    made = {output: node.op_type for node in graph.node for output in node.output}
    assert [made[n.input[0]] for n in graph.node if n.op_type == "LogSoftmax"] == ["Sub"]


def network(opset: int, axis: int) -> bytes:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 4, 3]) for n in "xy")
    nodes = [helper.make_node("Softmax", ["x"], ["y"], axis=axis)]
    graph = helper.make_graph(nodes, "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8).SerializeToString()


def test_what_it_does_not_understand_comes_back_as_it_is():
    """Another axis, an older opset, a graph without softmax."""
    for raw in (network(18, 1), network(13, -1), serialize(entries()["max_logit"].model)):
        assert shifted_softmax(raw) == raw


def test_a_provider_that_is_not_to_be_had_is_refused_by_name():
    raw = serialize(entries()["energy"].model)
    with pytest.raises(ConfigurationError, match="NoSuchProvider is not in this ONNX Runtime, which has"):
        Session(raw, providers=["NoSuchProvider"])


def test_a_graph_is_shifted_once():
    once = shifted_softmax(serialize(entries()["msp"].model))
    assert shifted_softmax(once) == once
