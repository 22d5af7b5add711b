"""What a policy promises, as a digest: a promise about the whole policy holds for this one only."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from demur.detectors.promises.promise import (
    ErrorWhenAcceptedAtMost,
    RefuseGoodAtMost,
    StableAtContamination,
    exact,
    kind,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from demur.detectors.promises.promise import Level, Promise, RuleSpec


def _plain(promise: Promise) -> dict[str, str]:
    """Levels exactly, and only what differs from the default theorem, so that older digests stay."""
    if isinstance(promise, StableAtContamination):
        return {kind(promise): str(exact(promise.gamma)), "tail_nats": str(exact(promise.tail_nats))}
    confidence = "" if promise.confidence is None else str(exact(promise.confidence))
    if isinstance(promise, RefuseGoodAtMost):
        level = "share" if promise.alpha is None else str(exact(promise.alpha))
        plain = {kind(promise): level, "confidence": confidence, "good": promise.good}
    else:
        level = str(exact(promise.risk if isinstance(promise, ErrorWhenAcceptedAtMost) else promise.alpha))
        plain = {kind(promise): level, "confidence": confidence}
    default: str = type(promise).by
    if promise.by == "fixed_sequence":
        plain["starts"] = str(promise.starts)
    return plain if promise.by == default else plain | {"by": promise.by}


def policy_digest(specs: Sequence[RuleSpec], refuse_good_at_most: Level | None = None) -> str:
    """SHA-256 (hex) of the ordered rules and the policy's total.

    A selective-risk promise holds only for the policy it was calibrated under, so a loader compares this digest and
    refuses a bundle whose rules were edited afterwards.
    """
    rules = [
        {
            "name": s.name,
            "column": s.column,
            "reason": int(s.reason),
            "unit": s.unit,
            "sliced": s.sliced,
            "promise": _plain(s.promise),
        }
        | ({"candidates": list(s.candidates)} if s.candidates else {})
        for s in specs
    ]
    total = "" if refuse_good_at_most is None else str(exact(refuse_good_at_most))
    document = {"version": 1, "rules": rules, "refuse_good_at_most": total}
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
