"""One tensor with a candidate in every cell: YOLOv5, YOLOv8 (and v9, 11, 12), YOLOX; and TensorFlow's raw tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.adapters.models.detection.candidates import Candidates
from demur.adapters.models.detection.tensors import (
    ABOVE_ONE,
    Array,
    Places,
    Tensors,
    bounded,
    corners,
    float32,
    logit,
    scaled,
    tensor,
)
from demur.monitor.config.detection import DetectionConfig
from demur.monitor.errors import InvalidObservation

STRIDES = ((8, 16, 32), (8, 16, 32, 64))  # YOLOX, and its models with a sixth level


@dataclass(frozen=True)
class Grid:
    """yolov5: (B, A, 5 + C) centre x, y, width, height in pixels, objectness, class probabilities.
    yolov8: (B, 4 + C, A), the same without objectness.
    yolox: as yolov5, but x, y are offsets in cells and width, height logarithms of cells, unless exported decoded.
    """

    config: DetectionConfig

    def candidates(self, tensors: Tensors) -> Candidates:
        rows = self._rows(tensors)
        with np.errstate(invalid="ignore", over="ignore"):
            score = rows[..., self._first :].max(axis=-1)
            score = _probability(score) * _probability(rows[..., 4]) if self._objectness else score
        label = rows[..., self._first :].argmax(axis=-1)
        boxes = corners(self._centred(rows[..., :4]))
        return Candidates.of(boxes, score, label, self.config.floor, self.config.classes)

    def logits(self, tensors: Tensors, image: Places, place: Places) -> Array:
        return logit(self._rows(tensors)[image, place, self._first :])

    def objectness(self, tensors: Tensors, image: Places, place: Places) -> Array:
        return self._rows(tensors)[image, place, 4:5]

    def erase(self, tensors: dict[str, NDArray[Any]], image: Places, place: Places) -> None:
        self._by_candidate(tensors[self.config.tensor("predictions")])[image, place, 4:] = 0

    @property
    def _objectness(self) -> bool:
        return self.config.layout != "yolov8"

    @property
    def _first(self) -> int:
        """Where class probabilities begin."""
        return 4 + self._objectness

    def _by_candidate(self, array: NDArray[Any]) -> NDArray[Any]:
        """(B, A, values), a view."""
        return array.transpose(0, 2, 1) if self.config.layout == "yolov8" else array

    def _rows(self, tensors: Tensors) -> Array:
        name, width = self.config.tensor("predictions"), self._first + self.config.classes
        if self._objectness:
            found = tensor(tensors, name, (None, None, width), f"{self.config.layout}: (B, A, 5 + classes)")
        else:
            found = tensor(tensors, name, (None, width, None), "yolov8: (B, 4 + classes, A)")
        rows = self._by_candidate(float32(found))
        bounded(name, rows.shape[1])
        return rows

    def _centred(self, box: Array) -> Array:
        if self.config.layout != "yolox" or self.config.decoded:
            return box
        cell, stride = self._cells(box.shape[1])
        with np.errstate(over="ignore", invalid="ignore"):
            return np.concatenate([(box[..., :2] + cell) * stride, np.exp(box[..., 2:]) * stride], axis=-1)

    def _cells(self, candidates: int) -> tuple[Array, Array]:
        """Column and row (A, 2) of each candidate's cell, and its stride (A, 1): levels in order, rows within a level."""
        height, width = self.config.image
        for strides in STRIDES:
            sizes = [(height // s, width // s) for s in strides]
            if candidates == sum(h * w for h, w in sizes):
                cells = [np.stack(np.meshgrid(np.arange(w), np.arange(h)), axis=-1).reshape(-1, 2) for h, w in sizes]
                steps = [np.full((h * w, 1), s) for (h, w), s in zip(sizes, strides, strict=True)]
                return np.concatenate(cells).astype(np.float32), np.concatenate(steps).astype(np.float32)
        raise InvalidObservation(
            f"{self.config.tensor('predictions')}: {candidates} candidates are no yolox grid of image {height} x {width} "
            "with strides 8, 16, 32; set detection.image to the model's input, or decoded: true"
        )


def _probability(p: Array) -> Array:
    """NaN for what is none: of two, the product could look like one."""
    return np.where((p >= 0) & (p <= ABOVE_ONE), p, np.float32(np.nan))


@dataclass(frozen=True)
class RawTensorFlow:
    """tensorflow_raw: boxes (B, A, 4) y1, x1, y2, x2 in shares of the image, class scores (B, A, 1 + C), background first."""

    config: DetectionConfig

    def candidates(self, tensors: Tensors) -> Candidates:
        boxes = float32(tensor(tensors, self.config.tensor("boxes"), (None, None, 4), "boxes (B, A, 4)"))
        bounded(self.config.tensor("boxes"), boxes.shape[1])
        scores = self._scores(tensors, boxes.shape[:2])
        placed = scaled(boxes[..., [1, 0, 3, 2]], self.config.image)
        score, label = scores.max(axis=-1), scores.argmax(axis=-1)
        return Candidates.of(placed, score, label, self.config.floor, self.config.classes)

    def logits(self, tensors: Tensors, image: Places, place: Places) -> Array:
        return logit(self._scores(tensors)[image, place])

    def objectness(self, tensors: Tensors, image: Places, place: Places) -> Array:
        raise NotImplementedError  # the configuration refuses it

    def erase(self, tensors: dict[str, NDArray[Any]], image: Places, place: Places) -> None:
        tensors[self.config.tensor("class_scores")][image, place, 1:] = 0

    def _scores(self, tensors: Tensors, size: tuple[int, ...] | None = None) -> Array:
        shape = (*(size or (None, None)), 1 + self.config.classes)
        return float32(tensor(tensors, self.config.tensor("class_scores"), shape, "scores (B, A, 1 + classes)"))[
            ..., 1:
        ]
