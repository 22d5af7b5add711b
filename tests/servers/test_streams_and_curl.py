"""A stream through MLServer's own stubs, and `curl` for whatever it can ask: the same bytes with and without demur."""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pytest

from tests.servers.processes import both

pytestmark = pytest.mark.servers


@pytest.mark.parametrize("way", ["named", "all"])
def test_a_stream_carries_the_same_answers_and_each_is_judged(pair, digits, way):
    direct, demur = pair("mlserver")
    before = sum(demur.judged().values())
    said, through = both("mlserver_stream", (direct.grpc, demur.place.grpc), "digits", str(digits.images), way)
    assert through == said
    assert len(said.splitlines()) == 3
    assert sum(demur.judged().values()) - before == 9


def curl(address: str, path: str, *arguments: str, body: bytes | None = None) -> str:
    """Status, headers and body, as curl prints them; without the address, the time, and what is one connection's business."""
    assert shutil.which("curl"), "curl is not installed"
    sent = () if body is None else ("--data-binary", "@-", "-H", "Content-Type: application/json")
    done = subprocess.run(
        ["curl", "-sS", "-i", "--max-time", "20", *sent, *arguments, f"http://{address}{path}"],
        input=body,
        capture_output=True,
        check=True,
    )
    text = done.stdout.decode().replace(address, "SERVER")
    apart = ("date:", "transfer-encoding:", "connection:")
    return "\n".join(line for line in text.splitlines() if not line.lower().startswith(apart))


def without_coding(said: str) -> str:
    """Without what tells whether the body was packed: MLServer packs answers of 500 bytes and more, and so those with outputs
    that are taken out again.
    """
    coded = ("content-length:", "content-encoding:", "vary:")
    return "\n".join(line for line in said.splitlines() if not line.lower().startswith(coded))


PATHS = [
    "/v2/health/live",
    "/v2/health/ready",
    "/v2",
    "/v2/models/digits",
    "/v2/models/digits/ready",
    "/v2/models/digits/versions/v1/ready",
    "/v2/models/absent",
    "/nowhere?a=%20b",
]


@pytest.mark.parametrize("server", ["mlserver", "kserve"])
def test_curl_sees_the_same_server(pair, server):
    direct, demur = pair(server)
    for path in PATHS:
        said = curl(direct.rest, path)
        assert curl(demur.place.rest, path) == said
        assert said.startswith("HTTP/1.1 ")
    assert curl(demur.place.rest, "/v2/models", "-X", "DELETE") == curl(direct.rest, "/v2/models", "-X", "DELETE")


def test_curl_sees_the_repository(pair):
    direct, demur = pair("mlserver")
    said = curl(direct.rest, "/v2/repository/index", body=b"{}")
    assert '"digits"' in said
    assert curl(demur.place.rest, "/v2/repository/index", body=b"{}") == said


@pytest.mark.parametrize("server", ["mlserver", "kserve"])
@pytest.mark.parametrize(
    "arguments", [(), ("--compressed",), ("-H", "Transfer-Encoding: chunked"), ("-H", "Expect: 100-continue")]
)
def test_curl_infers_the_same(pair, digits, server, arguments):
    direct, demur = pair(server)
    images = np.load(digits.images).astype(float)
    tensor = {"name": "image", "shape": list(images.shape), "datatype": "FP32", "data": images.ravel().tolist()}
    body = json.dumps({"id": "c", "inputs": [tensor], "outputs": [{"name": "predict"}]}).encode()
    before = sum(demur.judged().values())
    said = without_coding(curl(direct.rest, "/v2/models/digits/infer", *arguments, body=body))
    assert without_coding(curl(demur.place.rest, "/v2/models/digits/infer", *arguments, body=body)) == said
    assert "predict" in said
    assert "logits" not in said
    assert sum(demur.judged().values()) - before == 9


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"inputs":[]}', b'{"inputs":[{"name":"image","shape":[1,64],"datatype":"FP32","data":[1]}]}'],
)
@pytest.mark.parametrize("server", ["mlserver", "kserve"])
def test_curl_gets_the_servers_own_word_on_nonsense(pair, server, body):
    direct, demur = pair(server)
    said = curl(direct.rest, "/v2/models/digits/infer", body=body)
    assert curl(demur.place.rest, "/v2/models/digits/infer", body=body).splitlines()[0] == said.splitlines()[0]
    assert not said.startswith("HTTP/1.1 200")


def test_curl_sees_a_stream_of_events(pair, digits):
    direct, demur = pair("mlserver")
    images = np.load(digits.images)[:2].astype(float)
    tensor = {"name": "image", "shape": [2, 64], "datatype": "FP32", "data": images.ravel().tolist()}
    body = json.dumps({"id": "c", "inputs": [tensor]}).encode()
    for model in ("plain", "digits"):
        said = curl(direct.rest, f"/v2/models/{model}/infer_stream", "-N", body=body)
        assert "text/event-stream" in said
        assert curl(demur.place.rest, f"/v2/models/{model}/infer_stream", "-N", body=body) == said
