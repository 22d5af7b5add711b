"""Verdicts as `demur.*` string parameters, in words that every protocol can carry."""

from __future__ import annotations

import json
import math
from typing import Any

from numpy.typing import NDArray

from demur.detectors.reason import Reason
from demur.monitor.verdicts import Action, PolicyView, Verdicts, unavailable

NOBODY = PolicyView("", "", 0, (), (), ())  # stands for the monitor where there is none


def parameters(verdicts: Verdicts, *, per_row: bool = True) -> dict[str, str]:
    """The annotation: `demur.accept` N booleans, `demur.reasons` N lists of reason kinds, `demur.p_values` N x S numbers
    or null, named by `demur.columns`; `demur.group_accept` one boolean a group where the policy judges groups;
    `demur.verdict` is ACCEPT only when every row and group is. Every other key is always there, so that an upstream cannot
    forge one. Without `per_row` the lists are empty.
    """
    policy, groups = verdicts.policy, verdicts.groups
    grouped = {"demur.group_accept": _compact(groups.accept.tolist()) if per_row else ""} if groups is not None else {}
    return grouped | {
        "demur.verdict": verdict(verdicts),
        "demur.action": action(verdicts).name,
        "demur.mode": verdicts.mode,
        "demur.accept": _compact(verdicts.accept.tolist()) if per_row else "",
        "demur.reasons": _compact([kinds(bits) for bits in verdicts.reason_bits.tolist()]) if per_row else "",
        "demur.p_values": _compact([[_short(p) for p in row] for row in verdicts.p_values.tolist()]) if per_row else "",
        "demur.columns": _compact(list(verdicts.columns)),
        "demur.cause": verdicts.cause,
        "demur.monitor": policy.monitor,
        "demur.bundle": policy.bundle,
        "demur.sequence": str(verdicts.sequence),
        "demur.audited": "true" if verdicts.audited else "false",
    }


def columns(verdicts: Verdicts) -> list[tuple[str, str, NDArray[Any]]]:
    """The annotation as tensors: short name, datatype, values."""
    found: list[tuple[str, str, NDArray[Any]]] = [
        ("accept", "BOOL", verdicts.accept),
        ("reasons", "INT64", verdicts.reason_bits),
        ("p_values", "FP32", verdicts.p_values),
    ]
    if verdicts.groups is not None:
        found.append(("group_accept", "BOOL", verdicts.groups.accept))
    return found


def verdict(verdicts: Verdicts) -> str:
    """ACCEPT when every row and every group is accepted, else ABSTAIN."""
    groups = verdicts.groups is None or bool(verdicts.groups.accept.all())
    return "ACCEPT" if len(verdicts) and groups and bool(verdicts.accept.all()) else "ABSTAIN"


def action(verdicts: Verdicts) -> Action:
    """The gravest action that was taken for a row or a group."""
    units = (verdicts,) if verdicts.groups is None else (verdicts, verdicts.groups)
    return max((Action(int(u.actions.max())) for u in units if u.actions is not None and len(u)), default=Action.NONE)


def unjudged(rows: int, cause: str) -> Verdicts:
    """ABSTAIN(UNAVAILABLE, cause) where no monitor could be asked."""
    verdicts = unavailable(NOBODY, rows, cause)
    verdicts.mode = "none"
    return verdicts


def kinds(bits: int) -> list[str]:
    """Reason kinds by name, lowest bit first."""
    return [str(kind.name) for kind in Reason if bits & kind]


def shortened(verdicts: Verdicts) -> dict[str, str]:
    """The annotation without its per-row lists, and the reason why they are left out."""
    values = parameters(verdicts, per_row=False)
    said = "per-row annotations left out: the answer would exceed the message limit"
    return values | {"demur.cause": f"{values['demur.cause']}; {said}" if values["demur.cause"] else said}


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _short(p: float) -> float | None:
    return float(f"{p:.6g}") if math.isfinite(p) else None
