"""What promises are calibrated on: scores of calibration units, as the compiled graph gave them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from demur.detectors.promises.promise import CalibrationRefused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_ROWS_NAMED = 8


@dataclass(frozen=True, eq=False)
class Slices:
    """What each row's slice is: `place` (n,) into `labels`. With `others`, values that no row has are one slice more."""

    noun: str
    place: NDArray[np.int64]
    labels: tuple[int, ...]
    others: bool

    @property
    def count(self) -> int:
        return len(self.labels) + self.others


@dataclass(frozen=True, eq=False)
class CalibrationSample:
    """Calibration scores and what is known of the units they belong to.

    Shapes: `scores` maps a column to (n,) float32, one per row or, in a stream policy, one per stream (its running maximum);
    columns judged by group rules hold (G,), one aggregate per group. `loss` (n,) in [0, 1], 1 is wrong; when some lie between,
    the promises that count errors are refused. `predicted` (n,) int
    class in [0, classes), needed by slices by it; `codes` (n,) int64 by the name of what else slices. `group` (n,) int64 ids 0..G-1, none empty. `weight` is refused: no promise
    here can carry it. `outliers` maps a column to scores (m,) float32 of units known to be outliers: they set no threshold, only
    the power printed beside one. Non-finite scores are refused by `calibrate`, with their row numbers.
    Raises: ValueError when lengths, ids or values do not fit.
    """

    scores: Mapping[str, NDArray[np.float32]]
    loss: NDArray[np.float64] | None = None
    predicted: NDArray[np.int64] | None = None
    group: NDArray[np.int64] | None = None
    weight: NDArray[np.float64] | None = None
    classes: int | None = None
    outliers: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    codes: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {k: len(v) for k in ("loss", "predicted", "group") if (v := getattr(self, k)) is not None}
        lengths |= {name: len(codes) for name, codes in self.codes.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"calibration sample: one value a row expected, got lengths {lengths}")
        for name, column in (*self.scores.items(), *self.outliers.items()):
            if column.ndim != 1 or column.dtype != np.float32:
                raise ValueError(f"scores[{name!r}]: expected (n,) float32, got {column.shape} {column.dtype}")
        if self.loss is not None and not ((self.loss >= 0) & (self.loss <= 1)).all():
            row = int(np.flatnonzero(~((self.loss >= 0) & (self.loss <= 1)))[0])
            raise CalibrationRefused(
                f"loss: expected numbers in [0, 1], got {self.loss[row]} in row {row}; divide by the largest possible loss"
            )
        if self.group is not None and not self._dense(self.group):
            raise ValueError(f"group: expected ids 0..{self.groups - 1}, each with a row, got other or missing ids")
        if self.predicted is not None and self.classes is not None:
            self._check_classes(self.predicted, self.classes)

    def _dense(self, group: NDArray[np.int64]) -> bool:
        # Before counting: one stray id of 2**60 must not allocate that many counters.
        if not len(group):
            return True
        return int(group.min()) >= 0 and self.groups <= len(group) and bool(np.bincount(group).all())

    @staticmethod
    def _check_classes(predicted: NDArray[np.int64], classes: int) -> None:
        outside = np.flatnonzero((predicted < 0) | (predicted >= classes))
        if outside.size:
            row = int(outside[0])
            raise ValueError(f"predicted: expected classes 0..{classes - 1}, got {predicted[row]} in row {row}")

    @cached_property
    def graded(self) -> bool:
        """Whether some loss is neither 0 nor 1."""
        return self.loss is not None and not np.isin(self.loss, (0, 1)).all()

    @cached_property
    def groups(self) -> int:
        """G, or 0 when rows carry no group id."""
        return 0 if self.group is None or not len(self.group) else int(np.max(self.group)) + 1

    @cached_property
    def clustered(self) -> bool:
        """Whether some group has more than one row, so that rows are not independent."""
        return self.group is not None and self.groups < len(self.group)

    @cached_property
    def rows(self) -> int:
        """n; the number of streams in a stream policy."""
        for known in (self.group, self.loss, self.predicted, *self.codes.values()):
            if known is not None:
                return len(known)
        return len(next(iter(self.scores.values()), ()))

    @property
    def units(self) -> int:
        """How many independent units there are: groups when rows carry group ids, else rows (or streams)."""
        return self.groups if self.group is not None else self.rows

    def slices(self, by: bool | str) -> Slices:
        """The slice of each row, by the predicted class or the codes of that name.

        Raises: CalibrationRefused when the sample does not have them.
        """
        if by is True:
            if self.predicted is None or self.classes is None:
                raise CalibrationRefused("slices need each calibration row's predicted class and the number of classes")
            return Slices("predicted class", self.predicted, tuple(range(self.classes)), others=False)
        if by not in self.codes:
            raise CalibrationRefused(
                f"slices need each calibration row's {by}, got none; give calibration data that has it"
            )
        known, index = np.unique(self.codes[str(by)], return_inverse=True)
        return Slices(str(by), index.astype(np.int64), tuple(known.tolist()), others=True)

    def column(self, name: str, length: int) -> NDArray[np.float32]:
        """The scores of one column. Raises: ValueError when it is missing or not `length` long; CalibrationRefused on NaN, inf."""
        if name not in self.scores:
            raise ValueError(f"scores: column {name!r} expected, got {sorted(self.scores)}")
        column = self.scores[name]
        if len(column) != length:
            raise ValueError(f"scores[{name!r}]: expected {length} scores, got {len(column)}")
        bad = np.flatnonzero(~np.isfinite(column))
        if bad.size:
            some = ", ".join(str(int(row)) for row in bad[:_ROWS_NAMED])
            more = f" and {bad.size - _ROWS_NAMED} more" if bad.size > _ROWS_NAMED else ""
            raise CalibrationRefused(
                f"column {name!r}: {bad.size} calibration scores are not finite, rows {some}{more}; "
                "repair or remove these rows, such inputs are INVALID in service and count towards no promise"
            )
        return column
