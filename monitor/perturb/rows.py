"""Rows of the four kinds: what they look like, and their form while they are changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from demur.monitor.perturb.errors import PerturbationError

Kind = Literal["images", "features", "text", "series"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Touched = NDArray[np.bool_]
SHAPES = {
    "images": ((3, 4), "(N, H, W) or (N, H, W, C), floats in [0, 1] or uint8"),
    "features": ((2,), "(N, D) floats"),
    "text": ((1,), "(N,) strings"),
    "series": ((3,), "(N, T, C) floats"),
}
BLOCK_VALUES = 1 << 21


def checked(array: NDArray[Any] | Sequence[str], kind: Kind, where: str) -> NDArray[Any]:
    """The array, once its shape, dtype and range fit the kind.

    Raises: PerturbationError.
    """
    rows = np.asarray(array)
    if kind == "text" and rows.size == 0:
        rows = rows.astype(np.str_)
    dims, expected = SHAPES[kind]
    allowed = "U" if kind == "text" else "f"
    fits = rows.dtype.kind in allowed or (kind == "images" and rows.dtype == np.uint8)
    if rows.ndim not in dims or not fits or 0 in rows.shape[1:]:
        raise PerturbationError(f"{where}: expected {kind} as {expected}, got {rows.shape} {rows.dtype}")
    if kind == "images" and rows.dtype.kind == "f":
        _in_range(rows, where)
    return rows


def _in_range(images: NDArray[Any], where: str) -> None:
    step = max(1, BLOCK_VALUES // images[0].size if len(images) else 1)
    for start in range(0, len(images), step):
        part = images[start : start + step]
        stray = part[(part < 0) | (part > 1)]
        stray = stray[np.isfinite(stray)]
        if stray.size:
            raise PerturbationError(
                f"{where}: expected float images in [0, 1], got {stray[0]:g}; divide by 255, or undo the standardisation"
            )


def intact(row: Any, kind: Kind) -> bool:
    """Whether a row can be changed: finite numbers, or any text."""
    return kind == "text" or bool(np.isfinite(row).all())


def decode(row: Any, kind: Kind) -> Any:
    """A row as perturbations take it: float64 (images (H, W, C) in [0, 1]), or a str."""
    if kind == "text":
        return str(row)
    if kind != "images":
        return row.astype(np.float64)
    image = row.astype(np.float64) / 255 if row.dtype == np.uint8 else row.astype(np.float64)
    return image[..., None] if image.ndim == 2 else image


def encode(row: NDArray[np.float64], like: NDArray[Any]) -> NDArray[Any]:
    """A changed row in the shape and dtype of the array it came from; beyond the dtype's range it becomes infinite."""
    if like.dtype == np.uint8:
        row = np.round(row * 255)
    with np.errstate(over="ignore"):
        return row.reshape(like.shape[1:]).astype(like.dtype)
