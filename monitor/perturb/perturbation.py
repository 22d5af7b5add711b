"""A perturbation: how one row is changed, how much at each severity, and how it runs over a table."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from demur.monitor.perturb.context import Context
from demur.monitor.perturb.errors import PerturbationError
from demur.monitor.perturb.rows import Kind, Touched, checked, decode, encode, intact

SEVERITIES = (1, 2, 3, 4, 5)
Change = Callable[[Any, float, np.random.Generator, Context | None], Any]


class Perturbed(NamedTuple):
    """Changed rows of the given shape and dtype; `touched` (N, T, C) bool says which values of series were changed."""

    array: NDArray[Any]
    touched: Touched | None


@dataclass(frozen=True)
class Perturbation:
    """One entry of the catalogue.

    `change` takes one row, the value for a severity, the row's own generator and the context, and gives a new row (for
    series: with a mask (T, C) of the values it changed). Images (H, W, C) are float64 in [0, 1], features (D,) and series
    (T, C) float64, texts `str`. `values` are for severities 1 to 5 and `parameter` says what they are. The generator does
    not depend on the severity, so that a higher severity goes further in the same direction.
    """

    name: str
    kind: Kind
    parameter: str
    values: tuple[float, float, float, float, float]
    source: str
    change: Change
    needs: Literal["nothing", "context"] = "nothing"

    def __call__(
        self,
        array: NDArray[Any] | Sequence[str],
        severity: int,
        *,
        seed: int = 0,
        ids: Iterable[Any] | None = None,
        context: Context | None = None,
    ) -> Perturbed:
        """Rows changed at a severity; 0 changes nothing. The input is not written to.

        ids: (N,) the names of the rows (default 0..N-1). A row's result depends on the row, its id, the severity, the
        seed and the context, not on the rows beside it: pass the context of the whole table when it is cut into parts.
        A row that holds NaN or infinity comes back as it was.
        Raises: PerturbationError for another severity, shape, dtype or number of ids.
        """
        if severity not in (0, *SEVERITIES):
            raise PerturbationError(f"{self.name}: expected a severity from 0 to {SEVERITIES[-1]}, got {severity!r}")
        rows = checked(array, self.kind, self.name)
        names = _names(ids, len(rows), self.name)
        result = rows.copy()
        touched = np.zeros(rows.shape, bool) if self.kind == "series" else None
        changed: list[Any] = list(rows) if self.kind == "text" else []
        for place, name in enumerate(names if severity else ()):
            if not intact(rows[place], self.kind):
                continue
            if context is None and self.needs == "context":
                context = Context.of(rows)
            generator = self._generator(seed, name)
            made = self.change(decode(rows[place], self.kind), self.values[severity - 1], generator, context)
            if self.kind == "text":
                changed[place] = made
            elif touched is not None:
                values, touched[place] = made
                result[place] = encode(values, rows)
            else:
                result[place] = encode(made, rows)
        return Perturbed(np.array(changed, np.str_) if changed else result, touched)

    def _generator(self, seed: int, row: Any) -> np.random.Generator:
        digest = hashlib.sha256(f"{self.kind}/{self.name}/{seed}/{row}".encode()).digest()
        return np.random.Generator(np.random.PCG64DXSM(int.from_bytes(digest[:16], "little")))


def _names(ids: Iterable[Any] | None, count: int, where: str) -> list[Any]:
    names = list(range(count)) if ids is None else list(ids)
    if len(names) != count:
        raise PerturbationError(f"{where}: expected {count} ids, one for each row, got {len(names)}")
    return names
