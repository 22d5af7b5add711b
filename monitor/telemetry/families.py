"""What an exporter reads: a moment's values, one family a metric, points in the order of the metric's attributes."""

from __future__ import annotations

from dataclasses import dataclass, field

from demur.monitor.telemetry.names import Metric


@dataclass(frozen=True, slots=True)
class Point:
    """One value and its attribute values."""

    labels: tuple[str, ...]
    value: float


@dataclass(frozen=True, slots=True)
class Buckets:
    """One histogram: `counts` has one entry for each bound and one above them; `total` is the sum of the values."""

    labels: tuple[str, ...]
    counts: tuple[int, ...]
    total: float

    @property
    def count(self) -> int:
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class Family:
    """Counters and gauges have `points`, histograms have `buckets`."""

    metric: Metric
    points: tuple[Point, ...] = ()
    buckets: tuple[Buckets, ...] = field(default=())
