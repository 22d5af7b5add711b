"""From observations through the graph to columns, and from columns to verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.monitor.loaded import Loaded
from demur.monitor.observation import Observation
from demur.monitor.verdicts import Verdicts


@dataclass(slots=True)  # not frozen: one is made for every request
class Scored:
    """The graph's outputs for one observation, and its rows' share of the time that the run took which gave them."""

    columns: list[NDArray[Any]]
    seconds: float


def run(loaded: Loaded, observation: Observation) -> list[NDArray[Any]]:
    """The graph's outputs. Without rows it judges one blank row in a group of its own, dropped again: ONNX Runtime's
    reductions give an empty batch the wrong shape.
    """
    feed: dict[str, NDArray[Any]] = dict(observation.signals)
    for name in loaded.unread:
        feed.pop(name, None)
    grouping, blank = observation.grouping, observation.rows == 0
    if blank:
        feed |= {n: np.zeros((1, loaded.widths[n]), np.float32) for n in feed if n in loaded.widths}
    if loaded.grouped and grouping is not None:
        feed["group_id"] = np.array([grouping.count], np.int64) if blank else grouping.index
        feed["group_count"] = np.array([grouping.count + blank], np.int64)
    columns = loaded.session.run_columns(feed)
    return [c[:-1] for c in columns] if blank else columns


def run_together(loaded: Loaded, observations: Sequence[Observation]) -> list[Scored]:
    """One run for observations that have every signal the graph reads, under a policy without groups: rows are independent."""
    began = perf_counter()
    names = [n for n in loaded.widths if n not in loaded.unread]
    columns = loaded.session.run_columns({n: np.concatenate([o.signals[n] for o in observations]) for n in names})
    bounds = list(accumulate((o.rows for o in observations), initial=0))
    each = (perf_counter() - began) / max(bounds[-1], 1)
    return [Scored([c[start:end] for c in columns], each * (end - start)) for start, end in pairwise(bounds)]


def batch_verdicts(loaded: Loaded, observation: Observation, columns: list[NDArray[Any]]) -> Verdicts:
    """The graph's outputs as verdicts."""
    policy, at = loaded.policy, loaded.positions
    groups = None
    if loaded.grouped:
        hits = columns[at["group_rule_hits"]]
        groups = Verdicts(
            policy, columns[at["group_accept"]], columns[at["group_reasons"]], hits, np.zeros_like(hits),
            columns[at["group_scores"]], columns[at["group_p"]], policy.group_columns, cause="the group has no rows",
        )  # fmt: skip
    return Verdicts(
        policy, columns[at["accept"]], columns[at["reasons"]], columns[at["rule_hits"]],
        columns[at["pooled"]] if "pooled" in at else np.zeros(len(columns[at["accept"]]), np.int64),
        columns[at["scores"]], columns[at["p_values"]], policy.columns, groups=groups,
        group_ids=observation.grouping.names if groups is not None and observation.grouping is not None else None,
    )  # fmt: skip
