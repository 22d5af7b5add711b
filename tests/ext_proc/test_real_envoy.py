"""A real Envoy, `demur serve` beside it, an HTTP server behind it, curl in front of it."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from demur.monitor.audit.export import read_log
from demur.monitor.audit.record import Record
from demur.monitor.audit.verify import verify_log
from tests.ext_proc.conftest import BAD, CHAT, GOOD, PATH, ROWS, TOKENS, ask, infer, scores
from tests.ext_proc.mesh import TYPE, RealEnvoy, filter_for_istio, filter_of_the_page
from tests.ext_proc.upstream import Upstream, binary_request

pytestmark = pytest.mark.servers
BUFFERED = {"request_body_mode": "BUFFERED", "response_body_mode": "BUFFERED", "response_header_mode": "SEND"}
NOTHING = {"request_header_mode": "SEND", "response_header_mode": "SKIP"}


def filter_of(**config: Any) -> dict[str, Any]:
    return {
        "name": "envoy.filters.http.ext_proc",
        "typed_config": {
            "@type": f"{TYPE}extensions.filters.http.ext_proc.v3.ExternalProcessor",
            "grpc_service": {"envoy_grpc": {"cluster_name": "demur"}},
            "message_timeout": "2s",
            **config,
        },
    }


FILTERS = {
    "page": filter_of_the_page(),
    "istio": filter_for_istio(),
    "buffered": filter_of(processing_mode=BUFFERED),
    "partial": filter_of(
        processing_mode=BUFFERED | {"request_body_mode": "BUFFERED_PARTIAL", "response_body_mode": "BUFFERED_PARTIAL"}
    ),
    "hurried": filter_of(processing_mode=BUFFERED, message_timeout="0.001s"),
    "trailers": filter_of(processing_mode=BUFFERED | {"request_trailer_mode": "SEND", "response_trailer_mode": "SEND"}),
    "allowing": filter_of(processing_mode=BUFFERED, failure_mode_allow=True),
    "override": filter_of(processing_mode=NOTHING, allow_mode_override=True),
    "nothing": filter_of(processing_mode=NOTHING | {"response_header_mode": "SEND"}),
    "watching": filter_of(
        processing_mode={"request_body_mode": "STREAMED", "response_body_mode": "STREAMED"}, observability_mode=True
    ),
    "streamed": filter_of(processing_mode={"request_body_mode": "BUFFERED", "response_body_mode": "STREAMED"}),
    "duplex": filter_of(
        processing_mode={
            "request_body_mode": "FULL_DUPLEX_STREAMED",
            "request_trailer_mode": "SEND",
            "response_body_mode": "FULL_DUPLEX_STREAMED",
            "response_trailer_mode": "SEND",
        }
    ),
}


@dataclass
class Mesh:
    """Everything that runs."""

    envoy: RealEnvoy
    upstream: Upstream
    folder: Path
    demur: subprocess.Popen[str] | None = None

    def start(self, mode: str, **ext_proc: Any) -> None:
        self.stop()
        document = {
            "listen": ["127.0.0.1:0"],
            "monitors": [
                {"name": "toy", "bundle": str(self.folder / "toy.demur"), "mode": mode},
                {"name": "tokens", "bundle": str(self.folder / "tokens.demur"), "mode": mode},
            ],
            "audit": {"directory": str(self.folder / "audit"), "origin": "test"},
            "drain_seconds": 0,
            "ext_proc": {
                "listen": f"unix:{self.folder}/demur.sock",
                "infer": {"digits": {"monitor": "toy", "signals": {"logits": "scores"}}},
                "completions": {"*": {"monitor": "tokens"}},
                "budget_ms": 1500,
                **ext_proc,
            },
        }
        path = self.folder / "demur.yaml"
        path.write_text(yaml.safe_dump(document))
        command = [sys.executable, "-m", "demur.monitor.cli.main", "serve", "--config", str(path), "--announce"]
        self.demur = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.demur.stdout is not None
        assert json.loads(self.demur.stdout.readline())["ext_proc"].startswith("unix:")
        self.envoy.healthy("demur", wanted=True)

    def stop(self) -> None:
        if self.demur is not None:
            self.demur.terminate()
            self.demur.wait(20)
            assert self.demur.stdout is not None
            self.demur.stdout.close()
            self.demur = None

    def curl(self, listener: str, path: str, body: bytes, *options: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers, and the body as it came."""
        port = self.envoy.ports[listener] if listener else self.upstream.port
        head = self.folder / "head"
        command = ["curl", "-sS", "--max-time", "20", "-D", str(head), "--data-binary", "@-", *options]
        done = subprocess.run([*command, f"http://127.0.0.1:{port}{path}"], input=body, capture_output=True)
        assert done.returncode in (0, 18, 56), done.stderr
        lines = head.read_text().strip().split("\n\n")[-1].splitlines()  # behind "100 Continue"
        status = int(lines[0].split()[1]) if lines else 0
        return status, {k.lower(): v.strip() for k, _, v in (x.partition(":") for x in lines[1:])}, done.stdout

    def audit(self) -> list[Record]:
        """The log's records of verdicts; the log is verified."""
        self.stop()
        assert verify_log(self.folder / "audit").ok
        return [r for r, _ in read_log(self.folder / "audit") if r.kind in ("verdict", "stream")]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory) -> Iterator[Mesh]:
    folder = Path(tmp_path_factory.mktemp("mesh"))
    ROWS.save(folder / "toy.demur")
    TOKENS.save(folder / "tokens.demur")
    with Upstream() as upstream:
        with RealEnvoy(folder, FILTERS, demur=f"unix:{folder}/demur.sock", upstream=upstream.port) as envoy:
            made = Mesh(envoy, upstream, folder)
            yield made
            made.stop()


@pytest.fixture
def enforcing(mesh) -> Mesh:
    mesh.upstream.row, mesh.upstream.logprobs = GOOD, [-0.1, -0.2]
    mesh.start("enforce")
    return mesh


def plain(content: bytes) -> bytes:
    return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content


def test_curl_gets_the_same_answers_as_from_the_server_itself(enforcing):
    binary, length = binary_request(["label"])
    as_binary = ("-H", f"Inference-Header-Content-Length: {length}", "-H", "Content-Type: application/octet-stream")
    cases = [
        (infer(), ()),
        (infer(outputs=["label"]), ()),
        (infer(outputs=["label", "scores"]), ("--compressed",)),
        (infer(outputs=["label"]), ("-H", "Accept-Encoding: gzip, br")),
        (infer(outputs=["label"]), ("-H", "Transfer-Encoding: chunked")),
        (binary, as_binary),
        (ask(logprobs=True), ()),
    ]
    for body, options in cases:
        path = CHAT if body.startswith(b'{"model"') else PATH
        directly = enforcing.curl("", path, body, *options)
        for listener in ("page", "istio", "buffered", "trailers"):
            status, headers, content = enforcing.curl(listener, path, body, *options)
            assert (status, plain(content)) == (200, plain(directly[2])), (listener, options)
            assert headers.get("content-encoding") == directly[1].get("content-encoding")
            assert "--compressed" in options or int(headers["content-length"]) == len(content)
            known = directly[1].get("inference-header-content-length")
            assert headers.get("inference-header-content-length") == known
    assert enforcing.envoy.stat("buffered", "spurious_msgs_received") == 0
    assert enforcing.envoy.stat("buffered", "streams_failed") == 0


def test_abstentions_are_errors_with_their_decision_in_the_access_log(enforcing):
    enforcing.upstream.row, enforcing.upstream.logprobs = BAD, [-3.0, -3.0]
    status, headers, body = enforcing.curl("buffered", PATH, infer(outputs=["label"]))
    assert (status, headers["demur-reasons"]) == (412, "NOVEL")
    assert "blocked" in json.loads(body)["error"]
    assert enforcing.envoy.details(PATH)[-1] == f"412 demur_ABSTAIN:NOVEL:sequence={headers['demur-sequence']}"
    status, headers, body = enforcing.curl("buffered", CHAT, ask(logprobs=True))
    assert (status, json.loads(body)["error"]["code"]) == (412, "demur_abstain")
    status, _, body = enforcing.curl("buffered", CHAT, ask())
    assert (status, "ask for logprobs" in json.loads(body)["error"]["message"]) == (503, True)
    assert [r.action for r in enforcing.audit()[-3:]] == ["block"] * 3


def test_bodies_are_asked_for_where_they_are_judged(mesh):
    mesh.upstream.row = BAD
    mesh.start("enforce", mode_override=True)
    assert mesh.curl("override", PATH, infer())[0] == 412
    assert mesh.curl("override", "/anything", infer())[0] == 200
    status, headers, _ = mesh.curl("nothing", PATH, infer())
    assert (status, headers["demur-reasons"]) == (503, "UNAVAILABLE"), "the filter does not allow mode_override"
    assert mesh.envoy.stat("override", "spurious_msgs_received") == 0


def test_observability_mode_judges_what_passes(enforcing):
    before = enforcing.envoy.stat("watching", "streams_started")
    enforcing.upstream.row, enforcing.upstream.logprobs = BAD, [-3.0] * 8
    assert enforcing.curl("watching", PATH, infer())[0] == 200
    status, headers, body = enforcing.curl("watching", CHAT, ask(stream=True, logprobs=True))
    assert (status, body.count(b"data: "), headers["content-type"]) == (200, 12, "text/event-stream")
    assert enforcing.envoy.stat("watching", "streams_started") == before + 2
    assert enforcing.envoy.stat("watching", "failure_mode_allowed") == 0
    time.sleep(0.5)
    found = enforcing.audit()[-2:]
    assert [(r.monitor, r.accepted, r.action) for r in found] == [("toy", 0, "none"), ("tokens", 0, "none")]


def test_streamed_and_duplex_bodies_are_refused_before_the_client_gets_any(enforcing):
    for listener in ("streamed", "duplex"):
        status, headers, _ = enforcing.curl(listener, PATH, infer())
        assert (listener, status, headers.get("demur-reasons")) == (listener, 503, "UNAVAILABLE")
        assert enforcing.curl(listener, "/other", infer())[0] == 200


def test_bodies_that_envoy_shows_in_part(enforcing):
    status, _, body = enforcing.curl("partial", PATH, infer())
    assert (status, body) == (200, scores(GOOD))
    enforcing.upstream.pad = b" " * 5_000_000
    try:
        status, headers, _ = enforcing.curl("partial", PATH, infer())
    finally:
        enforcing.upstream.pad = b""
    assert (status, headers["demur-cause"]) == (503, "body truncated")
    status, headers, _ = enforcing.curl("partial", PATH, b" " * 5_000_000 + infer())
    assert (status, headers["demur-cause"]) == (503, "the request cannot be read: body truncated")


def test_an_envoy_in_a_hurry_fails_closed(enforcing):
    statuses = {enforcing.curl("hurried", PATH, infer())[0] for _ in range(20)}
    assert statuses <= {200, 504}
    assert 504 in statuses
    assert enforcing.envoy.stat("hurried", "message_timeouts") >= 1


def test_observing_interferes_with_nothing(mesh):
    mesh.upstream.row, mesh.upstream.logprobs = BAD, None
    mesh.start("observe", annotate=True)
    for listener in FILTERS.keys() - {"hurried"}:
        status, headers, body = mesh.curl(listener, PATH, infer())
        assert (listener, status, body) == (listener, 200, scores(BAD))
        if listener == "buffered":
            assert (headers["demur-verdict"], headers["demur-reasons"]) == ("ABSTAIN", "NOVEL")
        assert mesh.curl(listener, CHAT, ask())[0] == 200
        assert mesh.envoy.stat(listener, "spurious_msgs_received") == 0
    status, headers, _ = mesh.curl("buffered", PATH, infer(outputs=["label"]), "-H", "Accept-Encoding: gzip")
    assert (status, headers["content-encoding"]) == (200, "gzip")


def test_logprobs_asked_for_beside_the_client(mesh):
    mesh.upstream.logprobs = [-0.1, -0.2]
    mesh.start("enforce", completions={"gpt": {"monitor": "tokens", "request_logprobs": True}})
    directly = mesh.curl("", CHAT, ask())
    status, headers, body = mesh.curl("buffered", CHAT, ask())
    assert (status, body, headers["content-length"]) == (200, directly[2], str(len(body)))
    assert json.loads(mesh.upstream.seen[-1][2])["logprobs"] is True


def test_without_demur_the_filter_fails_closed_and_failure_mode_allow_opens_it(enforcing):
    enforcing.upstream.row = BAD
    enforcing.demur.kill()
    enforcing.stop()
    assert enforcing.curl("buffered", PATH, infer())[0] in (500, 504)
    status, headers, body = enforcing.curl("allowing", PATH, infer())
    assert (status, body, "demur-verdict" in headers) == (200, scores(BAD), False), "the trap of docs/ext-proc.md"
    enforcing.envoy.healthy("demur", wanted=False)
