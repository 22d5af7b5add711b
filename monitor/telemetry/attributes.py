"""What spans and log events say about a request. Only names, numbers and reason kinds; never what a user or model wrote."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from demur.detectors.reason import Reason
from demur.monitor.event import DecisionEvent
from demur.monitor.verdicts import Action, Verdicts

Attributes = dict[str, str | int | float]
# One step of batched streams may hold hundreds of verdicts; a trace needs a few.
EVALUATION_LIMIT = 16
_DONE = {
    Action.NONE: "allow",
    Action.ANNOTATE: "allow",
    Action.BLOCK: "block",
    Action.ROUTE: "escalate",
    Action.HOLD: "escalate",
    Action.STOP: "block",
    Action.REPLACE: "block",
}


def span_attributes(event: DecisionEvent) -> Attributes:
    """Attributes of a `demur.assess` span. What was judged and what was done are two attributes and may differ."""
    verdicts = event.verdicts
    parts = [verdicts] if verdicts.groups is None else [verdicts, verdicts.groups]
    abstained = sum(int(np.count_nonzero(~part.accept)) for part in parts)
    bits = int(np.bitwise_or.reduce(np.concatenate([part.reason_bits for part in parts]), initial=0))
    found: Attributes = {
        "demur.monitor": event.monitor,
        "demur.bundle": event.bundle,
        "demur.bundle.version": verdicts.policy.version,
        "demur.protocol": event.protocol,
        "demur.mode": verdicts.mode,
        "demur.rows": len(verdicts),
        "demur.abstained": abstained,
        "demur.reasons": kinds(bits),
        "gen_ai.security.verdict.type": "deny" if abstained else "allow",
        "gen_ai.security.action.type": max((_done(part) for part in parts), key=("allow", "escalate", "block").index),
    }
    if verdicts.audited:
        found["demur.audit.sequence"] = verdicts.sequence
    if verdicts.cause:
        found["demur.cause"] = verdicts.cause
    return found


def evaluations(event: DecisionEvent, response_id: str) -> Iterator[Attributes]:
    """One evaluation for each verdict and each of its scores; abstentions first, sixteen verdicts at most."""
    verdicts = event.verdicts
    about: Attributes = {"demur.monitor": event.monitor, "demur.bundle": event.bundle}
    if response_id:
        about["gen_ai.response.id"] = response_id
    for unit in np.argsort(verdicts.accept, kind="stable")[:EVALUATION_LIMIT].tolist():
        bits = int(verdicts.reason_bits[unit])
        label = {"gen_ai.evaluation.score.label": _label(bits), "gen_ai.evaluation.explanation": kinds(bits)}
        broken = Reason.UNAVAILABLE if bits & Reason.UNAVAILABLE else Reason.INVALID if bits & Reason.INVALID else None
        error = {"error.type": str(broken.name).lower()} if broken else {}
        yield {**about, "gen_ai.evaluation.name": "demur.verdict", **label, **error}
        for place, column in enumerate(verdicts.columns):
            score, p = float(verdicts.scores[unit, place]), float(verdicts.p_values[unit, place])
            if np.isfinite(score):
                known = {"demur.p_value": p} if np.isfinite(p) else {}
                yield {**about, "gen_ai.evaluation.name": column, "gen_ai.evaluation.score.value": score, **known}


def checkpoint_attributes(note: str) -> Attributes:
    """Origin, size and root of a C2SP checkpoint: its first three lines."""
    lines = note.split("\n", 3)
    return dict(zip(("demur.audit.origin", "demur.audit.size", "demur.audit.root"), lines[:3], strict=False))


def kinds(bits: int) -> str:
    """Reason kinds as words: `NOVEL,INVALID`."""
    return ",".join(str(reason.name) for reason in Reason if bits & reason)


def _label(bits: int) -> str:
    if bits & (Reason.INVALID | Reason.UNAVAILABLE):
        return "not_assessable"
    return "abstain" if bits else "accept"


def _done(verdicts: Verdicts) -> str:
    if verdicts.actions is None or not len(verdicts.actions):
        return "allow"
    names = {_DONE[Action(action)] for action in np.unique(verdicts.actions).tolist()}
    return max(names, key=("allow", "escalate", "block").index)
