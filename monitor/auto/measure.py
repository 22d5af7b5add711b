"""How well each candidate ranks the strange rows of each axis, over several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from demur.detectors.build import build_score
from demur.detectors.evaluate import evaluate
from demur.detectors.numpy_ops import Array
from demur.detectors.score import Reference, Score
from demur.monitor.auto.axes import FOLDS, Axis, Kind, worlds
from demur.monitor.auto.candidates import Candidate
from demur.monitor.evaluate.counts import Counts
from demur.monitor.evaluate.roc import auroc
from demur.monitor.fit.progress import Tick, silent

REFERENCE_ROWS, SELECTION_ROWS = 10_000, 3_000
SEEDS = 3
BATCH_ROWS = 512  # some scores hold (batch, D, 50) numbers


@dataclass(frozen=True, eq=False)
class Judged:
    """One axis under one seed: the scores of every candidate on its rows, (ordinary,) and (strange,)."""

    axis: str
    kind: Kind
    seed: int
    ordinary: dict[str, Array]
    strange: dict[str, Array]

    def auroc(self, name: str) -> float:
        return ranked(self.ordinary[name], self.strange[name])


@dataclass(frozen=True, eq=False)
class Measured:
    """Everything that was seen; `refused` says why a candidate could not be fitted or scored."""

    candidates: tuple[Candidate, ...]
    judged: tuple[Judged, ...]
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of axes that the data could form."""
        return tuple(dict.fromkeys(j.kind for j in self.judged))

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(j.seed for j in self.judged))

    def of(self, kind: Kind, seed: int) -> list[Judged]:
        return [j for j in self.judged if j.kind == kind and j.seed == seed]


def ranked(ordinary: NDArray[np.float32], strange: NDArray[np.float32]) -> float:
    """AUROC of the strange rows above the ordinary ones, in [0, 1]."""
    bad = np.repeat([0, 1], [len(ordinary), len(strange)])
    return float(auroc(Counts.of(np.concatenate([ordinary, strange]), bad)))


def measure(
    found: Sequence[Candidate], reference: Reference, selection: Reference, seeds: Sequence[int], tick: Tick = silent
) -> Measured:
    """Fit every candidate in every world, on another sample of the rows for each seed, and score its axes.

    A candidate that cannot be fitted, or is not finite on ordinary rows, is left out everywhere, with the reason.
    """
    refused: dict[str, str] = {}
    judged: list[Judged] = []
    for turn, seed in enumerate(seeds, 1):
        rows, asked = _some(reference, REFERENCE_ROWS, seed), _some(selection, SELECTION_ROWS, seed)
        for number, world in enumerate(worlds(rows, asked, seed), 1):
            judged += _judge(found, world.reference, world.axes, seed, refused)
            tick(f"choosing, seed {turn} of {len(seeds)}", number * asked.rows, (1 + FOLDS) * asked.rows)
    kept = tuple(c for c in found if c.name not in refused)
    return Measured(kept, tuple(judged), refused)


def _some(reference: Reference, size: int, seed: int) -> Reference:
    """At most `size` rows, in memory; four fifths of them when there are fewer, so that seeds differ."""
    count = min(size, max(2, reference.rows * 4 // 5))
    rows = np.sort(np.random.default_rng(seed).choice(reference.rows, count, replace=False))
    signals = {n: np.ascontiguousarray(a[rows], np.float32) for n, a in reference.signals.items()}
    return replace(
        reference,
        signals=signals,
        labels=None if reference.labels is None else np.asarray(reference.labels)[rows],
        correct=None if reference.correct is None else reference.correct[rows],
        target=None if reference.target is None else reference.target[rows],
        engine=None,
    )


def _judge(
    found: Sequence[Candidate], reference: Reference, axes: Sequence[Axis], seed: int, refused: dict[str, str]
) -> list[Judged]:
    judged = [Judged(a.name, a.kind, seed, {}, {}) for a in axes]
    for candidate in found:
        if candidate.name in refused:
            continue
        try:
            score = build_score(candidate.type, candidate.hyper, reference)
            for axis, held in zip(axes, judged, strict=True):
                held.ordinary[candidate.name] = _finite(_scored(score, axis.ordinary, axis.name), axis.name)
                strange = _scored(score, axis.strange, axis.name)
                held.strange[candidate.name] = np.nan_to_num(strange, nan=np.inf, posinf=np.inf)  # INVALID is refused
        except ValueError as error:
            refused[candidate.name] = str(error)
    return judged


def _scored(score: Score, rows: dict[str, Array], axis: str) -> Array:
    missing = sorted(set(score.inputs) - set(rows))
    if missing:
        raise ValueError(f"the axis {axis!r} has no {', '.join(missing)}: no head to compute logits by")
    count = len(next(iter(rows.values())))
    parts = ({n: a[i : i + BATCH_ROWS] for n, a in rows.items()} for i in range(0, count, BATCH_ROWS))
    return np.concatenate([evaluate({"s": score}, part)["s"] for part in parts])


def _finite(scores: Array, axis: str) -> Array:
    broken = int((~np.isfinite(scores)).sum())
    if broken:
        raise ValueError(f"not finite on {broken} ordinary rows of {axis!r}")
    return scores
