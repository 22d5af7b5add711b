"""The graph that an accelerator gets is the same function, of other nodes."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from demur.detectors.accelerator import for_accelerator
from demur.detectors.compile import FLOAT, INT64, model_of, serialize, symbols
from demur.detectors.onnx_ops import WIDE, OnnxOps
from demur.monitor.errors import ConfigurationError
from demur.monitor.session import Session
from tests.contract.checks import hostile
from tests.contract.entries import entries, near

SOFT = [n for n, e in entries().items() if "LogSoftmax" in {node.op_type for node in e.model.graph.node}]


@pytest.mark.parametrize("name", SOFT)
def test_same_scores_and_the_same_rows_not_finite(name):
    entry = entries()[name]
    raw = serialize(entry.model)
    shifted = for_accelerator(raw)
    assert shifted != raw
    for rows, tolerance in ((near(40), 1e-5), (hostile(), 1e-3)):
        want, got = (Session(m).run(entry.feed(rows))["scores"] for m in (raw, shifted))
        np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
        kept = np.isfinite(want)
        np.testing.assert_allclose(got[kept], want[kept], rtol=tolerance, atol=tolerance / 10)


def test_every_softmax_reads_small_numbers():
    graph = onnx.load_model_from_string(for_accelerator(serialize(entries()["msp"].model))).graph
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
        assert for_accelerator(raw) == raw


def test_a_provider_that_is_not_to_be_had_is_refused_by_name():
    raw = serialize(entries()["energy"].model)
    with pytest.raises(ConfigurationError, match="NoSuchProvider is not in this ONNX Runtime, which has"):
        Session(raw, providers=["NoSuchProvider"])


def test_a_graph_is_changed_once():
    for once in (for_accelerator(serialize(entries()["msp"].model)), for_accelerator(places())):
        assert for_accelerator(once) == once


def places(width: int = WIDE) -> bytes:
    """Where a row's largest and its smallest value stand."""
    xp = OnnxOps()
    inputs = {"logits": ir.val("logits", FLOAT, ["N", width])}
    x = symbols(inputs, xp, {"logits": width})["logits"]
    found = {"largest": xp.argmax(x), "smallest": xp.argkth_smallest(x, 1)}
    return serialize(model_of(xp, inputs, found, {name: (INT64, ["N"]) for name in found}))


@pytest.mark.parametrize("width", [1, WIDE - 1, WIDE, 1000])
def test_a_place_is_that_of_numpy_and_the_first_of_equals(width):
    rows = np.random.default_rng(width).normal(size=(70, width)).astype(np.float32)
    rows[:30] = np.round(rows[:30])
    rows[0], rows[1], rows[2, ::2], rows[3, width // 2] = 0.0, -0.0, -np.inf, np.inf
    for model in (places(width), for_accelerator(places(width))):
        found = Session(model).run({"logits": rows})
        np.testing.assert_array_equal(found["largest"], rows.argmax(axis=1))
        np.testing.assert_array_equal(found["smallest"], rows.argmin(axis=1))


def test_a_place_of_wide_rows_is_found_without_sorting_them_on_an_accelerator():
    operators = [
        {n.op_type for n in onnx.load_model_from_string(m).graph.node} for m in (places(), for_accelerator(places()))
    ]
    assert operators == [{"TopK", "Squeeze"}, {"ArgMax", "ArgMin", "Squeeze"}]


def test_a_topk_that_a_nested_graph_may_read_and_one_whose_size_is_in_a_file_stay():
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 4]) for n in "xy")
    values = helper.make_tensor_value_info("read", TensorProto.FLOAT, None)
    nested = helper.make_graph([helper.make_node("Identity", ["values"], ["read"])], "nested", [], [values])
    for k, more in (
        (inside, [helper.make_node("If", ["yes"], ["y"], then_branch=nested, else_branch=nested)]),
        (outside, []),
    ):
        nodes = [helper.make_node("TopK", ["x", "k"], ["values", "places"]), *more]
        nodes += [] if more else [helper.make_node("Cast", ["places"], ["y"], to=TensorProto.FLOAT)]
        yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
        graph = helper.make_graph(nodes, "g", [x], [y], [k(), yes])
        raw = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()
        assert for_accelerator(raw) == raw


def inside() -> onnx.TensorProto:
    return helper.make_tensor("k", TensorProto.INT64, [1], [1])


def outside() -> onnx.TensorProto:
    held = onnx.TensorProto(name="k", data_type=TensorProto.INT64, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    held.external_data.add(key="location", value="weights.bin")
    return held


def test_a_topk_whose_values_are_read_stays():
    """Or one of several places, or over another axis."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 4]) for n in "xy")
    for k, axis, read in ((1, -1, "values"), (2, -1, "places"), (1, 0, "places")):
        nodes = [helper.make_node("TopK", ["x", "k"], ["values", "places"], axis=axis)]
        nodes.append(helper.make_node("Cast", [read], ["y"], to=TensorProto.FLOAT))
        graph = helper.make_graph(nodes, "g", [x], [y], [helper.make_tensor("k", TensorProto.INT64, [1], [k])])
        raw = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()
        assert for_accelerator(raw) == raw
