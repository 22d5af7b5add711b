"""The ground truths, side by side: which units count as bad, and which as good, under each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from demur.monitor.evaluate.pool import ALL, ID, Atom, Part, Pool

Truth = Literal["errors", "ood", "oms", "right_vs_ood", "wrong_vs_ood"]
Choose = Callable[[Atom], bool | None]  # bad, good, or (None) not part of the question

MEANING: dict[str, str] = {
    "errors": "the model was wrong, among the units of one labelled set",
    "ood": "the input is not from the in-distribution test set",
    "oms": "the model was wrong, all novel inputs included (out of model scope)",
    "right_vs_ood": "novel, against in-distribution units answered right",
    "wrong_vs_ood": "novel, against in-distribution units answered wrong",
}


@dataclass(frozen=True)
class Question:
    """One truth on one pool: the in-distribution set with `against` (a set's name, or `all` of them).

    For `errors`, `against` is the one set that is looked at. bad, good: the atoms by their place in `Pool.atoms`.
    """

    truth: Truth
    against: str
    bad: tuple[int, ...]
    good: tuple[int, ...]

    @property
    def by_mistakes(self) -> bool:
        """Whether bad means that the model was wrong: selective risk is then defined."""
        return self.truth in ("errors", "oms")


def questions(pool: Pool) -> list[Question]:
    """Every question that the labels and sets allow; those without good or without bad units are left out."""
    found = [_question(pool, truth, name, choose) for truth, name, choose in _asked(pool)]
    sizes = [int(((pool.atom == i) & pool.usable).sum()) for i in range(len(pool.atoms))]
    return [q for q in found if all(any(sizes[i] for i in side) for side in (q.bad, q.good))]


def _asked(pool: Pool) -> Iterator[tuple[Truth, str, Choose]]:
    for part in pool.parts:
        if part.kind != "novel":
            yield "errors", part.name, _errors(part)
    for parts in _pools(pool):
        novel = [p for p in parts if p.kind == "novel"]
        name = parts[0].name if len(parts) == 1 else ALL
        yield "ood", name, _ood(parts)
        if any(pool.tables[p].loss is None for p in parts):  # of graded losses nobody knows what is wrong
            yield "oms", name, _oms(parts)
        if novel:
            yield "right_vs_ood", name, _split(novel, wrong=False)
            yield "wrong_vs_ood", name, _split(novel, wrong=True)


def _pools(pool: Pool) -> list[tuple[Part, ...]]:
    """Each set by itself, then all together when there are several."""
    alone = [(part,) for part in pool.others]
    return [*alone, pool.others] if len(alone) > 1 else list(alone)


def _errors(part: Part) -> Choose:
    return lambda atom: atom.wrong if atom.part == part else None


def _ood(parts: tuple[Part, ...]) -> Choose:
    return lambda atom: False if atom.part.name == ID else True if atom.part in parts else None


def _oms(parts: tuple[Part, ...]) -> Choose:
    return lambda atom: atom.wrong if atom.part.name == ID or atom.part in parts else None


def _split(novel: list[Part], *, wrong: bool) -> Choose:
    def choose(atom: Atom) -> bool | None:
        if atom.part in novel:
            return True
        return False if atom.part.name == ID and atom.wrong is wrong else None

    return choose


def _question(pool: Pool, truth: Truth, name: str, choose: Choose) -> Question:
    chosen = [choose(atom) for atom in pool.atoms]
    sides = [tuple(i for i, side in enumerate(chosen) if side is wanted) for wanted in (True, False)]
    return Question(truth, name, *sides)
