"""Which detection found which object."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demur.monitor.evaluate.errors import EvaluationError


@dataclass(frozen=True, eq=False)
class Objects:
    """The labelled objects of one image: boxes (M, 4) x1, y1, x2, y2 in pixels, labels (M,) in 0..C-1."""

    boxes: NDArray[np.floating]
    labels: NDArray[np.integer]

    def __post_init__(self) -> None:
        """Raises: EvaluationError when boxes are not (M, 4), or labels not (M,)."""
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4 or self.labels.shape != self.boxes.shape[:1]:
            raise EvaluationError(
                f"objects: expected boxes (M, 4) and labels (M,), got {self.boxes.shape} and {self.labels.shape}"
            )


def overlaps(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N, M) areas shared by boxes (N, 4) and (M, 4), over the areas they cover together; 0 for two boxes of no area."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(axis=2)
    areas = [(x[:, 2:] - x[:, :2]).prod(axis=1) for x in (a, b)]
    covered = areas[0][:, None] + areas[1][None] - shared
    found: NDArray[np.float64] = np.divide(shared, covered, out=np.zeros_like(shared), where=covered > 0)
    return found


def matched(
    boxes: NDArray[np.floating],
    scores: NDArray[np.floating],
    labels: NDArray[np.integer],
    objects: Objects,
    iou: float = 0.5,
) -> NDArray[np.int64]:
    """(N,) which object each detection found, -1 for none.

    By falling score (the first among equals), a detection takes the object of its class with the largest overlap of at
    least `iou` that no detection before it took (Everingham et al. 2010, PASCAL VOC, section 4.2; differs: an object
    already taken is passed over for the next best).
    """
    found = np.full(len(boxes), -1, np.int64)
    if not len(boxes) or not len(objects.boxes):
        return found
    shared = np.where(labels[:, None] == objects.labels[None], overlaps(boxes, objects.boxes), -1.0)
    for row in np.argsort(-np.asarray(scores), kind="stable"):
        best = int(np.argmax(shared[row]))
        if shared[row, best] >= iou:
            found[row] = best
            shared[:, best] = -1.0
    return found
