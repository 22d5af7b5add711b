"""The external processor as a server: where it listens, how it starts and ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import grpc

from demur.adapters.servers.ext_proc.handler import SERVICE, ExtProcHandler
from demur.adapters.servers.ext_proc.patience import Patience
from demur.adapters.servers.ext_proc.service import Service
from demur.adapters.servers.listener import Listener
from demur.monitor.config.ext_proc import ExtProcConfig
from demur.monitor.config.server import LimitsConfig
from demur.monitor.engine import Engine
from demur.monitor.event import RefusalEvent
from demur.monitor.service.health import Health

SPARE_CALLS = 16  # beside the exchanges: probes are answered, and exchanges refused, when all places are taken


class ExtProcServer(Listener):
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
        self.service = Service(config, engines, limits, on_refusal)
        self._patience = Patience(min(config.client_seconds, config.idle_seconds))
        calls = config.streams + SPARE_CALLS
        super().__init__(
            "demur-ext-proc",
            config.listen,
            server_credentials,
            (ExtProcHandler(self.service, config.streams, self._patience),),
            calls=calls,
            threads=calls,
            receive_bytes=limits.message_bytes,
            send_bytes=limits.message_bytes,
        )
        _with_health(self.server, health)

    def stop(self, grace_seconds: float = 0.0) -> None:
        """Take no new exchanges, let those under way end within `grace_seconds`, then cancel them, which Envoy takes for a
        failure.
        """
        super().stop(grace_seconds)
        self._patience.close()
        self.service.scoring.close()


def _with_health(server: grpc.Server, health: Health | None) -> None:
    if health is None:
        health = Health()
        health.tell(ready=True, working=True)
    health.also(SERVICE)
    health.register(server)
