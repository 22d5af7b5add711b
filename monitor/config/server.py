"""`demur.yaml`: what one server listens on, which monitors it serves, and what it does when something fails."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from demur.monitor.config.document import Section
from demur.monitor.config.policy import Name

Address = Annotated[
    str, Field(pattern=r"^(unix:.+|\S+:\d{1,5})$", description="host:port (port 0: any free one) or unix:/path")
]


class TlsConfig(Section):
    """PEM files; `client_ca` turns on mutual TLS."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


class LimitsConfig(Section):
    """Admission: what one request and all of them together may take."""

    message_bytes: int = Field(64 << 20, ge=1 << 10, le=(1 << 31) - 1)
    tensor_bytes: int = Field(64 << 20, ge=1 << 10)
    rows: int = Field(65536, ge=1)
    concurrent_rpcs: int = Field(256, ge=1)
    queue: int = Field(64, ge=0, description="requests waiting for a scoring thread beyond those running")
    threads: int = Field(2, ge=1, le=256, description="scoring threads")
    streams: int = Field(1024, ge=1, description="token streams alive at once, per monitor")
    stream_idle_seconds: float = Field(300, gt=0)


class MonitorAuditConfig(Section):
    """When a verdict may be answered, and what happens when the log cannot take it."""

    ack: Literal["after_sync", "queued"] = "queued"
    on_failure: Literal["block", "serve_and_count", "spill"] = "serve_and_count"


class ServedMonitorConfig(Section):
    """One monitor of this server."""

    name: Name
    bundle: Path
    mode: Literal["observe", "enforce"] = "observe"
    on_failure: Literal["block", "pass"] | None = Field(None, description="default: the bundle's")
    budget_ms: float | None = Field(
        None, gt=0, description="every row abstains when scoring cannot be done in this time"
    )
    audit: MonitorAuditConfig = MonitorAuditConfig()
    require_signature: bool = False
    public_keys: list[Path] = Field(default_factory=list)
    threads: int = Field(1, ge=1, description="ONNX Runtime threads for one request")
    providers: list[str] = Field(default_factory=lambda: ["CPUExecutionProvider"])

    @model_validator(mode="after")
    def _keys(self) -> ServedMonitorConfig:
        if self.require_signature and not self.public_keys:
            raise ValueError("require_signature needs public_keys: the files written by `demur bundle keygen`")
        return self


class AuditConfig(Section):
    """Where the tamper-evident log lives."""

    directory: Path
    origin: str = Field("demur", description="names this log in its checkpoints, for example cluster/namespace/pod")
    key_file: Path | None = Field(None, description="checkpoint signing key; made on first use when absent")
    checkpoint_seconds: float = Field(1.0, gt=0)
    spill_directory: Path | None = None
    witness_url: str | None = None
    checkpoint_stdout: bool = False


class TelemetryConfig(Section):
    """Where numbers go."""

    otlp_endpoint: str | None = None
    otlp_insecure: bool = False
    otlp_headers: dict[str, str] = Field(default_factory=dict)
    metrics_interval_seconds: float = Field(10, gt=0)
    trace_ratio: float = Field(0.01, ge=0, le=1)
    service_name: str = "demur"
    resource: dict[str, str] = Field(default_factory=dict)


class ProxiedModelConfig(Section):
    """Which output tensors of one upstream model are which signals of which monitor."""

    monitor: Name
    signals: dict[str, str] = Field(description="signal name to upstream output tensor name")


class ProxyConfig(Section):
    """A transparent Open Inference Protocol proxy in front of `upstream`."""

    listen: Address
    upstream: str
    upstream_tls_ca: Path | None = None
    annotate: bool = False
    models: dict[str, ProxiedModelConfig]


class ServerConfig(Section):
    """The whole of `demur.yaml`."""

    listen: list[Address] = Field(default_factory=lambda: ["127.0.0.1:9443"], min_length=1)
    health_listen: Address | None = Field(None, description="health alone, in plain text, for probes that speak no TLS")
    metrics_listen: Address | None = Field(None, description="Prometheus endpoint")
    tls: TlsConfig | None = None
    token_file: Path | None = Field(None, description="bearer token that clients must send")
    monitors: list[ServedMonitorConfig] = Field(min_length=1)
    audit: AuditConfig | None = None
    telemetry: TelemetryConfig = TelemetryConfig()
    limits: LimitsConfig = LimitsConfig()
    drain_seconds: float = Field(10, ge=0)
    watch_seconds: float = Field(1.0, gt=0, description="how often bundle files are looked at")
    reflection: bool = True
    proxy: ProxyConfig | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ServerConfig:
        names = [m.name for m in self.monitors]
        if len(set(names)) != len(names):
            raise ValueError("two monitors share a name")
        for monitor in self.monitors:
            if self.audit is None and monitor.audit.on_failure == "block":
                raise ValueError(f"monitor {monitor.name}: audit.on_failure: block needs an audit section")
        for model, proxied in (self.proxy.models if self.proxy else {}).items():
            if proxied.monitor not in names:
                raise ValueError(f"proxy model {model}: no monitor is named {proxied.monitor!r}")
        return self
