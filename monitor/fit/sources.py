"""From what a caller gives to checked policies, tables and references."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.detectors.promises.clustered import one_row_per_group
from demur.detectors.score import Reference
from demur.monitor.config.document import load, parse, read_yaml
from demur.monitor.config.policy import PolicyConfig
from demur.monitor.fit.assemble import widths
from demur.monitor.fit.head import Head, recover_head
from demur.monitor.fit.table import SignalsTable, load_table

Source = SignalsTable | str | Path | Mapping[str, Any]
Config = PolicyConfig | str | Path | Mapping[str, Any]


def as_config(config: Config) -> PolicyConfig:
    """A checked policy from a path or a mapping."""
    if isinstance(config, PolicyConfig):
        return config
    if isinstance(config, Mapping):
        return parse(PolicyConfig, config, "the policy")
    return load(PolicyConfig, config, {})


def as_document(config: Config) -> dict[str, Any]:
    """The policy as written, unchecked."""
    if isinstance(config, PolicyConfig):
        return config.model_dump(mode="json", exclude_none=True)
    return dict(config) if isinstance(config, Mapping) else read_yaml(Path(config))


def as_table(source: Source, policy: PolicyConfig) -> SignalsTable:
    """A signals table from a path or a mapping of arrays, with exactly the policy's signals and its tolerance."""
    if isinstance(source, SignalsTable):
        table = source
    elif isinstance(source, Mapping):
        table = SignalsTable.from_columns(source, widths(policy))
    else:
        table = load_table(source, widths(policy))
    return table if policy.tolerance is None else replace(table, tolerance=policy.tolerance)


def as_reference(table: SignalsTable, absent: frozenset[str] = frozenset()) -> Reference:
    """A table as scores are fitted on it; a head that nobody exported is recovered when a score asks for it.

    absent: signals whose NaN cells are missing values. Of rows that come in groups one row of each group, drawn, keeps its
    target: what is promised of targets counts independent rows.
    """

    @functools.cache
    def recover() -> Head:
        return recover_head(table.signals["features"], table.signals["logits"])

    can = table.head_weight is None and {"features", "logits"} <= set(table.signals)
    return Reference(
        table.signals,
        table.label,
        table.head_weight,
        table.head_bias,
        table.right,
        recover=recover if can else None,
        target=_independent(table),
        absent=absent,
    )


def _independent(table: SignalsTable) -> NDArray[np.float64] | None:
    if table.target is None or table.grouping is None:
        return table.target
    known = np.zeros(len(table), np.bool_)
    known[one_row_per_group(table.grouping.index, 0)] = True
    return np.where(known, table.target, np.nan)
