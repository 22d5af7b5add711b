"""The OTLP side of telemetry: metrics, spans and logs to one gRPC endpoint. Imported only when an endpoint is named."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Thread
from typing import TypedDict

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.resources import Resource

from demur.monitor.event import DecisionEvent
from demur.monitor.telemetry.config import TelemetryConfig
from demur.monitor.telemetry.families import Family
from demur.monitor.telemetry.metrics import PeriodicExport, metrics_data
from demur.monitor.telemetry.sampling import Parent
from demur.monitor.telemetry.tracing import CountedLogs, CountedSpans, Tracing, parent_context

# Shorter than the SDK's 10 s: an export that hangs longer is lost anyway, and close waits for it.
_EXPORT_SECONDS = 5.0


class _Target(TypedDict):
    endpoint: str
    insecure: bool | None
    headers: tuple[tuple[str, str], ...]
    timeout: float


class Otlp:
    """Exporters of one endpoint. A receiver that is down costs nothing here: queues are bounded, counts cumulative."""

    def __init__(
        self,
        config: TelemetryConfig,
        collect: Callable[[], Iterable[Family]],
        started_ns: int,
        failed: Callable[[str], None],
    ) -> None:
        resource = Resource.create({"service.name": config.service_name, **config.resource})
        target = _target(config)
        spans, logs = CountedSpans(**target), CountedLogs(**target)
        spans.failed = logs.failed = failed
        self.tracing = Tracing(spans, logs, resource)
        self.metrics = PeriodicExport(
            OTLPMetricExporter(**target),
            lambda: metrics_data(collect(), resource, started_ns),
            config.metrics_interval_seconds,
            failed,
        )

    def record(self, event: DecisionEvent, parent: Parent) -> None:
        """A span, and for steps of streams the evaluations inside it."""
        context = self.tracing.record(event, parent)
        if any(rule.unit == "stream" for rule in event.verdicts.policy.rules):
            self.tracing.evaluate(event, context, "")

    def evaluate(self, event: DecisionEvent, parent: Parent, response_id: str) -> None:
        self.tracing.evaluate(event, parent_context(parent), response_id)

    def close(self, timeout_seconds: float) -> None:
        """Send what is left: traces, logs and metrics side by side, all given up after `timeout_seconds`."""
        closing = [
            Thread(target=part.close, args=(timeout_seconds,), name="demur-telemetry-close", daemon=True)
            for part in (self.tracing, self.metrics)
        ]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join(timeout_seconds + 1)


def _target(config: TelemetryConfig) -> _Target:
    endpoint = config.otlp_endpoint or ""
    # None lets the exporter go by the scheme, so that http:// is plain text and everything else TLS
    headers = tuple((name.lower(), value) for name, value in config.otlp_headers.items())
    return {
        "endpoint": endpoint,
        "insecure": True if config.otlp_insecure else None,
        "headers": headers,
        "timeout": _EXPORT_SECONDS,
    }
