"""From measurements to a choice that does not lean on noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demur.detectors.numpy_ops import Array
from demur.monitor.auto.axes import Kind
from demur.monitor.auto.measure import Judged, Measured, ranked

MOST_MEMBERS = 4
LEAST_GAIN = 0.005
ONE_PROBE_LEAD = 0.06  # shuffled columns alone order scores of tables badly: below it, winners lost on real anomalies
Value = Callable[[int], float]  # the objective under one seed
_Reached = tuple[float, float]


@dataclass(frozen=True)
class Chosen:
    """A column: its member candidates, and the objective it reached, mean and spread over seeds.

    `considered` are those that were not preferred because the difference lies inside the spread of the seeds.
    """

    members: tuple[str, ...]
    value: float
    spread: float
    considered: tuple[str, ...] = ()


def choose_errors(measured: Measured) -> Chosen | None:
    """The score that ranks wrong answers highest; None when the selection set has too few errors to say."""
    if "errors" not in measured.kinds or not measured.candidates:
        return None
    names = [c.name for c in measured.candidates]
    return _best(names, lambda n: lambda seed: _mean(measured.of("errors", seed), [n]), measured.seeds)


def choose_novelty(measured: Measured) -> Chosen:
    """Members for a fusion, grown one by one while the ranking of novel rows gets better by more than the seeds' spread.

    The objective is minus the regret, the mean and the worst over the kinds of novel rows (between, near, far) of how far
    the fusion stays behind the best single candidate of each axis. A set that ranks a kind of axis below chance, errors
    among them, is never preferred to one that does not: a score that cannot see wrong answers at all was seen to miss
    real near-novel classes too.
    Raises: ValueError when there is no axis, or no candidate.
    """
    kinds = measured.kinds
    if not set(kinds) - {"errors"} or not measured.candidates:
        reasons = "; ".join(f"{n}: {why}" for n, why in measured.refused.items())
        raise ValueError(f"--auto: nothing to choose novelty scores by; expected signals logits or features. {reasons}")

    names = [c.name for c in measured.candidates]
    best = {(j.axis, j.seed): max(j.auroc(n) for n in names) for j in measured.judged}

    def objective(members: Sequence[str]) -> Value:
        return lambda seed: _objective({k: _reached(measured.of(k, seed), members, best) for k in kinds})

    lead = ONE_PROBE_LEAD if len(kinds) == 1 else 0.0
    chosen = _best(names, lambda n: objective([n]), measured.seeds, lead)
    while len(chosen.members) < MOST_MEMBERS:
        rest = [n for n in names if n not in chosen.members]
        if not rest:
            break
        grown = _best(rest, lambda n: objective([*chosen.members, n]), measured.seeds)  # noqa: B023 - used at once
        gains = _over(objective([*chosen.members, *grown.members]), measured.seeds) - _over(
            objective(chosen.members), measured.seeds
        )
        if gains.mean() <= max(LEAST_GAIN, lead, gains.std()):
            break
        chosen = Chosen((*chosen.members, *grown.members), grown.value, grown.spread, grown.considered)
    return chosen


def fused(judged: Judged, members: Sequence[str]) -> float:
    """AUROC of Fisher's fusion of the members' p-values, each against the ordinary rows of the axis."""
    if len(members) == 1:
        return judged.auroc(members[0])
    tables = {m: np.sort(judged.ordinary[m]) for m in members}

    def evidence(scores: dict[str, Array]) -> NDArray[np.float32]:
        total = sum(-np.log(_p(tables[m], scores[m])) for m in members)
        return np.asarray(total, np.float32)

    return ranked(evidence(judged.ordinary), evidence(judged.strange))


def _p(table: Array, scores: Array) -> NDArray[np.float64]:
    at_least = len(table) - np.searchsorted(table, scores, side="left")
    return (1 + at_least) / (len(table) + 1)


def _reached(judged: Sequence[Judged], members: Sequence[str], best: Mapping[tuple[str, int], float]) -> _Reached:
    """Mean AUROC and mean regret over the axes of one kind."""
    values = [fused(j, members) for j in judged]
    regrets = [best[j.axis, j.seed] - v for j, v in zip(judged, values, strict=True)]
    return float(np.mean(values)), float(np.mean(regrets))


def _objective(by_kind: Mapping[Kind, _Reached]) -> float:
    regrets = [regret for kind, (_, regret) in by_kind.items() if kind != "errors"]
    return -(float(np.mean(regrets)) + max(regrets)) / 2 - sum(value < 0.5 for value, _ in by_kind.values())


def _best(names: Sequence[str], objective: Callable[[str], Value], seeds: Sequence[int], lead: float = 0.0) -> Chosen:
    """The first name, simplest first, that no other beats by more than the spread of their difference over the seeds, and
    by more than `lead`.
    """
    values = {n: _over(objective(n), seeds) for n in names}
    top = max(names, key=lambda n: float(values[n].mean()))
    inside = [n for n in names if _within(values[top] - values[n], lead)]
    first = inside[0]
    mean, spread = float(values[first].mean()), float(values[first].std())
    return Chosen((first,), mean, spread, tuple(n for n in inside if n != first))


def _within(differences: NDArray[np.float64], lead: float) -> bool:
    return bool(differences.mean() <= max(lead, float(differences.std())))


def _over(value: Value, seeds: Sequence[int]) -> NDArray[np.float64]:
    return np.array([value(seed) for seed in seeds])


def _mean(judged: Sequence[Judged], members: Sequence[str]) -> float:
    return float(np.mean([fused(j, members) for j in judged]))
