"""What the bundle's own policy did: accepted, refused and why, on each set and on each pool, beside a perfect OOD detector."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from demur.detectors.reason import Reason
from demur.monitor.evaluate.bootstrap import Resampler
from demur.monitor.evaluate.counts import Values
from demur.monitor.evaluate.decisions import Decisions
from demur.monitor.evaluate.estimate import Estimate, exact_share
from demur.monitor.evaluate.mean_loss import mean_estimate
from demur.monitor.evaluate.open_set import Costs, joint_risk
from demur.monitor.evaluate.pool import ALL, ID, Part, Pool

POLICY_METRICS = (
    "coverage selective_risk safety_gain residual_hazard availability_cost precision recall f1 mcc nra cq rq".split()
)


@dataclass(frozen=True)
class SetOutcome:
    """One set: units, how many are wrong (None: nobody knows), accepted, accepted and wrong, and broken (INVALID or
    UNAVAILABLE, which abstain). reasons: units by reason kind; a unit may have several. selective_risk: share of the accepted
    that is wrong, or where losses are graded their mean.
    """

    set: str
    kind: str
    severity: float | None
    rows: int
    units: int
    wrong: int | None
    accepted: int
    wrong_accepted: int | None
    broken: int
    reasons: Mapping[str, int]
    accepted_share: Estimate
    selective_risk: Estimate


@dataclass(frozen=True)
class PoolOutcome:
    """Decisions on the in-distribution set with `against` (a set or `all`; `id` is the set alone) scored against OMS.

    decider: `policy`, or `ood oracle` for the perfect OOD detector, which refuses exactly what is not in-distribution.
    """

    decider: str
    against: str
    units: int
    metrics: Mapping[str, Estimate]


def set_outcomes(pool: Pool, confidence: float, seed: int = 0) -> list[SetOutcome]:
    """Every set in order, broken units included as abstentions. `seed` orders the bets on graded losses."""
    return [_set_outcome(pool, part, confidence, seed) for part in pool.parts]


def _set_outcome(pool: Pool, part: Part, confidence: float, seed: int) -> SetOutcome:
    judged = pool.tables[part]
    wrong = np.ones(len(judged), np.bool_) if part.kind == "novel" else judged.wrong
    accepted = int(np.count_nonzero(judged.accept))
    bad = None if wrong is None else int(np.count_nonzero(wrong & judged.accept))
    kinds = {str(r.name): int(np.count_nonzero(judged.reason_bits & int(r))) for r in Reason}
    alone = judged.cluster is None
    risk = Estimate(math.nan) if bad is None else _share(bad, accepted, confidence, alone=alone)
    if judged.loss is not None:
        risk = mean_estimate(judged.loss[judged.accept], confidence, seed, alone=alone)
    return SetOutcome(
        part.name,
        part.kind,
        part.severity,
        judged.rows,
        len(judged),
        None if wrong is None else int(np.count_nonzero(wrong)),
        accepted,
        bad,
        int(np.count_nonzero(judged.broken)),
        {name: count for name, count in kinds.items() if count},
        _share(accepted, len(judged), confidence, alone=alone),
        risk,
    )


def _share(part: int, whole: int, confidence: float, *, alone: bool) -> Estimate:
    if alone:
        return exact_share(part, whole, confidence)
    return Estimate(part / whole if whole else math.nan)


def pool_outcomes(pool: Pool, costs: Costs, resampler: Resampler | None) -> list[PoolOutcome]:
    """The policy on the labelled sets: alone, with each other set, and with all; the OOD oracle on the same pools."""
    if pool.id.wrong is None:
        return []
    cells = _cells(pool, resampler)
    found = []
    for name, parts in _pools(pool):
        for decider in ("policy", "ood oracle")[: 1 if name == ID else 2]:
            table = cells if decider == "policy" else _oracle(pool, cells)
            metrics = _metrics(pool, parts, table, costs)
            units = int(sum(table[i].sum(axis=0)[0] for i in _labelled(pool, parts)))
            found.append(PoolOutcome(decider, name, units, {n: _estimate(v, resampler) for n, v in metrics.items()}))
    return found


def _pools(pool: Pool) -> list[tuple[str, tuple[Part, ...]]]:
    first = pool.parts[0]
    known = tuple(p for p in pool.others if p.kind == "novel" or pool.tables[p].wrong is not None)
    whole = [(ALL, (first, *known))] if len(known) > 1 else []
    return [(ID, (first,)), *((p.name, (first, p)) for p in known), *whole]


def _cells(pool: Pool, resampler: Resampler | None) -> Values:
    """(atoms, 2, 1 + B) refused and accepted units of every atom: as they are, then resampled."""
    cell = pool.atom * 2 + pool.accept
    size = 2 * len(pool.atoms)
    columns = [np.bincount(cell, minlength=size).astype(np.float64)[:, None]]
    columns += [] if resampler is None else list(resampler.counts(cell, size, 256))
    return np.concatenate(columns, axis=1).reshape(len(pool.atoms), 2, -1)


def _oracle(pool: Pool, cells: Values) -> Values:
    """The same units, accepted exactly when they are in-distribution."""
    units, perfect = cells.sum(axis=1), np.zeros_like(cells)
    for i, atom in enumerate(pool.atoms):
        perfect[i, int(atom.part.name == ID)] = units[i]
    return perfect


def _labelled(pool: Pool, parts: tuple[Part, ...]) -> list[int]:
    return [i for i, atom in enumerate(pool.atoms) if atom.part in parts and atom.wrong is not None]


def _metrics(pool: Pool, parts: tuple[Part, ...], cells: Values, costs: Costs) -> dict[str, Values]:
    """(1 + B,) of every metric: of the data first, then of the resamples."""
    here = _labelled(pool, parts)
    sides = {w: sum(cells[i] for i in here if pool.atoms[i].wrong is w) for w in (False, True)}
    right, wrong = (np.broadcast_to(sides[w], cells.shape[1:]) for w in (False, True))
    columns = zip(right[1], wrong[1], right[0], wrong[0], strict=True)
    decisions = [Decisions(*(int(c) for c in column)) for column in columns]
    found = {name: np.array([getattr(d, name) for d in decisions]) for name in POLICY_METRICS}
    if parts[1:] and all(p.kind == "novel" for p in parts[1:]):
        found["scod_joint_risk"] = _joint_risk(pool, here, cells, costs)
    return found


def _joint_risk(pool: Pool, here: list[int], cells: Values, costs: Costs) -> Values:
    known = sum(cells[i] for i in here if pool.atoms[i].part.name == ID)
    novel = sum(cells[i] for i in here if pool.atoms[i].part.kind == "novel")
    wrong = sum(cells[i][1] for i in here if pool.atoms[i].part.name == ID and pool.atoms[i].wrong)
    units = np.sum(known, axis=0)
    refused, accepted = np.asarray(known)[0] / units, np.asarray(novel)[1] / np.sum(novel, axis=0)
    return np.asarray(joint_risk(wrong / units, refused, accepted, costs))


def _estimate(values: Values, resampler: Resampler | None) -> Estimate:
    limits = resampler.interval(values[1:]) if resampler is not None else None
    return Estimate(float(values[0])) if limits is None else Estimate(float(values[0]), *limits)
