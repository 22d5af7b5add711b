"""Telemetry of one process: accumulators always, exporters where the configuration names them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Lock
from typing import TYPE_CHECKING, Protocol

from demur.monitor.event import BundleEvent, DecisionEvent, RefusalEvent
from demur.monitor.telemetry.accumulators import Accumulators
from demur.monitor.telemetry.config import TelemetryConfig
from demur.monitor.telemetry.families import Family, Point
from demur.monitor.telemetry.gauges import Gauges, Reading
from demur.monitor.telemetry.names import TELEMETRY_ERRORS
from demur.monitor.telemetry.sampling import ROOT, sample

if TYPE_CHECKING:
    from ssl import SSLContext

    from demur.monitor.telemetry.otlp import Otlp
    from demur.monitor.telemetry.prometheus import MetricsServer, TlsFiles

CLOSE_SECONDS = 3.0


class Listener(Protocol):
    """What the server tells: `Telemetry`, or `NoTelemetry` where nobody listens."""

    def on_decision(self, event: DecisionEvent) -> None: ...
    def on_stream_end(self, event: DecisionEvent, response_id: str = "") -> None: ...
    def on_refusal(self, event: RefusalEvent) -> None: ...
    def on_bundle(self, event: BundleEvent) -> None: ...
    def checkpoint_to_logs(self, note: bytes | str) -> None: ...
    def watch(self, name: str, read: Callable[[], Reading]) -> None: ...
    def close(self) -> None: ...


class NoTelemetry:
    """Hears everything, does nothing."""

    def on_decision(self, event: DecisionEvent) -> None: ...
    def on_stream_end(self, event: DecisionEvent, response_id: str = "") -> None: ...
    def on_refusal(self, event: RefusalEvent) -> None: ...
    def on_bundle(self, event: BundleEvent) -> None: ...
    def checkpoint_to_logs(self, note: bytes | str) -> None: ...
    def watch(self, name: str, read: Callable[[], Reading]) -> None: ...
    def close(self) -> None: ...


class Telemetry:
    """Counts events and exports the counts. Nothing here raises into the caller: failures are counted instead.

    Raises, when made: ValueError for an address that is not host:port, OSError when it is taken.
    """

    def __init__(self, config: TelemetryConfig | None = None, tls: TlsFiles | SSLContext | None = None) -> None:
        config = config or TelemetryConfig()
        self._ratio = config.trace_ratio
        self._errors = dict.fromkeys(("events", "gauges", "metrics", "traces", "logs"), 0)
        self._lock = Lock()
        self._counts = Accumulators()
        self._gauges = Gauges(self._failed)
        self.scrape: MetricsServer | None = None
        self._otlp: Otlp | None = None
        if config.prometheus_listen:
            from demur.monitor.telemetry.prometheus import serve_metrics

            self.scrape = serve_metrics(config.prometheus_listen, self.collect, tls)
        if config.otlp_endpoint:
            from demur.monitor.telemetry.otlp import Otlp

            self._otlp = Otlp(config, self.collect, self._counts.started_ns, self._failed)

    def on_decision(self, event: DecisionEvent) -> None:
        """Count one assessed request; trace it when its caller, or chance, says so."""
        try:
            self._counts.on_decision(event)
            otlp = self._otlp
            if otlp is not None and (parent := sample(event.traceparent, self._ratio)) is not None:
                otlp.record(event, parent)
        except Exception:  # a telemetry failure never changes a verdict
            self._failed("events")

    def on_stream_end(self, event: DecisionEvent, response_id: str = "") -> None:
        """Send the verdict of a finished (or just refused) stream as evaluation events, sampled or not.

        Counts nothing: the steps were counted as decisions. Call it once or twice a stream, not once a token.
        """
        try:
            if (otlp := self._otlp) is not None:
                otlp.evaluate(event, sample(event.traceparent, 0.0) or ROOT, response_id)
        except Exception:
            self._failed("events")

    def on_refusal(self, event: RefusalEvent) -> None:
        """Count a request that got no verdicts."""
        try:
            self._counts.on_refusal(event)
        except Exception:
            self._failed("events")

    def on_bundle(self, event: BundleEvent) -> None:
        """Remember the bundle in use. Call it at start too: it makes the monitor's name known to refusals."""
        try:
            self._counts.on_bundle(event)
        except Exception:
            self._failed("events")

    def checkpoint_to_logs(self, note: bytes | str) -> None:
        """Send a copy of a signed audit checkpoint as a log event. The log itself remains the trail."""
        try:
            if (otlp := self._otlp) is not None:
                otlp.tracing.checkpoint(note.decode() if isinstance(note, bytes) else note)
        except Exception:
            self._failed("events")

    def watch(self, name: str, read: Callable[[], Reading]) -> None:
        """Read the metric `name` (one marked `supplied` in names.py) from a callable whenever somebody looks.

        Raises: ValueError for another name.
        """
        self._gauges.watch(name, read)

    def collect(self) -> Iterator[Family]:
        """All metrics at this moment."""
        yield from self._counts.collect()
        yield from self._gauges.collect()
        with self._lock:
            errors = tuple(Point((signal,), count) for signal, count in self._errors.items())
        yield Family(TELEMETRY_ERRORS, errors)

    def close(self) -> None:
        """Stop the endpoint and send what is left, for a few seconds at most."""
        if self.scrape is not None:
            self.scrape.close()
            self.scrape = None
        if self._otlp is not None:
            otlp, self._otlp = self._otlp, None
            otlp.close(CLOSE_SECONDS)

    def _failed(self, signal: str) -> None:
        with self._lock:
            self._errors[signal] += 1
