"""The external processor as a server: where it listens, how it starts and ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import grpc

from demur.adapters.servers.ext_proc.handler import SERVICE, ExtProcHandler
from demur.adapters.servers.ext_proc.patience import Patience
from demur.adapters.servers.ext_proc.service import Service
from demur.monitor.config.ext_proc import ExtProcConfig
from demur.monitor.config.server import LimitsConfig
from demur.monitor.engine import Engine
from demur.monitor.event import RefusalEvent
from demur.monitor.service.health import Health
from demur.monitor.service.listening import bind

SPARE_CALLS = 16  # beside the exchanges: probes are answered, and exchanges refused, when all places are taken


class ExtProcServer:
    """An `envoy.service.ext_proc.v3.ExternalProcessor` whose answers come from `engines`, by monitor name.

    In `observe` mode the client hears what upstream said, whatever the judge does; in `enforce` mode a blocked answer is
    replaced by an error with status `blocked_status`, one that could not be judged by 503. Beyond `config.streams` exchanges
    Envoy gets RESOURCE_EXHAUSTED, a failure to it, when some monitor must hold answers back, and is told to go on when none.
    `grpc.health.v1` is served beside it, with the service's own name; without `health` it is always SERVING.
    Raises: ConfigurationError when monitors and models do not fit.
    """

    def __init__(
        self,
        config: ExtProcConfig,
        engines: Mapping[str, Engine],
        *,
        limits: LimitsConfig | None = None,
        server_credentials: grpc.ServerCredentials | None = None,
        health: Health | None = None,
        on_refusal: Callable[[RefusalEvent], None] = lambda _: None,
    ) -> None:
        limits = limits or LimitsConfig()
        self._listen, self._credentials = config.listen, server_credentials
        self.service = Service(config, engines, limits, on_refusal)
        calls = config.streams + SPARE_CALLS
        self._pool = ThreadPoolExecutor(calls, "demur-ext-proc")
        self._server = grpc.server(
            self._pool,
            options=(
                ("grpc.max_receive_message_length", limits.message_bytes),
                ("grpc.max_send_message_length", limits.message_bytes),
                ("grpc.so_reuseport", 0),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
            ),
            maximum_concurrent_rpcs=calls,
        )
        self._patience = Patience(min(config.client_seconds, config.idle_seconds))
        self._server.add_generic_rpc_handlers((ExtProcHandler(self.service, config.streams, self._patience),))
        _with_health(self._server, health)
        self._address = ""

    @property
    def address(self) -> str:
        """Where Envoy finds it: host:port with the port that was taken, or unix:/path; "" before `start`."""
        return self._address

    def start(self) -> str:
        """Listen and serve; returns the address. Raises: ConfigurationError when the address cannot be listened on."""
        self._address = bind(self._server, self._listen, self._credentials)
        self._server.start()
        return self._address

    def stop(self, grace_seconds: float = 0.0) -> None:
        """Take no new exchanges, let those under way end within `grace_seconds`, then cancel them, which Envoy takes for a
        failure.
        """
        self._server.stop(grace_seconds).wait()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._patience.close()
        self.service.scoring.close()


def _with_health(server: grpc.Server, health: Health | None) -> None:
    if health is None:
        health = Health()
        health.tell(ready=True, working=True)
    health.also(SERVICE)
    health.register(server)
