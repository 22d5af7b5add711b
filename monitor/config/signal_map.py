"""Which output tensors of a model are which signals: written by `demur instrument`, read by `collect` and the proxies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from demur.monitor.config.detection import DetectionConfig
from demur.monitor.config.document import Section
from demur.monitor.config.policy import Name
from demur.monitor.config.segmentation import SegmentationConfig
from demur.monitor.config.views import ViewsConfig


def _several(value: Any) -> Any:
    return {n: [v] if isinstance(v, str) else v for n, v in value.items()} if isinstance(value, dict) else value


class SignalMapConfig(Section):
    """A signal map: the one document between a model's outputs and a monitor's signals."""

    signals: dict[Name, str] = Field(default_factory=dict, description="signal name to output tensor name")
    inputs: Annotated[
        dict[Name, list[str]], BeforeValidator(_several, json_schema_input_type=dict[Name, str | list[str]])
    ] = Field(
        default_factory=dict,
        description="signals that are inputs of the model, as the rows of a table are: signal name to input tensor name, or to several side by side",
    )
    kinds: dict[Name, Literal["logits", "probabilities", "log_probabilities", "features", "mask", "table"]] = Field(
        default_factory=dict, description="what the numbers of a signal are, where it is known"
    )
    head: Path | None = Field(
        None, description="npz with head_weight (C, D) and head_bias (C,), relative to the map's own folder"
    )
    detection: DetectionConfig | None = Field(None, description="the model detects objects: each box is a row")
    segmentation: SegmentationConfig | None = Field(None, description="the model segments frames: each frame is a row")
    views: ViewsConfig | None = Field(None, description="the model is asked again about corrupted copies of its input")
