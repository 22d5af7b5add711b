"""How the outputs of a segmentation model become a map of risk, alarm regions and signals of frames."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from demur.monitor.config.document import Section
from demur.monitor.config.promise import Share

FrameSignal = Literal["peak", "anomaly_area", "largest_region", "mean_risk"]
OF_QUERIES = ("rba", "max_logit")
OF_A_LEVEL = ("anomaly_area", "largest_region")
# Where tensors and files are, which may change; everything else is part of what was fitted.
PLACES = frozenset({"logits", "class_logits", "mask_logits", "labels", "void_label", "fitted", "digest", "signals"})


class SegmentationConfig(Section):
    """One segmentation model: its layout, its pixel score, how regions are drawn, and which signals a frame has."""

    kind: Literal["dense", "queries"] = Field(
        "dense", description="dense: logits of every pixel; queries: class and mask logits of a mask classifier"
    )
    logits: str | None = Field(None, description="dense: output tensor (B, C, H, W)")
    class_logits: str | None = Field(None, description='queries: output (B, Q, K + 1), the last class is "no object"')
    mask_logits: str | None = Field(None, description="queries: output (B, Q, H, W)")
    labels: str | None = Field(None, description="output (B, H, W) of class numbers, where refused regions are blanked")
    channels: Literal["first", "last"] = Field("first", description="dense: last for (B, H, W, C)")
    void: Annotated[int, Field(ge=0)] | None = Field(
        None, description="dense: the class that says nothing; no part of scores, and such pixels are not judged"
    )
    void_label: int = Field(255, description="what `labels` holds where the model says nothing")
    score: Literal["energy", "max_logit", "entropy", "msp", "margin", "standardised_max_logit", "rba"] = Field(
        description="the pixel score; rba is for queries"
    )
    downscale: int = Field(1, ge=1, le=64, description="judge every n-th row and column of pixels")
    boundary: int = Field(
        0, ge=0, le=64, description="width of class boundaries that are overwritten by what lies beside them; 0: none"
    )
    smooth: bool = Field(False, description="smooth the map by a dilated Gaussian")
    radius: int = Field(1, ge=0, le=64, description="the map is opened by a square of side 2 radius + 1")
    least_area: int = Field(1, ge=1, description="pixels of the map in the smallest region that counts")
    share: Share = Field(0.05, description="share of good frames that may show a region")
    area_share: Share = Field(0.5, description="the same for the lower level, above which areas are measured")
    signals: list[FrameSignal] = Field(
        ["peak"],
        min_length=1,
        description="the monitor's signals of a frame, default peak; areas need a fitted level",
    )
    fitted: Path | None = Field(
        None, description="what was fitted: pixel score and level, a file that Segmenter.save wrote"
    )
    digest: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="SHA-256 of that file; another file is refused"
    )

    @model_validator(mode="after")
    def _layout(self) -> SegmentationConfig:
        named = {n for n in ("logits", "class_logits", "mask_logits") if getattr(self, n) is not None}
        wanted = {"logits"} if self.kind == "dense" else {"class_logits", "mask_logits"}
        if named != wanted:
            raise ValueError(f"kind {self.kind} needs the outputs {sorted(wanted)} and no others, got {sorted(named)}")
        if (self.kind == "queries") != (self.score in OF_QUERIES) and self.score != "max_logit":
            raise ValueError(f"score {self.score} does not read {self.kind}; queries have {', '.join(OF_QUERIES)}")
        if self.kind == "queries" and (self.void is not None or self.channels == "last"):
            raise ValueError("void and channels belong to kind: dense; queries say nothing where no mask is")
        return self

    @model_validator(mode="after")
    def _level(self) -> SegmentationConfig:
        if len(set(self.signals)) != len(self.signals):
            raise ValueError("signals: one is named twice")
        if self.area_share < self.share:
            raise ValueError(
                "area_share: areas are measured above a lower level than regions; expected at least `share`"
            )
        if self.digest is not None and self.fitted is None:
            raise ValueError("digest belongs to `fitted`; name the file")
        return self

    @property
    def outputs(self) -> tuple[str, ...]:
        """The output tensors it is read from."""
        return tuple(n for n in (self.logits, self.class_logits, self.mask_logits) if n is not None)

    def settings(self) -> dict[str, object]:
        """What a fit depends on: everything but names of tensors and files."""
        return self.model_dump(mode="json", exclude=set(PLACES))
