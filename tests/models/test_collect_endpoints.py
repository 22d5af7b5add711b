"""The same signals from a server of the Open Inference Protocol as from the file it serves."""

from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demur.adapters.models.collect import collect, oip_message
from demur.adapters.models.collect.calls import Patience, Stopped
from demur.adapters.models.collect.model import Access, Transient
from demur.monitor.errors import ConfigurationError, DemurError
from demur.monitor.fit.table import load_table
from demur.proto.oip.inference_pb2 import ModelInferRequest, ModelInferResponse
from tests.models import small
from tests.models.oip_server import Served, Serving

ACCESS = Access("digits", timeout_seconds=10)
QUICK = Patience(retries=3, first_seconds=0.01)
DATASET = {"image": small.inputs(), "label": np.arange(50) % small.CLASSES}
TRANSPORTS = ["grpc", "http"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model.onnx").write_bytes(small.graph())
    return tmp_path


def url(serving, transport):
    return getattr(serving, transport)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("answers_raw", [True, False])
def test_a_server_gives_what_its_file_gives(here, transport, raw, answers_raw):
    collect("model.onnx", DATASET, "file.npz")
    served = Served(small.graph(), raw=raw, answers_raw=answers_raw)
    with Serving(served) as serving:
        collect(url(serving, transport), DATASET, "server.npz", access=ACCESS)
    file, server = load_table("file.npz"), load_table("server.npz")
    for name in ("features", "logits"):
        np.testing.assert_allclose(server.signals[name], file.signals[name], rtol=1e-5, atol=1e-5)
    assert server.digest() == file.digest()  # the same runtime, so to the bit
    assert set(served.asked) == {("features", "logits")}  # not pooled, not answer
    assert served.batches == [32, 18]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_server_of_fixed_batches_gets_full_ones(here, transport):
    served = Served(small.graph(batch=8))
    with Serving(served) as serving:
        collect(url(serving, transport), DATASET, "server.npz", access=ACCESS)
    assert set(served.batches) == {8}
    np.testing.assert_allclose(
        load_table("server.npz").signals["logits"], small.expected(DATASET["image"])[1], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_server_that_does_not_describe_its_model(here, transport):
    with Serving(Served(small.graph(), described=False)) as serving:
        where = url(serving, transport)
        mapped = {"signals": {"logits": "logits"}}
        with pytest.raises(ConfigurationError, match="--input NAME=COLUMN"):
            collect(where, DATASET, "server.npz", access=ACCESS, map=mapped)
        with pytest.raises(ConfigurationError, match="no output is named like a signal"):
            collect(where, DATASET, "server.npz", access=ACCESS, inputs={"image": "image"})
        collect(where, DATASET, "server.npz", access=ACCESS, map=mapped, inputs={"image": "image"})
    assert load_table("server.npz").widths == {"logits": small.CLASSES}


FAULTS = {
    "grpc": [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.ABORTED],
    "http": [503, 429, 504],
}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_calls_that_failed_for_a_passing_reason_are_made_again(here, transport):
    served = Served(small.graph())
    served.faults = list(FAULTS[transport])
    with Serving(served) as serving:
        collect(url(serving, transport), DATASET, "server.npz", access=ACCESS, patience=QUICK)
    assert len(load_table("server.npz")) == 50
    assert served.faults == []


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_server_that_stays_away_stops_the_run_which_can_go_on(here, transport):
    collect("model.onnx", DATASET, "file.npz", batch=10)
    served = Served(small.graph())
    with Serving(served) as serving:
        where = url(serving, transport)

        def break_down(_stage, done, _total):
            if done == 20:
                served.faults = FAULTS[transport][:1] * 99

        run = lambda **more: collect(where, DATASET, "server.npz", batch=10, access=ACCESS, patience=QUICK, **more)  # noqa: E731
        with pytest.raises(Stopped, match=r"stopped at input 20 of 50 after 4 tries.*as ordered") as stopped:
            run(tick=break_down)
        assert "20 inputs are kept in .server.npz.collect; give the same command again" in str(stopped.value)
        assert len(served.faults) == 95
        served.faults, served.batches = [], []
        assert run().resumed == 20
        assert served.batches == [10, 10, 10]
    assert Path("server.npz").read_bytes() == Path("file.npz").read_bytes()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_error_that_will_not_pass_is_not_tried_again(here, transport):
    served = Served(small.graph())
    served.faults = {"grpc": [grpc.StatusCode.PERMISSION_DENIED] * 9, "http": [403] * 9}[transport]
    with Serving(served) as serving:
        with pytest.raises(DemurError, match="as ordered"):
            collect(url(serving, transport), DATASET, "server.npz", access=ACCESS, patience=QUICK)
    assert len(served.faults) in (7, 8)  # http asks once more, in JSON
    assert list(here.iterdir()) == [here / "model.onnx"]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_unknown_models_and_absent_servers(here, transport):
    with Serving(Served(small.graph())) as serving:
        where = url(serving, transport)
        with pytest.raises(ConfigurationError, match="unknown model"):
            collect(where, DATASET, "t.npz", access=Access("digit"))
        with pytest.raises(ConfigurationError, match="--model NAME"):
            collect(where, DATASET, "t.npz")
        with pytest.raises(ConfigurationError, match="expected an output scores"):
            collect(where, DATASET, "t.npz", access=ACCESS, map={"signals": {"logits": "scores"}})
    with pytest.raises(Transient):
        collect(where, DATASET, "t.npz", access=Access("digits", timeout_seconds=1))


def test_other_addresses_are_refused(here):
    for where, words in (
        ("ftp://x:1", "expected grpc://"),
        ("grpc://x", "host:port"),
        ("grpc://x:y", "host:port"),
        ("none.onnx", "cannot be read"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            collect(where, DATASET, "t.npz", access=ACCESS)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_headers_go_with_every_call_and_are_kept_nowhere(here, transport):
    served = Served(small.graph())

    def looked(_stage, done, _total):
        if done == 32:
            assert "s3cret" not in (here / ".t.npz.collect" / "manifest.json").read_text()

    with Serving(served) as serving:
        access = Access("digits", headers={"Authorization": "Bearer s3cret"})
        collect(url(serving, transport), DATASET, "t.npz", access=access, tick=looked)
    assert {h["authorization"] for h in served.headers} == {"Bearer s3cret"}


def answer(*outputs, raw=()):
    message = ModelInferResponse(raw_output_contents=raw)
    for name, kind, shape in outputs:
        message.outputs.add(name=name, datatype=kind, shape=shape)
    return message


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (answer(), "has outputs none, not y"),
        (answer(("y", "FP32", [2, 2]), raw=[b"1234"]), "expected 16 bytes"),
        (answer(("y", "FP32", [1 << 40, 1 << 40]), raw=[b""]), "too large"),
        (answer(("y", "FP32", [-1]), raw=[b""]), "not usable"),
        (answer(("y", "BYTES", [1]), raw=[b"1234"]), "expected numbers"),
        (answer(("x", "FP32", [1]), ("y", "FP32", [1]), raw=[b"1234"]), "1 raw entries for 2 outputs"),
        (answer(("y", "FP32", [2])), "got 0 elements"),
    ],
)
def test_answers_that_contradict_themselves(message, words):
    with pytest.raises(DemurError, match=words):
        oip_message.arrays(message, ["y"])


def test_bf16_is_widened():
    values = np.array([1.5, -2.0, 0.0, np.inf], np.float32)
    halves = (values.view(np.uint32) >> 16).astype("<u2")
    found = oip_message.arrays(answer(("y", "BF16", [4]), raw=[halves.tobytes()]), ["y"])["y"]
    np.testing.assert_array_equal(found, values)
    assert found.dtype == np.float32


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["FP64", "FP32", "FP16", "INT8", "INT64", "UINT16", "UINT64", "BOOL"]),
    st.lists(st.integers(0, 3), min_size=1, max_size=4),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_tensors_go_there_and_back(kind, shape, typed, seed):
    dtype = oip_message.DTYPES[kind]
    array = np.random.default_rng(seed).integers(0, 2, shape).astype(dtype)
    if typed and kind == "FP16":
        return
    sent = ModelInferRequest.FromString(
        oip_message.request("m", "1", {"x": array}, ["y"], typed=typed).SerializeToString()
    )
    tensor = sent.inputs[0]
    back = ModelInferResponse(raw_output_contents=sent.raw_input_contents)
    back.outputs.add(name="y", datatype=tensor.datatype, shape=tensor.shape).contents.ParseFromString(
        tensor.contents.SerializeToString()
    )
    found = oip_message.arrays(back, ["y"])["y"]
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, array)
