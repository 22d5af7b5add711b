"""The REST side of the Open Inference Protocol proxy, `proxy.rest` in `demur.yaml`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from demur.monitor.config.address import Address, HttpUpstream
from demur.monitor.config.document import Section


class RestProxyConfig(Section):
    """A transparent HTTP proxy in front of `upstream`: `infer` of mapped models is judged, everything else passes through."""

    listen: Address = Field(description="host:port (port 0: any free one) or unix:/path")
    upstream: HttpUpstream = Field(description="http(s)://host:port of the inference server, without a path")
    upstream_tls_ca: Path | None = Field(None, description="trust this authority; default: the system's")
    timeout_seconds: float = Field(
        60, gt=0, description="upstream may be silent for so long before and amid its answer, a client amid its request"
    )
    connect_seconds: float = Field(5, gt=0, description="upstream may take so long to accept a connection")

    @model_validator(mode="after")
    def _trusted(self) -> RestProxyConfig:
        if self.upstream_tls_ca is not None and not self.upstream.startswith("https:"):
            raise ValueError("upstream_tls_ca speaks of TLS and upstream of none; write https:// or leave it out")
        return self
