"""Taking regions out of a segmentation model's answer: where they are, it says nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.adapters.models.segmentation.layout import frame_size
from demur.monitor.config.segmentation import SegmentationConfig
from demur.monitor.errors import ConfigurationError, InvalidObservation

CERTAIN = 1e4  # a logit beyond doubt that float16 can hold


def blanked(
    config: SegmentationConfig, tensors: Mapping[str, NDArray[Any]], masks: Mapping[int, NDArray[np.bool_]]
) -> dict[str, NDArray[Any]]:
    """The tensors, copies of those that change; `masks` maps the number of a frame to what is taken out of it (h, w).

    Class numbers become void_label; of dense logits the void class becomes certain; of queries every mask logit says outside.
    Raises: ConfigurationError when dense logits have no void class and no `labels` are there; InvalidObservation for
    labels of another layout.
    """
    found = dict(tensors)
    if not masks:
        return found
    size = frame_size(config, tensors)
    masks = {number: _enlarged(mask, config.downscale, size) for number, mask in masks.items()}
    if config.labels is not None and config.labels in tensors:
        found[config.labels] = _labels(config, tensors[config.labels], masks)
    elif config.kind == "dense" and config.void is None:
        raise ConfigurationError(
            "segmentation: refused regions cannot be taken out of dense logits without a void class; "
            "name `void` or `labels`, or refuse whole answers"
        )
    if config.mask_logits is not None:
        found[config.mask_logits] = _filled(tensors[config.mask_logits], masks, -CERTAIN)
    elif config.logits is not None and config.void is not None:
        found[config.logits] = _void(config, tensors[config.logits], masks)
    return found


def _labels(config: SegmentationConfig, tensor: NDArray[Any], masks: Mapping[int, NDArray[np.bool_]]) -> NDArray[Any]:
    flat = tensor[:, 0] if tensor.ndim == 4 and tensor.shape[1] == 1 else tensor
    if flat.ndim != 3 or flat.dtype.kind not in "iuf" or len(flat) <= max(masks):
        raise InvalidObservation(
            f"{config.labels}: expected class numbers (B, H, W), got {tensor.shape} {tensor.dtype}; check `labels`"
        )
    found = tensor.copy()
    view = found[:, 0] if found.ndim == 4 else found
    for number, mask in masks.items():
        view[number][_stretched(mask, view.shape[1:])] = config.void_label
    return found


def _void(config: SegmentationConfig, tensor: NDArray[Any], masks: Mapping[int, NDArray[np.bool_]]) -> NDArray[Any]:
    first = config.channels == "first"
    found = _filled(tensor if first else np.moveaxis(tensor, 3, 1), masks, 0.0)
    for number, mask in masks.items():
        found[number, config.void][_stretched(mask, found.shape[2:])] = CERTAIN
    return found if first else np.ascontiguousarray(np.moveaxis(found, 1, 3))


def _filled(tensor: NDArray[Any], masks: Mapping[int, NDArray[np.bool_]], value: float) -> NDArray[Any]:
    """All channels (B, C, H, W) at masked pixels."""
    found = tensor.copy()
    for number, mask in masks.items():
        found[number][:, _stretched(mask, tensor.shape[2:])] = value
    return found


def _enlarged(mask: NDArray[np.bool_], step: int, size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask of every step-th row and column for all of them: each stands for itself and those up to the next."""
    rows, columns = (np.arange(new) // step for new in size)
    return mask if step == 1 else np.asarray(mask[rows[:, None], columns])


def _stretched(mask: NDArray[np.bool_], size: tuple[int, ...]) -> NDArray[np.bool_]:
    """A mask (h, w) at another size: each pixel asks the one that stands in its place."""
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, mask.shape, strict=True))
    return np.asarray(mask[rows[:, None], columns])
