"""Pixel scores at work: strip after strip through ONNX Runtime, so that memory holds one strip and the map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from demur.adapters.models.segmentation.graph import pixel_graph
from demur.adapters.models.segmentation.layout import Frame
from demur.detectors.build import build_score
from demur.detectors.score import Reference, Score
from demur.detectors.storage import parameters
from demur.monitor.config.segmentation import SegmentationConfig
from demur.monitor.errors import ConfigurationError, InvalidObservation
from demur.monitor.session import Session


@dataclass(frozen=True, eq=False)
class Scored:
    """One frame's pixels: `risk` (h, w) float32, NaN where a value was not finite; `void` (h, w) bool where the model says
    nothing, None without a void class; `predicted` (h, w) uint16, None unless boundaries need it.
    """

    risk: NDArray[np.float32]
    void: NDArray[np.bool_] | None = None
    predicted: NDArray[np.uint16] | None = None


class PixelScorer:
    """A compiled pixel score for one number of channels."""

    def __init__(self, graph: bytes, channels: int, threads: int = 1) -> None:
        self.graph, self.channels = graph, channels
        self._session = Session(graph, threads=threads, whole=True)

    @classmethod
    def plain(cls, config: SegmentationConfig, channels: int, threads: int = 1) -> Self:
        """Of a score that needs no fit. Raises: ConfigurationError for one that does."""
        signal = "logits" if config.kind == "dense" else "evidence"
        blank = np.zeros((1, channels), np.float32)
        score = build_score(config.score, None, Reference({signal: blank}))
        if parameters(score):
            raise ConfigurationError(
                f"segmentation: {config.score} is fitted on reference frames; give `fitted`, the file of Segmenter.fit"
            )
        return cls.of(config, score, channels, threads)

    @classmethod
    def of(cls, config: SegmentationConfig, score: Score, channels: int, threads: int = 1) -> Self:
        """Of a fitted score."""
        return cls(pixel_graph(config, score, channels), channels, threads)

    def __call__(self, frame: Frame) -> Scored:
        """Every pixel of a frame. Raises: InvalidObservation for another number of channels than it was made for."""
        found = channels_of(frame)
        if found != self.channels:
            raise InvalidObservation(
                f"expected {self.channels} classes, as the pixel score was fitted on, got {found}; fit it for this model"
            )
        outputs = self._session.outputs
        risk = np.empty(frame.shape, np.float32)
        void = np.empty(frame.shape, np.bool_) if "void" in outputs else None
        predicted = np.empty(frame.shape, np.uint16) if "predicted" in outputs else None
        for rows, columns in frame.strips():
            answer = dict(zip(outputs, self._session.run_columns(_feed(frame, rows, columns)), strict=True))
            place = risk[rows, columns]
            place[...] = answer["risk"].reshape(place.shape)
            if void is not None:
                void[rows, columns] = answer["void"].reshape(place.shape) > 0
            if predicted is not None:
                predicted[rows, columns] = answer["predicted"].reshape(place.shape)
        return Scored(risk, void, predicted)


def channels_of(frame: Frame) -> int:
    """Classes of dense logits, or classes and no object of queries."""
    return int(frame.channels.shape[0] if frame.classes is None else frame.classes.shape[1])


def _feed(frame: Frame, rows: slice, columns: slice) -> dict[str, NDArray[Any]]:
    strip = frame.channels[:, rows, columns]
    flat = strip.reshape(strip.shape[0], -1)
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and its pixel INVALID
        if frame.classes is None:
            return {"logits": np.ascontiguousarray(flat.T, np.float32)}
        return {"masks": np.ascontiguousarray(flat, np.float32), "classes": frame.classes}
