"""The service's fixtures, for its client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from demur.monitor.client.client import Client
from tests.service.conftest import heard, start  # noqa: F401  fixtures


@pytest.fixture
def client() -> Iterator[Callable[..., Client]]:
    clients: list[Client] = []

    def connect(address: str, **options: Any) -> Client:
        clients.append(Client(address, **{"timeout_seconds": 5.0} | options))
        return clients[-1]

    yield connect
    for each in clients:
        each.close()


@pytest.fixture
def impostor() -> Iterator[Callable[..., str]]:
    """A server whose Assess does what the test says; returns its address."""
    servers: list[grpc.Server] = []

    def serve(behaviour: Callable[[bytes, grpc.ServicerContext], bytes]) -> str:
        server = grpc.server(ThreadPoolExecutor(4))
        handler = grpc.unary_unary_rpc_method_handler(behaviour)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("demur.v1.MonitorService", {"Assess": handler}),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield serve
    for each in servers:
        each.stop(0)
