"""Where telemetry goes. Nothing is sent unless an endpoint or an address is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TelemetryConfig:
    """`otlp_endpoint` is a gRPC endpoint (`http://collector:4317` is plain text, `https://` or host:port is TLS unless
    `otlp_insecure`); `trace_ratio` 0..1 is the share of requests without a traceparent that is traced;
    `prometheus_listen` is host:port, port 0 for any free one. Headers may hold secrets and are not in the repr.

    Raises: ValueError for a ratio outside 0..1 or an interval that is not positive.
    """

    otlp_endpoint: str | None = None
    otlp_insecure: bool = False
    otlp_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    metrics_interval_seconds: float = 10.0
    trace_ratio: float = 0.01
    prometheus_listen: str | None = None
    service_name: str = "demur"
    resource: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.trace_ratio <= 1:
            raise ValueError(f"trace_ratio: expected a share from 0 to 1, got {self.trace_ratio}")
        if not self.metrics_interval_seconds > 0:
            raise ValueError(f"metrics_interval_seconds: expected more than 0, got {self.metrics_interval_seconds}")
