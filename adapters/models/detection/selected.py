"""Boxes a model has chosen by itself: end-to-end YOLO exports, torchvision, TensorFlow's object detection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.adapters.models.detection.candidates import Candidates
from demur.adapters.models.detection.tensors import (
    LOGIT_LIMIT,
    Array,
    Places,
    Tensors,
    bounded,
    float32,
    logit,
    scaled,
    tensor,
)
from demur.monitor.config.detection import DetectionConfig
from demur.monitor.errors import InvalidObservation


@dataclass(frozen=True)
class Selected:
    """yolo_end_to_end: (B, M, 6) x1, y1, x2, y2 in pixels, score, class; rows past the last box score 0.
    torchvision: boxes (M, 4) in pixels, labels (M,), scores (M,), one image; class 0 is the background.
    tensorflow: boxes (B, M, 4) y1, x1, y2, x2 in shares, scores (B, M), classes (B, M), count (B,); and, when named, the
    scores of all classes (B, M, 1 + C), background first.

    Without the scores of all classes, the logit of the box's score stands at its class, and the least logit elsewhere.
    """

    config: DetectionConfig

    def candidates(self, tensors: Tensors) -> Candidates:
        boxes, score, label = self._parts(tensors)
        bounded(self.config.layout, boxes.shape[1])
        return Candidates.of(boxes, score, label, self.config.floor, self.config.classes)

    def logits(self, tensors: Tensors, image: Places, place: Places) -> Array:
        if self._every_class:
            return logit(self._class_scores(tensors)[image, place, 1:])
        _, score, label = self._parts(tensors)
        logits = np.full((len(place), self.config.classes), -LOGIT_LIMIT, np.float32)
        logits[np.arange(len(place)), label[image, place].astype(np.int64)] = logit(score[image, place])
        return logits

    def objectness(self, tensors: Tensors, image: Places, place: Places) -> Array:
        raise NotImplementedError  # the configuration refuses it

    def erase(self, tensors: dict[str, NDArray[Any]], image: Places, place: Places) -> None:
        if self.config.layout == "yolo_end_to_end":
            tensors[self.config.tensor("predictions")][image, place, 4] = 0
        elif self.config.layout == "torchvision":
            tensors[self.config.tensor("scores")][place] = 0
        else:
            tensors[self.config.tensor("scores")][image, place] = 0
            if self._every_class:
                tensors[self.config.tensor("class_scores")][image, place] = 0

    @property
    def _every_class(self) -> bool:
        return self.config.layout == "tensorflow" and bool(self.config.tensor("class_scores"))

    def _parts(self, tensors: Tensors) -> tuple[Array, Array, NDArray[Any]]:
        """Boxes (B, M, 4) in pixels, scores (B, M), labels (B, M) from 0, as they came."""
        if self.config.layout == "yolo_end_to_end":
            rows = float32(tensor(tensors, self.config.tensor("predictions"), (None, None, 6), "rows (B, M, 6)"))
            boxes, score, label = rows[..., :4], rows[..., 4], rows[..., 5]
        elif self.config.layout == "torchvision":
            boxes = float32(tensor(tensors, self.config.tensor("boxes"), (None, 4), "boxes (M, 4)"))[None]
            score, label = (self._column(tensors, part, boxes.shape[1:2])[None] for part in ("scores", "labels"))
        else:
            boxes, score, label = self._tensorflow(tensors)
        return boxes, score, label - np.float32(self.config.start)

    def _tensorflow(self, tensors: Tensors) -> tuple[Array, Array, Array]:
        boxes = float32(tensor(tensors, self.config.tensor("boxes"), (None, None, 4), "boxes (B, M, 4)"))
        score, label = (self._column(tensors, part, boxes.shape[:2]) for part in ("scores", "labels"))
        count = self._column(tensors, "count", boxes.shape[:1])
        if not ((count >= 0) & (count <= boxes.shape[1])).all():
            raise InvalidObservation(
                f"{self.config.tensor('count')}: expected 0 to {boxes.shape[1]} boxes, got {count.tolist()[:8]}"
            )
        used = np.arange(boxes.shape[1]) < count[:, None]
        return scaled(boxes[..., [1, 0, 3, 2]], self.config.image), np.where(used, score, np.float32(0)), label

    def _column(self, tensors: Tensors, part: Any, shape: tuple[int, ...]) -> Array:
        return float32(tensor(tensors, self.config.tensor(part), shape, f"{part} {shape}"))

    def _class_scores(self, tensors: Tensors) -> Array:
        shape = (None, None, 1 + self.config.classes)
        return float32(tensor(tensors, self.config.tensor("class_scores"), shape, "scores (B, M, 1 + classes)"))
