"""A scripted inference server on real gRPC, a proxy in front of it, and what the proxy's listeners heard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from demur.adapters.servers.oip import OipProxy
from demur.monitor.bundle import Bundle
from demur.monitor.config.server import LimitsConfig, ProxyConfig
from demur.monitor.engine import Conduct, Engine
from demur.monitor.event import DecisionEvent, RefusalEvent
from demur.monitor.loaded import Loaded
from demur.proto.oip.inference_pb2 import ModelInferRequest, ModelInferResponse
from tests.adapters.fake_server import FakeServer
from tests.service.bundles import BAD, GOOD, row_bundle

SERVICE = "/inference.GRPCInferenceService/"
INFER = f"{SERVICE}ModelInfer"
MODEL = "digits"


def request(*, outputs: tuple[str, ...] = (), model: str = MODEL, rows: int = 2, **fields: Any) -> bytes:
    """A serialized ModelInferRequest of `rows` images."""
    message = ModelInferRequest(model_name=model, id="r-1", **fields)
    message.inputs.add(name="image", datatype="FP32", shape=[rows, 3])
    message.raw_input_contents.append(np.zeros((rows, 3), np.float32).tobytes())
    for name in outputs:
        message.outputs.add(name=name)
    return message.SerializeToString()


def answer(
    rows: Any = (GOOD, BAD), *, form: str = "raw", datatype: str = "FP32", shape: Any = None
) -> ModelInferResponse:
    """A ModelInferResponse with an unmapped `label` output before the mapped `scores`."""
    values = np.asarray(rows, np.float32)
    message = ModelInferResponse(model_name=MODEL, model_version="1", id="r-1")
    label = message.outputs.add(name="label", datatype="INT64", shape=[len(values)])
    scores = message.outputs.add(name="scores", datatype=datatype, shape=values.shape if shape is None else shape)
    if form == "raw":
        message.raw_output_contents.append(np.zeros(len(values), np.int64).tobytes())
        message.raw_output_contents.append(raw(values, datatype))
    else:
        label.contents.int64_contents.extend([0] * len(values))
        field = scores.contents.fp64_contents if datatype == "FP64" else scores.contents.fp32_contents
        field.extend(values.ravel().tolist())
    return message


def raw(values: np.ndarray, datatype: str) -> bytes:
    if datatype == "BF16":
        return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return values.astype({"FP32": "<f4", "FP64": "<f8", "FP16": "<f2"}[datatype]).tobytes()


class Scripted(grpc.GenericRpcHandler):
    """An inference server that answers what `script` says and remembers what it was asked."""

    def __init__(self) -> None:
        self.script: Callable[[str, bytes, Any], bytes] = lambda *_: answer().SerializeToString()
        self.seen: list[tuple[str, bytes, dict[str, Any], float]] = []

    def says(self, message: bytes | ModelInferResponse) -> bytes:
        """Answer every call with these bytes."""
        content = message if isinstance(message, bytes) else message.SerializeToString()
        self.script = lambda *_: content
        return content

    def service(self, handler_call_details: Any) -> Any:
        method = handler_call_details.method

        def behaviour(message: bytes, context: Any) -> bytes:
            self.seen.append((method, message, dict(context.invocation_metadata()), context.time_remaining()))
            return self.script(method, message, context)

        return grpc.unary_unary_rpc_method_handler(behaviour)


class Stage:
    """One scripted upstream and the proxies in front of it."""

    def __init__(self, upstream: Any = None) -> None:
        self.upstream = upstream or Scripted()
        self._decisions: list[DecisionEvent] = []
        self._proxies: list[OipProxy] = []
        self.refusals: list[RefusalEvent] = []
        self._server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", -1)])
        self._server.add_generic_rpc_handlers((self.upstream,))
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        self._open: list[Any] = []

    def proxy(
        self,
        *,
        annotate: bool | str = False,
        conduct: Conduct | None = None,
        recorder: Any = None,
        bundle: Bundle | None = None,
        limits: LimitsConfig | None = None,
        listeners: Sequence[Any] = (),
        **options: Any,
    ) -> OipProxy:
        """A started proxy: model `digits` judged by monitor `toy`, whose signal `logits` is the output `scores`."""
        loaded = Loaded.open(bundle or row_bundle(version=1))
        engine = Engine(loaded, conduct=conduct, recorder=recorder, listeners=[self._decisions.append, *listeners])
        document = {
            "listen": options.pop("listen", "127.0.0.1:0"),
            "upstream": options.pop("upstream", self.target),
            "annotate": annotate,
            "models": {MODEL: {"monitor": "toy", "signals": {"logits": "scores"}} | options.pop("model", {})},
            **options.pop("document", {}),
        }
        proxy = OipProxy(
            ProxyConfig.model_validate(document),
            {"toy": engine},
            limits=limits,
            on_refusal=self.refusals.append,
            **options,
        )
        proxy.start()
        self._open.append(proxy.stop)
        self._proxies.append(proxy)
        return proxy

    def channel(self, address: str, credentials: Any = None) -> grpc.Channel:
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        channel = (
            grpc.insecure_channel(address, options)
            if credentials is None
            else grpc.secure_channel(address, credentials, options)
        )
        self._open.append(channel.close)
        return channel

    def infer(self, proxy: OipProxy, message: bytes, **call: Any) -> bytes:
        """ModelInfer through the proxy, bytes in and bytes out; its verdict is in `decisions` when this returns."""
        answer = self.channel(proxy.address).unary_unary(INFER)(message, **{"timeout": 10, **call})
        proxy.settle()
        return answer

    def direct(self, message: bytes, **call: Any) -> bytes:
        """ModelInfer without the proxy."""
        return self.channel(self.target).unary_unary(INFER)(message, **{"timeout": 10, **call})

    def streamed(self, address: str, messages: Any, **call: Any) -> list[bytes]:
        """ModelStreamInfer at this address, bytes in and bytes out."""
        stream = self.channel(address).stream_stream(f"{SERVICE}ModelStreamInfer")
        return list(stream(iter(messages), **{"timeout": 10, **call}))

    def refused(self, proxy: OipProxy, message: bytes, method: str = INFER, **call: Any) -> grpc.RpcError:
        """The status that a call through the proxy ends with."""
        with pytest.raises(grpc.RpcError) as caught:
            self.channel(proxy.address).unary_unary(method)(message, **{"timeout": 10, **call})
        return caught.value

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
        for close in reversed(self._open):
            close()
        self._server.stop(0).wait()


@pytest.fixture
def honest() -> Iterator[Stage]:
    """A stage whose upstream follows the protocol."""
    found = Stage(FakeServer())
    yield found
    found.close()


@pytest.fixture
def stage() -> Iterator[Stage]:
    found = Stage()
    yield found
    found.close()
