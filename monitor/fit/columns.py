"""What each column of a signals table must look like, and its one canonical form."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.monitor.fit.errors import TableError

INTEGERS = ("label", "prediction", "loss", "severity", "eval_only")
LARGEST_CODE = 2**24  # every integer below is a float32
NAMES = ("group_id", "slice", "id")
ROW_COLUMNS = (*INTEGERS, *NAMES, "weight", "target")
HEAD = ("head_weight", "head_bias")
EMPTY_GROUPS, ORIGIN = "empty_groups", "_origin"
BESIDE = (
    EMPTY_GROUPS,
    ORIGIN,
)  # short lists that are not of rows; Parquet, Arrow and safetensors keep them as metadata
METADATA = "demur."  # what their names begin with there
SIGNAL_DTYPES = tuple(np.dtype(f"f{size}") for size in (2, 4, 8))


def as_array(value: Any, where: str) -> NDArray[Any]:
    """Any array-like as an array, without copying arrays.

    Raises: TableError for ragged lists, Python objects and masked values.
    """
    if np.ma.is_masked(value):
        masked = np.count_nonzero(np.ma.getmaskarray(value))
        raise TableError(
            f"{where}: expected numbers, {masked} of them are masked; fill them first, with .filled(np.nan) where they are missing"
        )
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise TableError(
            f"{where}: expected an array, got {type(value).__name__} ({error}); rows must have equal lengths"
        ) from error
    if array.dtype.hasobject and array.dtype.kind != "T":
        raise TableError(
            f"{where}: expected numbers or strings, got Python objects; convert with .astype(float) or .astype(str)"
        )
    return array


def signal(array: NDArray[Any], width: int | None, where: str) -> NDArray[Any]:
    """(N, width) floats as they are; (N,) is taken as (N, 1) when width is 1, and integers of one column (codes of a slice)
    become float32, which holds them exactly below 2^24.

    Raises: TableError for another shape or a dtype that is not floating.
    """
    if array.ndim == 1 and width == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] < 1 or width not in (None, array.shape[1]):
        advice = "check which model output this is, or the width in `signals:`"
        raise TableError(f"{where}: expected shape (N, {width or 'width'}), got {array.shape}; {advice}")
    if array.shape[1] == 1 and array.dtype.kind in "iu" and _codes(array):
        return array.astype(np.float32)
    if array.dtype.newbyteorder("=") not in SIGNAL_DTYPES:
        numbers = array.dtype.kind in "iubf" and array.shape[1] > 1
        advice = "convert it with .astype('float32')" if numbers else "number its values 0, 1, 2, ..."
        raise TableError(f"{where}: expected float32 (or float16, float64), got {array.dtype}; {advice}")
    return array


def _codes(array: NDArray[Any]) -> bool:
    return array.size == 0 or max(-int(array.min()), int(array.max())) < LARGEST_CODE


def row_column(name: str, array: NDArray[Any], where: str) -> NDArray[Any]:
    """One value a row in canonical form: int64, float64 (weight, target, a graded loss), or strings (group_id, slice, id may
    be either).

    Raises: TableError for another shape, values that are not whole numbers, losses outside [0, 1], eval_only outside {0, 1},
    weights or severities below 0, targets that are not finite.
    """
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise TableError(f"{where}: expected shape (N,), one value a row, got {array.shape}; pass a vector")
    if name in ("weight", "target"):
        return _number(array, where, least=0.0 if name == "weight" else -np.inf)
    if name == "loss":
        return _loss(array, where)
    if name in NAMES and array.dtype.kind in "UST":
        return _strings(array, where)
    integers = _integers(array, where)
    if name == "eval_only" and not np.isin(integers, (0, 1)).all():
        stray = integers[~np.isin(integers, (0, 1))][0]
        raise TableError(
            f"{where}: expected 0 (any use) or 1 (evaluation only), got {stray}; mark each row with one of them"
        )
    if name == "severity" and integers.size and integers.min() < 0:
        raise TableError(
            f"{where}: expected levels of at least 0 (0 is as it was), got {integers.min()}; renumber them"
        )
    return integers


def head_array(array: NDArray[Any], ndim: int, where: str) -> NDArray[np.float32]:
    """head_weight (C, D) or head_bias (C,) as finite float32.

    Raises: TableError for another shape, dtype or a value that is not finite.
    """
    if array.ndim != ndim or array.dtype.kind != "f" or array.size == 0:
        expected = "(C, D)" if ndim == 2 else "(C,)"
        raise TableError(
            f"{where}: expected {expected} floats, the last linear layer of the model, got {array.shape} {array.dtype}"
        )
    if not np.isfinite(array).all():
        raise TableError(f"{where}: expected finite values, got NaN or infinity; export the head again")
    return np.ascontiguousarray(array, np.float32)


def _loss(array: NDArray[Any], where: str) -> NDArray[Any]:
    """Losses of 0 and 1 as int64, others in [0, 1] as float64."""
    if array.dtype.kind not in "iubf":
        raise TableError(f"{where}: expected numbers from 0 (right) to 1 (wrong), got {array.dtype}")
    outside = ~((array >= 0) & (array <= 1))  # NaN too
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        raise TableError(
            f"{where}: expected numbers from 0 (right) to 1 (wrong), got {array[row]} in row {row}; "
            f"{'divide by the largest possible loss' if array[row] > 1 else 'a loss is no less than 0, and not NaN'}"
        )
    whole = array.dtype.kind != "f" or np.isin(array, (0, 1)).all()
    return np.ascontiguousarray(array, np.int64 if whole else np.float64)


def _integers(array: NDArray[Any], where: str) -> NDArray[np.int64]:
    if array.dtype.kind not in "iubf":
        raise TableError(
            f"{where}: expected integers (or floats that are whole numbers), got {array.dtype}; "
            "encode the values as 0, 1, 2, ..."
        )
    if array.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            whole = (np.abs(array) < 2.0**53) & (np.trunc(array) == array)  # NaN and infinity fail both
        if not whole.all():
            row = int(np.flatnonzero(~whole)[0])
            raise TableError(f"{where}: expected whole numbers, got {array[row]} in row {row}; fix or drop those rows")
    elif array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
        raise TableError(f"{where}: expected values below 2^63, got {array.max()}; pass them as strings")
    return np.ascontiguousarray(array, np.int64)


def _number(array: NDArray[Any], where: str, *, least: float) -> NDArray[np.float64]:
    if array.dtype.kind not in "iuf":
        raise TableError(f"{where}: expected numbers, got {array.dtype}")
    numbers = np.ascontiguousarray(array, np.float64)
    bad = ~np.isfinite(numbers) | (numbers < least)
    if bad.any():
        row, wanted = int(np.flatnonzero(bad)[0]), "weights of at least 0" if least == 0 else "numbers"
        raise TableError(f"{where}: expected finite {wanted}, got {numbers[row]} in row {row}")
    return numbers


def _strings(array: NDArray[Any], where: str) -> NDArray[np.str_]:
    if array.dtype.kind != "S":
        return np.asarray(array, np.str_)
    try:
        return np.char.decode(array, "utf-8")
    except UnicodeDecodeError as error:
        raise TableError(
            f"{where}: expected UTF-8 strings, got other bytes ({error.reason}); decode them first"
        ) from error


def float32(array: NDArray[Any]) -> NDArray[np.float32]:
    """Contiguous float32 in memory, native byte order. A float64 beyond float32 becomes infinite."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, np.float32)
