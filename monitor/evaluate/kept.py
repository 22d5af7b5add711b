"""Promised against realised: each rule's promise, checked on the in-distribution test set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from demur.detectors.promises import order
from demur.detectors.promises.clustered import INFLATION
from demur.detectors.promises.statement import GRADED
from demur.monitor.bundle import Manifest
from demur.monitor.bundle.manifest import RuleEntry
from demur.monitor.evaluate.estimate import Estimate
from demur.monitor.evaluate.judged import Judged
from demur.monitor.evaluate.mean_loss import checked_mean, one_draw_bound
from demur.monitor.evaluate.shares import Checked, realised

State = Literal["kept", "within chance", "contradicted", "not checked"]
BUNDLE_CONFIDENCE = 0.95
STOPPED = "early_stopped"  # the type of a score that chooses its column on the calibration rows
GROUPS = "calibration/group.npy"  # a member of bundles whose calibration rows come in groups

REFUSAL, SELECTIVE, JOINT = "refuse_good_at_most", "error_when_accepted_at_most", "wrong_and_accepted_at_most"
ABOUT = {
    REFUSAL: "good inputs refused by this rule",
    SELECTIVE: "wrong among what the policy accepts",
    JOINT: "wrong and accepted, of all inputs",
}
ABOUT_LOSS = "loss of what the policy accepts, mean over all inputs"


@dataclass(frozen=True)
class KeptPromise:
    """One rule: what was promised and what happened here.

    promised: the share, or the mean of graded losses; bound: for a promise that holds on average over calibration draws, what this bundle keeps to
    with 95 % confidence, None where nothing is known of one bundle, else the share again. units, part: of how many units how
    many went against it (had a loss, and were accepted); a promise by slice is about units of its slices, taken together. state: `kept` at or below the
    share, on at least 1 / promised units; `contradicted` when the one-sided 99 % lower bound of what happened lies above `bound`; `within chance` between the
    two, or above a share without a bound; `not checked`, and why, in `note`.
    """

    rule: str
    about: str
    promised: float | None
    bound: float | None
    part: int
    units: int
    realised: Estimate
    state: State
    note: str

    @property
    def graded(self) -> bool:
        """Whether numbers are mean losses, no shares of units."""
        return self.about == ABOUT_LOSS


def kept_promises(
    manifest: Manifest, judged: Judged, unit: str, confidence: float, draws: int, seed: int
) -> list[KeptPromise]:
    """Every rule of the policy, in order, on the units that are neither INVALID nor UNAVAILABLE."""
    usable = ~judged.broken
    cluster = None if judged.cluster is None else judged.cluster[usable]
    wrong = None if judged.wrong is None else judged.wrong[usable]
    loss = None if judged.loss is None else judged.loss[usable]
    found = []
    for number, rule in enumerate(manifest.rules):
        kind = next((k for k in ABOUT if rule.promise.get(k) is not None), "")
        why_not = _why_not(rule, kind, unit, wrong, loss)
        if why_not:
            about = _about(rule, kind)
            found.append(KeptPromise(rule.name, about, _level(rule, kind), None, 0, 0, _NONE, *why_not))
            continue
        if loss is not None and GRADED in rule.statement:
            checked = checked_mean(loss, judged.accept[usable], cluster, confidence, seed)
            found.append(_compared(manifest, rule, kind, checked))
            continue
        hits = (judged.rule_hits[usable] >> number & 1).astype(np.bool_)
        chosen, hit = _events(rule, kind, hits, judged.accept[usable], wrong)
        if judged.pooled is not None and kind == REFUSAL:  # by the pooled table a slice gets no promise
            chosen &= (judged.pooled[usable] >> number & 1) == 0
        checked = realised(hit, chosen, cluster, confidence, draws, seed)
        found.append(_compared(manifest, rule, kind, checked))
    return found


_NONE = Estimate(math.nan)


def _why_not(rule: RuleEntry, kind: str, unit: str, wrong: Any, loss: Any) -> tuple[State, str] | None:
    if not kind:
        return "not checked", "this kind of promise is not about a share that a test set shows"
    if rule.unit != unit:
        return "not checked", f"promised for each {rule.unit}; evaluate with unit {rule.unit}"
    if GRADED in rule.statement:
        why = f"promised of a mean loss ({GRADED}); give the test set such losses"
        return ("not checked", why) if loss is None else None
    if wrong is None and (kind != REFUSAL or rule.promise.get("good") == "correct"):
        why = "promised of right and wrong answers; the test set has graded losses"
        return "not checked", "the test set has no labels" if loss is None else why
    return None


def _about(rule: RuleEntry, kind: str) -> str:
    return ABOUT_LOSS if GRADED in rule.statement else ABOUT.get(kind, "")


def _events(
    rule: RuleEntry, kind: str, hits: NDArray[np.bool_], accept: NDArray[np.bool_], wrong: NDArray[np.bool_] | None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(units the promise is about, what it bounds), (N,) each."""
    every = np.ones(len(hits), np.bool_)
    if kind == REFUSAL or wrong is None:
        return (~wrong if wrong is not None and rule.promise.get("good") == "correct" else every), hits
    return (accept, wrong) if kind == SELECTIVE else (every, wrong & accept)


def _compared(manifest: Manifest, rule: RuleEntry, kind: str, checked: Checked) -> KeptPromise:
    promised = _level(rule, kind)
    bound = _bound(manifest, rule, kind, promised)
    state: State = "not checked"
    note = "no unit to check it on"
    if checked.whole and promised is not None:
        state, note = "within chance", ""
        if checked.share.value <= promised:
            state, note = _kept(checked.whole, promised)
        elif bound is None:
            note = "promised on average over calibration draws, with no bound for one"
        elif checked.least > bound:
            state = "contradicted"
    about = _about(rule, kind) + (", all its slices together" if len(rule.thresholds) > 1 else "")
    return KeptPromise(rule.name, about, promised, bound, checked.part, checked.whole, checked.share, state, note)


def _kept(units: int, promised: float) -> tuple[State, str]:
    """Among fewer than 1 / promised units a single one more would be over the share: they cannot show that it is kept."""
    needed = math.ceil(1 / promised - 1e-9) if promised else 1
    if units >= needed:
        return "kept", ""
    return "not checked", f"{units} unit{'s are' if units > 1 else ' is'} too few to tell, at least {needed} are needed"


def _level(rule: RuleEntry, kind: str) -> float | None:
    if rule.level is not None:
        return rule.level
    level = rule.promise.get(kind)
    return float(level) if isinstance(level, int | float) else None


def _bound(manifest: Manifest, rule: RuleEntry, kind: str, level: float | None) -> float | None:
    """A promise on average may be exceeded by one bundle: by how much, the size of its calibration says.

    The share above a rank of n scores is Beta distributed, and the share that is wrong and accepted one at that rank among
    errors; graded losses have a bound of their own. Its n is not recorded, so the smallest part of the units that a rule about errors may have had is taken. Where the
    same rows choose a column nothing is known of one bundle.
    """
    if level is None or kind == SELECTIVE or rule.promise.get("confidence") is not None:
        return level
    column = next(c for c in manifest.columns if c.name == rule.column)
    if any(s.name == column.score and s.type == STOPPED for s in manifest.scores):
        return None
    units = min(column.units, default=0)
    if kind == JOINT:
        others = sum(r.promise.get(SELECTIVE, r.promise.get(JOINT)) is not None for r in manifest.rules)
        units = units if len(manifest.rules) == 1 else units // 2 // others
    if GRADED in rule.statement:
        return one_draw_bound(units, level, BUNDLE_CONFIDENCE)
    grouped = rule.unit == "row" and GROUPS in manifest.members
    rank = order.marginal_rank(units, level)
    if not 0 < rank <= units:
        return None
    return max(level, order.tolerance_bound(units, rank, BUNDLE_CONFIDENCE, INFLATION if grouped else 1.0))
