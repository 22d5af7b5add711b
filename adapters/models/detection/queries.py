"""A box and class logits of every query: DETR and RT-DETR (and Deformable DETR, RF-DETR), which need no suppression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.adapters.models.detection.candidates import Candidates
from demur.adapters.models.detection.tensors import (
    Array,
    Places,
    Tensors,
    bounded,
    corners,
    float32,
    scaled,
    sigmoid,
    tensor,
)
from demur.monitor.config.detection import DetectionConfig
from demur.monitor.errors import InvalidObservation

NEVER = -1e4  # a logit whose probability is 0 in every float type, float16 included


@dataclass(frozen=True)
class Queries:
    """Boxes (B, Q, 4) centre x, y, width, height in shares of the image.

    detr: logits (B, Q, C + 1), the last of them no-object; scores by softmax, objectness is 1 - P(no object).
    rt_detr: logits (B, Q, C), or (B, Q, C + 1) with a background slot last; scores by sigmoid.
    """

    config: DetectionConfig

    def candidates(self, tensors: Tensors) -> Candidates:
        logits = self._all(tensors)
        shape = (*logits.shape[:2], 4)
        boxes = float32(tensor(tensors, self.config.tensor("boxes"), shape, "boxes (B, Q, 4)"))
        scores = self._probabilities(logits)[..., : self.config.classes]
        placed = scaled(corners(boxes), self.config.image)
        score, label = scores.max(axis=-1), scores.argmax(axis=-1)
        return Candidates.of(placed, score, label, self.config.floor, self.config.classes)

    def logits(self, tensors: Tensors, image: Places, place: Places) -> Array:
        return self._all(tensors)[image, place, : self.config.classes]

    def objectness(self, tensors: Tensors, image: Places, place: Places) -> Array:
        known = self._probabilities(self._all(tensors)[image, place])[..., :-1]
        return np.asarray(known.sum(axis=-1, keepdims=True), np.float32)

    def erase(self, tensors: dict[str, NDArray[Any]], image: Places, place: Places) -> None:
        logits = tensors[self.config.tensor("logits")]
        logits[image, place, : self.config.classes] = NEVER
        rest = logits[image, place, self.config.classes :]  # no-object must win the softmax, whatever it was
        logits[image, place, self.config.classes :] = np.where(np.isfinite(rest) & (rest > NEVER / 2), rest, 0)

    def _all(self, tensors: Tensors) -> Array:
        name = self.config.tensor("logits")
        found = float32(tensor(tensors, name, (None, None, None), "logits (B, Q, classes)"))
        widths = (
            [self.config.classes + 1]
            if self.config.layout == "detr"
            else [self.config.classes, self.config.classes + 1]
        )
        if found.shape[2] not in widths:
            raise InvalidObservation(
                f"{name}: expected {' or '.join(map(str, widths))} logits a query for {self.config.classes} classes, "
                f"got {found.shape}; check detection.classes and layout"
            )
        bounded(name, found.shape[1])
        return found

    def _probabilities(self, logits: Array) -> Array:
        if self.config.layout == "rt_detr":
            return sigmoid(logits)
        with np.errstate(invalid="ignore", over="ignore"):
            e = np.exp(logits - logits.max(axis=-1, keepdims=True))
            return np.asarray(e / e.sum(axis=-1, keepdims=True), np.float32)
