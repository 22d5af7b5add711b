"""Verdicts as `demur.*` string parameters of a ModelInferResponse."""

from __future__ import annotations

import json
import math
from typing import Any

from demur.detectors.reason import Reason
from demur.monitor.verdicts import Action, Verdicts
from demur.proto.oip.inference_pb2 import ModelInferResponse


def annotated(answer: bytes, verdicts: Verdicts, largest_bytes: int) -> bytes:
    """The answer with `demur.*` parameters; every byte of `answer` stays as it is and where it is.

    A serialized message followed by another is their merge (protobuf encoding, "Last One Wins"), and map entries may
    stand anywhere, so parameters are appended: unknown fields, order and typed or raw form cannot change. Every key is
    always written, so that an upstream cannot forge one. Beyond `largest_bytes` the per-row parameters are emptied and
    `demur.cause` says so; beyond it even so, the answer goes out as it came.
    """
    for values in (parameters(verdicts), _without_rows(parameters(verdicts, per_row=False))):
        extra = ModelInferResponse()
        for key, value in values.items():
            extra.parameters[key].string_param = value
        whole = answer + extra.SerializeToString(deterministic=True)
        if len(whole) <= largest_bytes:
            return whole
    return answer


def parameters(verdicts: Verdicts, *, per_row: bool = True) -> dict[str, str]:
    """The annotation: `demur.accept` N booleans, `demur.reasons` N lists of reason kinds, `demur.p_values` N x S numbers
    or null, named by `demur.columns`; `demur.verdict` is ACCEPT only when every row and group is.
    """
    policy = verdicts.policy
    return {
        "demur.verdict": verdict(verdicts),
        "demur.action": "BLOCK" if blocks(verdicts) else "NONE",
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


def verdict(verdicts: Verdicts) -> str:
    """ACCEPT when every row and every group is accepted, else ABSTAIN."""
    groups = verdicts.groups is None or bool(verdicts.groups.accept.all())
    return "ACCEPT" if len(verdicts) and groups and bool(verdicts.accept.all()) else "ABSTAIN"


def blocks(verdicts: Verdicts) -> bool:
    """Whether any row or group is to be blocked."""
    units = (verdicts,) if verdicts.groups is None else (verdicts, verdicts.groups)
    return any(u.actions is not None and bool((u.actions == Action.BLOCK).any()) for u in units)


def kinds(bits: int) -> list[str]:
    """Reason kinds by name, lowest bit first."""
    return [str(kind.name) for kind in Reason if bits & kind]


def _without_rows(values: dict[str, str]) -> dict[str, str]:
    said = "per-row annotations left out: the answer would exceed the message limit"
    return values | {"demur.cause": f"{values['demur.cause']}; {said}" if values["demur.cause"] else said}


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _short(p: float) -> float | None:
    return float(f"{p:.6g}") if math.isfinite(p) else None
