"""How a proxy sees one upstream model: its signals, and what a client gets for refused rows."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from demur.monitor.config.document import Section
from demur.monitor.config.policy import Name
from demur.monitor.config.signal_map import SignalMapConfig


class FallbackConfig(Section):
    """Another model of the same upstream."""

    model: str = Field(min_length=1, description="its name at the upstream; it must take the same inputs and outputs")
    version: str = Field("", description="its version; default: the upstream's choice")


class ProxiedModelConfig(Section):
    """Which output tensors of one upstream model are which signals of which monitor, and what a client gets for refused rows."""

    monitor: Name = Field(description="one of monitors")
    signals: dict[str, str] = Field(
        default_factory=dict,
        description="signal name to upstream output tensor name; default: what `map` says, else the bundle's own "
        "`output`, else the signal's name",
    )
    map: Path | SignalMapConfig | None = Field(
        None, description="signal map (YAML) as `demur instrument` writes it, or the same inline"
    )
    default_outputs: list[str] = Field(
        default_factory=list,
        description="what upstream answers when a request names no outputs; set it when that is not every output: "
        "demur then names these and the signals' outputs",
    )
    on_abstain: Literal["error", "replace", "fallback"] = Field(
        "error", description="in enforce mode: a status with details, replaced outputs, or another model's answer"
    )
    replace: dict[str, float | int | bool | str] = Field(
        default_factory=dict,
        description="for on_abstain: replace: output tensor name to the value that fills its refused rows",
    )
    fallback: FallbackConfig | None = Field(
        None, description="for on_abstain: fallback: the model that answers instead"
    )

    @model_validator(mode="after")
    def _remedy(self) -> ProxiedModelConfig:
        if self.on_abstain == "fallback" and self.fallback is None:
            raise ValueError("on_abstain: fallback needs `fallback: {model: NAME}`")
        if self.on_abstain == "replace" and not self.replace and self.map is None:
            raise ValueError(
                "on_abstain: replace needs `replace: {OUTPUT: VALUE}`, or a map whose outputs can be emptied"
            )
        return self
