"""Our accumulators as OTLP metrics.

The Python SDK has no MetricProducer, and observable instruments cannot express histograms: so a thread of ours builds
MetricsData every interval and hands it to the SDK's OTLP exporter, which knows retries, TLS and headers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from threading import Event, Thread

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from demur.monitor.telemetry.families import Buckets, Family
from demur.monitor.telemetry.names import SCOPE

Collect = Callable[[], Iterable[Family]]


def metrics_data(families: Iterable[Family], resource: Resource, started_ns: int) -> MetricsData:
    """One export: cumulative since `started_ns` (nanoseconds since the epoch)."""
    now = time.time_ns()
    metrics = [_metric(family, started_ns, now) for family in families]
    scope = ScopeMetrics(InstrumentationScope(SCOPE), metrics, "")
    return MetricsData([ResourceMetrics(resource, [scope], "")])


def _metric(family: Family, start: int, now: int) -> Metric:
    about = family.metric
    data: Sum | Gauge | Histogram
    if about.kind == "histogram":
        points = [_histogram(family, buckets, start, now) for buckets in family.buckets]
        data = Histogram(points, AggregationTemporality.CUMULATIVE)
    else:
        numbers = [
            NumberDataPoint(dict(zip(about.attributes, p.labels, strict=True)), start, now, p.value)
            for p in family.points
        ]
        data = (
            Gauge(numbers)
            if about.kind == "gauge"
            else Sum(numbers, AggregationTemporality.CUMULATIVE, is_monotonic=True)
        )
    return Metric(about.name, about.description, about.unit, data)


def _histogram(family: Family, buckets: Buckets, start: int, now: int) -> HistogramDataPoint:
    about = family.metric
    return HistogramDataPoint(
        attributes=dict(zip(about.attributes, buckets.labels, strict=True)),
        start_time_unix_nano=start,
        time_unix_nano=now,
        count=buckets.count,
        # The OTLP schema leaves `sum` out when values may be negative; the SDK's types do not know these are optional.
        sum=None if about.signed else buckets.total,  # type: ignore[arg-type]
        bucket_counts=buckets.counts,
        explicit_bounds=about.bounds,
        min=None,  # type: ignore[arg-type]
        max=None,  # type: ignore[arg-type]
    )


class PeriodicExport:
    """Sends every interval and once more on close. What could not be sent is in the next export: counts are cumulative."""

    def __init__(
        self,
        exporter: MetricExporter,
        collect: Callable[[], MetricsData],
        interval_seconds: float,
        failed: Callable[[str], None],
    ) -> None:
        self._exporter = exporter
        self._collect = collect
        self._interval = interval_seconds
        self._failed = failed
        self._closing = Event()
        self._thread = Thread(target=self._loop, name="demur-metrics", daemon=True)
        self._thread.start()

    def send(self) -> None:
        try:
            if self._exporter.export(self._collect()) is not MetricExportResult.SUCCESS:
                self._failed("metrics")
        except Exception:  # telemetry never takes the server down
            self._failed("metrics")

    def close(self, timeout_seconds: float) -> None:
        """The last export, given up after `timeout_seconds`."""
        self._closing.set()
        self._thread.join(timeout_seconds)
        self._exporter.shutdown()

    def _loop(self) -> None:
        while not self._closing.wait(self._interval):
            self.send()
        self.send()
