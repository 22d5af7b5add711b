"""What `fit --auto` chooses, judged on axes it never saw: `python -m tests.benchmarks.auto [--quick]`."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from demur.detectors.build import build_score
from demur.detectors.evaluate import evaluate
from demur.detectors.score import Reference, Score
from demur.monitor.auto.candidates import Candidate
from demur.monitor.auto.measure import ranked
from demur.monitor.auto.selection import Selection, select
from tests.benchmarks.sources import Task, tasks

SEEDS = (0, 1)
NAIVE = {
    "always msp": "msp",
    "always energy": "energy",
    "always mahalanobis": "mahalanobis",
    "always knn, k 1": "knn_1",
    "always knn, k 10": "knn_10",
}
FEWEST_STRANGE = 10
MEAN_TARGET, WORST_TARGET = 4.0, 8.0


@dataclass(frozen=True)
class Judgement:
    """One axis under one seed: AUROC of every candidate and of the column that --auto would ask."""

    task: str
    family: str
    axis: str
    seed: int
    members: tuple[str, ...]
    auto: float
    single: Mapping[str, float] = field(default_factory=dict)

    @property
    def oracle(self) -> str:
        return max(self.single, key=self.single.__getitem__)

    def regret(self, name: str | None = None) -> float:
        """Points behind the best candidate of this axis: of one candidate, or of the choice. NaN where it cannot be had."""
        reached = self.auto if name is None else self.single.get(name, float("nan"))
        return 100 * (self.single[self.oracle] - reached)


def scored(score: Score, signals: Mapping[str, np.ndarray], step: int = 1024) -> np.ndarray:
    """Scores of all rows, batch by batch; what is not finite is refused, so it ranks last."""
    rows = len(next(iter(signals.values())))
    parts = [
        evaluate({"s": score}, {n: a[i : i + step] for n, a in signals.items()})["s"] for i in range(0, rows, step)
    ]
    return np.nan_to_num(np.concatenate(parts), nan=np.inf, posinf=np.inf)


def built(found: Iterable[Candidate], reference: Reference) -> dict[str, Score]:
    """The candidates that can be fitted on the whole reference."""
    scores = {}
    for candidate in found:
        try:
            scores[candidate.name] = build_score(candidate.type, candidate.hyper, reference)
        except ValueError:
            continue
    return scores


def judge(task: Task, seed: int) -> tuple[Selection, list[Judgement]]:
    """Choose, refit every candidate on the whole reference, and rank the test axes.

    A fusion's p-values come from the selection rows, which played no part in the test.
    """
    chosen = select(task.reference, task.selection, seed=seed)
    scores = built(chosen.measured.candidates, task.reference)
    tables = {n: np.sort(scored(s, task.selection.signals)) for n, s in scores.items()}
    judgements = []
    for axis, (ordinary, strange) in task.axes.items():
        if len(next(iter(strange.values()))) < FEWEST_STRANGE:
            continue
        seen = {n: (scored(s, ordinary), scored(s, strange)) for n, s in scores.items()}
        column = chosen.errors if axis == "errors" and chosen.errors is not None else chosen.novelty
        reached = fisher(column.members, seen, tables)
        single = {n: ranked(*pair) for n, pair in seen.items()}
        judgements.append(Judgement(task.name, task.family, axis, seed, column.members, reached, single))
    return chosen, judgements


def fisher(members: tuple[str, ...], seen: Mapping[str, tuple], tables: Mapping[str, np.ndarray]) -> float:
    """AUROC of the column, by Fisher's fusion when it has more than one member."""
    if len(members) == 1:
        return ranked(*seen[members[0]])
    sides = []
    for side in (0, 1):
        p = [
            (1 + len(tables[m]) - np.searchsorted(tables[m], seen[m][side], "left")) / (len(tables[m]) + 1)
            for m in members
        ]
        sides.append(-np.log(p).sum(axis=0).astype(np.float32))
    return ranked(*sides)


def run(quick: bool = False, seeds: Iterable[int] = SEEDS) -> list[Judgement]:
    """Every task over the seeds; progress goes to stderr."""
    found = []
    for seed in seeds if not quick else (0,):
        for task in tasks(seed, quick):
            began = time.perf_counter()
            chosen, judgements = judge(task, seed)
            found += judgements
            errors = "-" if chosen.errors is None else ", ".join(chosen.errors.members)
            regrets = " ".join(f"{j.axis} {j.regret():.1f}" for j in judgements)
            sys.stderr.write(
                f"{task.name} seed {seed}: {time.perf_counter() - began:.0f} s; novelty {', '.join(chosen.novelty.members)};"
                f" errors {errors}; regret {regrets}\n"
            )
    return found


def by_axis(found: Iterable[Judgement]) -> dict[tuple[str, str], list[Judgement]]:
    """Judgements of each task's axis, over the seeds."""
    groups = defaultdict(list)
    for judgement in found:
        groups[judgement.task, judgement.axis].append(judgement)
    return dict(groups)


def mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def detail(found: Iterable[Judgement]) -> list[tuple]:
    """A row for each axis: reached, oracle, regret, the naive choices."""
    rows = []
    for (task, axis), group in by_axis(found).items():
        members = list(dict.fromkeys(" + ".join(j.members) for j in group))
        mean_of = {n: mean(j.single.get(n, np.nan) for j in group) for n in group[0].single}
        best = max(mean_of, key=mean_of.__getitem__)
        rows.append(
            (
                task,
                axis,
                "; ".join(members),
                number(mean(j.auto for j in group)),
                f"{number(mean_of[best])} {best}",
                f"{mean(j.regret() for j in group):.1f}",
                f"{max(j.regret() for j in group):.1f}",
                *(number(mean_of.get(n, np.nan)) for n in NAIVE.values()),
            )
        )
    return rows


DETAIL_HEADS = ("set", "axis", "chosen", "auto", "oracle", "regret", "worst seed", *NAIVE)
SUMMARY_HEADS = (
    "choice",
    "axes it can judge",
    "mean regret",
    "--auto on those",
    "worst regret",
    "of the axis",
    "axes below chance",
)


def summary(found: list[Judgement]) -> list[tuple]:
    """A row for --auto and for each naive choice: mean and worst regret over axes (each averaged over seeds)."""
    rows = []
    for label, name in (("--auto", None), *NAIVE.items()):
        regrets, chance = {}, 0
        for key, group in by_axis(found).items():
            value = mean(j.regret(name) for j in group)
            if np.isfinite(value):
                regrets[key] = value
                chance += mean(j.auto if name is None else j.single[name] for j in group) < 0.5
        worst = max(regrets, key=regrets.__getitem__)
        auto = mean(mean(j.regret() for j in by_axis(found)[key]) for key in regrets)
        rows.append(
            (
                label,
                len(regrets),
                f"{mean(regrets.values()):.1f}",
                f"{auto:.1f}",
                f"{regrets[worst]:.1f}",
                " ".join(worst),
                chance,
            )
        )
    return rows


FAMILY_HEADS = ("family", "axes", "mean regret", "worst regret", "of the axis")


def families(found: list[Judgement]) -> list[tuple]:
    """A row for each family of sets, and one for the mean of the families: many small sets do not outweigh the rest."""
    rows, means = [], []
    for family in dict.fromkeys(j.family for j in found):
        regrets = {k: mean(j.regret() for j in g) for k, g in by_axis(found).items() if g[0].family == family}
        worst = max(regrets, key=regrets.__getitem__)
        means.append(mean(regrets.values()))
        rows.append((family, len(regrets), f"{means[-1]:.1f}", f"{regrets[worst]:.1f}", " ".join(worst)))
    return [*rows, ("mean of the families", "", f"{mean(means):.1f}", "", "")]


def targets(found: list[Judgement]) -> str:
    """Whether the targets were met, and on which axes not, in words."""
    means = {" ".join(k): mean(j.regret() for j in g) for k, g in by_axis(found).items()}
    low = {" ".join(k): g for k, g in by_axis(found).items() if mean(j.auto for j in g) < 0.5}
    over = [f"{n} ({v:.1f})" for n, v in means.items() if v > WORST_TARGET]
    lost = [
        f"{n} (the best single candidate there: {mean(max(j.single.values()) for j in g):.3f})" for n, g in low.items()
    ]
    total = mean(means.values())
    parts = (
        f"Mean regret {total:.1f}: the target of {MEAN_TARGET:g} is {'met' if total <= MEAN_TARGET else 'missed'}.",
        f"The target of at most {WORST_TARGET:g} is {'missed on ' + ', '.join(over) if over else 'met on every axis'}.",
        f"Below chance: {', '.join(lost) or 'nowhere'}.",
    )
    return " ".join(parts)


def number(value: float) -> str:
    return "–" if not np.isfinite(value) else f"{value:.3f}"


def main() -> None:
    found = run(quick="--quick" in sys.argv)
    for heads, rows in (
        (DETAIL_HEADS, detail(found)),
        (FAMILY_HEADS, families(found)),
        (SUMMARY_HEADS, summary(found)),
    ):
        lines = [heads, *rows]
        widths = [max(len(str(line[i])) for line in lines) for i in range(len(heads))]
        print(
            "\n".join("  ".join(str(c).ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines),
            end="\n\n",
        )


if __name__ == "__main__":
    main()
