"""Numbers other parts of the server hand in as callables, read only when an exporter looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from demur.monitor.telemetry.accumulators import MONITOR_LIMIT
from demur.monitor.telemetry.families import Family, Point
from demur.monitor.telemetry.names import SUPPLIED, Metric

Reading = float | Mapping[str, float]


class Gauges:
    """Callables by metric name. One that raises loses its metric for this look and is counted by `failed`."""

    def __init__(self, failed: Callable[[str], None]) -> None:
        self._sources: dict[str, Callable[[], Reading]] = {}
        self._failed = failed

    def watch(self, name: str, read: Callable[[], Reading]) -> None:
        """Read `name` from `read`, which gives a number, or numbers by monitor for metrics labelled so.

        Raises: ValueError for a name that is not a supplied metric.
        """
        if name not in SUPPLIED:
            raise ValueError(f"{name}: expected one of {', '.join(sorted(SUPPLIED))}")
        self._sources[name] = read

    def collect(self) -> Iterator[Family]:
        for name, read in tuple(self._sources.items()):
            try:
                yield Family(SUPPLIED[name], _points(SUPPLIED[name], read()))
            except Exception:  # a broken gauge must not hide the others
                self._failed("gauges")


def _points(metric: Metric, reading: Reading) -> tuple[Point, ...]:
    if not metric.attributes:
        if isinstance(reading, Mapping):
            raise TypeError(f"{metric.name}: expected one number, got numbers by {sorted(reading)}")
        return (Point((), float(reading)),)
    if not isinstance(reading, Mapping):
        raise TypeError(f"{metric.name}: expected numbers by monitor, got {type(reading).__name__}")
    return tuple(Point((name,), float(value)) for name, value in sorted(reading.items())[:MONITOR_LIMIT])
