"""Decision events with known contents."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from demur.detectors.reason import Reason
from demur.monitor.event import DecisionEvent
from demur.monitor.verdicts import PolicyView, RuleView, Verdicts

BUNDLE = "ab" * 32


def policy(unit: str = "row", columns: tuple[str, ...] = ("energy", "knn"), monitor: str = "digits") -> PolicyView:
    rules = (
        RuleView("novel", columns[0], Reason.NOVEL, unit, np.array([2.0], np.float32), "", 0.05),
        RuleView("ambiguous", columns[-1], Reason.AMBIGUOUS, unit, np.array([7.0], np.float32), ""),
    )
    return PolicyView(monitor, BUNDLE, 3, columns, (), rules)


def verdicts(bits, hits, scores, p_values, of: PolicyView | None = None, **more) -> Verdicts:
    of = of or policy()
    bits = np.array(bits, np.int64)
    return Verdicts(
        of,
        bits == 0,
        bits,
        np.array(hits, np.int64),
        np.zeros(len(bits), np.int64),
        np.array(scores, np.float32),
        np.array(p_values, np.float32),
        of.columns,
        **more,
    )


NAN = float("nan")
# accepted; NOVEL with p on its level; NOVEL+AMBIGUOUS; INVALID with a hit; UNAVAILABLE
MIXED = verdicts(
    [0, 1, 3, 1 | 64, 128],
    [0, 1, 3, 1, 0],
    [[-3.0, 0.5], [2.5, 1.0], [2.00001, 8.0], [NAN, float("inf")], [NAN, NAN]],
    [[0.5, 0.25], [0.05, 0.5], [0.001, 0.75], [NAN, NAN], [NAN, NAN]],
    actions=np.array([0, 2, 2, 0, 2], np.uint8),
    mode="enforce",
)


def event(of: Verdicts = MIXED, **more) -> DecisionEvent:
    stages = {"decode": 0.00001, "score": 0.0003, "audit": 0.02, "surprise": 0.5}
    about = {"seconds": 0.004, "stages": stages, "out_of_range": 2, "protocol": "grpc"} | more
    return DecisionEvent(of.policy.monitor, of.policy.bundle, of, **about)


def single(of: PolicyView | None = None) -> DecisionEvent:
    return event(verdicts([0], [0], [[0.5, 1.0]], [[0.4, 0.6]], of))


def repeated(of: Verdicts, times: int) -> Verdicts:
    """The same verdicts again and again in one batch."""
    names = ("accept", "reason_bits", "rule_hits", "pooled", "scores", "p_values")
    return replace(
        of,
        actions=None if of.actions is None else np.tile(of.actions, times),
        **{n: np.concatenate([getattr(of, n)] * times) for n in names},
    )
