"""One sidecar: monitors, addresses, health, reload, drain."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Self

import grpc

from demur.monitor.bundle.succession import LastServed
from demur.monitor.config.server import ServedMonitorConfig, ServerConfig
from demur.monitor.engine import Conduct, Engine, Recorder
from demur.monitor.event import RefusalEvent
from demur.monitor.loaded import Loaded
from demur.monitor.service import handlers, tls
from demur.monitor.service.admission import Admission
from demur.monitor.service.assessor import Assessor
from demur.monitor.service.auth import TokenFile, TokenInterceptor
from demur.monitor.service.codec import Limits
from demur.monitor.service.health import Health
from demur.monitor.service.labels import LabelSink
from demur.monitor.service.listening import bind
from demur.monitor.service.observer import Observer, Observers
from demur.monitor.service.registry import Registry, Served
from demur.monitor.service.reload import BundleFile
from demur.monitor.service.servicer import Servicer
from demur.monitor.service.watcher import Watcher

LOG = logging.getLogger("demur.service")
RecorderFor = Callable[[ServedMonitorConfig], Recorder | None]
CLOSE_SECONDS = 1.0
POLL_SECONDS = 0.02


class Server:
    """Serves the monitors of a configuration.

    A monitor whose bundle cannot be used does not keep the others from being served: the server starts, readiness stays
    NOT_SERVING, that monitor answers FAILED_PRECONDITION with the reason, and its file is tried again. What is wrong
    with the server itself (addresses, certificates, token) refuses the start.
    """

    def __init__(
        self,
        config: ServerConfig,
        *,
        recorder_for: RecorderFor = lambda _: None,
        observers: Sequence[Observer] = (),
        label_sink: LabelSink | None = None,
        socket_mode: int = 0o600,
        recorded: Mapping[str, LastServed] | None = None,
    ) -> None:
        """recorded: which bundle an audit log names as served last under each name; None where there is no log."""
        self.config = config
        self.addresses: list[str] = []
        self.health_address = ""
        self._recorder_for, self._decided = recorder_for, [o.on_decision for o in observers]
        self._observers = Observers(observers)
        self._socket_mode = socket_mode
        limits = config.limits
        self.registry = Registry(
            {
                m.name: Served(m, streams=limits.streams, idle_seconds=limits.stream_idle_seconds)
                for m in config.monitors
            }
        )
        self.health = Health()
        self._files = [BundleFile(served, self._engine, self._observers, recorded) for served in self.registry]
        self._watcher = Watcher(self._look, config.watch_seconds)
        self._admission = Admission(limits.threads, limits.queue, max(1, limits.concurrent_rpcs // 2))
        assessor = Assessor(self.registry, self._admission, Limits(limits.rows, limits.tensor_bytes))
        self._servicer = Servicer(assessor, self._observers, label_sink)
        self._token: TokenFile | None = None
        self._servers: list[grpc.Server] = []
        self._asked = threading.Event()
        self._stopped = False

    def start(self) -> Self:
        """Bind, load, serve; `addresses` are known afterwards. Raises: ConfigurationError."""
        self._token = None if self.config.token_file is None else TokenFile(self.config.token_file)
        self._open_health()
        self._open_main()
        self._look(False)
        for server in self._servers:
            server.start()
        self._watcher.start()
        LOG.info("serving %s on %s", ", ".join(s.name for s in self.registry), ", ".join(self.addresses))
        return self

    def reload(self) -> None:
        """Look at every bundle file now, changed or not; what SIGHUP does. Returns at once."""
        self._watcher.wake()

    def handle_signals(self) -> None:
        """SIGTERM and SIGINT end `wait`, SIGHUP reloads. Call from the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._asked.set())
        signal.signal(signal.SIGHUP, lambda *_: self.reload())

    def wait(self, seconds: float | None = None) -> bool:
        """Until a signal or `stop`; True when asked to stop."""
        return self._asked.wait(seconds)

    def drain(self, seconds: float | None = None) -> bool:
        """Say NOT_SERVING, refuse new work, and wait for what is under way; True when all of it was answered."""
        until = monotonic() + (self.config.drain_seconds if seconds is None else seconds)
        self.health.drain()
        self._admission.drain()
        while self._busy() and monotonic() < until:
            sleep(POLL_SECONDS)
        return not self._busy()

    @property
    def waiting(self) -> int:
        """Requests waiting for a scoring thread."""
        return self._admission.waiting

    def _busy(self) -> bool:
        return self._admission.inside > 0 or any(s.live_streams for s in self.registry)

    def stop(self) -> None:
        """End every call and every thread. Idempotent."""
        if self._stopped:
            return
        self._stopped = True
        self.health.drain()
        self._watcher.stop()
        for ended in [server.stop(CLOSE_SECONDS) for server in self._servers]:
            ended.wait(CLOSE_SECONDS * 5)
        for served in self.registry:
            served.close()
        self._asked.set()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _engine(self, served: Served, loaded: Loaded) -> Engine:
        config = served.config
        budget = None if config.budget_ms is None else config.budget_ms / 1e3
        conduct = Conduct(config.mode, config.on_failure, budget)
        return Engine(loaded, conduct=conduct, recorder=self._recorder_for(config), listeners=self._decided)

    def _look(self, forced: bool) -> None:
        if self._token is not None:
            self._token.refresh()
        for file in self._files:
            file.look(force=forced)
        self.health.tell(ready=self.registry.ready, working=self.registry.working)

    def _open_main(self) -> None:
        config = self.config
        interceptors = [] if self._token is None else [TokenInterceptor(self._token, self._count_unauthenticated)]
        server = _grpc_server(config, config.limits.concurrent_rpcs, "demur-rpc", interceptors)
        handlers.register(server, self._servicer)
        self.health.register(server)
        if config.reflection:
            _register_reflection(server)
        credentials = None if config.tls is None else tls.credentials(config.tls)
        self.addresses = [bind(server, address, credentials, mode=self._socket_mode) for address in config.listen]
        self._servers.append(server)

    def _open_health(self) -> None:
        if self.config.health_listen is None:
            return
        server = _grpc_server(self.config, 16, "demur-health", ())
        self.health.register(server)
        self.health_address = bind(server, self.config.health_listen, mode=0o666)
        self._servers.append(server)

    def _count_unauthenticated(self) -> None:
        self._observers.refused(RefusalEvent("", "unauthenticated"))


def _grpc_server(config: ServerConfig, calls: int, name: str, interceptors: Sequence[Any]) -> grpc.Server:
    """A thread for each call that may be open: AssessStream keeps its thread."""
    options = [
        ("grpc.max_receive_message_length", config.limits.message_bytes),
        ("grpc.max_send_message_length", config.limits.message_bytes),
        ("grpc.so_reuseport", 0),  # two servers on one port must be an error, not a lottery
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ]
    pool = ThreadPoolExecutor(calls, thread_name_prefix=name)
    return grpc.server(pool, interceptors=interceptors, options=options, maximum_concurrent_rpcs=calls)


def _register_reflection(server: grpc.Server) -> None:
    from grpc_health.v1 import health
    from grpc_reflection.v1alpha import reflection

    reflection.enable_server_reflection((handlers.SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
