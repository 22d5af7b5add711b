"""The contracts: what a score is, what it is fitted on, how its fit scales."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from demur.detectors.numpy_ops import Array, NumpyOps
from demur.detectors.tensor import Ops, Signal, Signals, T

BATCH_ROWS = 4096
CHUNK_BATCHES = 16  # merged together before they meet other chunks: the same additions, in the same order, everywhere
CHUNK_ROWS = BATCH_ROWS * CHUNK_BATCHES


@dataclass(frozen=True)
class Scaling:
    """How a fit behaves on data larger than memory: every kind holds one batch plus a bounded state.

    exact_merge: one pass over mergeable accumulators; k_pass: `passes` such passes; sketch: one pass with relative
    `error`; sample: a seeded sample of at most `size` rows.
    """

    kind: Literal["exact_merge", "k_pass", "sketch", "sample"]
    passes: int = 1
    error: float = 0.0
    size: int = 0


EXACT_MERGE = Scaling("exact_merge")


def sketch(error: float) -> Scaling:
    return Scaling("sketch", error=error)


def k_pass(passes: int) -> Scaling:
    return Scaling("k_pass", passes=passes)


def sample(size: int) -> Scaling:
    return Scaling("sample", size=size)


class Score(Protocol):
    """A fitted score: an immutable dataclass whose array fields are its parameters.

    Calling it maps signals to one float32 per row, (N,), higher meaning less trustworthy. Rows are independent. There is
    no unfitted state: `fit` is the only constructor that looks at data, and what it returns can be called, compiled
    and stored. `inputs` names the signals it reads, `scales` says how its fit scales, `source` cites the paper.
    """

    @property
    def inputs(self) -> tuple[Signal, ...]: ...

    @property
    def scales(self) -> Scaling: ...

    @property
    def source(self) -> str: ...

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T: ...


@runtime_checkable
class Transform(Protocol):
    """Reshapes signals before a score sees them: reads `inputs`, replaces or adds `outputs`.

    `passes` over the reference were made to fit it, exactly and in bounded memory.
    """

    @property
    def inputs(self) -> tuple[Signal, ...]: ...

    @property
    def outputs(self) -> tuple[Signal, ...]: ...

    @property
    def passes(self) -> int: ...

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> Signals[T]: ...


class Mergeable(Protocol):
    """What a pass over the data keeps: bounded, and mergeable with what another part of the rows gave."""

    def merge(self, other: Self, /) -> Self: ...


A = TypeVar("A", bound=Mergeable)


def _merged(total: A, other: A) -> A:
    return total.merge(other)


@dataclass(frozen=True, eq=False)
class Batch:
    """Consecutive rows of a reference: signals (n, width) float32, labels (n,) int64 or None, correct (n,) bool.

    `start` is the number of its first row in the reference; target (n,) float64 or None.
    """

    signals: Mapping[Signal, Array]
    labels: NDArray[np.int64] | None
    correct: NDArray[np.bool_]
    start: int = 0
    target: NDArray[np.float64] | None = None


class Engine(Protocol):
    """Runs one pass elsewhere: `reference.chunk(part, needs, i)` of every chunk i, in their order."""

    def __call__(
        self, reference: Reference, part: Callable[[Batch], Any], needs: tuple[Signal, ...]
    ) -> Iterator[Any]: ...


@dataclass(frozen=True, eq=False)
class Reference:
    """In-distribution data to fit on. Arrays may be memory-mapped; only `batches` reads them.

    signals: name -> (N, width); labels (N,) integers; the model's last layer head_weight (C, D), head_bias (C,);
    correct (N,) bool, whether the model was right on the row (None: every row counts as right);
    transforms: applied to every batch, in order; sides: further data that some fits need, by name: "outliers" known to
    be foreign, "wild" unlabelled traffic; engine: where passes run (None: here, batch by batch); recover: finds the last
    layer when it was not given, asked only by scores that need it; target: (N,) numbers that a regression should have given, NaN where unknown;
    absent: signals whose NaN cells are missing values.

    Raises: ValueError when the arrays do not have the same number of rows or the wrong rank.
    """

    signals: Mapping[Signal, NDArray[Any]]
    labels: NDArray[Any] | None = None
    head_weight: Array | None = None
    head_bias: Array | None = None
    correct: NDArray[np.bool_] | None = None
    transforms: tuple[Transform, ...] = ()
    sides: Mapping[str, Reference] = field(default_factory=dict)
    engine: Engine | None = None
    recover: Callable[[], tuple[Any, ...]] | None = None
    target: NDArray[np.float64] | None = None
    absent: frozenset[Signal] = frozenset()

    def __post_init__(self) -> None:
        for name, array in self.signals.items():
            if array.ndim != 2 or len(array) != self.rows:
                raise ValueError(f"reference signal {name!r}: expected shape ({self.rows}, width), got {array.shape}")
        for name, column in (("labels", self.labels), ("correct", self.correct), ("target", self.target)):
            if column is not None and column.shape != (self.rows,):
                raise ValueError(f"reference {name}: expected shape ({self.rows},), got {column.shape}")

    @property
    def rows(self) -> int:
        return len(next(iter(self.signals.values()))) if self.signals else 0

    def shaped(self, *transforms: Transform) -> Self:
        """The same reference, seen through transforms."""
        sides = {name: side.shaped(*transforms) for name, side in self.sides.items()}
        absent = self.absent.difference(*(t.outputs for t in transforms))
        return replace(self, transforms=(*self.transforms, *transforms), sides=sides, absent=absent)

    def side(self, name: str, wanted_by: str) -> Reference:
        """Further data by name. Raises: ValueError naming `wanted_by` when it was not given."""
        if name not in self.sides:
            raise ValueError(
                f"{wanted_by}: expected {name}, got none; give them with --{name}, or fit(..., {name}=...)"
            )
        return self.sides[name]

    def reduce(self, part: Callable[[Batch], A], *needs: Signal) -> A:
        """One pass: `part` of every batch, merged in the order of the rows, so every engine gives the same bits.

        `part` must not depend on anything but its batch and what it closes over, which an engine may send elsewhere.
        Raises: ValueError as `batches`.
        """
        self._check_needs(needs)
        if self.engine is not None:
            found = iter(self.engine(self, part, needs))
        else:
            found = (self.chunk(part, needs, number) for number in range(self.chunks))
        total: A = functools.reduce(_merged, found)
        return total

    @property
    def chunks(self) -> int:
        """Into how many chunks of batches a pass is cut."""
        return -(-self.rows // CHUNK_ROWS)

    def chunk(self, part: Callable[[Batch], A], needs: tuple[Signal, ...], number: int) -> A:
        """`part` of the batches of one chunk, merged: the piece of work that an engine hands out."""
        sources = self._check_needs(needs)
        end = min((number + 1) * CHUNK_ROWS, self.rows)
        starts = range(number * CHUNK_ROWS, end, BATCH_ROWS)
        found = (part(self._batch(sources, slice(s, min(s + BATCH_ROWS, end)))) for s in starts)
        return functools.reduce(_merged, found)

    def batches(self, *needs: Signal, size: int = BATCH_ROWS) -> Iterator[Batch]:
        """The rows in order, at most `size` at a time, with the signals named in `needs`.

        Raises: ValueError when there are no rows, or a needed signal is not among the signals.
        """
        sources = self._check_needs(needs)
        for start in range(0, self.rows, size):
            yield self._batch(sources, slice(start, start + size))

    def _check_needs(self, needs: tuple[Signal, ...]) -> tuple[Signal, ...]:
        sources = required(self.transforms, needs)
        missing = [s for s in sources if s not in self.signals]
        if missing or not self.rows:
            held = f"{sorted(self.signals)} with {self.rows} rows"
            raise ValueError(f"reference: expected signals {sorted(sources)}, got {held}; add {missing or 'rows'}")
        return sources

    def _batch(self, sources: tuple[Signal, ...], rows: slice) -> Batch:
        signals: Mapping[Signal, Array] = {s: np.asarray(self.signals[s][rows], np.float32) for s in sources}
        for transform in self.transforms:
            if set(transform.inputs) <= set(signals):  # else nothing that was asked for comes from it
                signals = transform(NumpyOps(), signals)
        count = len(next(iter(signals.values())))
        labels = None if self.labels is None else np.asarray(self.labels[rows], np.int64)
        correct = np.ones(count, np.bool_) if self.correct is None else np.asarray(self.correct[rows], np.bool_)
        target = None if self.target is None else np.asarray(self.target[rows], np.float64)
        return Batch(signals, labels, correct, rows.start, target)

    def head(self, wanted_by: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The last layer in float64: (C, D), (C,).

        Raises: ValueError naming `wanted_by` when the reference has no head.
        """
        weight, bias = self.head_weight, self.head_bias
        if (weight is None or bias is None) and self.recover is not None:
            weight, bias = self.recover()[:2]
        if weight is None or bias is None:
            raise ValueError(
                f"{wanted_by}: expected the model's last layer; give head_weight (C, D) and head_bias (C,)"
            )
        return np.asarray(weight, np.float64), np.asarray(bias, np.float64)


def absent(part: object) -> tuple[Signal, ...]:
    """The inputs of a score or transform whose NaN cells are missing values to it: it fills or marks them itself."""
    found: tuple[Signal, ...] = getattr(part, "absent", ())
    return found


def carried(part: object) -> tuple[Signal, ...]:
    """The inputs of a score whose numbers make it NaN (at worst infinite) themselves where they are not finite, by sums and
    products alone, which hold on any hardware: nothing need be added for them.
    """
    found: tuple[Signal, ...] = getattr(part, "carried", ())
    return found


def required(transforms: tuple[Transform, ...], needs: tuple[Signal, ...]) -> tuple[Signal, ...]:
    """The signals that must be present before `transforms` so that `needs` are present after them, in order."""
    for transform in reversed(transforms):
        if set(transform.outputs) & set(needs):
            needs = tuple(dict.fromkeys((*(s for s in needs if s not in transform.outputs), *transform.inputs)))
    return needs
