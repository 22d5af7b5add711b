"""From a detector's output tensors to boxes that can be judged, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.adapters.models.detection.candidates import Candidates, Layout
from demur.adapters.models.detection.detections import Detections
from demur.adapters.models.detection.grid import Grid, RawTensorFlow
from demur.adapters.models.detection.queries import Queries
from demur.adapters.models.detection.regions import box_features
from demur.adapters.models.detection.selected import Selected
from demur.adapters.models.detection.suppression import cluster, suppressed
from demur.adapters.models.detection.tensors import LOGIT_LIMIT, Array, Places, Tensors, room
from demur.adapters.models.output_adapter import Observed
from demur.monitor.config.decoding import decoding_of
from demur.monitor.config.detection import SUPPRESSED_BY_US, TENSORS, DetectionConfig
from demur.monitor.config.signal_map import SignalMapConfig
from demur.monitor.errors import InvalidObservation

LAYOUTS: dict[str, type[Grid | RawTensorFlow | Queries | Selected]] = {
    "yolov5": Grid,
    "yolov8": Grid,
    "yolox": Grid,
    "tensorflow_raw": RawTensorFlow,
    "detr": Queries,
    "rt_detr": Queries,
    "yolo_end_to_end": Selected,
    "torchvision": Selected,
    "tensorflow": Selected,
}
NOWHERE = -1


@dataclass(frozen=True, eq=False)
class _Chosen:
    """Rows in order: image (N,), place (N,) among the candidates, NOWHERE for a row that stands for all of `rest`.

    rest: by image, the places that cannot be judged: broken candidates, and those beyond the most boxes that are judged.
    """

    image: Places
    place: Places
    rest: dict[int, Places]


class Detector:
    """Decodes the tensors of one layout. Thread-safe; the same tensors always give the same rows.

    >>> seen = Detector(config)(tensors)  # doctest: +SKIP
    >>> kept = seen.keep(monitor.assess(**seen.arguments()))  # doctest: +SKIP
    """

    def __init__(self, config: DetectionConfig) -> None:
        self.config = config
        self._layout: Layout = LAYOUTS[config.layout](config)
        self._decoding = decoding_of(SignalMapConfig(detection=config))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the output tensors it reads, feature maps included."""
        parts = dict.fromkeys((*TENSORS[self.config.layout], *self.config.outputs))
        maps = () if self.config.regions is None else self.config.regions.maps
        return (*(self.config.tensor(part) for part in parts), *maps)

    def __call__(self, tensors: Tensors) -> Detections:
        """The boxes of every image: of the floor or more, suppressed where the layout needs it, at most `max_boxes` an image.

        What cannot be judged is one more row of NaN in its image, which any monitor finds INVALID: a candidate with a
        score that is no number, a box that is none, an unknown class, boxes beyond `max_boxes`.
        Raises: InvalidObservation when a tensor is absent or not of the layout's shape, or holds too many boxes.
        """
        found = self._layout.candidates(tensors)
        chosen = self._choose(found)
        whole = chosen.place != NOWHERE
        image, place = chosen.image[whole], chosen.place[whole]
        room("logits", len(place), self.config.classes)
        boxes = found.boxes[image, place]
        signals: dict[str, Array] = {
            name: _spread(self._signal(name, tensors, boxes, image, place, len(found.boxes)), whole)
            for name in self.config.signals
        }
        logits = self._layout.logits(tensors, image, place)
        saturated = (logits >= np.float32(LOGIT_LIMIT)).any(axis=1) & (self.config.layout not in ("detr", "rt_detr"))
        labels = np.full(len(whole), -1, np.int64)
        labels[whole] = found.label[image, place]
        held = np.zeros(len(whole), np.bool_)
        held[whole] = saturated
        scores = _spread(found.score[image, place], whole)
        rows = (_spread(boxes, whole), scores, labels, chosen.image)
        return Detections(*rows, len(found.boxes), signals, held, self._decoding)

    def observe(self, tensors: Tensors) -> Observed:
        """The rows of these tensors, each image a group. Raises: InvalidObservation, as `__call__`."""
        seen = self(tensors)
        return Observed(seen.signals, seen.images, seen.image)

    def without(self, tensors: Tensors, refused: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
        """The tensors in which refused rows (N,) no longer count: their scores are 0 (of logits: -10,000).

        Where clients suppress overlapping boxes themselves, so are the scores of the candidates that a refused box
        suppresses: one of them would take its place. All else keeps its bits; with nothing refused, all does.
        Raises: InvalidObservation when `refused` does not have a value for each row, or as `__call__`.
        """
        found = self._layout.candidates(tensors)
        chosen = self._choose(found)
        if refused.shape != chosen.place.shape:
            raise InvalidObservation(f"refused: expected ({len(chosen.place)},), one for each row, got {refused.shape}")
        made = {name: np.asarray(array) for name, array in tensors.items()}
        image, place = self._gone(found, chosen, refused)
        if len(place):
            for part in dict.fromkeys((*TENSORS[self.config.layout], *self.config.outputs)):
                made[self.config.tensor(part)] = np.array(made[self.config.tensor(part)])
            self._layout.erase(made, image, place)
        return made

    def _gone(self, found: Candidates, chosen: _Chosen, refused: NDArray[np.bool_]) -> tuple[Places, Places]:
        """Which candidates go: image (n,), place (n,)."""
        gone = np.zeros(found.score.shape, np.bool_)
        for image, place in zip(chosen.image[refused], chosen.place[refused], strict=True):
            if place == NOWHERE:
                gone[image, chosen.rest[int(image)]] = True
            else:
                gone[image] |= self._cluster(found, int(image), int(place))
        stay = ~refused & (chosen.place != NOWHERE)
        gone[chosen.image[stay], chosen.place[stay]] = False
        images, places = np.nonzero(gone)
        return images, places

    def _cluster(self, found: Candidates, image: int, place: int) -> NDArray[np.bool_]:
        if self.config.layout in SUPPRESSED_BY_US:
            return cluster(found.boxes[image], found.label[image], place, self.config.iou, self.config.class_wise)
        alone = np.zeros(found.score.shape[1], np.bool_)
        alone[place] = True
        return alone

    def _choose(self, found: Candidates) -> _Chosen:
        image: list[int] = []
        place: list[int] = []
        rest: dict[int, Places] = {}
        for number in range(len(found.boxes)):
            kept, beyond = self._kept(found, number)
            rest[number] = np.concatenate([np.flatnonzero(found.broken[number]), beyond])
            mine = kept.tolist() + [NOWHERE] * bool(len(rest[number]))
            image += [number] * len(mine)
            place += mine
        return _Chosen(np.array(image, np.int64), np.array(place, np.int64), rest)

    def _kept(self, found: Candidates, number: int) -> tuple[Places, Places]:
        """Of one image: the places of the boxes to judge, by falling score; and of all that may lie beyond the most."""
        score, most = found.score[number], self.config.max_boxes
        live = np.flatnonzero(found.live[number])
        if self.config.layout in SUPPRESSED_BY_US:
            label = found.label[number, live] if self.config.class_wise else np.zeros(len(live), np.int64)
            kept = live[suppressed(found.boxes[number, live], score[live], label, self.config.iou, most + 1)]
        else:
            kept = live[np.argsort(-score[live], kind="stable")]
        if len(kept) <= most:
            return kept, live[:0]
        beyond = live[score[live] <= score[kept[most]]]
        return kept[:most], beyond[~np.isin(beyond, kept[:most])]

    def _signal(self, name: str, tensors: Tensors, boxes: Array, image: Places, place: Places, images: int) -> Array:
        if name == "logits":
            return self._layout.logits(tensors, image, place)
        if name == "objectness":
            return self._layout.objectness(tensors, image, place)
        if name == "box":
            return self._geometry(boxes)
        assert self.config.regions is not None  # noqa: S101  the configuration has checked it
        return box_features(self.config.regions, self.config.image, tensors, boxes, image, images)

    def _geometry(self, boxes: Array) -> Array:
        """(N, 5): x1, y1, x2, y2 in pixels, and the box's area as a share of the image's."""
        height, width = self.config.image
        with np.errstate(over="ignore"):  # an area beyond float32 is infinite, and its row INVALID
            area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1, keepdims=True) / np.float32(height * width)
        return np.concatenate([boxes, area], axis=1)


def _spread(values: Array, whole: NDArray[np.bool_]) -> Array:
    """Values of the whole rows in their places among all rows, NaN elsewhere."""
    spread = np.full((len(whole), *values.shape[1:]), np.nan, np.float32)
    spread[whole] = values
    return spread
