"""What telemetry hears about one assessed request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from demur.monitor.verdicts import Verdicts


@dataclass(slots=True)  # not frozen: one is made for every request, and freezing costs 2 µs of it
class DecisionEvent:
    """One assessed request, or one step of batched streams. Durations in seconds; `stages` by name: decode, score, audit, encode."""

    monitor: str
    bundle: str
    verdicts: Verdicts
    seconds: float
    stages: Mapping[str, float] = field(default_factory=dict)
    out_of_range: int = 0  # rows with a signal outside its calibration range, of `range_rows` that were looked at
    range_rows: int = 0
    protocol: str = "python"  # python | grpc | oip | oip-rest
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class RefusalEvent:
    """A request that got no verdicts: its kind is one of invalid, unknown, unmapped (a proxied model without a monitor),
    unauthenticated, bundle (none is good to serve), overloaded, draining, deadline, audit, upstream (it gave an error, or no
    answer), internal.
    """

    monitor: str
    kind: str
    protocol: str = "grpc"


@dataclass(frozen=True, slots=True)
class BundleEvent:
    """A bundle was activated, or a newer file was refused and the last good one kept. `built_for`: the bundle's own name."""

    monitor: str
    bundle: str
    version: int
    accepted: bool
    cause: str = ""
    built_for: str = ""
