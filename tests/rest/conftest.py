"""A small inference server on real HTTP, a proxy in front of it, and what the proxy's listeners heard."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from time import sleep
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn

from demur.adapters.servers.oip.rest import RestProxy
from demur.monitor.bundle import Bundle
from demur.monitor.config.server import LimitsConfig, ProxyConfig
from demur.monitor.engine import Conduct, Engine
from demur.monitor.event import DecisionEvent, RefusalEvent
from demur.monitor.loaded import Loaded
from tests.service.bundles import BAD, GOOD, row_bundle

MODEL = "digits"
INFER = f"/v2/models/{MODEL}/infer"
LENGTH = "Inference-Header-Content-Length"
Script = Callable[["Asked"], Awaitable["Said"]]


def request(rows: Any = (GOOD, BAD), *, outputs: Any = None, **fields: Any) -> dict[str, Any]:
    """An infer request of these rows, in JSON's own terms."""
    values = np.asarray(rows, np.float64)
    tensor = {"name": "image", "shape": list(values.shape), "datatype": "FP32", "data": values.ravel().tolist()}
    named = {} if outputs is None else {"outputs": [{"name": o} if isinstance(o, str) else o for o in outputs]}
    return {"id": "r-1", "inputs": [tensor], **named, **fields}


def binary_request(rows: Any = (GOOD, BAD), *, outputs: Any = None, **fields: Any) -> tuple[bytes, dict[str, str]]:
    """The same with Triton's binary extension: body and headers."""
    document = request(rows, outputs=outputs, **fields)
    raw = np.asarray(rows, "<f4").tobytes()
    document["inputs"][0] = {k: v for k, v in document["inputs"][0].items() if k != "data"}
    document["inputs"][0]["parameters"] = {"binary_data_size": len(raw)}
    head = json.dumps(document).encode()
    return head + raw, {LENGTH: str(len(head)), "Content-Type": "application/octet-stream"}


@dataclass
class Asked:
    """One request as the server got it."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    def header(self, name: str) -> str | None:
        return {k.lower(): v for k, v in self.headers}.get(name.lower())

    @property
    def json(self) -> Any:
        length = self.header(LENGTH)
        return json.loads(self.body if length is None else self.body[: int(length)])


@dataclass
class Said:
    """One answer; `parts` are sent one by one, each when `next_part` is set again."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    parts: list[bytes] | None = None
    next_part: threading.Event | None = None


def said(document: Any, status: int = 200, **headers: str) -> Said:
    return Said(status, json.dumps(document).encode(), {"content-type": "application/json", **headers})


def inferred(asked: Asked) -> Said:
    """What a model answers whose scores are its input: outputs label (N,) INT64 and scores (N, 4) FP32, all or as named."""
    try:
        length = asked.header(LENGTH)
        head = asked.body if length is None else asked.body[: int(length)]
        document, rest = json.loads(head), asked.body[len(head) :]
        tensor = document["inputs"][0]
        if "data" in tensor:
            data = np.array(tensor["data"], np.float32)
        else:
            data = np.frombuffer(rest[: tensor["parameters"]["binary_data_size"]], "<f4")
        scores = data.reshape(tensor["shape"])
        if scores.ndim != 2 or scores.shape[1] != 4:
            raise ValueError("shape")
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        return said({"error": f"malformed request: {error}"}, 400)
    found = {"label": ("INT64", scores.argmax(axis=1) if len(scores) else np.zeros(0)), "scores": ("FP32", scores)}
    whole = (document.get("parameters") or {}).get("binary_data_output", False)
    wanted = document.get("outputs") or [{"name": n} for n in found]
    outputs, tail = [], b""
    for output in wanted:
        if output["name"] not in found:
            return said({"error": f"unexpected inference output '{output['name']}' for model '{MODEL}'"}, 400)
        datatype, values = found[output["name"]]
        entry: dict[str, Any] = {"name": output["name"], "datatype": datatype, "shape": list(values.shape)}
        if (output.get("parameters") or {}).get("binary_data", whole):
            raw = values.astype("<i8" if datatype == "INT64" else "<f4").tobytes()
            entry["parameters"], tail = {"binary_data_size": len(raw)}, tail + raw
        else:
            entry["data"] = values.ravel().tolist()
        outputs.append(entry)
    indent = int(asked.header("x-indent") or 0) or None
    head = json.dumps({"model_name": MODEL, "id": document.get("id", ""), "outputs": outputs}, indent=indent).encode()
    extension = {LENGTH: str(len(head))} if tail else {}
    return Said(200, head + tail, {"content-type": "application/json", **extension})


class Served:
    """An ASGI application on a free port, in a thread."""

    def __init__(self, application: Any, **settings: Any) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        config = uvicorn.Config(
            application,
            date_header=False,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            **settings,
        )
        self._server = uvicorn.Server(config)
        self._server.config.timeout_graceful_shutdown = 1
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._server.serve(sockets=[self._socket])), daemon=True
        )
        self._thread.start()
        while not self._server.started:
            sleep(0.002)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()


class Upstream:
    """An inference server that answers what `script` says and remembers what it was asked."""

    def __init__(self) -> None:
        self.seen: list[Asked] = []
        self.left: list[str] = []  # targets whose callers went away before the answer
        self.script: Script | None = None

    def says(self, answer: Said) -> None:
        async def script(_asked: Asked) -> Said:
            return answer

        self.script = script

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        target = scope["raw_path"].decode() + ("?" + scope["query_string"].decode() if scope["query_string"] else "")
        asked = Asked(scope["method"], target, [(k.decode(), v.decode("latin-1")) for k, v in scope["headers"]])
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                return
            asked.body += event.get("body", b"")
            if not event.get("more_body"):
                break
        self.seen.append(asked)
        answering = asyncio.create_task(self._answer(asked, send))
        going = asyncio.create_task(receive())
        await asyncio.wait((answering, going), return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            self.left.append(asked.target)
            answering.cancel()
        going.cancel()

    async def _answer(self, asked: Asked, send: Any) -> None:
        answer = inferred(asked) if self.script is None else await self.script(asked)
        headers = [(k.encode(), v.encode("latin-1")) for k, v in answer.headers.items()]
        if answer.parts is None and answer.status not in (204, 304):
            headers.append((b"Content-Length", str(len(answer.body)).encode()))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        for part in answer.parts or ():
            await send({"type": "http.response.body", "body": part, "more_body": True})
            if answer.next_part is not None:
                await asyncio.to_thread(answer.next_part.wait, 20)
                answer.next_part.clear()
        await send({"type": "http.response.body", "body": b"" if asked.method == "HEAD" else answer.body})


class Stage:
    """One upstream and the proxies in front of it."""

    def __init__(self) -> None:
        self.upstream = Upstream()
        self._decisions: list[DecisionEvent] = []
        self._proxies: list[RestProxy] = []
        self.refusals: list[RefusalEvent] = []
        self._served = Served(self.upstream)
        self.direct = f"http://127.0.0.1:{self._served.port}"
        self._open: list[Any] = []
        self.client = httpx.Client(timeout=20)

    def proxy(
        self,
        *,
        conduct: Conduct | None = None,
        recorder: Any = None,
        bundle: Bundle | None = None,
        limits: LimitsConfig | None = None,
        model: dict[str, Any] | None = None,
        rest: dict[str, Any] | None = None,
        tls: Any = None,
        **fields: Any,
    ) -> str:
        """The URL of a started proxy: model `digits` judged by monitor `toy`, whose signal `logits` is the output `scores`."""
        loaded = Loaded.open(bundle or row_bundle(version=1))
        engine = self.engine = Engine(loaded, conduct=conduct, recorder=recorder, listeners=[self._decisions.append])
        document = {
            "rest": {"listen": "127.0.0.1:0", "upstream": self.direct} | (rest or {}),
            "models": {MODEL: {"monitor": "toy", "signals": {"logits": "scores"}} | (model or {})},
            **fields,
        }
        config = ProxyConfig.model_validate(document)
        proxy = RestProxy(config, {"toy": engine}, limits=limits, tls=tls, on_refusal=self.refusals.append)
        address = proxy.start()
        self._open.append(proxy.stop)
        self._proxies.append(proxy)
        return address if address.startswith("unix:") else f"http{'s' if tls else ''}://{address}"

    def both(self, proxy: str, target: str = INFER, **call: Any) -> tuple[httpx.Response, httpx.Response]:
        """The same POST, without and with the proxy."""
        first = self.client.post(self.direct + target, **call)
        return first, self.client.post(proxy + target, **call)

    @property
    def decisions(self) -> list[DecisionEvent]:
        """What telemetry heard about all calls so far."""
        for proxy in self._proxies:
            proxy.settle()
        return self._decisions

    @property
    def verdicts(self) -> Any:
        """Of the only decision so far."""
        (event,) = self.decisions
        return event.verdicts

    def close(self) -> None:
        self.client.close()
        for close in (*reversed(self._open), self._served.close):
            close()


@pytest.fixture(scope="session")
def closing() -> Iterator[list[threading.Thread]]:
    """A server takes a third of a second to end; they end beside the next tests."""
    threads: list[threading.Thread] = []
    yield threads
    for thread in threads:
        thread.join()


@pytest.fixture
def stage(closing) -> Iterator[Stage]:
    found = Stage()
    yield found
    thread = threading.Thread(target=found.close)
    thread.start()
    closing.append(thread)


def same(first: httpx.Response, second: httpx.Response) -> None:
    """Status, headers and body, byte for byte."""
    assert second.status_code == first.status_code
    assert second.headers.raw == first.headers.raw
    assert second.content == first.content
