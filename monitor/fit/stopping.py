"""Scores that choose among others on the calibration rows themselves: fitted on the rows that promises come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from demur.detectors.build import build_score
from demur.detectors.score import Reference
from demur.monitor.config.policy import PolicyConfig, ScoreConfig
from demur.monitor.errors import ConfigurationError
from demur.monitor.fit.gathering import score_alone
from demur.monitor.fit.plan import Plan, stops
from demur.monitor.fit.progress import Tick, silent
from demur.monitor.fit.table import SignalsTable


def fit_stopped(
    policy: PolicyConfig, planned: Plan, scores: Mapping[str, Any], table: SignalsTable, tick: Tick = silent
) -> dict[str, Any]:
    """All scores in the policy's order, those that choose fitted on their candidates' scores of these rows, as the compiled
    graph gives them.

    Raises: ConfigurationError for rows in groups, of which a row in service is no further one (`check_alone`).
    """
    chosen = {s.name: s for s in policy.scores if stops(s)}
    if not chosen:
        return dict(scores)
    check_alone(policy, table)
    candidates = sorted({m for s in chosen.values() for m in s.hyper["of"]})
    found = score_alone(policy, planned, {n: scores[n] for n in candidates}, table, tick)
    reference = Reference({f"s:{n}": a[:, None] for n, a in found.items()})
    return {s.name: _built(s, reference) if s.name in chosen else scores[s.name] for s in policy.scores}


def check_alone(policy: PolicyConfig, table: SignalsTable) -> None:
    """Raises: ConfigurationError for rows in groups, where a score chooses on them."""
    chosen = next((s.name for s in policy.scores if stops(s)), None)
    if chosen is not None and table.grouping is not None and table.grouping.count < len(table):
        raise ConfigurationError(
            f"score {chosen}: early_stopped needs rows that stand alone, and those of {table.source} come in groups; "
            "choose one of its columns on other rows, and let the rule look at that one"
        )


def _built(score: ScoreConfig, reference: Reference) -> Any:
    return build_score(score.type, dict(score.hyper), reference)
