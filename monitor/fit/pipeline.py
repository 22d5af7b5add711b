"""Fit and calibrate: the one place that joins the detectors and the runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.detectors.score import Engine
from demur.detectors.storage import kind_of
from demur.monitor.auto.run import choose
from demur.monitor.auto.selection import MEMBER
from demur.monitor.bundle import Bundle
from demur.monitor.bundle.bundle import npy
from demur.monitor.bundle.manifest import EMPTY
from demur.monitor.bundle.selftest import INPUTS
from demur.monitor.config.document import parse
from demur.monitor.config.policy import PolicyConfig
from demur.monitor.errors import ConfigurationError
from demur.monitor.fit import vectors, weights
from demur.monitor.fit.admission import check_calibration, check_fit, of_other_rows
from demur.monitor.fit.assemble import ROWS, Fitted, assemble
from demur.monitor.fit.contract import BUNDLE, CALIBRATION, empty_groups_said, joint_origin, origin_of
from demur.monitor.fit.evidence import Evidence
from demur.monitor.fit.gathering import (
    check_outliers,
    gather,
    learnt_from_outliers,
    score_members,
    with_outliers,
)
from demur.monitor.fit.known_rows import TIMES, remembered
from demur.monitor.fit.likeness import unlike_before, unlike_reference
from demur.monitor.fit.plan import Plan, plan, stops
from demur.monitor.fit.progress import Tick, Watched, silent
from demur.monitor.fit.ranges import signal_ranges
from demur.monitor.fit.scores import fit_fusions, fit_scores, is_fusion, restore_scores
from demur.monitor.fit.shortage import counted_in
from demur.monitor.fit.sources import Config, Source, as_config, as_table
from demur.monitor.fit.stopping import fit_stopped
from demur.monitor.fit.table import SignalsTable
from demur.monitor.fit.taught import MEMBER as TAUGHT
from demur.monitor.fit.taught import NO_ROWS, check_untaught, taught_rows
from demur.monitor.fit.units import split_folds


def fit(
    config: Config,
    *,
    reference: Source,
    calibration: Source,
    selection: Source | None = None,
    outliers: Source | None = None,
    wild: Source | None = None,
    engine: Engine | None = None,
    tick: Tick = silent,
) -> Bundle:
    """Fit the policy's scores on the reference set and calibrate its promises on the calibration set.

    config: a PolicyConfig, a mapping, or the path of a `monitor.yaml`. reference, calibration: a SignalsTable, a path, or a
    mapping of arrays (signals (N, width), `label` (N,), ...). The two must not share rows. Some scores also learn from
    `outliers`, rows known to be foreign, or `wild`, unlabelled traffic; neither may share rows with the calibration set.
    With a `selection` set, in-distribution rows that are in neither of the others, the policy's `scores: auto` are chosen
    from the catalogue (`monitor.auto`). Tables may be larger than memory: passes go over them in batches, here or on
    `engine`; `tick` hears how far they are.
    Raises: ConfigurationError, TableError, CalibrationRefused (a ValueError), each saying what to change.
    """
    policy, extra, files = _chosen(config, reference, selection, calibration, tick)
    planned = plan(policy)
    check_outliers(policy, outliers is not None)
    ref, cal = as_table(reference, policy), as_table(calibration, policy)
    sides = {n: as_table(s, policy) for n, s in (("outliers", outliers), ("wild", wild)) if s is not None}
    tables = {"reference": ref, CALIBRATION: cal, **extra, **sides}
    origin, said = joint_origin({n: t.origin for n, t in tables.items()}, policy.signals)
    findings = check_fit(policy, planned, ref, cal, sides)
    files |= weights.members(ref)
    first, second = split_folds(policy, planned, cal)
    scores = single = fit_scores(policy, ref, sides, Watched(tick, engine))
    found = None if first is None else score_members(policy, planned, scores, first, tick)
    if first is not None and found is not None:
        scores = fit_fusions(policy, scores, found, first)
    scores = fit_stopped(policy, planned, scores, second, tick)
    evidence = gather(policy, planned, scores, found, second, tick)
    evidence = with_outliers(policy, planned, scores, evidence, sides.get("outliers"))
    notes = [*(f.message for f in findings), *said, *empty_groups_said(policy, cal.empty), *_wrong(policy)]
    notes += learnt_from_outliers(policy, outliers is not None)
    notes += unlike_reference(policy, planned, single, ref, cal)
    fitted = replace(_fitted(scores, tables, notes, files, taught_rows(policy, first)), origin=origin)
    with counted_in(cal, first):
        return assemble(policy, planned, fitted, evidence, vectors.feeder(second, policy.tables))


def _chosen(
    config: Config, reference: Source, selection: Source | None, calibration: Source, tick: Tick
) -> tuple[PolicyConfig, dict[str, SignalsTable], dict[str, bytes]]:
    """The policy; with a selection set its scores are chosen on it, and both the set and what was compared are kept."""
    if selection is None:
        return as_config(config), {}, {}
    policy, chosen, table = choose(config, reference, selection, calibration, tick)
    return policy, {"selection": table}, {MEMBER: chosen.encode()}


def _wrong(policy: PolicyConfig) -> list[str]:
    """What counts as a wrong answer, where a policy says so."""
    limit = policy.tolerance
    return [] if limit is None else [f"an answer is wrong when `estimate` is off `target` by more than {limit:g}"]


def _fitted(
    scores: Mapping[str, Any],
    tables: Mapping[str, SignalsTable],
    findings: list[str],
    files: Mapping[str, bytes],
    taught: tuple[NDArray[np.uint64], NDArray[np.int64]],
) -> Fitted:
    """The scores and where they came from; no table but the calibration set may return as calibration data."""
    known = remembered(t for n, t in tables.items() if n != CALIBRATION)
    held = {n: often for n, (rows, often) in (("reference", known), (TAUGHT, taught)) if rows.size}
    return Fitted(
        scores=scores,
        types={n: kind_of(s) for n, s in scores.items()},
        ranges=_ranges(tables["calibration"]),
        digests={n: t.digest() for n, t in tables.items()},
        counts={**{n: len(t) for n, t in tables.items()}, **_empty(tables[CALIBRATION])},
        reference_rows=known[0],
        findings=findings,
        files={**files, **{_times(n): npy(often) for n, often in held.items()}},
        taught=taught[0],
    )


def _times(name: str) -> str:
    """The member that says how often values stand in the set of that name."""
    return f"{ROWS}/{name}{TIMES}.npy"


def _empty(table: SignalsTable) -> dict[str, int]:
    return {EMPTY: table.empty} if table.empty else {}


def calibrate(bundle: Bundle, *, config: Config | None = None, calibration: Source | None = None) -> Bundle:
    """The same fitted scores with new promises, new calibration data, or both. Nothing is refitted.

    config: the new policy; its signals and scores must be the bundle's. Without `calibration` the scores stored in the
    bundle are used.
    Raises: ConfigurationError when the policy names other scores; CalibrationRefused.
    """
    manifest = bundle.manifest
    before = parse(PolicyConfig, manifest.policy, "the bundle's policy")
    policy = before if config is None else as_config(config)
    _check_promises_alone(policy, before, known=calibration is None)
    planned, scores = plan(policy), restore_scores(bundle)
    ranges = {s.name: (s.low, s.high) for s in manifest.signals if s.low is not None and s.high is not None}
    digests, counts = dict(manifest.digests), dict(manifest.counts)
    feed: Any = bundle.arrays(INPUTS)
    rows, origin, said = bundle.arrays(ROWS), origin_of(manifest), list[str]()
    cal: SignalsTable | None = None
    first: SignalsTable | None = None
    if calibration is None:
        evidence = Evidence.of(bundle)
    else:
        cal = as_table(calibration, policy)
        origin, said = joint_origin({BUNDLE: origin, CALIBRATION: cal.origin}, policy.signals)
        said += check_calibration(bundle, policy, planned, cal)
        first, second = split_folds(policy, planned, cal)
        check_untaught(second, rows)
        found = None if first is None else score_members(policy, planned, scores, first)
        scores = fit_stopped(policy, planned, scores, second)
        evidence = replace(
            gather(policy, planned, scores, found, second), outliers=_still_known(bundle, policy, planned)
        )
        said += unlike_before(policy, planned, Evidence.of(bundle).scores, evidence.scores)
        feed, ranges = vectors.feeder(second, policy.tables), _ranges(cal)
        digests["calibration"] = cal.digest()
        counts = {**{n: c for n, c in counts.items() if n != EMPTY}, CALIBRATION: len(cal), **_empty(cal)}
    types = {s.name: s.type for s in manifest.scores}
    stale = {*_wrong(before), *empty_groups_said(before, manifest.counts.get(EMPTY, 0))}
    if calibration is not None:
        stale |= of_other_rows(manifest.findings, said)
    news = [*said, *empty_groups_said(policy, counts.get(EMPTY, 0)), *_wrong(policy)]
    findings = [*(f for f in manifest.findings if f not in stale), *news]
    taught, files = rows.get(TAUGHT, NO_ROWS), _kept_files(bundle)
    fitted = Fitted(scores, types, ranges, digests, counts, rows["reference"], findings, files, taught, origin)
    with counted_in(cal, first):
        return assemble(policy, planned, fitted, evidence, feed)


def _kept_files(bundle: Bundle) -> dict[str, bytes]:
    """What a bundle holds beside scores and evidence: how they were chosen, the head, how often rows stood in their tables."""
    names = (MEMBER, weights.MEMBER, _times("reference"), _times(TAUGHT))
    return {n: bundle.members[n] for n in names if n in bundle.members}


def _check_promises_alone(policy: PolicyConfig, before: PolicyConfig, *, known: bool) -> None:
    """Raises: ConfigurationError where more than promises differs; on `known` rows what is wrong may not differ either."""
    if policy.scores != before.scores or policy.signals != before.signals:
        raise ConfigurationError(
            "calibrate changes promises only; its signals and scores must be those of the bundle, fit again to change them"
        )
    if known and policy.tolerance != before.tolerance:
        raise ConfigurationError(
            f"tolerance: {policy.tolerance} makes other answers wrong than the bundle's {before.tolerance}; give calibration data"
        )


def _still_known(bundle: Bundle, policy: PolicyConfig, planned: Plan) -> dict[str, NDArray[np.float32]]:
    """The bundle's scores of labelled outliers, but those of columns whose score depends on the calibration rows: they are others now."""
    dependent = {s.name for s in policy.scores if is_fusion(s) or stops(s)}
    kept = {c.name for c in planned.columns if c.score not in dependent}
    return {n: a for n, a in Evidence.of(bundle).outliers.items() if n in kept}


def _ranges(table: SignalsTable) -> dict[str, tuple[float, float]]:
    return {n: (r.minimum, r.maximum) for n, r in signal_ranges(table).items()}
