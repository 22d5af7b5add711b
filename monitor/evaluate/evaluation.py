"""Everything an evaluation found, and its JSON form."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from demur.monitor.evaluate.calibration import Uniformity
from demur.monitor.evaluate.errors import EvaluationError
from demur.monitor.evaluate.figures import Histogram, Operating, Plot
from demur.monitor.evaluate.graded import Graded
from demur.monitor.evaluate.kept import KeptPromise
from demur.monitor.evaluate.outcome import PoolOutcome, SetOutcome
from demur.monitor.evaluate.ranking import Ranking
from demur.monitor.evaluate.scope import Scope
from demur.monitor.evaluate.selection import Selection
from demur.monitor.evaluate.settings import Settings
from demur.monitor.evaluate.severities import Severity

SCHEMA = 1
DIGITS = 6  # of what is only drawn


@dataclass(frozen=True)
class Subject:
    """What was evaluated: monitor, its version, digest of the bundle, and the unit that is counted."""

    monitor: str
    version: int
    bundle: str
    unit: str
    demur: str


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A monitor judged: by OOD, by the model's mistakes, by its promises. `document` describes the fields.

    Tables are tuples of records; `ranking` and `outcome` find one. Broken units (INVALID, UNAVAILABLE) have no score: they
    are left out of rankings, scope and calibration, and count as abstentions in sets and pools. graded: what graded losses say;
    None where no set has them.
    """

    subject: Subject
    settings: Settings
    scores: tuple[str, ...]
    sets: tuple[SetOutcome, ...]
    digests: Mapping[str, str]
    pools: tuple[PoolOutcome, ...]
    rankings: tuple[Ranking, ...]
    scope: tuple[Scope, ...]
    promises: tuple[KeptPromise, ...]
    calibration: Mapping[str, Uniformity]
    severity: tuple[Severity, ...]
    selection: Selection | None
    operating: tuple[Operating, ...]
    notes: tuple[str, ...]
    plots: tuple[Plot, ...]
    histograms: tuple[Histogram, ...]
    graded: Graded | None = None

    @cached_property
    def _rankings(self) -> dict[tuple[str, str, str], Ranking]:
        return {(r.truth, r.against, r.score): r for r in self.rankings}

    def ranking(self, truth: str, score: str, against: str = "all") -> Ranking:
        """One score under one truth. With a single set beside the in-distribution one, `all` is that set.

        Raises: EvaluationError for what was not asked or could not be answered.
        """
        others = [s.set for s in self.sets[1:]]
        against = others[0] if against == "all" and len(others) == 1 else against
        found = self._rankings.get((truth, "id" if truth == "errors" and against == "all" else against, score))
        if found is None:
            known = sorted({f"{r.truth} on {r.against}" for r in self.rankings})
            raise EvaluationError(
                f"no ranking of {score!r} for {truth} on {against}; scores are {', '.join(self.scores)}, questions are {', '.join(known) or 'none'}"
            )
        return found

    def outcome(self, name: str) -> SetOutcome:
        """What the policy did on one set. Raises: EvaluationError for an unknown set."""
        for found in self.sets:
            if found.set == name:
                return found
        raise EvaluationError(f"no set is named {name!r}; sets are {', '.join(s.set for s in self.sets)}")

    def document(self, *, figures: bool = True) -> dict[str, Any]:
        """Everything as JSON values: schema_version, kind, then the fields by name; NaN and infinities are null.

        An estimate is {value, low, high}; low and high are null without an interval. `figures` False leaves out curves
        and histograms, which are only drawn. `graded` is there only where a set has graded losses.
        """
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        drawn = {name: fields.pop(name) for name in ("plots", "histograms")}
        fields |= {} if fields.pop("graded") is None else {"graded": self.graded}
        found = {"schema_version": SCHEMA, "kind": "demur.evaluation", **plain(fields)}
        return found | (_drawn(drawn) if figures else {})

    def to_json(self, *, figures: bool = True) -> str:
        """The document as JSON text without NaN, a field a line."""
        fields = self.document(figures=figures).items()
        lines = (f"{json.dumps(k)}: {json.dumps(v, allow_nan=False, ensure_ascii=False)}" for k, v in fields)
        return "{\n" + ",\n".join(lines) + "\n}\n"

    def to_html(self) -> str:
        """The report: one self-contained page."""
        from demur.monitor.evaluate.report.page import page

        return page(self)

    def save(self, path: str | Path) -> None:
        """Write the report (.html) or the document (.json); a missing folder is made. Raises: EvaluationError for another suffix."""
        target = Path(path)
        kinds = {".html": self.to_html, ".json": self.to_json}
        if target.suffix.lower() not in kinds:
            raise EvaluationError(f"{path}: expected .html or .json, got {target.suffix or 'no suffix'}")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(kinds[target.suffix.lower()](), encoding="utf-8")


def plain(value: Any) -> Any:
    """JSON values: records become objects, numbers that are not finite null. Keys are as the fields are named."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def _drawn(figures: Mapping[str, Any]) -> dict[str, Any]:
    curves = [
        {"kind": p.kind, "truth": p.truth, "against": p.against, "score": p.score}
        | {axis: [_short(v) for v in getattr(p.curve, axis)] for axis in ("x", "y", "threshold")}
        for p in figures["plots"]
    ]
    bars = [
        {"kind": h.kind, "score": h.score, "edges": [_short(e) for e in h.edges], "counts": h.counts.tolist()}
        for h in figures["histograms"]
    ]
    return {"plots": curves, "histograms": bars}


def _short(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
