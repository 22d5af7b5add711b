"""The proxy as a server: it listens, forwards, judges, and stops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import grpc

from demur.adapters.servers.oip.backlog import Backlog
from demur.adapters.servers.oip.handler import OipHandler
from demur.adapters.servers.oip.judge import Judge
from demur.adapters.servers.oip.mapping import proxied
from demur.adapters.servers.oip.unary import Sent
from demur.adapters.servers.oip.upstream import Upstream
from demur.monitor.config.server import LimitsConfig, ProxyConfig
from demur.monitor.engine import Engine
from demur.monitor.event import RefusalEvent
from demur.monitor.service.listening import bind

SLACK_BYTES = 16 << 20


class OipProxy:
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
        self._listen = config.listen
        self._credentials = server_credentials
        self._upstream = Upstream(
            config.upstream,
            credentials=upstream_credentials,
            authority=config.upstream_tls_ca,
            message_bytes=limits.message_bytes,
            timeout_seconds=config.upstream_timeout_seconds,
            calls=limits.concurrent_rpcs,
        )
        # A thread for each call that may be open, made when it is first needed: it waits for upstream most of its time.
        self._pool = ThreadPoolExecutor(limits.concurrent_rpcs + config.streams, "demur-oip")
        self._server = grpc.server(
            self._pool,
            options=(
                # What is a little too large is read, so that the client can be told in words whose limit it met.
                ("grpc.max_receive_message_length", limits.message_bytes + min(limits.message_bytes, SLACK_BYTES)),
                ("grpc.max_send_message_length", limits.message_bytes),
                ("grpc.so_reuseport", 0),
            ),
            maximum_concurrent_rpcs=limits.concurrent_rpcs,
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
        self._server.add_generic_rpc_handlers((handler,))
        self._address = ""

    @property
    def address(self) -> str:
        """Where clients find it: host:port with the port that was taken, or unix:/path; "" before `start`."""
        return self._address

    def start(self) -> str:
        """Listen and serve; returns the address. Raises: ConfigurationError when the address cannot be listened on."""
        self._address = bind(self._server, self._listen, self._credentials)
        self._server.start()
        return self._address

    def settle(self) -> None:
        """Wait until every answer that went out is judged."""
        self._backlog.settle()

    def stop(self, grace_seconds: float = 0.0) -> None:
        """Take no new calls, let those under way end within `grace_seconds`, then cancel them; judge what has gone out."""
        self._server.stop(grace_seconds).wait()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._backlog.close()
        self._upstream.close()
