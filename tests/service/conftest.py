"""A server on port 0, what its observers heard, and raw calls to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from demur.monitor.bundle import Bundle
from demur.monitor.config.server import ServerConfig
from demur.monitor.event import BundleEvent, DecisionEvent, RefusalEvent
from demur.monitor.service.server import Server
from demur.proto.v1 import monitor_pb2 as pb
from demur.proto.v1 import monitor_pb2_grpc
from tests.service.bundles import row_bundle

Start = Callable[..., Server]


class Heard:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.decisions: list[DecisionEvent] = []
        self.refusals: list[RefusalEvent] = []
        self.bundles: list[BundleEvent] = []

    def on_decision(self, event: DecisionEvent) -> None:
        self.decisions.append(event)

    def on_refusal(self, event: RefusalEvent) -> None:
        self.refusals.append(event)

    def on_bundle(self, event: BundleEvent) -> None:
        self.bundles.append(event)

    @property
    def kinds(self) -> list[str]:
        return [e.kind for e in self.refusals]


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def start(tmp_path: Path, heard: Heard) -> Iterator[Start]:
    """Start a server of these bundles (a path is taken as it is) with any keys of its configuration."""
    servers: list[Server] = []

    def begin(
        bundles: dict[str, Bundle | Path] | None = None,
        *,
        options: dict[str, Any] | None = None,
        monitor: dict[str, Any] | None = None,
        **config: Any,
    ) -> Server:
        monitors = []
        for name, bundle in (bundles or {"toy": row_bundle()}).items():
            path = bundle if isinstance(bundle, Path) else tmp_path / f"{name}.demur"
            if isinstance(bundle, Bundle):
                bundle.save(path)
            monitors.append({"name": name, "bundle": str(path), **(monitor or {})})
        document = {
            "listen": ["127.0.0.1:0"],
            "watch_seconds": 0.05,
            "drain_seconds": 2,
            **config,
            "monitors": monitors,
        }
        servers.append(Server(ServerConfig.model_validate(document), observers=[heard], **(options or {})))
        return servers[-1].start()

    yield begin
    for server in servers:
        server.stop()


@pytest.fixture
def connect() -> Iterator[Callable[..., monitor_pb2_grpc.MonitorServiceStub]]:
    """A stub for an address."""
    channels: list[grpc.Channel] = []

    def stub(address: str, credentials: grpc.ChannelCredentials | None = None) -> Any:
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        channel = (
            grpc.insecure_channel(address, options)
            if credentials is None
            else grpc.secure_channel(address, credentials, options)
        )
        channels.append(channel)
        return monitor_pb2_grpc.MonitorServiceStub(channel)

    yield stub
    for channel in channels:
        channel.close()


def tensor(name: str, array: Any, datatype: str = "FP32") -> pb.Tensor:
    values = np.ascontiguousarray(array)
    return pb.Tensor(name=name, datatype=datatype, shape=values.shape, raw=values.tobytes())


def rows(values: Any, monitor: str = "toy", **fields: Any) -> pb.AssessRequest:
    return pb.AssessRequest(monitor=monitor, signals=[tensor("logits", np.asarray(values, np.float32))], **fields)


def accepted(response: pb.AssessResponse) -> list[bool]:
    return [bool(b) for b in response.rows.accept]


def refused(call: Callable[[], Any]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value
