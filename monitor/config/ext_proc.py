"""`ext_proc` of `demur.yaml`: judging answers on their way through an Envoy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from demur.monitor.config.address import Address
from demur.monitor.config.document import Section
from demur.monitor.config.policy import Name
from demur.monitor.config.proxied import ProxiedModelConfig


class CompletionModelConfig(Section):
    """Which stream monitor judges the completions of one model."""

    monitor: Name = Field(description="one of monitors; it judges token streams")
    request_logprobs: bool = Field(
        False,
        description="ask for log-probabilities when the client does not, and take them out of the answer again; needs both "
        "bodies BUFFERED, streamed answers too",
    )


class ExtProcConfig(Section):
    """An external processor for Envoy's `ext_proc` filter."""

    listen: Address
    infer: dict[str, ProxiedModelConfig] = Field(
        default_factory=dict, description="models of the Open Inference Protocol over HTTP, by name"
    )
    completions: dict[str, CompletionModelConfig] = Field(
        default_factory=dict, description="models behind OpenAI's chat and text completions, by name; `*` is any other"
    )
    unmapped: Literal["pass", "block"] = Field(
        "pass",
        description="requests of judged paths for models that stand under neither: nothing can judge their answers",
    )
    annotate: bool = Field(False, description="add demur-* headers to answers")
    blocked_status: int = Field(
        412,
        ge=400,
        le=599,
        description="HTTP status in place of an answer that a verdict blocks; 503 when nothing could judge it",
    )
    budget_ms: float = Field(
        150,
        gt=0,
        description="every message is answered within this time; keep it below the filter's message_timeout (200 ms)",
    )
    mode_override: bool = Field(
        False,
        description="ask Envoy for bodies only where a request is judged; set it when the filter has allow_mode_override: true",
    )
    body_bytes: int = Field(8 << 20, ge=1 << 10, description="largest body, decompressed; larger ones are not judged")
    buffer_bytes: int = Field(256 << 20, ge=1 << 10, description="bodies held at once, all together")
    streams: int = Field(256, ge=1, le=4096, description="HTTP exchanges under way at once; each holds a thread")
    client_seconds: float = Field(
        60,
        gt=0,
        description="where a monitor enforces: a client may leave its request unfinished for so long, then it fails",
    )
    idle_seconds: float = Field(
        300,
        gt=0,
        description="where a monitor enforces: an answer may stand still for so long, then the exchange fails",
    )

    @property
    def models(self) -> dict[str, ProxiedModelConfig | CompletionModelConfig]:
        """Every model that is judged, by name."""
        return {**self.completions, **self.infer}

    @model_validator(mode="after")
    def _something_to_judge(self) -> ExtProcConfig:
        if not self.infer and not self.completions:
            raise ValueError("expected models under `infer` or `completions`, got none")
        replacing = [name for name, model in self.infer.items() if model.on_abstain == "fallback"]
        if replacing:
            raise ValueError(
                f"infer model {replacing[0]}: on_abstain: fallback needs a proxy; Envoy's filter cannot ask again"
            )
        return self
