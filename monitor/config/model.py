"""The `model:` block: which model a monitor is for."""

from __future__ import annotations

from pydantic import Field, model_validator

from demur.monitor.config.document import Section


class ModelConfig(Section):
    """The model that the monitor was fitted for; requests that name another are UNAVAILABLE."""

    name: str = Field("", description="recorded")
    version: str = Field("", description="requests that carry another version are UNAVAILABLE")
    digest: str = Field("", pattern=r"^([0-9a-f]{64})?$", description="SHA-256 of the model file")
    required: bool = Field(False, description="requests must carry the version or digest")

    @model_validator(mode="after")
    def _something_to_compare(self) -> ModelConfig:
        if self.required and not (self.version or self.digest):
            raise ValueError("`required` needs a version or a digest to compare requests with")
        return self
