"""Further views of an input: mildly corrupted copies that the model is asked about again."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from demur.monitor.config.document import Section
from demur.monitor.config.policy import Name

LARGEST_VALUES = 1 << 22
Corruption = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*(:[1-5])?$")]


class ViewsConfig(Section):
    """Which input holds the images, how they are corrupted, how long all further calls may take."""

    input: str = Field(min_length=1, description="the model's input tensor that holds the images")
    output: str = Field(min_length=1, description="the model's output tensor of logits, gathered from every view")
    signal: Name = Field("view_logits", description="the signal that they become: the input's own logits first")
    corruptions: list[Corruption] = Field(
        min_length=1,
        max_length=16,
        description="perturbations of images, `name` or `name:severity`; severity 1 is the default",
    )
    layout: Literal["NCHW", "NHWC"] = Field("NCHW", description="where the channels stand; images may be (N, H, W) too")
    white: float = Field(
        1.0, gt=0, description="value of a white pixel in a float input, before mean and std; 255 in a uint8"
    )
    mean: list[float] = Field(default_factory=list, description="for each channel: what was taken off the pixels")
    std: list[Annotated[float, Field(gt=0)]] = Field(
        default_factory=list, description="for each channel: what they were divided by"
    )
    budget_ms: float = Field(
        1000.0,
        gt=0,
        description="all further calls and the making of the copies together; later the rows are UNAVAILABLE",
    )
    largest_values: int = Field(
        LARGEST_VALUES, ge=1, description="values (H * W * C) of one image; rows of larger ones are UNAVAILABLE"
    )
    seed: int = Field(0, ge=0, description="of corruptions that draw: the same input always gets the same views")

    @model_validator(mode="after")
    def _channels(self) -> ViewsConfig:
        if len(self.mean) != len(self.std):
            raise ValueError("views: give mean and std for every channel, or neither")
        if len(set(self.corruptions)) != len(self.corruptions):
            raise ValueError("views: each corruption once")
        return self

    @property
    def count(self) -> int:
        """V: the input itself and its corrupted copies."""
        return 1 + len(self.corruptions)
