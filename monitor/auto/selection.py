"""The choice and everything it rests on: a policy's scores, and the table that goes into the bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from demur.detectors.score import Reference
from demur.monitor.auto.candidates import Candidate, candidates
from demur.monitor.auto.choice import Chosen, choose_errors, choose_novelty, fused
from demur.monitor.auto.measure import SEEDS, Measured, measure
from demur.monitor.fit.progress import Tick, silent

MEMBER = "selection.json"
ERRORS, NOVELTY = "errors", "novelty"
NOT_INFORMED = (
    "task shift: other questions to the same model leave its features and logits ordinary; collect examples, or watch the refused share",
    "real outliers: pseudo-novel classes and synthetic probes stand in for them; judge with `demur evaluate` on sets you know",
)


@dataclass(frozen=True, eq=False)
class Selection:
    """What was chosen, from what, and why."""

    measured: Measured
    errors: Chosen | None
    novelty: Chosen

    def scores(self) -> list[dict[str, Any]]:
        """Entries for `scores:`: the members, their fusion `novelty`, and `errors` when labels could tell."""
        known = {c.name: c for c in self.measured.candidates}
        members = [known[n] for n in self.novelty.members]
        if len(members) == 1:
            entries = [members[0].entry(NOVELTY)]
        else:
            fusion = {NOVELTY: {"type": "fused", "of": [m.name for m in members], "by": "fisher"}}
            entries = [*(m.entry() for m in members), fusion]
        if self.errors is not None:
            entries.append(known[self.errors.members[0]].entry(ERRORS))
        return entries

    def document(self) -> dict[str, Any]:
        """The table of the choice, ready for JSON."""
        return {
            "schema": 1,
            "seeds": list(self.measured.seeds),
            "axes": [n for n, _ in self._axes()],
            "kinds": dict(self._axes()),
            "candidates": [self._candidate(c) for c in self.measured.candidates],
            "refused": [{"name": n, "why": why} for n, why in self.measured.refused.items()],
            "chosen": {n: _chosen(c) for n, c in ((ERRORS, self.errors), (NOVELTY, self.novelty)) if c is not None},
            "regret": self._regret(),
            "not_informed": [*self._missing(), *NOT_INFORMED],
        }

    def encode(self) -> bytes:
        """The document's bytes, a member of the bundle."""
        return (json.dumps(self.document(), indent=2, sort_keys=True, allow_nan=False) + "\n").encode()

    def _axes(self) -> list[tuple[str, str]]:
        return list(dict.fromkeys((j.axis, j.kind) for j in self.measured.judged))

    def _values(self, axis: str, members: Sequence[str]) -> list[float]:
        return [fused(j, members) for j in self.measured.judged if j.axis == axis]

    def _candidate(self, candidate: Candidate) -> dict[str, Any]:
        values = {axis: self._values(axis, [candidate.name]) for axis, _ in self._axes()}
        return {
            "name": candidate.name,
            "type": candidate.type,
            "hyper": dict(candidate.hyper),
            "chosen": any(candidate.name in c.members for c in (self.errors, self.novelty) if c is not None),
            "values": {a: _round(np.mean(v)) for a, v in values.items()},
            "spread": {a: _round(np.std(v)) for a, v in values.items()},
        }

    def _regret(self) -> dict[str, float]:
        """By axis: the best single candidate's AUROC less that of the column which answers for the axis."""
        names = [c.name for c in self.measured.candidates]
        found = {}
        for axis, kind in self._axes():
            column = self.errors if kind == "errors" and self.errors is not None else self.novelty
            best = max(float(np.mean(self._values(axis, [n]))) for n in names)
            found[axis] = _round(best - float(np.mean(self._values(axis, column.members))))
        return found

    def _missing(self) -> list[str]:
        kinds = set(self.measured.kinds)
        why = {
            "errors": "errors: the selection set has no labels, or fewer than 20 wrong (or right) answers",
            "near": "near novelty: needs labels of at least 3 classes in the reference and the selection set",
            "far": "far novelty: needs logits or features",
            "between": "between the data: needs logits; rows without them have no classes to lie between",
        }
        return [text for kind, text in why.items() if kind not in kinds]


def select(reference: Reference, selection: Reference, *, seed: int = 0, tick: Tick = silent) -> Selection:
    """Choose from the reference and a selection set, in-distribution data both; never from outliers.

    Raises: ValueError when there is nothing to choose from.
    """
    reference = _with_head(reference)
    measured = measure(candidates(reference), reference, selection, [seed + i for i in range(SEEDS)], tick)
    return Selection(measured, choose_errors(measured), choose_novelty(measured))


def _with_head(reference: Reference) -> Reference:
    """The head found once, or known to be missing: features are then no input of the last layer."""
    try:
        weight, bias = reference.head("auto")
    except ValueError:
        return replace(reference, recover=None)
    return replace(reference, head_weight=weight.astype(np.float32), head_bias=bias.astype(np.float32), recover=None)


def filled(document: Mapping[str, Any], scores: list[dict[str, Any]]) -> dict[str, Any]:
    """The policy with these scores; without rules, one novelty rule that refuses at most 5 % of good inputs."""
    rules = document.get("rules") or [{"novel": {"when": NOVELTY, "promise": {"refuse_good_at_most": 0.05}}}]
    return {**document, "scores": scores, "rules": rules}


def _chosen(chosen: Chosen) -> dict[str, Any]:
    return {
        "members": list(chosen.members),
        "value": _round(chosen.value),
        "spread": _round(chosen.spread),
        "not_preferred_inside_the_spread": list(chosen.considered),
    }


def _round(value: Any) -> float:
    return round(float(value), 5)
