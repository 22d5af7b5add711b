"""The columns of a policy, traced: poisoned scores and p-values of every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx_ir as ir

from demur.detectors.evaluate import poison
from demur.detectors.lift import lift
from demur.detectors.onnx_ops import OnnxOps
from demur.detectors.policy import BY_CLASS, Column, Rule, Slicing
from demur.detectors.pvalue import count_in_graph, lay_out
from demur.detectors.score import Score, absent, carried
from demur.detectors.tape import Sym
from demur.detectors.tensor import Signal, derived

INT64 = int(ir.DataType.INT64)


def slicings(columns: Sequence[Column], rules: Sequence[Rule]) -> dict[str, Slicing]:
    """What slices each column whose table or threshold depends on the slice, by name."""
    found = {c.name: c.slicing for c in columns if c.slicing is not None}
    return {r.column: BY_CLASS for r in rules if len(r.threshold) > 1} | found


def read_by(column: Column, score: Score, sliced: Mapping[str, Slicing]) -> tuple[Signal, ...]:
    """What must be finite for the column to have a value: what the score reads, and what tells the slice."""
    by = sliced.get(column.name)
    return score.inputs if by is None or by.signal in score.inputs else (*score.inputs, by.signal)


def levels(scores: Mapping[str, Score], columns: Sequence[Column]) -> list[list[Column]]:
    """Row columns in the order they can be computed: a score that reads others' comes after them.

    Raises: ValueError when a fused score reads an unknown or uncalibrated column, or itself.
    """
    rows = {c.name: c for c in columns if c.unit == "row"}
    for column in columns:
        for member in members(scores[column.score]):
            if member not in rows or not rows[member].calibration:
                raise ValueError(
                    f"column {column.name!r} reads the p-value of {member!r}, which is no calibrated column"
                )
        unknown = sorted(set(sources(scores[column.score])) - set(rows))
        if unknown:
            raise ValueError(f"column {column.name!r} reads the scores of {unknown}, which are no columns of rows")
    ordered: list[list[Column]] = []
    placed: set[str] = set()
    while len(placed) < len(rows):
        ready = [c for c in rows.values() if c.name not in placed and set(sources(scores[c.score])) <= placed]
        if not ready:
            raise ValueError(f"columns {sorted(set(rows) - placed)} read each other in a circle")
        ordered.append(ready)
        placed |= {c.name for c in ready}
    return ordered


def members(score: Score) -> list[str]:
    """Columns whose p-values it reads."""
    return [s.removeprefix("p:") for s in score.inputs if s.startswith("p:")]


def sources(score: Score) -> list[str]:
    """Columns whose p-values or scores it reads."""
    return [s[2:] for s in score.inputs if derived(s)]


@dataclass(eq=False)
class RowColumns:
    """Every row's numbers on the tape: `scores`, `p_values` (N, S) of the row columns, `grouped` (N, Sg) of the others.

    `sliced` says what slices a column, by name; `places` is the slice of each row, (N,) int64, by each way of slicing, told from
    the signals as they were `given`.
    """

    xp: OnnxOps
    held: Mapping[str, Score]
    columns: Sequence[Column]
    signals: dict[Signal, Sym]
    classes: int
    sliced: Mapping[str, Slicing]
    given: Mapping[Signal, Sym]
    _values: dict[str, Sym] = field(default_factory=dict)

    @property
    def row_columns(self) -> list[Column]:
        return [c for c in self.columns if c.unit == "row"]

    @property
    def group_columns(self) -> list[Column]:
        return [c for c in self.columns if c.unit == "group"]

    @cached_property
    def places(self) -> dict[Slicing, Sym]:
        return {by: self._place(by) for by in dict.fromkeys(self.sliced.values())}

    def _place(self, by: Slicing) -> Sym:
        if not by.codes:
            return self.xp.argmax(self.given[by.signal])
        name, known = f"slices.{by.signal}", len(by.codes)
        codes = self.xp.constant(f"{name}.codes", np.array(by.codes, np.float32))
        found = self.xp.node("Cast", self.xp.node("Equal", self.given[by.signal], codes, width=known), to=INT64)
        back = self.xp.constant(f"{name}.back", np.arange(known, dtype=np.int64) - known)  # none found: known itself
        total = self.xp.node("ReduceSum", found * back, self.xp.integers(-1), width=0, keepdims=0)
        return self.xp.node("Add", total, self.xp.constant(f"{name}.other", np.int64(known)), width=0)

    def unknown(self) -> list[Sym]:
        """(N, 1) bool for every closed way of slicing: the row's value is finite and none of the known codes."""
        found = []
        for by, place in self.places.items():
            if by.closed:
                last = self.xp.constant(f"slices.{by.signal}.other", np.int64(len(by.codes)))
                other = self.xp.node(
                    "Unsqueeze", self.xp.node("Equal", place, last, width=0), self.xp.integers(-1), width=1
                )
                value = self.given[by.signal]
                broken = self.xp.node("Or", self.xp.node("IsNaN", value), self.xp.node("IsInf", value))
                found.append(self.xp.node("And", other, self.xp.node("Not", broken), width=1))
        return found

    def score_rows(self) -> Sym:
        """(N, S): the scores of columns that need no p-values, NaN where a row they read is not finite."""
        raw, poisons = self._poisoned(self.row_columns)
        return raw if poisons is None else raw + poisons

    def assess_rows(self) -> tuple[Sym, Sym]:
        """Scores and p-values (N, S) of the row columns, in their order."""
        order: list[Column] = []
        scores: list[Sym] = []
        p_values: list[Sym] = []
        for level, columns in enumerate(levels(self.held, self.columns)):
            matrix, zero = self._stack(columns)
            self.xp.scope = "calibration"
            tables = lay_out(columns, self.classes)
            name = "calibration" if level == 0 else f"calibration.level{level}"
            p = count_in_graph(self.xp, matrix, zero, tables, name, self.places)
            order, scores, p_values = [*order, *columns], [*scores, matrix], [*p_values, p]
            self._publish("p:", columns, p)
            self._publish("s:", columns, matrix)
        return self._in_order(order, scores), self._in_order(order, p_values)

    def grouped(self) -> Sym:
        """(N, Sg): the row scores that group columns aggregate."""
        return self._stack(self.group_columns)[0]

    def _publish(self, kind: str, columns: list[Column], values: Sym) -> None:
        """Numbers (N, S) of these columns as signals, where some score reads one of them."""
        names = [f"{kind}{c.name}" for c in columns]
        if not {s for c in self.columns for s in self.held[c.score].inputs} & set(names):
            return
        parts = (
            [values]
            if len(columns) == 1
            else self.xp.nodes_out("Split", len(columns), values, width=0, axis=1, num_outputs=len(columns))
        )
        self.signals |= {name: Sym(v.value, self.xp, 0) for name, v in zip(names, parts, strict=True)}

    def _in_order(self, order: list[Column], parts: list[Sym]) -> Sym:
        names = [c.name for c in order]
        places = [names.index(c.name) for c in self.row_columns]
        if not parts:
            return self.xp.node("Gather", self.grouped(), self.xp.integers(), width=0, axis=1)
        joined = self.xp.concat(parts)
        if places == list(range(len(places))):
            return joined
        return self.xp.node("Gather", joined, self.xp.integers(*places), width=len(places), axis=1)

    def _stack(self, columns: Sequence[Column]) -> tuple[Sym, Sym]:
        """Scores side by side, NaN where they or what they read are not finite; and what made them so, 0 elsewhere."""
        raw, poisons = self._poisoned(columns)
        zero = raw * 0.0 if poisons is None else raw * 0.0 + poisons
        return raw + zero, zero

    def _poisoned(self, columns: Sequence[Column]) -> tuple[Sym, Sym | None]:
        """Scores side by side, and their poison: (N, S); (N, 1) for columns that read the same signals; None for scores that
        need none.
        """
        values = [self._value(c.score) for c in columns]
        reads = self._reads(columns)
        self.xp.scope = "poison"
        if not any(reads):
            return self.xp.concat(values), None
        each = [
            poison(self.xp, self.signals, read, absent(self.held[c.score])) if read else value * 0.0
            for c, read, value in zip(columns, reads, values, strict=True)
        ]
        same = len({id(p.value) for p in each}) == 1
        return self.xp.concat(values), each[0] if same else self.xp.concat(each)

    def _reads(self, columns: Sequence[Column]) -> list[tuple[Signal, ...]]:
        """What each column is poisoned with: what it reads, less signals that every column here carries by itself."""
        every = [read_by(c, self.held[c.score], self.sliced) for c in columns]
        needed = {
            s for c, read in zip(columns, every, strict=True) for s in read if s not in carried(self.held[c.score])
        }
        return [tuple(s for s in read if s in needed) for read in every]

    def _value(self, name: str) -> Sym:
        if name not in self._values:
            self.xp.scope = name
            self._values[name] = lift(self.held[name], name, self.xp)(self.xp, self.signals)
        return self._values[name]
