"""Which detection found which object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.monitor.evaluate.errors import EvaluationError
from demur.monitor.fit.columns import BESIDE


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


def labelled(columns: Mapping[str, Any], objects: Mapping[Any, Objects], iou: float = 0.5) -> dict[str, Any]:
    """A table of boxes with `prediction`, `label` and `loss`: rows of an image by falling score, as detectors give them.

    columns: `box` (N, 4 or more) x1, y1, x2, y2 in pixels, `logits` (N, C) or `prediction` (N,), `group_id` (N,) the
    image. objects: by image; an image that is not among them has none. A box that finds an object (`matched`) has loss 0;
    every other has loss 1, and its own class as label, so that fits, which learn from right rows alone, leave it out.
    Rows without a box (NaN, what could not be assessed) are left out.
    Raises: EvaluationError when a column is missing.
    """
    missing = [name for name in ("box", "group_id") if name not in columns]
    if missing or not {"logits", "prediction"} & set(columns):
        needed = ", ".join(missing) or "logits or prediction"
        raise EvaluationError(
            f"boxes: expected {needed}, got {', '.join(sorted(columns))}; add it to detection.signals"
        )
    whole = np.isfinite(np.asarray(columns["box"])).all(axis=1)
    rows = {
        name: np.asarray(array)[whole] if _of_rows(name, array, whole) else array for name, array in columns.items()
    }
    image, boxes = rows["group_id"], rows["box"][:, :4]
    prediction = rows["prediction"] if "prediction" in rows else rows["logits"].argmax(axis=1)
    loss = np.ones(len(boxes), np.int64)
    for name in np.unique(image).tolist():
        if name in objects:
            mine = np.flatnonzero(image == name)
            found = matched(boxes[mine], -np.arange(len(mine), dtype=np.float64), prediction[mine], objects[name], iou)
            loss[mine[found >= 0]] = 0
    return {**rows, "prediction": prediction, "label": prediction.copy(), "loss": loss}


def _of_rows(name: str, array: Any, whole: NDArray[np.bool_]) -> bool:
    """Whether a column has an entry a row; a table file may also hold numbers beside its rows."""
    return not name.startswith(("_", "head_")) and name not in BESIDE and len(array) == len(whole)
