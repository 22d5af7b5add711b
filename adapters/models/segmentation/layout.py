"""Output tensors of a segmentation model as frames, checked before anything is allocated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.monitor.config.segmentation import SegmentationConfig
from demur.monitor.errors import InvalidObservation

FLOATS = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))
MOST_PIXELS = 1 << 26  # of the maps of one answer together
MOST_CHANNELS = 1 << 12
STRIP_PIXELS = 1 << 14  # scored at once; 8 rows of 2,048 pixels were fastest, and hold 1.2 MB at 19 classes
STRIP_VALUES = 1 << 20  # the same in values: of 4,096 channels 16,384 pixels took 1.8 GB


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame as a view of the tensors: `channels` (C, h, w), logits of classes or of masks, only the pixels judged.

    `classes` (Q, K + 1) are the class logits of queries, None of dense logits.
    """

    channels: NDArray[Any]
    classes: NDArray[np.float32] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.channels.shape[1], self.channels.shape[2]

    def strips(self) -> Iterator[tuple[slice, slice]]:
        """Rows and columns of each strip, STRIP_PIXELS and about STRIP_VALUES at most."""
        height, width = self.shape
        deep = max(len(self.channels), 0 if self.classes is None else self.classes.shape[1])
        most = max(1, min(STRIP_PIXELS, STRIP_VALUES // deep))
        rows, across = max(1, most // width), min(width, most)
        for top in range(0, height, rows):
            for left in range(0, width, across):
                yield slice(top, top + rows), slice(left, left + across)


def frames_of(config: SegmentationConfig, tensors: Mapping[str, NDArray[Any]]) -> list[Frame]:
    """The frames of one answer, views only.

    Raises: InvalidObservation for an absent tensor, another rank or dtype, no frame, too few or too many channels or
    pixels, or tensors of different batches.
    """
    if config.kind == "dense":
        tensor = _tensor(tensors, config.logits or "", 4, "(B, C, H, W)")
        if config.channels == "last":
            tensor = np.moveaxis(tensor, 3, 1)
        _check_size(tensor, config, least=2 if config.void is None else 3)
        return [Frame(frame[:, :: config.downscale, :: config.downscale]) for frame in tensor]
    classes = _tensor(tensors, config.class_logits or "", 3, "(B, Q, K + 1)")
    masks = _tensor(tensors, config.mask_logits or "", 4, "(B, Q, H, W)")
    _check_size(masks, config, least=1)
    if classes.shape[:2] != masks.shape[:2] or not 2 <= classes.shape[2] <= MOST_CHANNELS:
        raise InvalidObservation(
            f"{config.class_logits}: expected {(*masks.shape[:2], 'K + 1')} as {config.mask_logits} has that many queries, "
            f"with 1 to {MOST_CHANNELS - 1} classes and no object, got {classes.shape}; check the mapping of outputs"
        )
    step = config.downscale
    return [Frame(m[:, ::step, ::step], _float32(c)) for m, c in zip(masks, classes, strict=True)]


def frame_size(config: SegmentationConfig, tensors: Mapping[str, NDArray[Any]]) -> tuple[int, int]:
    """(H, W) of tensors that `frames_of` accepted."""
    shape = tensors[config.logits or config.mask_logits or ""].shape
    height, width = shape[1:3] if config.channels == "last" else shape[2:4]
    return height, width


def _tensor(tensors: Mapping[str, NDArray[Any]], name: str, rank: int, layout: str) -> NDArray[Any]:
    if name not in tensors:
        raise InvalidObservation(f"{name}: expected this output, got {', '.join(sorted(tensors)) or 'none'}")
    tensor = tensors[name]
    if not isinstance(tensor, np.ndarray) or tensor.ndim != rank or tensor.dtype not in FLOATS:
        came = f"{tensor.shape} {tensor.dtype}" if isinstance(tensor, np.ndarray) else type(tensor).__name__
        raise InvalidObservation(
            f"{name}: expected floats {layout}, got {came}; check the segmentation section of the signal map"
        )
    return tensor


def _check_size(tensor: NDArray[Any], config: SegmentationConfig, least: int) -> None:
    frames, channels, height, width = tensor.shape
    if 0 in (frames, height, width):
        raise InvalidObservation(f"expected at least one frame of at least one pixel, got {tensor.shape}")
    pixels = frames * -(-height // config.downscale) * -(-width // config.downscale)
    if pixels > MOST_PIXELS or channels > MOST_CHANNELS:
        raise InvalidObservation(
            f"expected at most {MOST_PIXELS} pixels and {MOST_CHANNELS} channels, got {tensor.shape}; "
            "send fewer frames at once, or raise downscale"
        )
    if channels < least or (config.void is not None and config.void >= channels):
        raise InvalidObservation(
            f"expected at least {max(least, (config.void or 0) + 1)} channels, got {channels} in {tensor.shape}; "
            "is the layout channels last?"
        )


def _float32(array: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and its pixels INVALID
        return np.ascontiguousarray(array, np.float32)
