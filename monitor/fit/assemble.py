"""From fitted scores and calibration evidence to a bundle: promises, graph, self-test, manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import demur
from demur.detectors.compile import compile_monitor, serialize
from demur.detectors.cost import Cost, cost
from demur.detectors.policy import Column, Rule
from demur.detectors.promises import Calibrated, calibrate
from demur.detectors.promises.promise import RefuseGoodAtMost
from demur.detectors.promises.statement import UNDER_LINES
from demur.detectors.score import Transform
from demur.detectors.scores import STREAM_SCORES
from demur.detectors.storage import attachments, parameters, settings
from demur.detectors.stream import compile_stream, state_size
from demur.detectors.transforms.probability import LogProbabilities
from demur.monitor.bundle import Bundle, graph
from demur.monitor.bundle.bundle import GRAPH, npy
from demur.monitor.bundle.manifest import ColumnEntry, OriginEntry, RuleEntry, ScoreEntry, SignalEntry, SlicesEntry
from demur.monitor.config.policy import PolicyConfig
from demur.monitor.fit import vectors
from demur.monitor.fit.evidence import Evidence
from demur.monitor.fit.origin import Origin
from demur.monitor.fit.plan import Plan, PlannedColumn
from demur.monitor.fit.taught import MEMBER as TAUGHT
from demur.monitor.fit.taught import NO_ROWS
from demur.monitor.session import Session, environment

MODELS, ROWS = "models", "rows"


@dataclass(frozen=True)
class Fitted:
    """Scores as fitted, and where they came from.

    `ranges` maps a signal to (low, high) over the calibration rows; `reference_rows` are the hashes of the rows fitted on,
    so that later calibration data can be checked against them, `taught` those of calibration rows that a fusion learnt from;
    `files` become members of the bundle as they are; `origin` says how the signals were decoded.
    """

    scores: Mapping[str, Any]
    types: Mapping[str, str]
    ranges: Mapping[str, tuple[float, float]]
    digests: Mapping[str, str]
    counts: Mapping[str, int]
    reference_rows: NDArray[np.uint64]
    findings: Sequence[str] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    taught: NDArray[np.uint64] = field(default_factory=lambda: NO_ROWS)
    origin: Origin = field(default_factory=Origin)


def widths(config: PolicyConfig) -> dict[str, int]:
    """Signal widths by name."""
    return {n: s.width for n, s in config.signals.items()}


def shaping(config: PolicyConfig) -> tuple[Transform, ...]:
    """What signals go through before scores see them: probabilities in the place of logits become logits."""
    given = "logits" in config.signals and config.kind("logits") == "probabilities"
    return (LogProbabilities(),) if given else ()


def graph_of(
    config: PolicyConfig, plan: Plan, scores: Mapping[str, Any], columns: Sequence[Column], rules: Sequence[Rule]
) -> bytes:
    """The compiled graph of these columns and rules, the same bytes for the same arrays."""
    if plan.stream:
        return serialize(compile_stream(scores, columns, rules, widths(config)))
    empty_group = config.empty_group == "accept"
    return serialize(
        compile_monitor(scores, columns, rules, widths(config), shaped=shaping(config), empty_group=empty_group)
    )


def assemble(
    config: PolicyConfig, plan: Plan, fitted: Fitted, evidence: Evidence, feed: vectors.Arrays | Any
) -> Bundle:
    """Calibrate the promises, compile, run the self-test vectors once, and write the manifest.

    `feed` holds the self-test inputs, or is a function from the session to them.
    Raises: CalibrationRefused when the data cannot carry a promise.
    """
    calibrated = calibrate(
        plan.specs,
        evidence.sample({c for s in plan.specs for c in s.columns}),
        refuse_good_at_most=config.refuse_good_at_most,
        small_slices=config.small_slices,
        seed=config.seed,
    )
    columns = [_column(c, evidence, calibrated, closed=config.small_slices == "refuse") for c in plan.columns]
    raw = graph_of(config, plan, fitted.scores, columns, calibrated.rules)
    graph.check(raw)
    session = Session(raw)
    inputs = feed(session) if callable(feed) else feed
    members = {GRAPH: raw, **evidence.members(), **vectors.members(inputs, session), **_models(fitted)}
    return Bundle.build(members, **_fields(config, plan, fitted, columns, calibrated))


def _column(planned: PlannedColumn, evidence: Evidence, calibrated: Calibrated, *, closed: bool) -> Column:
    by = planned.sliced
    sliced = evidence.slicing(by, closed=closed) if isinstance(by, str) else by
    tables = calibrated.tables.get(planned.name)
    if tables is None:
        table = evidence.fold_a.get(planned.name)
        tables = (np.sort(evidence.scores[planned.name]) if table is None else table,)
    return Column(planned.name, planned.score, planned.unit, planned.aggregate, sliced, tuple(tables))


def _models(fitted: Fitted) -> dict[str, bytes]:
    files = {
        f"{MODELS}/{name}.{f}": raw for name, score in fitted.scores.items() for f, raw in attachments(score).items()
    }
    rows = {"reference": fitted.reference_rows} | ({TAUGHT: fitted.taught} if fitted.taught.size else {})
    return {**files, **fitted.files, **{f"{ROWS}/{n}.npy": npy(a) for n, a in rows.items()}}


def _fields(
    config: PolicyConfig, plan: Plan, fitted: Fitted, columns: Sequence[Column], calibrated: Calibrated
) -> dict[str, Any]:
    return {
        "kind": "stream" if plan.stream else "rows",
        "monitor": config.monitor,
        "version": config.version,
        "demur": demur.__version__,
        "model": config.model.model_dump(),
        "signals": [_signal(config, n, fitted) for n in config.signals],
        "scores": [_score(config, n, s, fitted.types[n]) for n, s in fitted.scores.items()],
        "columns": [_column_entry(c) for c in columns],
        "rules": _rules(config, plan, calibrated),
        "statements": [*(s.text for s in calibrated.statements), calibrated.total.text, calibrated.theorems],
        "cautions": list(UNDER_LINES),
        "policy": config.model_dump(mode="json", exclude_none=True),
        "policy_digest": calibrated.policy_digest,
        "digests": dict(fitted.digests),
        "counts": dict(fitted.counts),
        "findings": list(fitted.findings),
        "state_size": state_size(fitted.scores, columns) if plan.stream else 0,
        "on_failure": config.on_failure,
        "environment": {**environment(), "onnx": onnx.__version__},
        "origin": _origin(fitted.origin),
    }


def _origin(origin: Origin) -> OriginEntry | None:
    if not origin:
        return None
    digest = origin.decoding.digest if origin.decoding else ""
    return OriginEntry(decoding=dict(origin.decoding.document), decoding_digest=digest, model=origin.model)


def _signal(config: PolicyConfig, name: str, fitted: Fitted) -> SignalEntry:
    low, high = fitted.ranges.get(name, (None, None))
    signal = config.signals[name]
    return SignalEntry(name=name, width=signal.width, kind=config.kind(name), low=low, high=high, output=signal.output)


def _score(config: PolicyConfig, name: str, score: Any, kind: str) -> ScoreEntry:
    own = all(s in config.signals for s in score.inputs) and kind not in STREAM_SCORES
    held = sum(array.nbytes for array in parameters(score).values())
    costs = cost(score, widths(config)) if own else Cost(held, 0, 0)
    return ScoreEntry(
        name=name,
        type=kind,
        settings=settings(score),
        parameters=sorted(parameters(score)),
        source=score.source,
        scales=score.scales.kind,
        state_bytes=costs.state_bytes,
        multiply_adds=costs.multiply_adds,
    )


def _column_entry(column: Column) -> ColumnEntry:
    units = [len(t) for t in column.calibration]
    return ColumnEntry(
        name=column.name,
        score=column.score,
        unit=column.unit,
        aggregate=column.aggregate,
        sliced=bool(column.sliced),
        units=units,
        slices=_slices(column),
    )


def _slices(column: Column) -> SlicesEntry | None:
    by = column.slicing
    if by is None or not by.codes:
        return None
    return SlicesEntry(signal=by.signal, codes=list(by.codes), others="unavailable" if by.closed else "pooled")


def _rules(config: PolicyConfig, plan: Plan, calibrated: Calibrated) -> list[RuleEntry]:
    texts = {s.rule: s for s in calibrated.statements}
    return [
        RuleEntry(
            name=rule.name,
            column=rule.column,
            unit=spec.unit,
            reason=int(rule.reason),
            thresholds=[float(t) if np.isfinite(t) else None for t in rule.threshold],
            pooled=[bool(p) for p in rule.pooled],
            promise=written.promise.model_dump(mode="json", exclude_none=True),
            statement=texts[rule.name].text,
            level=float(texts[rule.name].level) if isinstance(spec.promise, RefuseGoodAtMost) else None,
        )
        for rule, spec, written in zip(calibrated.rules, plan.specs, config.rules, strict=True)
    ]
