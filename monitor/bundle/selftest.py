"""Vectors that travel with the bundle: a machine that cannot reproduce them must not serve it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.detectors.reason import Reason
from demur.monitor.bundle.bundle import Bundle
from demur.monitor.bundle.manifest import Manifest
from demur.monitor.errors import SelfTestFailed
from demur.monitor.session import Session

INPUTS, OUTPUTS = "selftest/inputs", "selftest/outputs"
REQUIRED = frozenset({"scores", "p_values", "rule_hits", "reasons", "accept"})
# Types of scores that read others' p-values, and of the one whose number is a count; apart from the catalogue, which needs SciPy.
FUSIONS = frozenset({"failure", "flagged", "fused", "two_sided"})
COUNTED = "early_stopped"
BROKEN_ROWS = 2  # the last two rows of every vector hold a NaN and an infinity


def run(bundle: Bundle, session: Session) -> int:
    """Run the vectors and compare; returns how many rows differ only because a score sits on a threshold (marginal).

    Scores agree to the manifest's relative tolerance, non-finite rows are the same rows and never accepted, and verdicts are
    equal on every row that is not marginal.
    Raises: SelfTestFailed naming the output and the row.
    """
    expected = bundle.arrays(OUTPUTS)
    if not expected:
        raise SelfTestFailed("the bundle carries no self-test vectors; build it again with `demur fit`")
    try:
        found = session.run(bundle.arrays(INPUTS))
    except Exception as error:
        raise SelfTestFailed(f"the graph fails on its own self-test vectors: {error}") from error
    _expect_outputs(expected, found)
    _expect_broken_rows_refused(found)
    marginal = _compare_scores(bundle.manifest, expected, found, "scores", "row")
    _compare_verdicts(expected, found, marginal, ("accept", "reasons", "rule_hits"))
    if "group_scores" in expected:
        grouped = _compare_scores(bundle.manifest, expected, found, "group_scores", "group")
        _compare_verdicts(expected, found, grouped, ("group_accept", "group_reasons", "group_rule_hits"))
    return int(marginal.sum())


def _expect_outputs(expected: Mapping[str, NDArray[Any]], found: Mapping[str, NDArray[Any]]) -> None:
    """The same outputs of the same shapes, and no unit accepted against a reason."""
    if set(expected) != set(found) or not set(found) >= REQUIRED:
        raise SelfTestFailed(f"expected the outputs {sorted(expected)}, got {sorted(found)}; build the bundle again")
    for name, want in expected.items():
        if want.shape != found[name].shape:
            raise SelfTestFailed(
                f"{name}: expected shape {want.shape}, got {found[name].shape}; build the bundle again"
            )
    for unit in ("", "group_"):
        if f"{unit}accept" in found and (found[f"{unit}accept"] != (found[f"{unit}reasons"] == 0)).any():
            raise SelfTestFailed(
                f"{unit}accept: a unit is accepted against a reason, or refused without one; build the bundle again"
            )


def _expect_broken_rows_refused(found: Mapping[str, NDArray[Any]]) -> None:
    last = slice(-BROKEN_ROWS, None)
    marked = (found["reasons"][last] & Reason.INVALID) != 0
    if found["accept"][last].any() or not marked.all() or np.isfinite(found["scores"][last]).any():
        raise SelfTestFailed(
            "a row holding NaN or infinity was accepted or scored as ordinary: this runtime folds 0*x away; choose another execution provider"
        )


def _compare_scores(
    manifest: Manifest, expected: Mapping[str, NDArray[Any]], found: Mapping[str, NDArray[Any]], name: str, unit: str
) -> NDArray[np.bool_]:
    want, got = expected[name], found[name]
    off = manifest.tolerance * (1 + np.abs(want)) + _counts(manifest, unit)
    close = (np.abs(got - want) <= off) | (got == want) | (np.isnan(got) & np.isnan(want))
    jumped = _jumped(manifest, close, unit)
    close |= jumped[:, None]
    if not close.all():
        row, column = np.argwhere(~close)[0]
        raise SelfTestFailed(
            f"{name}[{row}, {column}]: expected {want[row, column]!r}, got {got[row, column]!r}, beyond {manifest.tolerance:g}; "
            "this machine's runtime computes something else: do not serve here, report the environment with `demur doctor`"
        )
    return _marginal(manifest, want, unit) | jumped


def _jumped(manifest: Manifest, close: NDArray[np.bool_], unit: str) -> NDArray[np.bool_]:
    """Rows in which only fusions differ: a member's last bit moved it past a calibration score, and its p-value by a count.

    A few such rows are marginal; more than an eighth of them are another computation, and none is excused.
    """
    fused = np.array([kind in FUSIONS for kind in _kinds(manifest, unit)], np.bool_)
    rows = np.logical_and(close[:, ~fused].all(axis=1), ~close[:, fused].all(axis=1))
    return rows if np.count_nonzero(rows) <= len(rows) // 8 else np.zeros_like(rows)


def _counts(manifest: Manifest, unit: str) -> NDArray[np.float64]:
    """(S,) by how much a column may differ that is a count of calibration scores, which a last bit moves; 0 for the others.

    Such a column's self-test rows are among the scores counted, so that many of them move, by one or two.
    """
    columns = [c for c in manifest.columns if (c.unit == "group") == (unit == "group")]
    kinds = zip(columns, _kinds(manifest, unit), strict=True)
    return np.array([max(2, c.units[0] // 100) if kind == COUNTED else 0 for c, kind in kinds], np.float64)


def _kinds(manifest: Manifest, unit: str) -> list[str]:
    """The type of the score of each column of these units."""
    kinds = {s.name: s.type for s in manifest.scores}
    return [kinds[c.score] for c in manifest.columns if (c.unit == "group") == (unit == "group")]


def _marginal(manifest: Manifest, scores: NDArray[np.float32], unit: str) -> NDArray[np.bool_]:
    """Rows whose score lies within the tolerance of a threshold: their verdict may differ between machines."""
    columns = [c.name for c in manifest.columns if (c.unit == "group") == (unit == "group")]
    near, counts = np.zeros(len(scores), np.bool_), _counts(manifest, unit)
    for rule in manifest.rules:
        if rule.column not in columns:
            continue
        place = columns.index(rule.column)
        score = scores[:, place, None]
        limits = np.array([t for t in rule.thresholds if t is not None], np.float64)
        near |= (np.abs(score - limits) <= manifest.tolerance * (1 + np.abs(limits)) + counts[place]).any(1)
    return near


def _compare_verdicts(
    expected: Mapping[str, NDArray[Any]],
    found: Mapping[str, NDArray[Any]],
    marginal: NDArray[np.bool_],
    names: tuple[str, ...],
) -> None:
    for name in names:
        differ = (expected[name] != found[name]) & ~marginal
        if differ.any():
            row = int(np.flatnonzero(differ)[0])
            raise SelfTestFailed(
                f"{name}[{row}]: expected {expected[name][row]}, got {found[name][row]}; do not serve this bundle here"
            )
