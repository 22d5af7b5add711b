"""The REST proxy as a server: a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any, cast

import uvicorn

from demur.adapters.servers.oip.backlog import Backlog
from demur.adapters.servers.oip.judge import Judge
from demur.adapters.servers.oip.mapping import proxied
from demur.adapters.servers.oip.rest.application import RestApplication
from demur.adapters.servers.oip.rest.connection import Connection
from demur.adapters.servers.oip.rest.inference import Answer, Inference
from demur.adapters.servers.oip.rest.upstream import HttpUpstream
from demur.monitor.config.server import LimitsConfig, ProxyConfig, TlsConfig
from demur.monitor.engine import Engine
from demur.monitor.errors import ConfigurationError
from demur.monitor.event import RefusalEvent
from demur.monitor.service.listening import refuse_live
from demur.monitor.service.tls import http_context

LOG = logging.getLogger("demur.oip")
WORKERS = 32  # threads that parse and judge
IDLE_SECONDS = 75  # a client's connection without a request; clients that pool connections keep them for a minute
START_SECONDS = 30.0
BACKLOG = 2048  # connections not yet accepted, as uvicorn has it


class RestProxy:
    """A transparent HTTP proxy in front of `config.rest.upstream`.

    `POST /v2/models/NAME[/versions/V]/infer` of a mapped model is judged by `engines`, by monitor name; everything else
    passes through. What a client gets in `observe` and in `enforce` mode is what OipProxy's clients get, in HTTP's words:
    412 where a verdict blocks, 503 where the audit log cannot take it, with `demur-*` headers.
    `tls` makes a TCP listener speak TLS. Raises: ConfigurationError when monitors and mapping do not fit, or a file cannot be read.
    """

    def __init__(
        self,
        config: ProxyConfig,
        engines: Mapping[str, Engine],
        *,
        limits: LimitsConfig | None = None,
        tls: TlsConfig | None = None,
        on_refusal: Callable[[RefusalEvent], None] = lambda _: None,
    ) -> None:
        if config.rest is None:
            raise ConfigurationError("proxy.rest: expected `listen` and `upstream`, got nothing")
        self._limits = limits or LimitsConfig()
        self._listen, self._rest, self._config = config.rest.listen, config.rest, config
        self._judge = Judge(
            proxied(config.models, engines, self._limits), on_refusal, block_unmapped=config.unmapped == "block"
        )
        self._backlog: Backlog[Answer] = Backlog(self._judge.judge_together)
        self._upstream = HttpUpstream(config.rest, message_bytes=self._limits.message_bytes)
        self._pool = ThreadPoolExecutor(WORKERS, "demur-oip-rest")
        self._asking = ThreadPoolExecutor(self._limits.concurrent_rpcs, "demur-oip-rest-asking")
        self._server = uvicorn.Server(self._settings(None if config.rest.listen.startswith("unix:") else tls))
        self._thread = threading.Thread(target=self._run, name="demur-oip-rest", daemon=True)
        self._sockets: list[socket.socket] = []
        self._failure: BaseException | None = None
        self._address = ""

    @property
    def address(self) -> str:
        """Where clients find it: host:port with the port that was taken, or unix:/path; "" before `start`."""
        return self._address

    def start(self) -> str:
        """Listen and serve; returns the address. Raises: ConfigurationError when the address cannot be listened on."""
        try:
            found = _bound(self._listen)
        except (OSError, OverflowError) as error:  # OverflowError: a port beyond 65535
            raise ConfigurationError(
                f"proxy.rest: cannot listen on {self._listen} ({error}); choose a free address or stop what holds it"
            ) from error
        self._sockets = [found]
        self._thread.start()
        ends = monotonic() + START_SECONDS
        while not self._server.started and self._thread.is_alive() and monotonic() < ends:
            sleep(0.005)
        if not self._server.started:
            raise ConfigurationError(f"proxy.rest: cannot serve on {self._listen} ({self._failure})")
        unix = self._listen.startswith("unix:")
        self._address = self._listen if unix else f"{self._listen.rpartition(':')[0]}:{found.getsockname()[1]}"
        return self._address

    def settle(self) -> None:
        """Wait until every answer that went out is judged."""
        self._backlog.settle()

    def stop(self, grace_seconds: float = 0.0) -> None:
        """Take no new connections, let exchanges under way end within `grace_seconds`, then cancel them; judge what has gone out."""
        self._server.config.timeout_graceful_shutdown = max(1, round(grace_seconds))
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(grace_seconds + 10)
        for pool in (self._pool, self._asking):
            pool.shutdown(wait=False, cancel_futures=True)
        self._backlog.close()
        if self._listen.startswith("unix:"):
            Path(self._listen.removeprefix("unix:")).unlink(missing_ok=True)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # also SystemExit, which uvicorn raises when it cannot start
            self._failure = error
            LOG.exception("the REST proxy stopped")

    async def _serve(self) -> None:
        await self._server.serve(sockets=self._sockets)
        await self._upstream.close()

    def _settings(self, tls: TlsConfig | None) -> uvicorn.Config:
        config, limits = self._config, self._limits
        inference = Inference(
            self._upstream,
            self._judge,
            self._pool,
            self._asking,
            self._backlog,
            annotate=config.annotate,
            message_bytes=limits.message_bytes,
        )
        application = RestApplication(
            self._upstream,
            self._judge,
            inference,
            reads_all=config.annotate != "off",
            concurrent=limits.concurrent_rpcs,
            message_bytes=limits.message_bytes,
            patience_seconds=self._rest.timeout_seconds,
        )
        settings = uvicorn.Config(
            application,
            http=cast("Any", partial(Connection, patience_seconds=self._rest.timeout_seconds)),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=IDLE_SECONDS,
        )
        settings.load()
        settings.ssl = None if tls is None else http_context(tls)
        return settings


def _bound(listen: str) -> socket.socket:
    if listen.startswith("unix:"):
        path = Path(listen.removeprefix("unix:"))
        refuse_live(path)
        path.unlink(missing_ok=True)  # left behind by a process that was killed
        return _taken(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), str(path))
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's delay off only where the protocol is named; without it each answer waits 40 ms for an ACK
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return _taken(found, (host, int(port)))


def _taken(found: socket.socket, address: str | tuple[str, int]) -> socket.socket:
    try:
        found.bind(address)
        found.listen(BACKLOG)  # now: binding alone lets another process listen on the same port
    except (OSError, OverflowError):
        found.close()
        raise
    return found
