"""What every layout is decoded to: the boxes a model could mean, before the ones it does mean are chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from demur.adapters.models.detection.tensors import ABOVE_ONE, Array, Places, Tensors


@dataclass(frozen=True, eq=False)
class Candidates:
    """A candidates in each of B images.

    boxes (B, A, 4) float32 x1, y1, x2, y2 in pixels; score (B, A) float32 in [0, 1]; label (B, A) int64 in 0..C-1; live
    (B, A) bool: a client may show it; broken (B, A) bool: would be shown or cannot be compared, and is no box of a known
    class. None is both.
    """

    boxes: Array
    score: Array
    label: Places
    live: NDArray[np.bool_]
    broken: NDArray[np.bool_]

    @classmethod
    def of(cls, boxes: Array, score: Array, label: NDArray[Any], floor: float, classes: int) -> Self:
        """Live are scores of the floor or more, because some clients show a box of the floor itself, but never of 0. Broken
        are scores that are not finite or no probability; and of the live, boxes that are not finite or of negative size,
        and labels that are no class. A broken candidate never is silently dropped.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            size = boxes[..., 2:] - boxes[..., :2]
            box = np.isfinite(boxes).all(axis=-1) & np.isfinite(size).all(axis=-1) & (size >= 0).all(axis=-1)
            known = (label >= 0) & (label < classes) & (label == np.floor(label))
            lost = ~(score <= ABOVE_ONE) | ~(score >= 0)
        shown = ~lost & (score >= np.float32(floor)) & (score > 0)
        whole = shown & box & known
        return cls(boxes, score, np.where(known, label, 0).astype(np.int64), whole, lost | (shown & ~whole))


class Layout(Protocol):
    """How boxes lie in a model's tensors. `image` and `place` (n,) address candidates."""

    def candidates(self, tensors: Tensors) -> Candidates:
        """Every candidate. Raises: InvalidObservation when a tensor is absent or of another shape."""
        ...

    def logits(self, tensors: Tensors, image: Places, place: Places) -> Array:
        """(n, C) class logits."""
        ...

    def objectness(self, tensors: Tensors, image: Places, place: Places) -> Array:
        """(n, 1) probability that there is an object."""
        ...

    def erase(self, tensors: dict[str, NDArray[Any]], image: Places, place: Places) -> None:
        """Make candidates count for nothing, in place."""
        ...
