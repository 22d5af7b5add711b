"""Scores beside their oracles, many at once: a case names the score's entry, its oracle and the rounding allowed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest

from demur.detectors.build import build_score
from demur.detectors.score import Score
from tests.backends import RTOL, Scored, assert_close, on_both, reference, signals
from tests.oracles.sample import Float
from tests.oracles.worlds import WORLDS, World, world

ROUNDING = 2.0**-24  # of a float32
LEAST_NORMAL = 2.0**-126  # below it a float32 loses digits, and some processors all of them
Seeded = tuple[str, int]
EVERYWHERE = tuple(WORLDS)
DRAWN_TWICE = ("tall", "rank_deficient")


def nothing(*_: Any) -> float:
    return 0.0


@dataclass(frozen=True)
class Case:
    """entry: as in a configuration; want(world, fitted score) -> (N,); rounding(world, want): what is allowed beside
    2e-5 of the value; refused: worlds that the fit must refuse, with words of the refusal; worlds: where it is judged."""

    entry: Mapping[str, Any] | str
    want: Callable[[World, Any], Float]
    rounding: Callable[[World, Float], Float | float] = nothing
    refused: Mapping[str, str] = field(default_factory=dict)
    worlds: tuple[str, ...] = EVERYWHERE

    @property
    def kind(self) -> str:
        return self.entry if isinstance(self.entry, str) else next(iter(self.entry))


@functools.cache
def fitted(module: ModuleType, where: Seeded) -> tuple[dict[str, Score], dict[str, ValueError], list[Scored]]:
    """The scores of a module's CASES in one world: those that fit, the refusals of the others, and both backends' numbers."""
    w, scores, refusals = world(*where), {}, {}
    for name, case in module.CASES.items():
        if where[0] in case.worlds:
            try:
                scores[name] = build_score(case.entry, None, reference(w))
            except ValueError as refusal:
                refusals[name] = refusal
    return scores, refusals, on_both(scores, signals(w))


def judge(module: ModuleType, name: str, where: Seeded) -> None:
    """One case in one world: refused as it says, or equal to its oracle in NumPy and in ONNX Runtime."""
    case: Case = module.CASES[name]
    scores, refusals, numbers = fitted(module, where)
    if where[0] in case.refused:
        assert name in refusals, f"expected a refusal: {case.refused[where[0]]}"
        assert case.refused[where[0]] in str(refusals[name])
        return
    if name in refusals:
        raise refusals[name]
    w = world(*where)
    want = case.want(w, scores[name])
    for got in numbers:
        assert_close(got[name], want, RTOL * abs(want) + LEAST_NORMAL + case.rounding(w, want))


def runs(cases: Mapping[str, Case]) -> list[Any]:
    """Every case in each of its worlds, drawn twice where draws differ most."""
    return [
        pytest.param(name, (where, seed), id=f"{name}-{where}-{seed}")
        for name, case in cases.items()
        for where in case.worlds
        for seed in ((0, 1) if where in DRAWN_TWICE else (0,))
    ]
