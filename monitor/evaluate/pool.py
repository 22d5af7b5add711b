"""All judged units of one evaluation, cut into atoms: the parts that every question is a union of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from demur.monitor.evaluate.errors import EvaluationError
from demur.monitor.evaluate.judged import Judged, Unit

Kind = Literal["id", "novel", "shifted"]
ID, ALL = "id", "all"
LONGEST_NAME = 100


@dataclass(frozen=True)
class Part:
    """One table of the evaluation: the in-distribution test set, a novelty set, or a covariate-shifted one."""

    name: str
    kind: Kind
    severity: float | None = None


@dataclass(frozen=True)
class Atom:
    """Units of one table with one truth: the model was wrong on them, was right, or (None) nobody knows."""

    part: Part
    wrong: bool | None

    @property
    def cause(self) -> str:
        """ID+, ID-, C+, C- or S as MS-OOD names them; ID or C where there are no labels."""
        if self.part.kind == "novel":
            return "S"
        letter = "ID" if self.part.kind == "id" else "C"
        return letter if self.wrong is None else letter + ("-" if self.wrong else "+")


@dataclass(frozen=True, eq=False)
class Pool:
    """The judged tables in order, the in-distribution one first; N units in all, those of one table side by side."""

    columns: tuple[str, ...]
    unit: Unit
    tables: Mapping[Part, Judged]

    @property
    def parts(self) -> tuple[Part, ...]:
        return tuple(self.tables)

    @property
    def others(self) -> tuple[Part, ...]:
        """Every table but the in-distribution one."""
        return self.parts[1:]

    @property
    def id(self) -> Judged:
        """The in-distribution test set."""
        return self.tables[self.parts[0]]

    @cached_property
    def atoms(self) -> tuple[Atom, ...]:
        """Every atom, those without units included."""
        found: list[Atom] = []
        for part, judged in self.tables.items():
            if part.kind == "novel":
                found.append(Atom(part, wrong=True))
            elif judged.wrong is None:
                found.append(Atom(part, None))
            else:
                found += [Atom(part, wrong=False), Atom(part, wrong=True)]
        return tuple(found)

    @cached_property
    def atom(self) -> NDArray[np.int64]:
        """(N,) which atom each unit belongs to."""
        place = {atom: i for i, atom in enumerate(self.atoms)}
        whole = []
        for part, judged in self.tables.items():
            wrong = None if part.kind == "novel" else judged.wrong
            if wrong is None:
                known = None if part.kind != "novel" else True
                whole.append(np.full(len(judged), place[Atom(part, known)], np.int64))
            else:
                whole.append(place[Atom(part, wrong=False)] + wrong.astype(np.int64))
        return np.concatenate(whole)

    @cached_property
    def usable(self) -> NDArray[np.bool_]:
        """(N,) units with scores: neither INVALID nor UNAVAILABLE."""
        return ~np.concatenate([judged.broken for judged in self.tables.values()])

    @cached_property
    def table(self) -> NDArray[np.int64]:
        """(N,) which table each unit is of."""
        return np.repeat(np.arange(len(self.tables)), [len(judged) for judged in self.tables.values()])

    @cached_property
    def accept(self) -> NDArray[np.bool_]:
        """(N,) the policy's decisions."""
        return np.concatenate([judged.accept for judged in self.tables.values()])

    @cached_property
    def cluster(self) -> NDArray[np.int64] | None:
        """(N,) distinct over tables, None when every unit stands alone."""
        if all(judged.cluster is None for judged in self.tables.values()):
            return None
        parts, start = [], 0
        for judged in self.tables.values():
            ids = np.arange(len(judged)) if judged.cluster is None else judged.cluster
            parts.append(ids + start)
            start += int(ids.max()) + 1
        return np.concatenate(parts)

    @cached_property
    def severity(self) -> NDArray[np.float64]:
        """(N,) how badly each input was spoilt: as given for its table, else by its own column, else 0 for the
        in-distribution set and NaN (unknown) for any other.
        """
        whole = []
        for part, judged in self.tables.items():
            if part.severity is None and judged.severity is not None:
                whole.append(judged.severity.astype(np.float64))
            else:
                default = 0.0 if part.kind == "id" else np.nan
                whole.append(np.full(len(judged), default if part.severity is None else part.severity))
        return np.concatenate(whole)

    def scores(self, column: int) -> NDArray[np.float64]:
        """(usable units,) one score column. Raises: EvaluationError for NaN, which a usable unit never has."""
        values = np.concatenate([judged.scores[:, column] for judged in self.tables.values()])[self.usable]
        if np.isnan(values).any():
            raise EvaluationError(
                f"{self.columns[column]}: {int(np.isnan(values).sum())} units have no score, yet no INVALID reason; "
                "the bundle's graph launders NaN: build it again"
            )
        return values.astype(np.float64)


def check_names(ood: Sequence[str], shifted: Sequence[str], severity: Mapping[str, float]) -> None:
    """Raises: EvaluationError for names that are taken, given twice, or unprintable, and severities of unknown tables."""
    names = [*ood, *shifted]
    for name in names:
        if not (name and name.isprintable() and name == name.strip() and len(name) <= LONGEST_NAME):
            raise EvaluationError(
                f"set name: expected up to {LONGEST_NAME} printable characters without spaces around, got {name!r}"
            )
        if name in (ID, ALL) or names.count(name) > 1:
            raise EvaluationError(
                f"set name {name!r}: expected a name of its own, other than {ID} and {ALL}; rename one of the tables"
            )
    for name, value in severity.items():
        if name not in (*names, ID) or not np.isfinite(value):
            raise EvaluationError(
                f"severity of {name!r}: expected a finite number for one of {', '.join([ID, *names])}, got {value}"
            )
