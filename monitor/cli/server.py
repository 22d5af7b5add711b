"""Everything one `demur serve` process is made of, put together from its configuration."""

from __future__ import annotations

import hashlib
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from demur.monitor.audit import AuditLog
from demur.monitor.audit.keys import key_name, load_or_make
from demur.monitor.audit.log import PUBLIC_KEY
from demur.monitor.config.document import load, override, parse, read_yaml
from demur.monitor.config.ext_proc import ExtProcConfig
from demur.monitor.config.server import AuditConfig, ProxyConfig, ServedMonitorConfig, ServerConfig
from demur.monitor.errors import ConfigurationError
from demur.monitor.event import RefusalEvent
from demur.monitor.recorder import AuditRecorder, AuditTrail
from demur.monitor.service.server import Server
from demur.monitor.service.tls import http_context
from demur.monitor.session import environment_digest
from demur.monitor.telemetry import Telemetry, TelemetryConfig

if TYPE_CHECKING:
    from demur.adapters.servers.ext_proc import ExtProcServer
    from demur.adapters.servers.oip import OipProxy
    from demur.adapters.servers.oip.rest import RestProxy


def configuration(path: Path | None, bundles: list[Path], listen: str | None) -> ServerConfig:
    """The configuration of a file, or of bundles alone, with command-line and environment overrides."""
    if path is not None and not bundles and listen is None:
        return load(ServerConfig, path)
    import os

    document: dict[str, Any] = {} if path is None else read_yaml(path)
    override(document, os.environ)
    for bundle in bundles:
        document.setdefault("monitors", []).append({"name": _name(bundle), "bundle": str(bundle)})
    if not document.get("monitors"):
        raise ConfigurationError("nothing to serve: give --config demur.yaml or --bundle FILE")
    if listen is not None:
        document["listen"] = [listen]
    return parse(ServerConfig, document, str(path or "the command line"))


class Running:
    """A server with its telemetry, audit log, proxies and external processor."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        secured = config.tls if config.metrics_listen else None
        self._telemetry = Telemetry(
            TelemetryConfig(**config.telemetry.model_dump(), prometheus_listen=config.metrics_listen),
            tls=None if secured is None else http_context(secured),
        )
        self._log = None if config.audit is None else open_log(config.audit, self._telemetry)
        self._trail = trail = None if self._log is None else AuditTrail(self._log)
        self._server = Server(
            config,
            recorder_for=self._recorder,
            observers=[self._telemetry, *([trail] if trail else [])],
            label_sink=trail,
            recorded=None if trail is None else trail.last_served(),
        )
        self._proxy: OipProxy | None = None
        self._rest: RestProxy | None = None
        self._ext_proc: ExtProcServer | None = None
        self._watch()

    def start(self) -> None:
        """Serve; SIGTERM, SIGINT and SIGHUP are handled from here on."""
        self._server.start()
        self._server.handle_signals()
        if self._config.proxy is not None:
            self._start_proxies(self._config.proxy)
        if self._config.ext_proc is not None:
            self._start_ext_proc(self._config.ext_proc)

    def waiting(self) -> list[str]:
        """Monitors without a good bundle so far."""
        return [s.name for s in self._server.registry if s.engine is None]

    def addresses(self) -> dict[str, Any]:
        """Where it listens, as JSON."""
        scrape = self._telemetry.scrape
        return {
            "listen": self._server.addresses,
            "health": self._server.health_address,
            "metrics": scrape.port if scrape else 0,
            "proxy": self._proxy.address if self._proxy else "",
            "proxy_rest": self._rest.address if self._rest else "",
            "ext_proc": self._ext_proc.address if self._ext_proc else "",
        }

    def wait(self) -> None:
        """Until asked to stop; then drain: every listener takes no new work and ends what is under way, all at once."""
        self._server.wait()
        self._server.health.drain()
        grace = self._config.drain_seconds
        ending = [Thread(target=front.stop, args=(grace,), name="demur-drain") for front in self._fronts]
        for thread in ending:
            thread.start()
        self._server.drain()
        for thread in ending:
            thread.join()

    def stop(self) -> None:
        """End calls first, then flush the log, then telemetry."""
        for front in self._fronts:
            front.stop()
        self._server.stop()
        if self._log is not None:
            self._log.close()
        self._telemetry.close()

    @property
    def _fronts(self) -> list[OipProxy | RestProxy | ExtProcServer]:
        """What listens beside the monitors' own service."""
        return [front for front in (self._ext_proc, self._proxy, self._rest) if front is not None]

    def _recorder(self, monitor: ServedMonitorConfig) -> AuditRecorder | None:
        return None if self._log is None else AuditRecorder(self._log, monitor.audit)

    def _start_proxies(self, config: ProxyConfig) -> None:
        """A proxy judges from its first request on, so its monitors' bundles must be good at start."""
        engines = {s.name: s.working() for s in self._server.registry}
        limits, tls, on_refusal = self._config.limits, self._config.tls, self._refused
        if config.listen:
            from demur.adapters.servers.oip import OipProxy
            from demur.monitor.service.tls import credentials

            secret = None if tls is None else credentials(tls)
            self._proxy = OipProxy(config, engines, limits=limits, server_credentials=secret, on_refusal=on_refusal)
            self._proxy.start()
        if config.rest is not None:
            from demur.adapters.servers.oip.rest import RestProxy

            self._rest = RestProxy(config, engines, limits=limits, tls=tls, on_refusal=on_refusal)
            self._rest.start()

    def _start_ext_proc(self, config: ExtProcConfig) -> None:
        """As for the proxies, bundles must be good at start."""
        from demur.adapters.servers.ext_proc import ExtProcServer
        from demur.monitor.service.tls import credentials

        self._ext_proc = ExtProcServer(
            config,
            {s.name: s.working() for s in self._server.registry},
            limits=self._config.limits,
            server_credentials=None if self._config.tls is None else credentials(self._config.tls),
            health=self._server.health,
            on_refusal=self._refused,
        )
        self._ext_proc.start()

    def _refused(self, event: RefusalEvent) -> None:
        """Counted; and, once it has a monitor, a drop of its records."""
        self._telemetry.on_refusal(event)
        if self._trail is not None and event.monitor:
            self._trail.on_refusal(event)

    def _watch(self) -> None:
        registry, watch = self._server.registry, self._telemetry.watch
        watch("demur.ready", lambda: {s.name: float(s.engine is not None) for s in registry})
        watch("demur.streams.live", lambda: {s.name: float(s.live_streams) for s in registry})
        watch("demur.queue.depth", lambda: float(self._server.waiting))
        if self._log is not None:
            log = self._log
            watch("demur.audit.lag", lambda: float(log.lag))
            watch("demur.audit.drops", lambda: float(log.dropped))
            watch("demur.audit.queued", lambda: float(log.queued))


def build(config: ServerConfig) -> Running:
    """Raises: ConfigurationError, AuditUnavailable."""
    return Running(config)


def open_log(config: AuditConfig, telemetry: Telemetry) -> AuditLog:
    """The audit log of a configuration; its key is made on first use."""
    key_file = config.key_file or config.directory / "audit.key"
    key_file.parent.mkdir(parents=True, exist_ok=True)
    exports = [telemetry.checkpoint_to_logs]
    if config.checkpoint_stdout:
        exports.append(lambda note: print(note.decode() if isinstance(note, bytes) else note, flush=True))
    if config.witness_url:
        exports.append(_witness(config.witness_url))
    return AuditLog.open(
        config.directory,
        origin=config.origin,
        signer=load_or_make(key_file, key_name(config.origin), begun=config.directory / PUBLIC_KEY),
        spill_directory=config.spill_directory,
        checkpoint_seconds=config.checkpoint_seconds,
        exports=exports,
        environment=environment_digest(),
    )


def _witness(url: str) -> Any:
    """POST each checkpoint to a URL; failures are the witness's gap, never ours."""
    import logging
    from urllib.request import Request, urlopen

    if not url.startswith(("http://", "https://")):
        raise ConfigurationError(f"audit.witness_url: expected http:// or https://, got {url!r}")

    def send(note: bytes | str) -> None:
        body = note if isinstance(note, bytes) else note.encode()
        try:
            with urlopen(Request(url, body, {"Content-Type": "text/plain; charset=utf-8"}), timeout=5):  # noqa: S310
                pass
        except OSError as error:
            logging.getLogger("demur.audit").warning("checkpoint not sent to %s: %s", url, error)

    return send


def _name(bundle: Path) -> str:
    """The monitor's name as its bundle says it, or the file's."""
    from demur.monitor.bundle import Bundle

    try:
        return Bundle.load(bundle).manifest.monitor
    except Exception:
        stem = "".join(c if c.isalnum() or c in "_.-" else "-" for c in bundle.stem)
        return stem or hashlib.sha256(str(bundle).encode()).hexdigest()[:8]
