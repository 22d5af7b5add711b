"""The contract between model and monitor, checked before anything is fitted or calibrated."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from demur.monitor.fit.agreement import check_agreement
from demur.monitor.fit.finding import ContractViolation, Finding, error, listed, warning
from demur.monitor.fit.known_rows import Known
from demur.monitor.fit.order import check_order
from demur.monitor.fit.profile import SignalProfile, profiles
from demur.monitor.fit.shared import copies, shared_rows
from demur.monitor.fit.table import SignalsTable

__all__ = [
    "ContractViolation",
    "Finding",
    "check_apart",
    "check_tables",
    "inspect_table",
    "inspect_tables",
    "kept_for_evaluation",
]

FEWEST_PER_CLASS = 5
MANY = 0.5
CODES = "codes"  # the kind of a signal that slices: all rows may well come from one site


def check_tables(
    reference: SignalsTable | None, calibration: SignalsTable | None = None, kinds: Mapping[str, str] | None = None
) -> list[Finding]:
    """The warnings about the tables of a fit, or of a calibration alone when `reference` is None.

    `kinds` gives each signal's declared kind: logits, probabilities, log_probabilities, features or codes (default by name).

    Raises: ContractViolation with every error in one message, when there is any.
    """
    findings = inspect_tables(reference, calibration, kinds)
    if any(finding.level == "error" for finding in findings):
        raise ContractViolation(findings)
    return findings


def check_apart(side: SignalsTable, other: SignalsTable, role: str, other_role: str = "calibration") -> list[Finding]:
    """The warnings about further data that a fit learns from: it must not hold rows of the other set, nor rows kept for
    evaluation.

    Raises: ContractViolation naming `role`.
    """
    findings = kept_for_evaluation(side, role) + shared_rows(side, Known.of(other), role, other_role)
    if any(finding.level == "error" for finding in findings):
        raise ContractViolation(findings)
    return findings


def inspect_tables(
    reference: SignalsTable | None, calibration: SignalsTable | None = None, kinds: Mapping[str, str] | None = None
) -> list[Finding]:
    """Everything there is to say about the tables, errors and warnings."""
    findings: list[Finding] = []
    if reference is not None:
        findings += kept_for_evaluation(reference, "reference")
        findings += inspect_table(reference, "reference", kinds) + _classes(reference)
    if calibration is not None:
        findings += kept_for_evaluation(calibration, "calibration")
        findings += inspect_table(calibration, "calibration", kinds)
    if reference is not None and calibration is not None:
        findings += _shared(reference, calibration)
    return findings


def inspect_table(table: SignalsTable, role: str, kinds: Mapping[str, str] | None = None) -> list[Finding]:
    """What is to say about one table; `role` (reference, calibration, ...) opens every message."""
    apart = {name for name, kind in (kinds or {}).items() if kind in ("mask", "table")}  # a mask may well be all ones
    found = {name: profile for name, profile in profiles(table).items() if name not in apart}
    findings = [
        f for n, k in (kinds or {}).items() if k == "table" and n in table.signals for f in _cells(table, n, role)
    ]
    for name, profile in found.items():
        findings += _broken(profile, role) + ([] if (kinds or {}).get(name) == CODES else _constant(profile, role))
    for name, profile in found.items():
        declared = (kinds or {}).get(name) or ("logits" if name == "logits" else "features")
        findings += _kind(profile, declared, role)
    findings += _twin_signals(found, role) + _labels(table, role) + _predictions(table, role)
    return findings + check_agreement(table, role) + check_order(table, role)


def _cells(table: SignalsTable, name: str, role: str) -> list[Finding]:
    """What is to say about a signal whose NaN cells are missing values."""
    where, findings = f"{role}: {name}", []
    broken, filled = 0, np.zeros(table.widths[name], np.int64)
    for batch in table.only(name).batches():
        broken += int(np.isinf(batch.signals[name]).any(axis=1).sum())
        filled += (~np.isnan(batch.signals[name])).sum(axis=0)
    if broken:
        findings.append(error("not_finite", f"{where}: {broken} rows hold infinity; write missing cells as NaN"))
    empty = np.flatnonzero(filled == 0)
    if len(empty):
        message = f"{where}: columns {listed(empty)} are missing in every row; leave them out of the signal"
        findings.append(error("empty_columns", message))
    return findings


def kept_for_evaluation(table: SignalsTable, role: str) -> list[Finding]:
    """An error when any row is marked `eval_only`; not part of `inspect_table`, since evaluation takes such rows."""
    if table.eval_only is None or not table.eval_only.any():
        return []
    rows = np.flatnonzero(table.eval_only)
    message = f"{role}: {len(rows)} of {len(table)} rows of {table.source} are marked eval_only (rows {listed(rows)})"
    return [error("eval_only", f"{message}; nothing may be fitted, calibrated or chosen on them: leave them out")]


def _broken(profile: SignalProfile, role: str) -> list[Finding]:
    if not profile.broken:
        return []
    rows = f"{profile.broken} rows hold NaN or infinity (rows {listed(profile.first_broken)})"
    return [error("not_finite", f"{role}: {profile.name}: {rows}; drop them")]


def _constant(profile: SignalProfile, role: str) -> list[Finding]:
    where = f"{role}: {profile.name}"
    findings = []
    constant = np.flatnonzero(profile.constant)
    if len(constant) == profile.width:
        findings.append(error("constant_signal", f"{where}: every row is the same; is this the right model output?"))
    elif len(constant):
        message = f"{where}: {len(constant)} of {profile.width} columns are constant (columns {listed(constant)})"
        findings.append(warning("constant_columns", message + "; fine for dead units, check a truncated export"))
    varying = profile.keys[~profile.constant]
    twins = len(varying) - len(np.unique(varying))
    if twins and profile.finite > 1:
        message = f"{where}: {twins} columns repeat another column (columns {listed(_repeats(profile))})"
        findings.append(warning("duplicated_columns", message + "; covariance scores lose their meaning there"))
    return findings


def _repeats(profile: SignalProfile) -> NDArray[np.int64]:
    varying = np.flatnonzero(~profile.constant)
    first = np.unique(profile.keys[varying], return_index=True)[1]
    return np.delete(varying, first)


def _kind(profile: SignalProfile, declared: str, role: str) -> list[Finding]:
    where, rows = f"{role}: {profile.name}", profile.finite
    if rows == 0 or declared == "features" or profile.width == 1:
        return []
    counts = {"probabilities": profile.distributions, "log_probabilities": profile.log_distributions}
    if declared in counts:
        wrong = rows - counts[declared]
        message = (
            f"{where}: declared {declared}, but {wrong} of {rows} rows are not; correct `kind:` in the configuration"
        )
        return [error("kind_mismatch", message)] if wrong else []
    for kind, count in counts.items():
        if count == rows:
            message = f"{where}: expected logits, got {kind} in every row; pass the values before softmax, or declare"
            return [error(f"{kind}_as_logits", f"{message} `kind: {kind}`")]
    if profile.unit:
        message = f"{where}: every value is in [0, 1] and rows do not sum to 1; sigmoid outputs are not logits"
        return [warning("unit_interval", message)]
    return []


def _twin_signals(found: Mapping[str, SignalProfile], role: str) -> list[Finding]:
    seen: dict[tuple[int, ...], str] = {}
    findings = []
    for name, profile in found.items():
        key = tuple(profile.keys.tolist())
        if key in seen and profile.finite and not profile.constant.all():
            message = f"{role}: {name} holds the same numbers as {seen[key]}; map it to another model output"
            findings.append(error("duplicated_signal", message))
        seen.setdefault(key, name)
    return findings


def _labels(table: SignalsTable, role: str) -> list[Finding]:
    classes = table.widths.get("logits")
    if classes == 1:  # one logit speaks of two classes
        classes = 2
    findings = []
    for name in ("label", "prediction"):
        values = table.given.get(name)
        if values is None:
            continue
        bad = np.flatnonzero((values < 0) | (values >= (classes or np.inf)))
        if len(bad):
            limit = f"0..{classes - 1}" if classes else "at least 0"
            one_based = "; they look one-based: subtract 1" if classes == values.max() and values.min() == 1 else ""
            message = f"{role}: {name}: expected {limit}, got {listed(np.unique(values[bad]))} in {len(bad)} rows"
            findings.append(error(f"{name}_out_of_range", f"{message} (rows {listed(bad)}){one_based}"))
    return findings


def _predictions(table: SignalsTable, role: str) -> list[Finding]:
    findings = []
    if "prediction" in table.given and table.argmax is not None and table.widths["logits"] > 1:
        differ = np.flatnonzero(table.given["prediction"] != table.argmax)
        if len(differ):
            level = error if len(differ) > MANY * len(table) else warning
            message = f"{role}: prediction differs from the argmax of logits in {len(differ)} of {len(table)} rows"
            findings.append(
                level("prediction_not_argmax", f"{message} (rows {listed(differ)}); are rows in one order?")
            )
    return findings


def _classes(reference: SignalsTable) -> list[Finding]:
    if reference.label is None or reference.label.min() < 0:
        return []
    size = max(reference.widths.get("logits", 0), int(reference.label.max()) + 1)
    if size > len(reference) + reference.widths.get("logits", 0):  # a label far out of range, reported elsewhere
        return []
    few = np.flatnonzero(np.bincount(reference.label, minlength=size) < FEWEST_PER_CLASS)
    if not len(few):
        return []
    message = f"reference: {len(few)} of {size} classes have fewer than {FEWEST_PER_CLASS} rows (classes {listed(few)})"
    return [warning("few_rows_per_class", f"{message}; class-conditional scores need more rows of them")]


def _shared(reference: SignalsTable, calibration: SignalsTable) -> list[Finding]:
    names = sorted(set(reference.signals) & set(calibration.signals))
    findings = []
    if names:
        known = Known.of(reference, names)
        findings += shared_rows(calibration, known, "calibration", "reference", names)
        findings += copies(calibration, known, "calibration", names)
    ours, theirs = calibration.group_id, reference.group_id
    if ours is not None and theirs is not None and ours.dtype.kind == theirs.dtype.kind:
        both = np.intersect1d(ours, theirs)
        if len(both):
            level = error if ours.dtype.kind == "U" else warning
            shown = ", ".join(map(str, both[:3].tolist()))
            message = f"calibration: {len(both)} group ids are also in the reference set ({shown})"
            findings.append(
                level("shared_groups", f"{message}; a group belongs to one set, unless ids restart per file")
            )
    return findings
