"""The same signals from a server of the Open Inference Protocol as from the file it serves."""

from __future__ import annotations

import gzip
import json
import socket
import struct
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demur.adapters.models.collect import collect, http_endpoint, oip_message
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
    served = Served(small.graph())
    with Serving(served) as serving:
        where = url(serving, transport)
        collect(where, DATASET, "whole.npz", batch=10, access=ACCESS, patience=QUICK)

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
    assert Path("server.npz").read_bytes() == Path("whole.npz").read_bytes()


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


def test_a_password_in_an_address_is_refused_and_not_repeated(here):
    for scheme in TRANSPORTS:
        with pytest.raises(ConfigurationError, match="no user in the address") as refused:
            collect(f"{scheme}://me:s3cret@127.0.0.1:1", DATASET, "t.npz", access=ACCESS)
        assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    "headers", [{"Authorization: Basic s3cret": "="}, {"Authorization": "s3cret\n"}, {"a": "s3crét"}]
)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_headers_that_cannot_be_sent_are_not_repeated(here, transport, headers):
    with pytest.raises(ConfigurationError, match="header cannot be sent") as refused:
        collect(f"{transport}://127.0.0.1:1", DATASET, "t.npz", access=Access("digits", headers=headers))
    assert "s3cr" not in str(refused.value)


DESCRIBED = b'{"inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 12]}], "outputs": [{"name": "logits"}]}'


@contextmanager
def hostile(described=DESCRIBED, answered=b"", headers=(), pause=0.0, before=lambda _: False):
    """A server that answers with these bytes, one at a time when there is a pause between them."""
    paths = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            self.send(described)

        def do_POST(self):
            self.close_connection = False
            if not before(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send(answered, headers)

        def send(self, body, more=()):
            paths.append(self.path)
            self.send_response(200)
            for name, value in (*more, ("Content-Length", str(len(body)))):
                self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):  # the other side may have enough of it
                for part in [body[i : i + 1] for i in range(len(body))] if pause else [body]:
                    self.wfile.write(part)
                    time.sleep(pause)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", paths
    finally:
        server.shutdown()
        server.server_close()


def asked_of(where, access=ACCESS, **more):
    given = {"access": access, "map": {"signals": {"logits": "logits"}}, "patience": Patience(0), **more}
    return collect(where, DATASET, "t.npz", **given)


def test_a_server_that_hangs_up_on_binary_is_asked_in_json(here):
    """Some answer an error before they have read a binary body, and close: the answer is then lost on the way."""
    rows = json.dumps(
        {"outputs": [{"name": "logits", "datatype": "FP32", "shape": [25, 3], "data": [0.5] * 75}]}
    ).encode()
    kinds = []

    def hang_up(handler):
        kinds.append(handler.headers["Content-Type"])
        if kinds[-1] == "application/octet-stream":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()  # a reset
            handler.close_connection = True
        return handler.close_connection

    with hostile(answered=rows, before=hang_up) as (where, _):
        asked_of(where, batch=25)
    assert kinds == ["application/octet-stream", "application/json", "application/json"]


def test_answers_are_bounded_also_when_they_unfold(here, monkeypatch):
    monkeypatch.setattr(http_endpoint, "MESSAGE_BYTES", 1 << 20)
    for body, headers in (
        (b" " * (2 << 20), ()),
        (gzip.compress(b" " * (200 << 20), 1), [("Content-Encoding", "gzip")]),
    ):
        with (
            hostile(answered=body, headers=headers) as (where, _),
            pytest.raises(DemurError, match="at most 1,048,576"),
        ):
            asked_of(where)


def test_an_answer_that_drips_is_not_waited_for(here):
    began = time.monotonic()
    with (
        hostile(DESCRIBED * 9, pause=0.02) as (where, _),
        pytest.raises(Transient, match="no whole answer within"),
    ):
        asked_of(where, Access("digits", timeout_seconds=0.5))
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"outputs": 3}',
        b'{"outputs": [{"name": "logits", "datatype": "FP32", "shape": null, "data": []}]}',
        b'{"outputs": [{"name": "logits", "datatype": "FP32", "shape": [32, 3], "data": [["a"]]}]}',
        b'{"outputs": [{"name": "logits", "datatype": "INT64", "shape": [1], "data": [%d]}]}' % 2**80,
        b'{"outputs": [{"name": "logits", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": -4}}]}',
    ],
)
def test_answers_that_cannot_be_read(here, body):
    with hostile(answered=body) as (where, _), pytest.raises(DemurError):
        asked_of(where)
    with hostile(described=body) as (where, _), pytest.raises(DemurError):
        asked_of(where)


def test_a_description_may_leave_shapes_out_and_names_are_quoted(here):
    values = small.expected(DATASET["image"])[1].astype(np.float32)
    body = json.dumps({"outputs": [{"name": "logits", "datatype": "FP32", "shape": [50, 3], "data": values.tolist()}]})
    told = b'{"inputs": [{"name": "image", "datatype": "FP32", "shape": null}]}'
    with hostile(told, body.encode()) as (where, paths):
        collect(where, DATASET, "t.npz", access=Access("a/b?c", "1/2"), batch=50, map={"signals": {"logits": "logits"}})
    np.testing.assert_array_equal(load_table("t.npz").signals["logits"], values)
    assert set(paths) == {"/v2/models/a%2Fb%3Fc/versions/1%2F2", "/v2/models/a%2Fb%3Fc/versions/1%2F2/infer"}


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
