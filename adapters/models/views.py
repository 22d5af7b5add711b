"""Views of an input: mildly corrupted copies of images, asked about again within a budget, gathered as one signal."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from demur.monitor.config.views import LARGEST_VALUES, ViewsConfig
from demur.monitor.errors import ConfigurationError, InvalidObservation
from demur.monitor.perturb import Perturbation, PerturbationError, find

Tick = Callable[[], object]  # raises when time is up
Call = Callable[[NDArray[Any], float | None], NDArray[Any]]  # images and the seconds left -> logits (N, C)
SLACK = 1e-3  # of the pixel range: what standardising and back may cost
PART_ROWS, PART_VALUES = 64, 1 << 18  # corrupted together, before a budget is looked at again


class Views:
    """Corrupted copies of images, each row's own: the same image gets the same views, whatever stands beside it.

    corruptions: perturbations of images (`demur.monitor.perturb`), `name` or `name:severity` (default 1). Images are
    (N, C, H, W) or (N, H, W, C) by `layout`, or (N, H, W): uint8, or floats whose white is `white`, standardised by `mean` and
    `std` of the channels where those are given. A row that is not finite stays as it is. Images of more than `largest_values`
    values are refused: what a copy costs grows with the image, and nothing can be asked in between.
    Raises: ConfigurationError for an unknown corruption.
    """

    def __init__(
        self,
        corruptions: Sequence[str],
        *,
        layout: Literal["NCHW", "NHWC"] = "NCHW",
        white: float = 1.0,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        seed: int = 0,
        largest_values: int = LARGEST_VALUES,
    ) -> None:
        self._changes = [_change(name) for name in corruptions]
        self._layout, self._white, self._seed, self._largest = layout, white, seed, largest_values
        self._mean, self._std = np.asarray(mean, np.float64), np.asarray(std, np.float64)

    @classmethod
    def configured(cls, config: ViewsConfig) -> Views:
        """As a signal map says."""
        return cls(
            config.corruptions,
            layout=config.layout,
            white=config.white,
            mean=config.mean,
            std=config.std,
            seed=config.seed,
            largest_values=config.largest_values,
        )

    @property
    def count(self) -> int:
        """V: the input itself and its corrupted copies."""
        return 1 + len(self._changes)

    def of(self, images: NDArray[Any]) -> list[NDArray[Any]]:
        """One corrupted copy for each corruption, in the shape and dtype of the images.

        Raises: InvalidObservation for another shape or dtype, or pixels outside the range.
        """
        return list(self.each(images))

    def each(self, images: NDArray[Any], tick: Tick = lambda: None) -> Iterator[NDArray[Any]]:
        """The same one after another: a copy is made when it is asked for, a few rows after each `tick`. Raises: as `of`."""
        pixels = self._pixels(images)
        rows = images.transpose(0, 2, 3, 1) if self._turned(images) else images
        step = max(1, min(PART_ROWS, PART_VALUES // max(1, pixels[:1].size)))
        parts = [slice(start, start + step) for start in range(0, len(rows), step)]
        names: list[str] = []
        for part in parts:
            tick()
            names += [hashlib.blake2b(row.tobytes(), digest_size=16).hexdigest() for row in rows[part]]
        for change, level in self._changes:
            made = np.empty_like(pixels)
            for part in parts:
                tick()
                try:
                    made[part] = change(pixels[part], level, seed=self._seed, ids=names[part]).array
                except PerturbationError as error:
                    raise InvalidObservation(f"views: {error}") from error
            yield self._back(made, images)

    def _pixels(self, images: NDArray[Any]) -> NDArray[Any]:
        """(N, H, W, C) or (N, H, W), uint8 or float64 in [0, 1]."""
        if (
            images.ndim not in (3, 4)
            or images.dtype.kind not in "fu"
            or (images.dtype.kind == "u" and images.itemsize > 1)
        ):
            raise InvalidObservation(
                f"views: expected images (N, H, W) or {self._layout} of floats or uint8, got {images.shape} {images.dtype}"
            )
        if images[:1].size > self._largest:
            raise InvalidObservation(
                f"views: an image of shape {images.shape[1:]} exceeds largest_values = {self._largest}; raise it, or send smaller ones"
            )
        rows = images.transpose(0, 2, 3, 1) if self._turned(images) else images
        if images.dtype == np.uint8:
            return rows
        if self._mean.size not in (0, 1 if rows.ndim == 3 else rows.shape[3]):
            raise InvalidObservation(
                f"views: {self._mean.size} means for images of shape {images.shape}; check `layout`"
            )
        pixels = rows.astype(np.float64)
        if self._mean.size:
            pixels = pixels * self._std + self._mean
        pixels = pixels / self._white
        finite = np.isfinite(pixels)
        stray = pixels[finite & ((pixels < -SLACK) | (pixels > 1 + SLACK))]
        if stray.size:
            raise InvalidObservation(
                f"views: expected pixels from 0 to {self._white:g}, got {stray[0] * self._white:g}; set `white`, or the "
                "`mean` and `std` that were taken off"
            )
        return np.clip(pixels, 0.0, 1.0, out=pixels, where=finite)

    def _turned(self, images: NDArray[Any]) -> bool:
        return images.ndim == 4 and self._layout == "NCHW"

    def _back(self, view: NDArray[Any], images: NDArray[Any]) -> NDArray[Any]:
        if images.dtype != np.uint8:
            view = view * self._white
            if self._mean.size:
                view = (view - self._mean) / self._std
        turned = view.transpose(0, 3, 1, 2) if self._turned(images) else view
        return np.ascontiguousarray(turned, images.dtype)


def _change(written: str) -> tuple[Perturbation, int]:
    name, _, level = written.partition(":")
    try:
        return find("images", name), int(level or 1)
    except PerturbationError as error:
        raise ConfigurationError(f"views: {error}") from error


def gathered(
    views: Views,
    call: Call,
    images: NDArray[Any],
    *,
    own: NDArray[Any] | None = None,
    seconds: float | None = None,
) -> NDArray[np.float32]:
    """The signal `view_logits` (N, V * C) float32: the images' own logits, then those of each corrupted copy.

    `call` gets the images of one view and the seconds left (None: no limit). `own` saves the first call. All together take
    at most `seconds`, corrupting included, as far as `call` keeps to what it is given; one image is always finished.
    Raises: InvalidObservation, with the cause, when the budget does not suffice or an answer has another shape.
    """
    clock = _Clock(seconds, views.count)
    found: list[NDArray[Any]] = []
    if own is None:
        own = call(images, clock.left(0))
    found.append(_logits(own, len(images), None))
    for view in views.each(images, tick=lambda: clock.left(len(found))):
        found.append(_logits(call(view, clock.left(len(found))), len(images), found[0].shape[1]))
        clock.left(len(found))
    return np.concatenate(found, axis=1)


class _Clock:
    def __init__(self, seconds: float | None, views: int) -> None:
        self._end = None if seconds is None else perf_counter() + seconds
        self._seconds, self._views = seconds, views

    def left(self, done: int) -> float | None:
        """Seconds left after `done` views. Raises: InvalidObservation when there are none."""
        if self._end is None or self._seconds is None:
            return None
        left = self._end - perf_counter()
        if left <= 0:
            raise InvalidObservation(
                f"views: {done} of {self._views} views in {self._seconds * 1e3:.0f} ms; raise `budget_ms`, or use fewer"
            )
        return left


def _logits(answer: NDArray[Any], rows: int, classes: int | None) -> NDArray[np.float32]:
    found = np.asarray(answer)
    if found.ndim != 2 or len(found) != rows or classes not in (None, found.shape[1]) or found.dtype.kind != "f":
        wanted = f"({rows}, {classes or 'C'}) floats"
        raise InvalidObservation(f"views: expected logits {wanted} of each view, got {found.shape} {found.dtype}")
    with np.errstate(over="ignore"):
        return np.asarray(found, np.float32)
