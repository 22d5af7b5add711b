"""What calibration is made from: the compiled graph run over the calibration rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.detectors.policy import Column
from demur.detectors.promises.clustered import one_row_per_group
from demur.detectors.promises.wording import listed
from demur.detectors.scores.stopping import EarlyStopped
from demur.monitor.config.policy import PolicyConfig, ScoreConfig
from demur.monitor.errors import ConfigurationError
from demur.monitor.fit import scoring
from demur.monitor.fit.assemble import graph_of
from demur.monitor.fit.evidence import Evidence
from demur.monitor.fit.plan import Plan
from demur.monitor.fit.progress import Tick, silent
from demur.monitor.fit.table import SignalsTable
from demur.monitor.session import Session

TAUGHT_BY_OUTLIERS = frozenset({"contrastive_banks", "outlier_head", "scod"})
MOST_SLICES = 256
LARGEST_CODE = 2.0**24  # the largest whole numbers that float32 tells apart


def score_members(
    policy: PolicyConfig, planned: Plan, scores: Mapping[str, Any], table: SignalsTable, tick: Tick = silent
) -> dict[str, NDArray[np.float32]]:
    """What fusions read, scored by the compiled graph on fold A: member -> (n,), in the order of the rows."""
    return score_alone(policy, planned, {m: scores[m] for m in planned.members}, table, tick)


def score_alone(
    policy: PolicyConfig, planned: Plan, scores: Mapping[str, Any], table: SignalsTable, tick: Tick = silent
) -> dict[str, NDArray[np.float32]]:
    """Each of these scores, which read signals, by the compiled graph: name -> (n,), in the order of the rows."""
    alone = [Column(m, m) for m in sorted(scores)]
    found = scoring.score_rows(Session(graph_of(policy, planned, scores, alone, ())), table, tick)["scores"]
    return {c.name: found[:, i] for i, c in enumerate(alone)}


def gather(
    policy: PolicyConfig,
    planned: Plan,
    scores: Mapping[str, Any],
    found: Mapping[str, NDArray[np.float32]] | None,
    table: SignalsTable,
    tick: Tick = silent,
) -> Evidence:
    """Run the compiled graph over the calibration rows: `found` are the members' scores of fold A, `table` is the rest."""
    if planned.stream:
        return _gather_streams(policy, planned, scores, table)
    fold_a = {n: np.sort(s) for n, s in (found or {}).items()}
    found_all = judge(policy, planned, scores, fold_a, table, tick)
    found_all |= _places(planned, scores, found_all)
    return Evidence(
        scores={n: a for n, a in found_all.items() if n not in fold_a},
        fold_a=fold_a,
        loss=table.loss,
        predicted=table.argmax,
        group=None if table.grouping is None else table.grouping.index,
        classes=policy.signals["logits"].width if "logits" in policy.signals else None,
        weighted=table.weight is not None,
        codes={name: codes(table, name) for name in sorted(planned.slicing)},
    )


def codes(table: SignalsTable, signal: str) -> NDArray[np.int64]:
    """(N,) the whole numbers that a signal of width 1 carries.

    Raises: ConfigurationError for other numbers, or more different ones than slices are made for.
    """
    values = np.concatenate([batch.signals[signal][:, 0] for batch in table.only(signal).batches()])
    whole = np.isfinite(values) & (np.abs(values) < LARGEST_CODE) & (np.trunc(values) == values)
    if not whole.all():
        row = int(np.flatnonzero(~whole)[0])
        raise ConfigurationError(
            f"{table.source}: {signal}: expected codes to slice by, whole numbers below 2^24 in size, got {values[row]} in row {row}; "
            "number the slices 0, 1, 2, ..."
        )
    if (count := len(np.unique(values))) > MOST_SLICES:
        raise ConfigurationError(
            f"{table.source}: {signal}: expected at most {MOST_SLICES} different codes to slice by, got {count}; use coarser slices"
        )
    return values.astype(np.int64)


def _places(
    planned: Plan, scores: Mapping[str, Any], found: Mapping[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """Where each calibration row stands in the table of each column that chooses: what stands for its score there."""
    held = {c.name: scores[c.score] for c in planned.columns if isinstance(scores[c.score], EarlyStopped)}
    return {name: score.places(np.column_stack([found[n] for n in score.of])) for name, score in held.items()}


def judge(
    policy: PolicyConfig,
    planned: Plan,
    scores: Mapping[str, Any],
    fold_a: Mapping[str, NDArray[np.float32]],
    table: SignalsTable,
    tick: Tick = silent,
) -> dict[str, NDArray[np.float32]]:
    """Every planned column over the rows of a table, (n,), and over its groups, (G,), by the compiled graph."""
    columns = [
        Column(c.name, c.score, c.unit, c.aggregate, c.sliced is True, (fold_a[c.name],) if c.name in fold_a else ())
        for c in planned.columns
    ]
    outputs = scoring.score_rows(Session(graph_of(policy, planned, scores, columns, ())), table, tick)
    names = {u: [c.name for c in columns if (c.unit == "group") == (u == "group")] for u in ("row", "group")}
    found = {n: outputs["scores"][:, i] for i, n in enumerate(names["row"])}
    found |= {n: outputs["group_scores"][:, i] for i, n in enumerate(names["group"])}
    return {n: np.ascontiguousarray(a) for n, a in found.items()}


def with_outliers(
    policy: PolicyConfig, planned: Plan, scores: Mapping[str, Any], evidence: Evidence, table: SignalsTable | None
) -> Evidence:
    """The evidence with the scores of labelled outliers, when some rule reports its power on them; of rows that come in
    groups one a group, because its interval needs independent ones.

    Raises: ConfigurationError without the groups that rules judge, or without one finite score.
    """
    if table is None or planned.stream or all(r.promise.by != "neyman_pearson" for r in policy.rules):
        return evidence
    units, grouping = {c.name: c.unit for c in planned.columns}, table.grouping
    if grouping is None and "group" in units.values():
        raise ConfigurationError("outliers: expected group_id because rules judge groups, got none; add that column")
    found = judge(policy, planned, scores, evidence.fold_a, table)
    rows = np.arange(len(table)) if grouping is None else one_row_per_group(grouping.index, policy.seed)
    kept = {n: a if units[n] == "group" else a[rows] for n, a in found.items() if n not in evidence.fold_a}
    _check_counted(policy, planned, kept)
    return replace(evidence, outliers=kept)


def _check_counted(policy: PolicyConfig, planned: Plan, found: Mapping[str, NDArray[np.float32]]) -> None:
    """Raises: ConfigurationError for a rule's column in which no outlier has a score to count."""
    for rule, spec in zip(policy.rules, planned.specs, strict=True):
        for name in (spec.candidates or (spec.column,)) if rule.promise.by == "neyman_pearson" else ():
            if not np.isfinite(found[name]).any():
                raise ConfigurationError(
                    f"outliers: rule {rule.name}: expected finite scores of {name} to count its power on, got NaN or infinity "
                    f"for all {len(found[name])}; look for NaN in their signals, or leave the outliers out"
                )


def check_outliers(policy: PolicyConfig, given: bool) -> None:
    """Raises: ConfigurationError where a rule is to choose among scores by their power on outliers, and there are none."""
    for rule in policy.rules:
        if len(rule.scores) > 1 and not given:
            raise ConfigurationError(
                f"rule {rule.name}: `when` lists {', '.join(rule.scores)}, which are compared on labelled outliers; "
                "give some with --outliers (outliers= in Python), or name one score"
            )


def learnt_from_outliers(policy: PolicyConfig, given: bool) -> list[str]:
    """What is to say of rules that report their power on outliers that a score learnt from."""
    taught = {s.name for s in policy.scores if given and _learns(s)}
    taught |= {s.name for s in policy.scores if isinstance(of := s.hyper.get("of"), list) and taught.intersection(of)}
    found = [(r, [w for w in r.scores if w in taught]) for r in policy.rules if r.promise.by == "neyman_pearson"]
    return [
        f"rule {rule.name}: {listed(names)} learnt from the outliers that its power is counted on; on others it is lower"
        for rule, names in found
        if names
    ]


def _learns(score: ScoreConfig) -> bool:
    """Whether fitting it reads known outliers."""
    if score.type == "scod" and (score.hyper.get("slope") is not None or score.hyper.get("wild_inlier_share")):
        return score.hyper.get("score") in TAUGHT_BY_OUTLIERS
    return score.type in TAUGHT_BY_OUTLIERS


def _gather_streams(policy: PolicyConfig, planned: Plan, scores: Mapping[str, Any], table: SignalsTable) -> Evidence:
    from demur.detectors.stream import state_size

    columns = [Column(c.name, c.score, c.unit) for c in planned.columns]
    session = Session(graph_of(policy, planned, scores, columns, ()))
    highest = scoring.score_streams(session, table, state_size(scores, columns))
    return Evidence(
        scores={c.name: np.ascontiguousarray(highest[:, i]) for i, c in enumerate(columns)}, loss=_stream_loss(table)
    )


def _stream_loss(table: SignalsTable) -> Any:
    """A stream is as wrong as the worst of its steps."""
    if table.loss is None or table.grouping is None:
        return table.loss
    worst = np.zeros(table.grouping.count, table.loss.dtype)
    np.maximum.at(worst, table.grouping.index, table.loss)
    return worst
