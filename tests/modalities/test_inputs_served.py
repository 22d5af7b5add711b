"""A table behind the proxy: its rows are the model's inputs, missing cells included."""

from __future__ import annotations

import numpy as np
import pytest

import demur
from demur.adapters.models.view_gather import gather_of
from demur.monitor.config.document import parse
from demur.monitor.config.signal_map import SignalMapConfig
from demur.monitor.errors import ConfigurationError, InvalidObservation
from demur.proto.oip.inference_pb2 import ModelInferRequest, ModelInferResponse
from tests.adapters.conftest import MODEL, Stage, stage  # noqa: F401 - a fixture
from tests.modalities.test_missing_cells import policy, table
from tests.modalities.test_views import Exchange


@pytest.fixture(scope="module")
def bundle() -> demur.Bundle:
    config = policy()
    config["monitor"] = "toy"
    return demur.fit(config, reference={"table": table(400, 0)}, calibration={"table": table(500, 1)})


def asked(rows: np.ndarray) -> bytes:
    """Four columns in one tensor, the fifth, whole numbers, in another."""
    message = ModelInferRequest(model_name=MODEL, id="r-1")
    message.inputs.add(name="numbers", datatype="FP64", shape=[len(rows), 4])
    message.inputs.add(name="count", datatype="INT32", shape=[len(rows)])
    message.raw_input_contents.extend([rows[:, :4].astype("<f8").tobytes(), rows[:, 4].astype("<i4").tobytes()])
    return message.SerializeToString()


def test_rows_of_a_request_are_judged_as_in_process(stage: Stage, bundle: demur.Bundle):  # noqa: F811
    rows = table(5, 2)
    rows[:, 4] = [3, 4, 2, 3, 90]
    rows[3, 1] = np.inf
    answer = ModelInferResponse(model_name=MODEL, id="r-1")
    answer.outputs.add(name="label", datatype="INT64", shape=[5])
    answer.raw_output_contents.append(np.zeros(5, np.int64).tobytes())
    said = stage.upstream.says(answer)
    proxy = stage.proxy(bundle=bundle, model={"signals": {}, "map": {"inputs": {"table": ["numbers", "count"]}}})
    assert stage.infer(proxy, asked(rows)) == said
    want = demur.Monitor.of(bundle).assess(table=rows)
    np.testing.assert_array_equal(stage.verdicts.scores, want.scores)
    np.testing.assert_array_equal(stage.verdicts.reason_bits, want.reason_bits)
    assert np.isnan(rows[:, :4]).any()
    assert len(stage.upstream.seen) == 1


def gathered(config: dict[str, object], **inputs: np.ndarray) -> np.ndarray:
    gather = gather_of(parse(SignalMapConfig, {"inputs": config}, "map"), 1 << 16)
    assert not gather.calls
    assert gather.outputs == ()
    return gather(Exchange(**inputs), Exchange(), None, None)[gather.signals[0]]


def test_inputs_side_by_side():
    found = gathered(
        {"table": ["a", "b", "c"]},
        a=np.array([1, 2], np.uint8),
        b=np.array([[0.5, np.nan], [1e300, 3]]),
        c=np.array([[[True]], [[False]]]),
    )
    np.testing.assert_array_equal(found, np.float32([[1, 0.5, np.nan, 1], [2, np.inf, 3, 0]]))
    assert gathered({"table": "a"}, a=np.zeros((3, 2, 2), np.float16)).shape == (3, 4)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"a": np.zeros(2)}, "the request has no input b; correct `inputs` of the map"),
        ({"a": np.zeros(2), "b": np.zeros(3)}, r"inputs of equal length, got a \(2, 1\), b \(3, 1\)"),
        ({"a": np.zeros(2), "b": np.array([b"x", b"y"], object)}, "input b: expected rows of numbers"),
        ({"a": np.zeros(2), "b": np.zeros(())}, "input b: expected rows of numbers"),
        ({"a": np.zeros((0, 2)), "b": np.zeros((0, 2))}, "input a: expected rows of numbers"),
    ],
)
def test_inputs_that_are_no_rows(inputs, words):
    with pytest.raises(InvalidObservation, match=words):
        gathered({"table": ["a", "b"]}, **inputs)


def test_a_signal_comes_from_one_place():
    document = {"signals": {"table": "out"}, "inputs": {"table": "in"}}
    with pytest.raises(ConfigurationError, match="table comes from two places"):
        gather_of(parse(SignalMapConfig, document, "map"), 1)
