"""The scores of a policy: fitted on rows, or restored from a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import GraphProto, numpy_helper

from demur.detectors.build import build_score
from demur.detectors.compile import SHAPED
from demur.detectors.evaluate import evaluate
from demur.detectors.pvalue import p_value
from demur.detectors.score import Reference, Score
from demur.detectors.scores import FUSIONS
from demur.detectors.storage import restore
from demur.monitor.bundle import Bundle
from demur.monitor.bundle.graph import check
from demur.monitor.bundle.manifest import ScoreEntry
from demur.monitor.config.policy import PolicyConfig, ScoreConfig
from demur.monitor.errors import BundleError, ConfigurationError
from demur.monitor.fit.assemble import MODELS, shaping
from demur.monitor.fit.plan import stops
from demur.monitor.fit.progress import Watched
from demur.monitor.fit.sources import as_reference
from demur.monitor.fit.table import SignalsTable
from demur.monitor.fit.units import split_units

# Scores that add up the exponentials of logits, which are 1 together for every distribution.
OF_SUMS = frozenset({"energy", "weighted_energy", "nnguide"})
ROUNDING = 1e-5  # nats


def fit_scores(
    policy: PolicyConfig, table: SignalsTable, sides: Mapping[str, SignalsTable], engine: Watched
) -> dict[str, Any]:
    """Every score that reads signals, fitted on the reference rows; fusions come later, `fit_fusions`."""
    absent = policy.tables
    reference = replace(as_reference(table, absent), engine=engine)
    reference = replace(reference, sides={n: replace(as_reference(t, absent), engine=engine) for n, t in sides.items()})
    reference = reference.shaped(*shaping(policy))
    scores = {}
    for score in policy.scores:
        if not is_fusion(score) and not stops(score):
            engine.stage = f"fitting {score.name}"
            scores[score.name] = build_score(score.type, dict(score.hyper), reference)
    _check_kind(policy, scores, reference)
    return scores


def _check_kind(policy: PolicyConfig, scores: Mapping[str, Any], reference: Reference) -> None:
    """Raises: ConfigurationError for scores that are one number for every distribution, and for one lone probability."""
    kind = policy.kind("logits") if "logits" in policy.signals else ""
    reading = {n: s for n, s in scores.items() if "logits" in s.inputs}
    if kind not in ("probabilities", "log_probabilities") or not reading:
        return
    if policy.signals["logits"].width == 1:
        raise ConfigurationError(
            f"logits: expected a column a class, got width 1 of kind {kind}; give both, 1 - p and p, or the value before "
            "the sigmoid as kind: logits"
        )
    for score in policy.scores:
        if score.type in OF_SUMS and score.name in reading and _idle(reading[score.name], reference):
            raise ConfigurationError(
                f"score {score.name}: it reads the energy, and that of {kind} is the logarithm of their sum, 0 whatever the "
                "model says; use msp, entropy or gen, or give the logits"
            )


def _idle(score: Score, reference: Reference) -> bool:
    """Whether the score is one number on the first rows, but for rounding."""
    found = evaluate({"score": score}, next(reference.batches(*score.inputs)).signals)["score"]
    finite = found[np.isfinite(found)]
    return not finite.size or float(np.ptp(finite)) <= ROUNDING


def fit_fusions(
    policy: PolicyConfig, scores: Mapping[str, Any], found: Mapping[str, Any], table: SignalsTable
) -> dict[str, Any]:
    """All scores in the policy's order. A fusion is fitted on the members' p-values of fold A, each half of the fold
    judged by the other half's table, with the labels of those rows.
    """
    halves = split_units(table, (0.5, 0.5), policy.seed)
    rows = np.concatenate(halves)
    crossed = {
        f"p:{n}": np.concatenate([p_value(np.sort(s[other]), s[own]) for own, other in (halves, halves[::-1])])[:, None]
        for n, s in found.items()
    }
    correct = None if table.right is None else table.right[rows]
    reference = Reference(crossed, None if table.label is None else table.label[rows], correct=correct)
    return {
        s.name: build_score(s.type, dict(s.hyper), reference) if is_fusion(s) else scores[s.name]
        for s in policy.scores
        if not stops(s)
    }


def is_fusion(score: ScoreConfig) -> bool:
    """Whether a score reads the p-values of others."""
    return score.type in FUSIONS


def restore_scores(bundle: Bundle, *types: str) -> dict[str, Any]:
    """The fitted scores of a bundle, from its graph's named weights; of the types given, or all.

    Raises: BundleError for a score whose weights another version of demur laid out otherwise.
    """
    graph = check(bundle.graph).graph
    held = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    entries = [e for e in bundle.manifest.scores if not types or e.type in types]
    scores = {entry.name: _restored(entry, held, bundle) for entry in entries}
    if any("logits" in score.inputs for score in scores.values()):
        _check_shaped(bundle, graph)
    return scores


def _check_shaped(bundle: Bundle, graph: GraphProto) -> None:
    given = any(s.name == "logits" and s.kind == "probabilities" for s in bundle.manifest.signals)
    if given and not any(node.name.startswith(f"{SHAPED}/") for node in graph.node):
        raise BundleError(
            "its scores were fitted on probabilities as if they were logits, by an earlier version of demur; the bundle can be "
            "served as it is; for new promises or new calibration data run `demur fit` again"
        )


def _restored(entry: ScoreEntry, held: Mapping[str, Any], bundle: Bundle) -> Any:
    arrays = {p: held[f"{entry.name}.{p}"] for p in entry.parameters if f"{entry.name}.{p}" in held}
    start = f"{MODELS}/{entry.name}."
    files = {n.removeprefix(start): raw for n, raw in bundle.members.items() if n.startswith(start)}
    try:
        return restore(entry.type, entry.settings, arrays, files)
    except ValueError as error:
        raise BundleError(
            f"score {entry.name}: its weights are in the layout of another version of demur ({error}); the bundle can be "
            "served as it is, and for new promises or new calibration data run `demur fit` again"
        ) from error
