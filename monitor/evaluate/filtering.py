"""What filters keep of true detections and of hallucinations, counted on the images as they are and on resamples of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from demur.monitor.evaluate.bootstrap import Resampler

Weights = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Boxes:
    """Verdicts of N boxes: risk (N, S) float64, infinite where there is none; image (N,) in 0..images-1; accepted: by policy,
    (N,) bool.
    """

    risk: NDArray[np.float64]
    accepted: Mapping[str, NDArray[np.bool_]]
    image: NDArray[np.int64]
    images: int

    def take(self, rows: NDArray[np.bool_]) -> Boxes:
        """Some of the boxes; the images stay."""
        accepted = {name: array[rows] for name, array in self.accepted.items()}
        return Boxes(self.risk[rows], accepted, self.image[rows], self.images)

    def none(self) -> Boxes:
        """No boxes of no images."""
        nothing = self.take(np.zeros(len(self.image), np.bool_))
        return Boxes(nothing.risk, nothing.accepted, nothing.image, 0)


@dataclass(frozen=True, eq=False)
class _Ranked:
    """Boxes by rising risk (n,), and the image of each (n,)."""

    risk: NDArray[np.float64]
    image: NDArray[np.int64]

    @classmethod
    def of(cls, boxes: Boxes, column: int) -> Self:
        order = np.argsort(boxes.risk[:, column], kind="stable")
        return cls(boxes.risk[order, column], boxes.image[order])

    def kept(self, drawn: Weights, limit: float) -> float:
        """How many boxes of the drawn images have at most this risk; `drawn` (images,) says how often each was."""
        return float(drawn[self.image[: np.searchsorted(self.risk, limit, side="right")]].sum())


def threshold(risk: NDArray[np.float64], weight: Weights, keep: float) -> float:
    """The lowest risk at or below which a share of at least `keep` of N true detections lies; NaN without any.

    risk (N,) rising; weight (N,) counts them. Infinite risks are never kept: with too many of them for `keep`, the highest
    finite risk, and -inf where there is none.
    """
    total = np.cumsum(weight)
    if not len(total) or not total[-1]:
        return math.nan
    place = int(np.searchsorted(total, keep * total[-1] * (1 - 1e-12)))
    finite = int(np.searchsorted(risk, np.inf))
    return float(risk[min(place, finite - 1)]) if finite else -math.inf


def counted(columns: int, true: Boxes, strange: Boxes, keep: float, resampler: Resampler) -> NDArray[np.float64]:
    """(1 + draws, 1 + 3 * filters): hallucinations; then of each filter, scores before policies, its threshold, the share of
    true detections that it keeps, the hallucinations that it keeps. Row 0 is of the images as they are.

    `resampler` draws the images of `true`, then those of `strange`.
    """
    scores = [(_Ranked.of(true, column), _Ranked.of(strange, column)) for column in range(columns)]
    policies = [(true.image[true.accepted[n]], strange.image[strange.accepted[n]]) for n in true.accepted]

    def row(drawn: Weights) -> list[float]:
        ours, theirs = drawn[: true.images], drawn[true.images :]
        whole, found = float(ours[true.image].sum()), [float(theirs[strange.image].sum())]
        for known, unknown in scores:
            limit = threshold(known.risk, ours[known.image], keep)
            found += [limit, _share(known.kept(ours, limit), whole), unknown.kept(theirs, limit)]
        for mine, others in policies:
            found += [math.nan, _share(float(ours[mine].sum()), whole), float(theirs[others].sum())]
        return found

    return np.array([row(drawn) for drawn in _draws(resampler)])


def _draws(resampler: Resampler) -> Iterator[Weights]:
    yield np.ones(len(resampler.stratum))
    for batch in resampler.weights(256) if resampler.draws else ():
        yield from np.ascontiguousarray(batch.T)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
