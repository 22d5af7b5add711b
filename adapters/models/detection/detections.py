"""The boxes of some images, each with what a monitor gets to see of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.adapters.models.detection.tensors import Array, Places
from demur.monitor.config.decoding import Decoding
from demur.monitor.errors import InvalidObservation
from demur.monitor.evaluate.matching import Objects, labelled
from demur.monitor.fit.columns import EMPTY_GROUPS, ORIGIN
from demur.monitor.fit.origin import Origin
from demur.monitor.verdicts import Verdicts


@dataclass(frozen=True, eq=False)
class Detections:
    """N boxes of `images` images, by image, then falling score.

    boxes (N, 4) float32 x1, y1, x2, y2 in pixels; scores (N,) float32; labels (N,) int64 in 0..C-1; image (N,) int64;
    signals: name to (N, width) float32; saturated (N,) bool: the class probability was rounded to 1, so its logit is only
    known to be 17.33 or more; `decoding`: by which settings. One row an image may stand for all that cannot be assessed: NaN everywhere, label -1.
    """

    boxes: Array
    scores: Array
    labels: Places
    image: Places
    images: int
    signals: Mapping[str, Array]
    saturated: NDArray[np.bool_]
    decoding: Decoding = field(default_factory=lambda: Decoding({}))

    def __len__(self) -> int:
        return len(self.boxes)

    def arguments(self, **model: str) -> dict[str, Any]:
        """What `Monitor.assess` and `Client.assess` take: the signals, the image of each row, all images, and how they were
        decoded, with what else is to be said of the `model` (version, digest): a bundle of other decoding abstains.
        """
        known = {"decoding": self.decoding.digest} if self.decoding else {}
        images = {"group_id": self.image, "groups": np.arange(self.images)}
        return {**self.signals, **images, "model": {**known, **model}}

    def take(self, rows: NDArray[Any]) -> Detections:
        """Some of the boxes: a mask (N,) or indices."""
        signals = {name: array[rows] for name, array in self.signals.items()}
        own = ("boxes", "scores", "labels", "image", "saturated")
        return replace(self, signals=signals, **{name: getattr(self, name)[rows] for name in own})

    def keep(self, verdicts: Verdicts) -> Detections:
        """The boxes a monitor accepts. What it says of whole images stands in `verdicts.groups`."""
        if len(verdicts) != len(self):
            raise InvalidObservation(f"verdicts: expected {len(self)}, one for each box, got {len(verdicts)}")
        return self.take(verdicts.accept)

    def columns(self, truth: Sequence[Objects] | None = None, *, iou: float = 0.5, start: int = 0) -> dict[str, Any]:
        """Columns of a signals table, with the images without boxes and how boxes were decoded beside the rows; images are
        numbered from `start`. Rows that cannot be assessed are left out.

        truth: the objects of each image; then `label` and `loss` are as `labelled` gives them.
        """
        whole = self.take(self.labels >= 0)
        found = {**whole.signals, "group_id": whole.image + start, "prediction": whole.labels}
        found[EMPTY_GROUPS] = np.setdiff1d(np.arange(self.images), self.image) + start
        if self.decoding:
            found[ORIGIN] = Origin(self.decoding).column()
        if truth is None:
            return found
        if len(truth) != self.images:
            raise InvalidObservation(f"truth: expected the objects of {self.images} images, got {len(truth)}")
        made = labelled({**found, "box": whole.boxes}, dict(enumerate(truth, start)), iou)
        return {**found, "label": made["label"], "loss": made["loss"]}
