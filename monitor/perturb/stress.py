"""A stress set from a table: one column perturbed, what is still true of the rows kept, the rest left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from demur.monitor.perturb.context import Context
from demur.monitor.perturb.errors import PerturbationError
from demur.monitor.perturb.perturbation import Perturbation
from demur.monitor.perturb.rows import checked

Columns = dict[str, NDArray[Any]]
STILL_TRUE = ("label", "group_id", "slice", "weight")
HEAD = ("head_weight", "head_bias")
BESIDE = ("empty_groups", "_origin")  # which groups have no rows, and how signals were decoded: still so


class StressSet(NamedTuple):
    """columns: the new table; left_out: what the model said of the rows as they were; unchanged: rows not finite."""

    columns: Columns
    left_out: list[str]
    unchanged: int


def stress_set(
    columns: Mapping[str, NDArray[Any]],
    perturbation: Perturbation,
    severities: Sequence[int],
    *,
    column: str | None = None,
    seed: int = 0,
) -> StressSet:
    """The rows once for each severity, marked `severity` and `eval_only`, with `id` (default the row number).

    columns: named arrays with one entry a row. `column` (default the kind's name) is perturbed; label, group_id, slice,
    weight, the head and what stands beside the rows stay. With perturbed `features` and a head, `logits` are computed anew; predictions, losses and
    other signals belong to the rows as they were and are left out. Series get `_touched` (N, T, C).
    A row that is not finite stays as it was, at severity 0.
    Raises: PerturbationError.
    """
    column = column or perturbation.kind
    if column not in columns:
        raise PerturbationError(
            f"{column}: expected this column, got {', '.join(columns) or 'none'}; name it by --column"
        )
    if not severities:
        raise PerturbationError("expected at least one severity, got none")
    rows = checked(columns[column], perturbation.kind, column)
    count = len(rows)
    if not count:
        raise PerturbationError(f"{column}: expected at least one row, got none")
    whole = np.ones(count, bool)
    if perturbation.kind != "text":
        whole = np.array([bool(np.isfinite(row).all()) for row in rows])
    kept = _kept(columns, count)
    context = Context.of(rows) if perturbation.needs == "context" and whole.any() else None
    parts = [perturbation(rows, level, seed=seed, ids=kept["id"].tolist(), context=context) for level in severities]
    made = {column: np.concatenate([part.array for part in parts])}
    if perturbation.kind == "series":
        made["_touched"] = np.concatenate([part.touched for part in parts if part.touched is not None])
    made |= {name: np.concatenate([array] * len(severities)) for name, array in kept.items()}
    made["severity"] = np.concatenate([np.where(whole, level, 0) for level in severities]).astype(np.int64)
    made["eval_only"] = np.ones(count * len(severities), np.int64)
    if perturbation.kind == "features":
        made |= _with_head(columns, column, made[column])
    made |= {name: np.asarray(columns[name]) for name in BESIDE if name in columns}
    return StressSet(made, sorted(set(columns) - set(made)), int((~whole).sum()))


def _kept(columns: Mapping[str, NDArray[Any]], count: int) -> Columns:
    kept = {name: np.asarray(columns[name]) for name in STILL_TRUE if name in columns}
    kept["id"] = np.asarray(columns.get("id", np.arange(count)))
    for name, array in kept.items():
        if len(array) != count:
            raise PerturbationError(f"{name}: expected {count} entries, one for each row, got {len(array)}")
    return kept


def _with_head(columns: Mapping[str, NDArray[Any]], column: str, rows: NDArray[Any]) -> Columns:
    head = {name: np.asarray(columns[name]) for name in HEAD if name in columns}
    if column != "features" or "head_weight" not in head:
        return head
    weight, bias = head["head_weight"].astype(np.float64), head.get("head_bias", np.zeros(1)).astype(np.float64)
    if weight.ndim != 2 or weight.shape[1] != rows.shape[1]:
        raise PerturbationError(f"head_weight: expected (C, {rows.shape[1]}), got {weight.shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        return head | {"logits": (rows.astype(np.float64) @ weight.T + bias).astype(np.float32)}
