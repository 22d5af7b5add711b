"""Accept or abstain, in columns, with the words for each reason built only when somebody reads them."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
from numpy.typing import NDArray

from demur.detectors.reason import Reason

BROKEN = int(Reason.INVALID | Reason.UNAVAILABLE)
SLICED = "@by."  # in the name of a column that promises for each code of a signal


class Action(enum.IntEnum):
    """What was done about a verdict, or what the caller is told to do."""

    NONE = 0
    ANNOTATE = 1
    BLOCK = 2
    ROUTE = 3
    HOLD = 4
    STOP = 5
    REPLACE = 6


@dataclass(frozen=True, slots=True)
class RuleView:
    """A rule as verdicts name it: what it looks at, what it promises."""

    name: str
    column: str
    reason: Reason
    unit: str
    threshold: NDArray[np.float32]
    promise: str
    level: float | None = None  # the promised share, for refusal promises
    by_p: bool = False  # whether it refuses exactly at p <= level


@dataclass(frozen=True, slots=True)
class PolicyView:
    """What every verdict of one bundle shares: identity, columns, rules."""

    monitor: str
    bundle: str
    version: int
    columns: tuple[str, ...]
    group_columns: tuple[str, ...]
    rules: tuple[RuleView, ...]


@dataclass(
    slots=True, eq=False
)  # not frozen: setting fifteen fields through object.__setattr__ costs 3 of 35 µs at N = 1
class Verdicts:
    """Verdicts of N units (rows, groups, or the steps of streams), columnar. Read it; the engine alone fills it in.

    accept (N,) bool; reason_bits, rule_hits, pooled (N,) int64; scores, p_values (N, S) float32;
    actions (N,) uint8; `groups` the verdicts of the request's groups when the policy has group rules.
    A unit is accepted exactly when no reason stands against it.
    """

    policy: PolicyView
    accept: NDArray[np.bool_]
    reason_bits: NDArray[np.int64]
    rule_hits: NDArray[np.int64]
    pooled: NDArray[np.int64]
    scores: NDArray[np.float32]
    p_values: NDArray[np.float32]
    columns: tuple[str, ...]
    actions: NDArray[np.uint8] | None = None
    groups: Verdicts | None = None
    group_ids: NDArray[np.int64] | None = None
    cause: str = ""
    sequence: int = 0
    audited: bool = False
    mode: str = "observe"

    def __len__(self) -> int:
        return len(self.accept)

    @property
    def reasons(self) -> Reasons:
        """One tuple of sentences per unit, empty for ACCEPT."""
        return Reasons(self)

    def kinds(self, unit: int) -> Reason:
        """The reason kinds against this unit."""
        return Reason(int(self.reason_bits[unit]))


class Reasons(Sequence[tuple[str, ...]]):
    """Sentences for each unit, written on demand."""

    def __init__(self, verdicts: Verdicts) -> None:
        self._verdicts = verdicts

    def __len__(self) -> int:
        return len(self._verdicts)

    @overload
    def __getitem__(self, index: int) -> tuple[str, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[str, ...]]: ...
    def __getitem__(self, index: int | slice) -> tuple[str, ...] | list[tuple[str, ...]]:
        if isinstance(index, slice):
            return [explain(self._verdicts, i) for i in range(*index.indices(len(self)))]
        return explain(self._verdicts, range(len(self))[index])

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        return (explain(self._verdicts, i) for i in range(len(self)))

    def __repr__(self) -> str:
        return f"<reasons of {len(self)} units>"


def explain(verdicts: Verdicts, unit: int) -> tuple[str, ...]:
    """The sentences for one unit, in policy order, broken kinds last."""
    bits, hits = int(verdicts.reason_bits[unit]), int(verdicts.rule_hits[unit])
    sentences = [_sentence(verdicts, unit, i) for i in range(len(verdicts.policy.rules)) if hits >> i & 1]
    if bits & Reason.INVALID:
        sentences.append("INVALID: a signal or score of this unit is not finite")
    if bits & Reason.UNAVAILABLE:
        unknown = bool(verdicts.pooled[unit])  # which only a slice that calibration did not have makes of an abstention
        of = ", ".join(sorted({c.partition(SLICED)[2] for c in verdicts.columns if SLICED in c}))
        default = f"its {of or 'slice'} is none that calibration had" if unknown else "this unit could not be assessed"
        sentences.append(f"UNAVAILABLE: {verdicts.cause or default}")
    return tuple(sentences)


def _sentence(verdicts: Verdicts, unit: int, number: int) -> str:
    rule = verdicts.policy.rules[number]
    place = verdicts.columns.index(rule.column)
    score, p = float(verdicts.scores[unit, place]), float(verdicts.p_values[unit, place])
    above = "above the threshold of its slice" if len(rule.threshold) > 1 else f"above {float(rule.threshold[0]):.4g}"
    limit = f"at p <= {rule.level:g}" if rule.by_p else above
    named = shown(rule.column)
    measured = f"{named} p = {p:.3g}" if rule.by_p else f"{named} = {score:.4g}"
    pooled = (
        " (threshold of the pooled table: calibration had too few units of this slice, or none)"
        if int(verdicts.pooled[unit]) >> number & 1
        else ""
    )
    return f'{Reason(rule.reason).name}: {measured}, rule "{rule.name}" refuses {limit}{pooled}'


def shown(column: str) -> str:
    """A column's name in words: `knn by site` for the one that promises for each site."""
    score, _, of = column.partition("@")
    words = {"": "", "class": " by predicted class", "rule": ""}
    return score + words.get(of, f" by {of.removeprefix('by.')}" if of.startswith("by.") else f" ({of} of the group)")


def unavailable(policy: PolicyView, rows: int, cause: str, group_ids: NDArray[np.int64] | None = None) -> Verdicts:
    """Every unit ABSTAIN(UNAVAILABLE, cause): what an engine or a client answers when nothing could be scored."""
    groups = None
    if group_ids is not None:
        groups = replace(unavailable(policy, len(group_ids), cause), columns=policy.group_columns)
        groups = replace(
            groups,
            scores=_nan(len(group_ids), len(policy.group_columns)),
            p_values=_nan(len(group_ids), len(policy.group_columns)),
        )
    bits = np.full(rows, int(Reason.UNAVAILABLE), np.int64)
    zeros = np.zeros(rows, np.int64)
    values = _nan(rows, len(policy.columns))
    return Verdicts(
        policy,
        np.zeros(rows, np.bool_),
        bits,
        zeros,
        zeros,
        values,
        values,
        policy.columns,
        groups=groups,
        group_ids=group_ids,
        cause=cause,
    )


def _nan(rows: int, columns: int) -> NDArray[np.float32]:
    return np.full((rows, columns), np.nan, np.float32)


def blocks(verdicts: Verdicts) -> bool:
    """Whether any row or group is to be blocked."""
    units = (verdicts,) if verdicts.groups is None else (verdicts, verdicts.groups)
    return any(u.actions is not None and bool((u.actions == Action.BLOCK).any()) for u in units)


def remedied(verdicts: Verdicts, action: Action) -> None:
    """Say that `action` was done where blocking was asked for."""
    for units in (verdicts, verdicts.groups):
        if units is not None and units.actions is not None:
            units.actions = np.where(units.actions == Action.BLOCK, np.uint8(action), units.actions)


def act(reason_bits: NDArray[np.int64], mode: str, on_failure: str) -> NDArray[np.uint8]:
    """What the caller is told to do: nothing in `observe`; in `enforce`, BLOCK for every abstention, except that
    `on_failure: pass` lets units through whose only reasons are INVALID or UNAVAILABLE. The verdict is untouched.
    """
    if mode != "enforce":
        return np.zeros(len(reason_bits), np.uint8)
    blocked = reason_bits != 0
    if on_failure == "pass":
        blocked &= (reason_bits & ~np.int64(BROKEN)) != 0
    return np.where(blocked, np.uint8(Action.BLOCK), np.uint8(Action.NONE))
