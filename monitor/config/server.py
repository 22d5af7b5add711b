"""`demur.yaml`: what one server listens on, which monitors it serves, and what it does when something fails."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from demur.monitor.config.address import Address, GrpcUpstream
from demur.monitor.config.document import Section
from demur.monitor.config.ext_proc import ExtProcConfig
from demur.monitor.config.policy import Name
from demur.monitor.config.proxied import ProxiedModelConfig
from demur.monitor.config.rest import RestProxyConfig


class TlsConfig(Section):
    """PEM files; `client_ca` turns on mutual TLS."""

    certificate: Path = Field(description="the server's certificate chain")
    key: Path = Field(description="its private key")
    client_ca: Path | None = Field(None, description="certificates of clients must be signed by this authority")


class LimitsConfig(Section):
    """Admission: what one request and all of them together may take."""

    message_bytes: int = Field(64 << 20, ge=1 << 10, le=(1 << 31) - 1, description="largest gRPC message")
    tensor_bytes: int = Field(64 << 20, ge=1 << 10, description="largest tensor; checked before it is allocated")
    rows: int = Field(65536, ge=1, description="most rows, and most groups, of one request")
    concurrent_rpcs: int = Field(256, ge=1, description="calls open at once")
    queue: int = Field(64, ge=0, description="requests waiting for a scoring thread beyond those running")
    threads: int = Field(2, ge=1, le=256, description="scoring threads")
    streams: int = Field(1024, ge=1, description="token streams alive at once, per monitor")
    stream_idle_seconds: float = Field(300, gt=0, description="a token stream without a step for so long is forgotten")


class MonitorAuditConfig(Section):
    """When a verdict may be answered, and what happens when the log cannot take it."""

    ack: Literal["after_sync", "queued"] = Field(
        "queued", description="answer once the record is on disk, or once it is in the queue"
    )
    on_failure: Literal["block", "serve_and_count", "spill"] = Field(
        "serve_and_count",
        description="when the log cannot take the record: refuse the call, answer and count, or write to spill_directory",
    )


class ServedMonitorConfig(Section):
    """One monitor of this server."""

    name: Name = Field(description="the name that requests use")
    bundle: Path = Field(description="bundle file; watched, and replaced when it changes")
    mode: Literal["observe", "enforce"] = Field(
        "observe", description="observe tells the caller nothing; enforce tells it to block what is not accepted"
    )
    on_failure: Literal["block", "pass"] | None = Field(
        None, description="action for INVALID and UNAVAILABLE in enforce; default: the bundle's"
    )
    budget_ms: float | None = Field(
        None, gt=0, description="every row abstains when scoring cannot be done in this time"
    )
    audit: MonitorAuditConfig = MonitorAuditConfig()
    require_signature: bool = Field(False, description="refuse bundles that no key of public_keys has signed")
    public_keys: list[Path] = Field(
        default_factory=list, description="trusted keys; listing one makes a signature required"
    )
    threads: int = Field(1, ge=1, description="ONNX Runtime threads for one request")
    providers: list[str] = Field(
        default_factory=lambda: ["CPUExecutionProvider"],
        description="ONNX Runtime execution providers, in order; default CPUExecutionProvider",
    )

    @model_validator(mode="after")
    def _keys(self) -> ServedMonitorConfig:
        if self.require_signature and not self.public_keys:
            raise ValueError("require_signature needs public_keys: the files written by `demur bundle keygen`")
        return self


class AuditConfig(Section):
    """Where the tamper-evident log lives."""

    directory: Path = Field(description="the log's folder; one process at a time holds it")
    origin: str = Field("demur", description="names this log in its checkpoints, for example cluster/namespace/pod")
    key_file: Path | None = Field(None, description="checkpoint signing key; made on first use when absent")
    checkpoint_seconds: float = Field(1.0, gt=0, description="how often a signed checkpoint is published")
    spill_directory: Path | None = Field(None, description="where records wait while the log's disk is away")
    witness_url: str | None = Field(None, description="POST each checkpoint to this http(s) address")
    checkpoint_stdout: bool = Field(False, description="print each checkpoint, for whoever collects the output")


class TelemetryConfig(Section):
    """Where numbers go."""

    otlp_endpoint: str | None = Field(None, description="OTLP gRPC receiver, for example http://collector:4317")
    otlp_insecure: bool = Field(False, description="plain text to the receiver")
    otlp_headers: dict[str, str] = Field(default_factory=dict, description="sent with every export")
    metrics_interval_seconds: float = Field(10, gt=0, description="how often metrics are exported")
    trace_ratio: float = Field(0.01, ge=0, le=1, description="share of requests traced when the caller decided nothing")
    service_name: str = Field("demur", description="service.name of the resource")
    resource: dict[str, str] = Field(default_factory=dict, description="more resource attributes")


def _switched(value: Any) -> Any:
    return ("parameters" if value else "off") if isinstance(value, bool) else value


class ProxyConfig(Section):
    """A transparent Open Inference Protocol proxy in front of `upstream`: over gRPC, over HTTP (`rest`), or both."""

    listen: Address = Field("", description="host:port or unix:/path for gRPC clients")
    upstream: GrpcUpstream = Field("", description="host:port or unix:/path of the inference server's gRPC side")
    upstream_tls_ca: Path | None = Field(None, description="speak TLS to it, and trust this authority")
    upstream_timeout_seconds: float = Field(
        60,
        gt=0,
        description="a gRPC call that is no stream may wait so long for upstream; a client's shorter deadline wins",
    )
    annotate: Annotated[
        Literal["off", "parameters", "outputs"],
        BeforeValidator(_switched, json_schema_input_type=bool | Literal["off", "parameters", "outputs"]),
    ] = Field(
        "off",
        description="add demur.* string parameters to answers, or output tensors too; true means parameters",
    )
    unmapped: Literal["pass", "block"] = Field(
        "pass", description="answers of models that stand not under `models`: nothing can judge them"
    )
    streams: int = Field(32, ge=1, le=1024, description="ModelStreamInfer calls open at once; each holds two threads")
    rest: RestProxyConfig | None = Field(None, description="the same over HTTP")
    models: dict[str, ProxiedModelConfig] = Field(description="by upstream model name")

    @model_validator(mode="after")
    def _sides(self) -> ProxyConfig:
        if bool(self.listen) != bool(self.upstream) or not (self.listen or self.rest):
            raise ValueError("give `listen` and `upstream` for gRPC, `rest` for HTTP, or all of them")
        return self


class ServerConfig(Section):
    """The whole of `demur.yaml`."""

    listen: list[Address] = Field(
        default_factory=lambda: ["127.0.0.1:9443"],
        min_length=1,
        description="where monitors are served; default 127.0.0.1:9443",
    )
    health_listen: Address | None = Field(None, description="health alone, in plain text, for probes that speak no TLS")
    metrics_listen: Address | None = Field(None, description="Prometheus endpoint")
    tls: TlsConfig | None = None
    token_file: Path | None = Field(
        None, description="bearer token that clients of `listen` must send; `proxy` and `ext_proc` ask for none"
    )
    monitors: list[ServedMonitorConfig] = Field(min_length=1, description="what is served")
    audit: AuditConfig | None = None
    telemetry: TelemetryConfig = TelemetryConfig()
    limits: LimitsConfig = LimitsConfig()
    drain_seconds: float = Field(10, ge=0, description="how long calls under way may take after SIGTERM")
    watch_seconds: float = Field(1.0, gt=0, description="how often bundle files are looked at")
    reflection: bool = Field(True, description="gRPC server reflection")
    proxy: ProxyConfig | None = None
    ext_proc: ExtProcConfig | None = None

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
        for model, judged in (self.ext_proc.models if self.ext_proc else {}).items():
            if judged.monitor not in names:
                raise ValueError(f"ext_proc model {model}: no monitor is named {judged.monitor!r}")
        return self
