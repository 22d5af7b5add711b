"""The proxy as a server: it listens, forwards, judges, and stops."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import grpc

from demur.adapters.servers.listener import Listener
from demur.adapters.servers.oip.backlog import Backlog
from demur.adapters.servers.oip.handler import OipHandler
from demur.adapters.servers.oip.judge import Judge
from demur.adapters.servers.oip.mapping import proxied
from demur.adapters.servers.oip.unary import Sent
from demur.adapters.servers.oip.upstream import Upstream
from demur.monitor.config.server import LimitsConfig, ProxyConfig
from demur.monitor.engine import Engine
from demur.monitor.event import RefusalEvent

SLACK_BYTES = 16 << 20


class OipProxy(Listener):
    """An Open Inference Protocol gRPC proxy in front of `config.upstream`, Triton's extensions and streams included.

    Answers of mapped models are judged by `engines`, by monitor name. In `observe` mode whatever the judge does, the client
    hears what upstream said, and where no verdict is awaited hears it first (see `Judge.defers`); in `enforce` mode a blocked answer is replaced by a status (see `Withheld`), or by what the
    model's `on_abstain` says. With `config.annotate` the answer also carries `demur.*` parameters or tensors. Answers of
    unmapped models are ABSTAIN(UNAVAILABLE), told to `on_refusal` as kind `unmapped`, and pass unless
    `config.unmapped` is block.

    `server_credentials` make TCP listeners speak TLS (a unix socket is guarded by its folder's permissions);
    `upstream_credentials` win over `config.upstream_tls_ca`.
    Raises: ConfigurationError when monitors and mapping do not fit, or the CA file cannot be read.
    """

    def __init__(
        self,
        config: ProxyConfig,
        engines: Mapping[str, Engine],
        *,
        limits: LimitsConfig | None = None,
        server_credentials: grpc.ServerCredentials | None = None,
        upstream_credentials: grpc.ChannelCredentials | None = None,
        on_refusal: Callable[[RefusalEvent], None] = lambda _: None,
    ) -> None:
        limits = limits or LimitsConfig()
        self.models = proxied(config.models, engines, limits)
        judge = Judge(self.models, on_refusal, block_unmapped=config.unmapped == "block")
        self._upstream = Upstream(
            config.upstream,
            credentials=upstream_credentials,
            authority=config.upstream_tls_ca,
            message_bytes=limits.message_bytes,
            timeout_seconds=config.upstream_timeout_seconds,
            calls=limits.concurrent_rpcs,
        )
        self._backlog: Backlog[Sent] = Backlog(judge.judge_together)
        handler = OipHandler(
            self._upstream,
            judge,
            self._backlog,
            annotate=config.annotate,
            message_bytes=limits.message_bytes,
            streams=config.streams,
        )
        super().__init__(
            "demur-oip",
            config.listen,
            server_credentials,
            (handler,),
            calls=limits.concurrent_rpcs,
            threads=limits.concurrent_rpcs + config.streams,
            # What is a little too large is read, so that the client can be told in words whose limit it met.
            receive_bytes=limits.message_bytes + min(limits.message_bytes, SLACK_BYTES),
            send_bytes=limits.message_bytes,
        )

    def settle(self) -> None:
        """Wait until every answer that went out is judged."""
        self._backlog.settle()

    def stop(self, grace_seconds: float = 0.0) -> None:
        """Take no new calls, let those under way end within `grace_seconds`, then cancel them; judge what has gone out."""
        super().stop(grace_seconds)
        self._backlog.close()
        self._upstream.close()
