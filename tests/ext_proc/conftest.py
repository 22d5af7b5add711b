"""A processor on real gRPC with toy monitors, and what its listeners heard."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from demur.adapters.servers.ext_proc import ExtProcServer
from demur.monitor.config.ext_proc import ExtProcConfig
from demur.monitor.config.server import LimitsConfig
from demur.monitor.engine import Conduct, Engine
from demur.monitor.event import DecisionEvent, RefusalEvent
from demur.monitor.loaded import Loaded
from tests.ext_proc.simulator import Answer, Envoy
from tests.service.bundles import BAD, GOOD, row_bundle, stream_bundle

PATH = "/v2/models/digits/infer"
CHAT = "/v1/chat/completions"
ROWS, TOKENS = row_bundle(), stream_bundle()
__all__ = ["BAD", "GOOD"]


def infer(*, outputs: list[Any] | None = None, rows: int = 1, **more: Any) -> bytes:
    """An inference request in JSON."""
    document: dict[str, Any] = {
        "id": "r-1",
        "inputs": [{"name": "image", "datatype": "FP32", "shape": [rows, 3], "data": [0.0] * 3 * rows}],
    }
    if outputs is not None:
        document["outputs"] = [{"name": o} if isinstance(o, str) else o for o in outputs]
    return json.dumps(document | more).encode()


def scores(*rows: Any, label: bool = True, name: str = "scores") -> bytes:
    """An inference answer in JSON: an unmapped `label` before the mapped `scores`."""
    values = np.asarray(rows, np.float32)
    outputs = [{"name": "label", "datatype": "INT64", "shape": [len(rows)], "data": [0] * len(rows)}] if label else []
    data = [float(v) if np.isfinite(v) else None for v in values.ravel()]
    outputs.append({"name": name, "datatype": "FP32", "shape": list(values.shape), "data": data})
    return json.dumps({"model_name": "digits", "model_version": "1", "id": "r-1", "outputs": outputs}).encode()


def filtering(*rows: Any) -> Callable[[dict[str, str], bytes], Answer]:
    """An upstream that answers the outputs it was asked for, all when none is named."""

    def upstream(_: dict[str, str], body: bytes) -> Answer:
        document = json.loads(scores(*rows))
        named = [o["name"] for o in json.loads(body).get("outputs", [])]
        if named:
            document["outputs"] = [o for o in document["outputs"] if o["name"] in named]
        return Answer(headers={"content-type": "application/json"}, body=json.dumps(document).encode())

    return upstream


def ask(**more: Any) -> bytes:
    """A chat request."""
    return json.dumps({"model": "gpt", "messages": [{"role": "user", "content": "?"}], **more}).encode()


def choice(*logprobs: float | None, index: int = 0, finish: str | None = "stop", text: str = "yes") -> dict[str, Any]:
    """A choice of a chat completion with these token log-probabilities."""
    content = [{"token": "t", "logprob": v, "bytes": [116], "top_logprobs": []} for v in logprobs]
    said = {"role": "assistant", "content": text}
    return {
        "index": index,
        "message": said,
        "logprobs": {"content": content} if logprobs else None,
        "finish_reason": finish,
    }


def completion(*choices: dict[str, Any], **more: Any) -> bytes:
    """A chat completion."""
    return json.dumps(
        {"id": "c", "object": "chat.completion", "model": "gpt", "choices": list(choices), **more}
    ).encode()


@dataclass(repr=False)
class World:
    """One processor."""

    server: ExtProcServer
    engine: Engine
    tokens: Engine
    decisions: list[DecisionEvent] = field(default_factory=list)
    refusals: list[RefusalEvent] = field(default_factory=list)

    def envoy(self, upstream: Any, **options: Any) -> Envoy:
        """An Envoy in front of this upstream: a function, an answer, or an answer's body."""
        said = upstream
        if isinstance(upstream, bytes):
            said = Answer(headers={"content-type": "application/json"}, body=upstream)
        function = said if callable(said) else lambda *_: said
        return Envoy(self.server.address, function, **options)


def processor(
    stack: ExitStack,
    mode: str = "enforce",
    on_failure: str | None = None,
    *,
    recorder: Any = None,
    limits: LimitsConfig | None = None,
    budget: float | None = None,
    rows: Any = None,
    streams_of: Any = None,
    chat: dict[str, Any] | None = None,
    digits: dict[str, Any] | None = None,
    **config: Any,
) -> World:
    """A processor that serves until the stack is closed."""
    decisions: list[DecisionEvent] = []
    refusals: list[RefusalEvent] = []
    conduct = Conduct(mode, on_failure, budget)  # type: ignore[arg-type]
    options: dict[str, Any] = {"conduct": conduct, "recorder": recorder, "listeners": [decisions.append]}
    engine, tokens = Engine(Loaded.open(rows or ROWS), **options), Engine(Loaded.open(streams_of or TOKENS), **options)
    document = {
        "listen": "127.0.0.1:0",
        "infer": {"digits": {"monitor": "toy", "signals": {"logits": "scores"}, **(digits or {})}},
        "completions": {"gpt": {"monitor": "tokens", **(chat or {})}},
        "budget_ms": 5000,
        **config,
    }
    server = ExtProcServer(
        ExtProcConfig.model_validate(document),
        {"toy": engine, "tokens": tokens},
        limits=limits,
        on_refusal=refusals.append,
    )
    server.start()
    stack.callback(server.stop)
    return World(server, engine, tokens, decisions, refusals)


@pytest.fixture
def world() -> Iterator[Callable[..., World]]:
    """Makes processors; ends them."""
    with ExitStack() as stack:
        yield lambda *args, **options: processor(stack, *args, **options)
