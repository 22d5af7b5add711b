"""Whether scores, columns, rules and widths fit together, before anything is traced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from demur.detectors.decision import MOST_RULES
from demur.detectors.policy import Column, Rule, Slicing, Unit
from demur.detectors.tensor import Signal


def check_policy(
    scores: Mapping[str, object],
    columns: Sequence[Column],
    rules: Sequence[Rule],
    widths: Mapping[Signal, int],
    units: tuple[Unit, ...] = ("row", "group"),
) -> None:
    """Raises: ValueError saying which column or rule does not fit, what was expected and what came."""
    if not columns:
        raise ValueError("a policy needs at least one column")
    _check_names(columns, rules)
    for column in columns:
        if column.score not in scores:
            raise ValueError(f"column {column.name!r}: no score {column.score!r}; known: {sorted(scores)}")
        if column.unit not in units:
            raise ValueError(f"column {column.name!r}: unit {column.unit!r} is not one of {units}")
        if column.sliced and (column.unit != "row" or not _tells(column.slicing, widths)):
            raise ValueError(
                f"column {column.name!r}: only row columns can be sliced, by logits or by codes in a signal of width 1"
            )
    by_name = {c.name: c for c in columns}
    for rule in rules:
        if rule.column not in by_name:
            raise ValueError(f"rule {rule.name!r}: no column {rule.column!r}; known: {sorted(by_name)}")
        by, classes = by_name[rule.column].slicing, widths.get("logits", 0)
        _check_threshold(rule, by_name[rule.column], classes if by is None else by.count(classes))


def _tells(by: Slicing | None, widths: Mapping[Signal, int]) -> bool:
    """Whether the signal that slices is there and fits."""
    return by is not None and by.signal in widths and (not by.codes or widths[by.signal] == 1)


def _check_names(columns: Sequence[Column], rules: Sequence[Rule]) -> None:
    for kind, names in (("column", [c.name for c in columns]), ("rule", [r.name for r in rules])):
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"{kind} names must differ, got {twice} more than once")
    if len(rules) > MOST_RULES:
        raise ValueError(f"expected at most {MOST_RULES} rules, got {len(rules)}")


def _check_threshold(rule: Rule, column: Column, classes: int) -> None:
    threshold = rule.threshold
    if threshold.dtype != np.float32 or threshold.shape not in ((1,), (classes,)) or np.isnan(threshold).any():
        wanted = f"float32 (1,) or ({classes},), without NaN"
        raise ValueError(f"rule {rule.name!r}: threshold must be {wanted}; got {threshold.dtype} {threshold.shape}")
    if len(threshold) > 1 and column.unit != "row":
        raise ValueError(f"rule {rule.name!r}: a {column.unit} rule has one threshold, got {len(threshold)}")
    if rule.pooled.shape != threshold.shape or rule.pooled.dtype != np.bool_:
        raise ValueError(f"rule {rule.name!r}: pooled must be bool {threshold.shape}, got {rule.pooled.shape}")
