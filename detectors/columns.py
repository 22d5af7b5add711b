"""The columns of a policy, traced: poisoned scores and p-values of every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from demur.detectors.evaluate import poison
from demur.detectors.lift import lift
from demur.detectors.onnx_ops import OnnxOps
from demur.detectors.policy import Column, Rule
from demur.detectors.pvalue import count_in_graph, lay_out
from demur.detectors.score import Score, absent
from demur.detectors.tape import Sym
from demur.detectors.tensor import Signal, derived


def needs_prediction(columns: Sequence[Column], rules: Sequence[Rule]) -> set[str]:
    """Names of the columns whose table or threshold depends on the predicted class, the argmax of the logits."""
    return {c.name for c in columns if c.sliced} | {r.column for r in rules if len(r.threshold) > 1}


def read_by(column: Column, score: Score, sliced: set[str]) -> tuple[Signal, ...]:
    """What must be finite for the column to have a value: what the score reads, and the logits of a sliced column."""
    extra = ("logits",) if column.name in sliced and "logits" not in score.inputs else ()
    return (*score.inputs, *extra)


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

    `predicted` is the (N,) int64 class when something is sliced by it.
    """

    xp: OnnxOps
    held: Mapping[str, Score]
    columns: Sequence[Column]
    signals: dict[Signal, Sym]
    classes: int
    sliced: set[str]
    _values: dict[str, Sym] = field(default_factory=dict)

    @property
    def row_columns(self) -> list[Column]:
        return [c for c in self.columns if c.unit == "row"]

    @property
    def group_columns(self) -> list[Column]:
        return [c for c in self.columns if c.unit == "group"]

    @property
    def predicted(self) -> Sym | None:
        if not self.sliced:
            return None
        return self.xp.node("ArgMax", self.signals["logits"], width=0, axis=-1, keepdims=0)

    def score_rows(self) -> Sym:
        """(N, S): the scores of columns that need no p-values, NaN where a row they read is not finite."""
        raw, poison_of_each = self._poisoned(self.row_columns)
        return raw + poison_of_each

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
            p = count_in_graph(self.xp, matrix, zero, tables, name, self.predicted)
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
        raw, poison_of_each = self._poisoned(columns)
        zero = raw * 0.0 + poison_of_each
        return raw + zero, zero

    def _poisoned(self, columns: Sequence[Column]) -> tuple[Sym, Sym]:
        """Scores side by side, and their poison: (N, S) each, or (N, 1) for columns that read the same signals."""
        values = [self._value(c.score) for c in columns]
        reads = [(read_by(c, self.held[c.score], self.sliced), absent(self.held[c.score])) for c in columns]
        self.xp.scope = "poison"
        poisons = [poison(self.xp, self.signals, *r) for r in dict.fromkeys(reads)]
        if len(poisons) > 1:
            poisons = [self.xp.concat([poison(self.xp, self.signals, *r) for r in reads])]
        return self.xp.concat(values), poisons[0]

    def _value(self, name: str) -> Sym:
        if name not in self._values:
            self.xp.scope = name
            self._values[name] = lift(self.held[name], name, self.xp)(self.xp, self.signals)
        return self._values[name]
