"""What an upstream says of a model, over gRPC and HTTP, and what it contradicts; whatever it answers, nothing but our own errors."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import pytest

from demur.adapters.models.collect.oip_message import metadata_messages
from demur.adapters.servers.oip import described
from demur.adapters.servers.oip.described import UndescribedError
from demur.adapters.servers.oip.mapping import proxied
from demur.monitor.config.proxied import ProxiedModelConfig
from demur.monitor.config.server import LimitsConfig
from demur.monitor.engine import Engine
from demur.monitor.errors import ConfigurationError
from demur.monitor.loaded import Loaded
from tests.service.bundles import row_bundle

OUTPUTS = {"label": "INT64", "scores": "FP32", "name": "BYTES"}


def message(outputs):
    _, answer = metadata_messages()
    said = answer(name="digits")
    for name, datatype in outputs.items():
        said.outputs.add(name=name, datatype=datatype, shape=[-1])
    return said.SerializeToString()


@pytest.fixture
def http():
    """A server that answers every GET with `status` and `body`; `paths` it was asked for."""

    class Handler(BaseHTTPRequestHandler):
        status, body, paths = 200, b"{}", []

        def do_GET(self):
            self.paths.append(self.path)
            self.send_response(self.status)
            self.send_header("Content-Length", str(len(self.body)))
            self.end_headers()
            self.wfile.write(self.body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    Handler.url = f"http://127.0.0.1:{server.server_port}"
    yield Handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_outputs_and_datatypes_are_read_over_grpc(stage):
    stage.upstream.says(message(OUTPUTS))
    assert described.over_grpc(stage.target, None, "digits", "2") == OUTPUTS
    method, raw, _, _ = stage.upstream.seen[0]
    asked = metadata_messages()[0].FromString(raw)
    assert (method, asked.name, asked.version) == (described.METHOD, "digits", "2")


def test_outputs_and_datatypes_are_read_over_http(http):
    http.body = json.dumps(
        {"outputs": [{"name": n, "datatype": d, "shape": [-1]} for n, d in OUTPUTS.items()]}
    ).encode()
    assert described.over_http(http.url + "/", None, "a/b", "2") == OUTPUTS
    assert http.paths == ["/v2/models/a%2Fb/versions/2"]


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAUTHENTICATED]
)
def test_an_absent_model_is_told_from_a_silent_server_over_grpc(stage, code):
    stage.upstream.script = lambda _m, _r, context: context.abort(code, "no digits here")
    expected = ConfigurationError if code is grpc.StatusCode.NOT_FOUND else UndescribedError
    with pytest.raises(expected, match="no digits here"):
        described.over_grpc(stage.target, None, "digits")


@pytest.mark.parametrize("status", [404, 405, 401, 503])
def test_an_absent_model_is_told_from_a_silent_server_over_http(http, status):
    http.status = status
    with pytest.raises(ConfigurationError if status == 404 else UndescribedError, match=str(status)):
        described.over_http(http.url, None, "digits")


@pytest.mark.parametrize("content", [b"\xff\xff\xff", b"", message({})])
def test_a_description_that_is_none_is_said_over_grpc(stage, content):
    stage.upstream.says(content)
    with pytest.raises(UndescribedError, match=r"cannot be read|names no outputs"):
        described.over_grpc(stage.target, None, "digits")


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"[" * 100_000, b'{"outputs": 3}', b'{"outputs": [3]}', b'{"outputs": []}', b"\xff", b" " * (5 << 20)],
)  # fmt: skip
def test_a_description_that_is_none_is_said_over_http(http, content):
    http.body = content
    with pytest.raises(UndescribedError, match=r"description|names no outputs"):
        described.over_http(http.url, None, "digits")


def test_a_server_that_is_away_is_silent():
    with pytest.raises(UndescribedError):
        described.over_grpc("127.0.0.1:1", None, "digits")
    with pytest.raises(UndescribedError):
        described.over_http("http://127.0.0.1:1", None, "digits")


def model(**keys):
    engine = Engine(Loaded.open(row_bundle()))
    config = ProxiedModelConfig.model_validate({"monitor": "toy", "signals": {"logits": "scores"}, **keys})
    return proxied({"digits": config}, {"toy": engine}, LimitsConfig())["digits"]


REPLACE = {"on_abstain": "replace"}
CASES = [
    ({}, []),
    ({"signals": {"logits": "pooled"}}, ["the monitor needs the output pooled, upstream has label, scores, name"]),
    ({**REPLACE, "replace": {"label": -1, "scores": 0.5, "name": "unknown"}}, []),
    ({**REPLACE, "replace": {"lable": -1}}, ["`replace` names the output lable, upstream has label, scores, name"]),
    ({**REPLACE, "replace": {"label": "x"}}, ["`replace`: output label: 'x' is no int64"]),
    ({**REPLACE, "replace": {"label": 0.5, "scores": "x"}}, ["label: 0.5 is no int64", "scores: 'x' is no float32"]),
]


@pytest.mark.parametrize(("keys", "says"), CASES)
def test_what_upstream_cannot_give_is_named(keys, says):
    found = list(described.contradictions(model(**keys), OUTPUTS))
    assert len(found) == len(says)
    assert all(expected in got for expected, got in zip(says, found, strict=True))
