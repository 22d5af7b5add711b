"""Output tensors, checked before anything is computed from them."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.monitor.errors import InvalidObservation

MOST_CANDIDATES = 1 << 18  # in one image: five times what the largest published layouts have
MOST_VALUES = 1 << 27  # of one signal, over all boxes: 512 MiB
MOST_AXES = 8
ABOVE_ONE = 1.001  # a probability of float16 arithmetic may exceed 1 by its rounding
LOGIT_LIMIT = 25 * float(np.log(2.0))  # beyond it float32 probabilities round to 1

Tensors = Mapping[str, Any]
Array = NDArray[np.float32]
Places = NDArray[np.int64]


def tensor(tensors: Tensors, name: str, shape: tuple[int | None, ...], meaning: str) -> NDArray[Any]:
    """The tensor of this name, an array or nested lists of numbers; None in `shape` takes any size.

    Raises: InvalidObservation when it is absent, not numbers, of another shape, or has more candidates than any layout.
    """
    if name not in tensors:
        raise InvalidObservation(
            f"{name}: expected this output tensor ({meaning}), got {', '.join(sorted(tensors)) or 'none'}; "
            "name it under detection.outputs"
        )
    try:
        found = np.asarray(tensors[name])
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidObservation(
            f"{name}: expected an array of numbers, got {error}; send rows of equal length"
        ) from None
    fits = found.ndim == len(shape) and all(s is None or s == n for s, n in zip(shape, found.shape, strict=True))
    if not fits or (found.dtype.kind not in "fiu" and found.size):
        wanted = ", ".join("any" if s is None else str(s) for s in shape)
        raise InvalidObservation(
            f"{name}: expected ({wanted}), {meaning}, got {found.shape} {found.dtype}; check detection.layout and classes"
        )
    return found


def float32(array: NDArray[Any]) -> Array:
    """float32, the array itself where it is so already; a float64 beyond float32 becomes infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(array, np.float32)


def bounded(name: str, candidates: int) -> None:
    """Raises: InvalidObservation for more candidates in one image than any layout has."""
    if candidates > MOST_CANDIDATES:
        raise InvalidObservation(
            f"{name}: expected at most {MOST_CANDIDATES} candidates an image, got {candidates}; check detection.layout"
        )


def room(signal: str, boxes: int, width: int) -> None:
    """Raises: InvalidObservation when this many boxes of this width are more than is ever held at once."""
    if boxes * width > MOST_VALUES:
        raise InvalidObservation(
            f"{signal}: expected at most {MOST_VALUES} values, got {boxes} boxes of {width}; send fewer images at once"
        )


def from_oip_json(answer: Any) -> dict[str, NDArray[Any]]:
    """The output tensors of an Open Inference Protocol JSON answer: `outputs` with name, shape, datatype and flat data.

    Raises: InvalidObservation when shape and data disagree; nothing is allocated by what a shape claims.
    """
    outputs = answer.get("outputs", []) if isinstance(answer, Mapping) else None
    if not isinstance(outputs, list) or not all(isinstance(output, Mapping) for output in outputs):
        raise InvalidObservation("answer: expected an object with `outputs`, a list of tensors; send the whole answer")
    return dict(map(_of_json, outputs))


def _of_json(output: Mapping[str, Any]) -> tuple[str, NDArray[Any]]:
    name, shape, data = output.get("name"), output.get("shape"), output.get("data")
    if not isinstance(name, str) or not isinstance(shape, list) or not isinstance(data, list):
        raise InvalidObservation(f"outputs: expected name, shape and data of each tensor, got {sorted(output)}")
    if len(shape) > MOST_AXES or not all(type(s) is int and s >= 0 for s in shape):
        raise InvalidObservation(f"{name}: expected a shape of at most {MOST_AXES} whole numbers, got {shape[:8]}")
    dtype = np.int64 if str(output.get("datatype", "")).startswith(("INT", "UINT", "BOOL")) else np.float32
    try:
        with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite
            flat = np.asarray(data, dtype).reshape(-1)
        shaped = flat.reshape(shape) if len(flat) == prod(shape) else None
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidObservation(f"{name}: expected numbers of {dtype.__name__}, got {error}") from None
    if shaped is None:
        raise InvalidObservation(f"{name}: expected {prod(shape)} values for shape {shape}, got {len(flat)}")
    return name, shaped


def logit(p: Array) -> Array:
    """The number whose sigmoid p is, log(p / (1 - p)), clamped to 25 log 2 = 17.33 nats either way; NaN outside [0, 1],
    but for what rounding adds to 1.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        p64 = np.where(p <= ABOVE_ONE, np.minimum(p, 1), p).astype(np.float64)
        z = np.log(p64) - np.log1p(-p64)
    return np.asarray(np.clip(z, -LOGIT_LIMIT, LOGIT_LIMIT), np.float32)


def sigmoid(z: Array) -> Array:
    """1 / (1 + exp(-z)), without overflow."""
    return np.asarray(0.5 * np.tanh(0.5 * z) + 0.5, np.float32)


def corners(centred: Array) -> Array:
    """(..., 4) centre x, centre y, width, height to x1, y1, x2, y2."""
    with np.errstate(over="ignore", invalid="ignore"):
        half = np.float32(0.5) * centred[..., 2:]
        return np.asarray(np.concatenate([centred[..., :2] - half, centred[..., :2] + half], axis=-1), np.float32)


def scaled(boxes: Array, image: tuple[int, int]) -> Array:
    """(..., 4) corners x1, y1, x2, y2 in shares of the image to pixels; `image` is height, width."""
    height, width = image
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(boxes * np.array([width, height, width, height], np.float32), np.float32)
