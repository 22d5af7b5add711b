"""An inference server on HTTP: answers what it is asked for, compressed if the client takes that; and a chat model."""

from __future__ import annotations

import gzip
import json
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import numpy as np

from tests.ext_proc.conftest import GOOD, choice, completion, scores

Row = Callable[[], Any]


class Upstream:
    """`row` is what the next answer scores, `logprobs` what the next completion says."""

    def __init__(self) -> None:
        self.row: list[float] = GOOD
        self.pad = b""
        self.logprobs: list[float] | None = [-0.1, -0.2]
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self._body()
                upstream.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                if self.path.endswith("completions"):
                    upstream.chat(self, json.loads(body))
                else:
                    upstream.infer(self, body)

            do_GET = do_POST  # noqa: N815

            def _body(self) -> bytes:
                if self.headers.get("transfer-encoding", "") != "chunked":
                    return self.rfile.read(int(self.headers.get("content-length") or 0))
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)

            def say(self, body: bytes, **headers: str) -> None:
                self.send_response(200)
                if "gzip" in self.headers.get("accept-encoding", ""):
                    body, headers["content-encoding"] = gzip.compress(body), "gzip"
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]

    def infer(self, handler: Any, body: bytes) -> None:
        length = handler.headers.get("inference-header-content-length")
        request = json.loads(body if length is None else body[: int(length)])
        document = json.loads(scores(self.row))
        named = {o["name"]: o for o in request.get("outputs", [])}
        if named:
            document["outputs"] = [o for o in document["outputs"] if o["name"] in named]
        binary = [n for n, o in named.items() if o.get("parameters", {}).get("binary_data")]
        if not binary:
            handler.say(json.dumps(document).encode() + self.pad, content_type="application/json")
            return
        parts = []
        for output in document["outputs"]:
            if output["name"] in binary:
                raw = np.array(output.pop("data"), "<f4" if output["datatype"] == "FP32" else "<i8").tobytes()
                output["parameters"] = {"binary_data_size": len(raw)}
                parts.append(raw)
        head = json.dumps(document).encode()
        handler.say(
            head + b"".join(parts),
            content_type="application/octet-stream",
            inference_header_content_length=str(len(head)),
        )

    def chat(self, handler: Any, request: Any) -> None:
        asked = request.get("logprobs")
        said = self.logprobs if asked and self.logprobs else []
        if not request.get("stream"):
            handler.say(completion(choice(*said), usage={"total_tokens": 3}), content_type="application/json")
            return
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.send_header("transfer-encoding", "chunked")
        handler.end_headers()
        for event in [*events(said), b"[DONE]"]:
            line = b"data: " + event + b"\n\n"
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            handler.wfile.flush()
            time.sleep(0.01)
        handler.wfile.write(b"0\r\n\r\n")

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def events(logprobs: list[float], *, model: str = "gpt", finish: str = "stop") -> list[bytes]:
    """Chunks of a streamed completion, one token each."""
    head = {"id": "c", "object": "chat.completion.chunk", "model": model}
    chunks = [{"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}]
    for value in logprobs:
        token = {"token": "t", "logprob": value, "bytes": [116], "top_logprobs": []}
        chunks.append({"index": 0, "delta": {"content": "t"}, "logprobs": {"content": [token]}, "finish_reason": None})
    chunks.append({"index": 0, "delta": {}, "logprobs": None, "finish_reason": finish})
    found = [json.dumps(head | {"choices": [c]}).encode() for c in chunks]
    return [*found, json.dumps(head | {"choices": [], "usage": {"total_tokens": 3}}).encode()]


def binary_request(outputs: list[str]) -> tuple[bytes, str]:
    """An inference request with Triton's binary extension, and its Inference-Header-Content-Length."""
    raw = struct.pack("<3f", 0, 0, 0)
    image = {"name": "image", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": len(raw)}}
    named = [{"name": n, "parameters": {"binary_data": True}} for n in outputs]
    head = json.dumps({"id": "r-1", "inputs": [image], "outputs": named}).encode()
    return head + raw, str(len(head))
