"""What a model produced for one request, checked once at the edge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.monitor.errors import InvalidObservation

FLOATS = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(np.float64))
FLOAT32 = np.dtype(np.float32)
LARGEST_CODE = 2**24  # every integer below is a float32


@dataclass(frozen=True, slots=True)
class Grouping:
    """Which group each row belongs to: `index` (N,) int64 in 0..count-1, `names` (count,) the caller's group ids."""

    index: NDArray[np.int64]
    names: NDArray[np.int64]

    @property
    def count(self) -> int:
        """How many groups, those without rows included."""
        return len(self.names)


@dataclass(slots=True)  # not frozen: one is made for every request, and freezing costs 1 µs of it
class Observation:
    """Signals of N rows, float32 and contiguous, with what the caller says about its model.

    `missing` names the signals the bundle needs and the caller did not send: such rows abstain as UNAVAILABLE.
    `cause` says why an edge could read no signals at all: UNAVAILABLE, in its words.
    """

    signals: Mapping[str, NDArray[np.float32]]
    rows: int
    grouping: Grouping | None = None
    missing: tuple[str, ...] = ()
    ids: Sequence[str] = ()
    request: str = ""
    model: Mapping[str, str] = field(default_factory=dict)
    cause: str = ""


def observe(
    widths: Mapping[str, int],
    arrays: Mapping[str, Any],
    *,
    group_id: Any = None,
    groups: Any = None,
    **about: Any,
) -> Observation:
    """Check arrays against the signals a bundle was fitted for.

    Shapes: each array (N, width), one N for all; float32 is used as it is, float16 and float64 are converted. A signal of
    width 1 may be (N,), and integers (codes of a slice): below 2^24 they are exact in float32.
    `group_id` (N,) any integers; `groups` the ids expected, when some may have no rows.
    Raises: InvalidObservation for an unknown name, a wrong shape or dtype, unequal row counts, or no row at all.
    """
    signals: dict[str, NDArray[np.float32]] = {}
    rows = -1
    for name, array in arrays.items():
        width = widths.get(name)
        if width is None:
            raise InvalidObservation(
                f"{name}: this monitor has no such signal; expected {', '.join(sorted(widths))}. Check the mapping of model outputs to signals."
            )
        signal = _checked(name, array, width)
        if rows not in (-1, len(signal)):
            raise InvalidObservation(
                f"{name}: expected {rows} rows as in the other signals, got {len(signal)}; send all signals of the same rows"
            )
        rows = len(signal)
        signals[name] = signal
    if group_id is None and groups is not None and len(groups):
        group_id = ()  # right when there are no rows, refused by its length otherwise
    grouping = None if group_id is None else group_rows(group_id, groups, max(rows, 0))
    if rows < 1 and (grouping is None or grouping.count == 0):
        raise InvalidObservation("expected at least one row of signals, got none; send no request for an empty batch")
    missing = () if len(signals) == len(widths) else tuple(name for name in widths if name not in signals)
    return Observation(signals, max(rows, 0), grouping, missing, **about)


def group_rows(group_id: Any, groups: Any, rows: int) -> Grouping:
    """Dense group numbers from the caller's ids; `groups` fixes the order and may name groups without rows.

    Raises: InvalidObservation when ids are not (N,) integers, or a row's group is not among `groups`.
    """
    ids = _array("group_id", group_id)
    if ids.dtype == np.uint64 and ids.size and ids.max() > np.iinfo(np.int64).max:
        raise InvalidObservation(f"group_id: expected ids below 2**63, got {ids.max()}")
    if ids.shape != (rows,) or not (np.issubdtype(ids.dtype, np.integer) or ids.size == 0):
        raise InvalidObservation(
            f"group_id: expected ({rows},) integers, one for each row, got {ids.shape} {ids.dtype}"
        )
    ids = ids.astype(np.int64, copy=False)
    if groups is None or len(groups) == 0:
        names, index = np.unique(ids, return_inverse=True)
        return Grouping(index.astype(np.int64), names)
    names = _array("groups", groups)
    if names.ndim != 1 or not np.issubdtype(names.dtype, np.integer):
        raise InvalidObservation(f"groups: expected (G,) integers, got {names.shape} {names.dtype}")
    names = names.astype(np.int64)
    if len(np.unique(names)) != len(names):
        raise InvalidObservation("groups: each id may appear once; remove the duplicates")
    order = np.argsort(names, kind="stable")
    place = np.searchsorted(names[order], ids)
    if (place == len(names)).any() or (names[order][place] != ids).any():
        stray = ids[~np.isin(ids, names)][0]
        raise InvalidObservation(
            f"group_id: row group {stray} is not among `groups`; list every group or leave `groups` out"
        )
    return Grouping(order[place].astype(np.int64), names)


def _array(name: str, value: Any) -> NDArray[Any]:
    if np.ma.is_masked(value):
        raise InvalidObservation(
            f"{name}: expected numbers, {np.count_nonzero(np.ma.getmaskarray(value))} of them are masked; fill them first, with .filled(np.nan) "
            "where they are missing"
        )
    try:
        return np.asarray(value)
    except Exception as error:  # ragged lists, tensors on another device: each library has errors of its own
        raise InvalidObservation(
            f"{name}: expected an array of numbers, got {type(value).__name__} ({error}); convert it to NumPy first"
        ) from error


def _single(value: NDArray[Any]) -> NDArray[Any]:
    """A signal of width 1 as a column of floats, where it is a vector or integers; else as it came."""
    value = value[:, None] if value.ndim == 1 else value
    whole = value.dtype.kind in "iu" and (value.size == 0 or max(-int(value.min()), int(value.max())) < LARGEST_CODE)
    return value.astype(np.float32) if whole else value


def _checked(name: str, array: Any, width: int) -> NDArray[np.float32]:
    value = array if type(array) is np.ndarray else _array(name, array)
    if width == 1:
        value = _single(value)
    if value.ndim != 2 or value.shape[1] != width:
        raise InvalidObservation(
            f"{name}: expected (N, {width}) float32, got {value.shape} {value.dtype}; a single input is one row, shape (1, {width})"
        )
    if value.dtype is not FLOAT32 and value.dtype not in FLOATS:
        raise InvalidObservation(
            f"{name}: expected float32 (or float16, float64), got {value.dtype}; convert it at the model's output"
        )
    if value.dtype is FLOAT32 and value.flags.c_contiguous:
        return value
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, and its row INVALID
        return np.ascontiguousarray(value, np.float32)
