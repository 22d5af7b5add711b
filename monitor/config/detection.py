"""What an object detector's output tensors mean: the part of a signal map that decodes boxes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from demur.monitor.config.document import Section

Layout = Literal[
    "yolov5",
    "yolov8",
    "yolox",
    "yolo_end_to_end",
    "detr",
    "rt_detr",
    "torchvision",
    "tensorflow",
    "tensorflow_raw",
]
Role = Literal["predictions", "boxes", "logits", "scores", "labels", "count", "class_scores"]
BoxSignal = Literal["logits", "objectness", "box", "box_features"]
Pixels = Annotated[int, Field(ge=1, le=65_536)]

# The published name of each tensor a layout has.
TENSORS: dict[Layout, dict[Role, str]] = {
    "yolov5": {"predictions": "output0"},
    "yolov8": {"predictions": "output0"},
    "yolox": {"predictions": "output"},
    "yolo_end_to_end": {"predictions": "output0"},
    "detr": {"logits": "logits", "boxes": "pred_boxes"},
    "rt_detr": {"logits": "logits", "boxes": "pred_boxes"},
    "torchvision": {"boxes": "boxes", "labels": "labels", "scores": "scores"},
    "tensorflow": {
        "boxes": "detection_boxes",
        "scores": "detection_scores",
        "labels": "detection_classes",
        "count": "num_detections",
    },
    "tensorflow_raw": {"boxes": "raw_detection_boxes", "class_scores": "raw_detection_scores"},
}
FURTHER: dict[Layout, tuple[Role, ...]] = {"tensorflow": ("class_scores",)}  # read when they are named
SUPPRESSED_BY_US = ("yolov5", "yolov8", "yolox", "tensorflow_raw")  # the others did their own, or need none


class RegionsConfig(Section):
    """Box features by ROI-align over the model's feature maps."""

    maps: dict[str, Annotated[int, Field(ge=1, le=1024)]] = Field(
        min_length=1, description="feature map's output tensor (B, D, H, W), and its stride in pixels"
    )
    cells: int = Field(1, ge=1, le=32, description="cells a side of the grid that is read in each box")
    pool: bool = Field(True, description="the mean over the cells, (D,); false: every cell, (D * cells * cells,)")
    join: Literal["concatenate", "level"] = Field(
        "concatenate", description="several maps: all side by side, or the one whose stride fits the box's size"
    )

    @model_validator(mode="after")
    def _levels_differ(self) -> RegionsConfig:
        if self.join == "level" and len(set(self.maps.values())) < len(self.maps):
            raise ValueError("maps: join: level expects another stride of each")
        return self


class DetectionConfig(Section):
    """An object detector's output layout, and which signals each of its boxes has."""

    layout: Layout = Field(description="how boxes and scores lie in the tensors; detection.md has the shapes")
    outputs: dict[Role, str] = Field(
        default_factory=dict, description="output tensor of each part, where its name is not the published one"
    )
    classes: int = Field(ge=1, le=100_000, description="classes, without background or no-object")
    first_class: int | None = Field(
        None, ge=0, le=1, description="number of the first class; default 1 for torchvision and tensorflow, else 0"
    )
    image: tuple[Pixels, Pixels] = Field(description="height and width of the model's input, pixels")
    floor: float = Field(0.25, ge=0, lt=1, description="boxes that score as much are judged; at most what clients use")
    iou: float = Field(0.45, gt=0, lt=1, description="overlap above which the lower of two boxes is suppressed")
    class_wise: bool = Field(True, description="suppress within a class only")
    decoded: bool = Field(False, description="of yolox: exported with its grid already decoded to pixels")
    max_boxes: int = Field(300, ge=1, le=10_000, description="judged in one image; what lies beyond is INVALID")
    regions: RegionsConfig | None = Field(None, description="where box_features come from")
    signals: tuple[BoxSignal, ...] = Field(("logits",), min_length=1, description="what a monitor gets for each box")

    @model_validator(mode="after")
    def _parts_belong(self) -> DetectionConfig:
        known = (*TENSORS[self.layout], *FURTHER.get(self.layout, ()))
        if foreign := sorted(set(self.outputs) - set(known)):
            raise ValueError(f"outputs: {self.layout} has no {', '.join(foreign)}; it has {', '.join(known)}")
        if self.decoded and self.layout != "yolox":
            raise ValueError("decoded belongs to layout: yolox")
        return self

    @model_validator(mode="after")
    def _signals_exist(self) -> DetectionConfig:
        if len(set(self.signals)) < len(self.signals):
            raise ValueError("signals: one is given twice")
        if ("box_features" in self.signals) != (self.regions is not None):
            raise ValueError("signals: box_features and regions belong together; give both or neither")
        if "objectness" in self.signals and self.layout not in ("yolov5", "yolox", "detr"):
            raise ValueError(f"signals: {self.layout} has no objectness")
        return self

    def tensor(self, role: Role) -> str:
        """The output tensor that holds this part, "" when the layout does without."""
        return self.outputs.get(role, TENSORS[self.layout].get(role, ""))

    @property
    def further(self) -> tuple[Role, ...]:
        """Parts beyond those the layout always has, which are read because they are named."""
        return tuple(role for role in FURTHER.get(self.layout, ()) if role in self.outputs)

    @property
    def start(self) -> int:
        """The number of the first class in the model's own numbering."""
        if self.first_class is not None:
            return self.first_class
        return 1 if self.layout in ("torchvision", "tensorflow") else 0
