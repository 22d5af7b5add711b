"""Which columns make a signals table: names, rows and widths that belong together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from demur.monitor.fit.columns import BESIDE, EMPTY_GROUPS, HEAD, ORIGIN, ROW_COLUMNS, head_array, row_column, signal
from demur.monitor.fit.errors import TableError, suggestion
from demur.monitor.fit.origin import Origin

KNOWN = (*ROW_COLUMNS, *HEAD, EMPTY_GROUPS)
SHORTEST_TYPO = 3


class Parts(NamedTuple):
    """Checked columns by what they are: signals (N, width), row columns (N,), head arrays, ids of groups without rows (E,),
    and where the signals come from.
    """

    signals: dict[str, NDArray[Any]]
    given: dict[str, NDArray[Any]]
    head: dict[str, NDArray[np.float32]]
    empty_groups: NDArray[Any] | None = None
    origin: Origin | None = None


def wanted(names: Collection[str], signals: Mapping[str, int] | None, source: str) -> list[str]:
    """The columns to read: all but those of a leading underscore, or with `signals` given only those and the known ones.

    Raises: TableError when a signal is missing, or a column left out looks like a misspelt known one.
    """
    if signals is None:
        return [name for name in names if not name.startswith("_") or name == ORIGIN]
    if missing := [name for name in signals if name not in names]:
        hint = suggestion(missing[0], [name for name in names if name not in KNOWN])
        there = ", ".join(sorted(names)) or "none"
        raise TableError(
            f"{source}: {missing[0]}: expected this signal, got columns {there}{hint}; rename it or change `signals:`"
        )
    chosen = [name for name in names if name in signals or name in KNOWN or name == ORIGIN]
    for name in sorted(set(names) - set(chosen)):
        _refuse_typo(name, [column for column in ROW_COLUMNS if column not in names], source)
    return chosen


def checked(arrays: Mapping[str, NDArray[Any]], widths: Mapping[str, int] | None, source: str) -> Parts:
    """Every column in its canonical form.

    Raises: TableError for a wrong name, shape, dtype or number of rows.
    """
    parts = Parts({}, {}, {}, _empty_groups(arrays, source), _origin(arrays, source))
    for name, array in arrays.items():
        where = f"{source}: {name}"
        if widths is not None and name in widths:
            parts.signals[name] = signal(array, widths[name], where)
        elif name in ROW_COLUMNS:
            parts.given[name] = row_column(name, array, where)
        elif name in BESIDE:
            continue
        elif name in HEAD:
            parts.head[name] = head_array(array, 2 if name == "head_weight" else 1, where)
        elif array.ndim == 1:
            expected = f"a signal (N, width) or one of {', '.join(ROW_COLUMNS)}"
            raise TableError(
                f"{where}: expected {expected}, got {array.shape}{suggestion(name, ROW_COLUMNS)}; "
                "rename it, reshape it to (N, 1), or prefix it with _ to leave it out"
            )
        else:
            parts.signals[name] = signal(array, None, where)
    if not parts.signals:
        there = ", ".join(arrays) or "none"
        raise TableError(f"{source}: expected at least one signal (N, width), such as logits, got columns {there}")
    _equal_rows({**parts.signals, **parts.given}, source)
    _fitting_head(parts, source)
    return parts


def _origin(arrays: Mapping[str, NDArray[Any]], source: str) -> Origin | None:
    return Origin.parse(arrays[ORIGIN], f"{source}: {ORIGIN}") if ORIGIN in arrays else None


def _empty_groups(arrays: Mapping[str, NDArray[Any]], source: str) -> NDArray[Any] | None:
    """(E,) distinct ids, as group_id's are. Raises: TableError when one of them has rows, or no row has an id."""
    if EMPTY_GROUPS not in arrays:
        return None
    where, held = f"{source}: {EMPTY_GROUPS}", arrays[EMPTY_GROUPS]
    if "group_id" not in arrays:
        raise TableError(f"{where}: expected group_id beside it, the group of each row; add that column")
    group = row_column("group_id", arrays["group_id"], f"{source}: group_id")
    empty = row_column("group_id", held, where) if held.size else np.empty(0, group.dtype)
    if empty.size and empty.dtype.kind != group.dtype.kind:
        raise TableError(f"{where}: expected ids like those of group_id, {group.dtype}, got {empty.dtype}")
    ordered = np.sort(empty)  # np.unique takes a hundred times as long (numpy 2.4)
    if (ordered[1:] == ordered[:-1]).any():
        raise TableError(f"{where}: a group is named twice; name each group without rows once")
    if len(both := ordered[np.isin(ordered, group)]):
        raise TableError(f"{where}: expected groups without rows, {both[0]} has some; take it out of {EMPTY_GROUPS}")
    return empty


def _refuse_typo(name: str, absent: Collection[str], source: str) -> None:
    # A misspelt `label` left out would quietly become a table without labels.
    hint = suggestion(name, absent) if len(name) >= SHORTEST_TYPO and not name.startswith("_") else ""
    if hint:
        raise TableError(
            f"{source}: {name}: expected signals and {', '.join(KNOWN)}{hint} "
            "Rename it, or prefix it with _ to leave it out"
        )


def _equal_rows(columns: Mapping[str, NDArray[Any]], source: str) -> None:
    first, rows = next((name, len(array)) for name, array in columns.items())
    if rows == 0:
        raise TableError(f"{source}: {first}: expected at least one row, got none; check the step that wrote the table")
    for name, array in columns.items():
        if len(array) != rows:
            raise TableError(
                f"{source}: {name}: expected {rows} rows as in {first}, got {len(array)}; "
                "every column has one entry a row"
            )


def _fitting_head(parts: Parts, source: str) -> None:
    axes = ("logits", "features")
    for name, array in parts.head.items():
        for axis, size in enumerate(array.shape):
            wide = parts.signals.get(axes[axis])
            if wide is not None and wide.shape[1] != size:
                raise TableError(
                    f"{source}: {name}: expected {wide.shape[1]} on axis {axis}, the width of {axes[axis]}, "
                    f"got shape {array.shape}; is it transposed, or of another layer?"
                )
