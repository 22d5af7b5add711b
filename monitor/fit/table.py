"""The signals table: what a model produced for many rows, with what is known about each row."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.monitor.fit.columns import HEAD, as_array, float32
from demur.monitor.fit.errors import TableError
from demur.monitor.fit.fingerprint import TableDigest, row_hashes
from demur.monitor.fit.memory import Budget
from demur.monitor.fit.origin import Origin
from demur.monitor.fit.picked import cut, positions
from demur.monitor.fit.readers import open_columns, reading
from demur.monitor.fit.schema import Parts, checked, wanted
from demur.monitor.observation import Grouping

__all__ = ["SignalsTable", "TableError", "load_table"]

BATCH_BYTES = 16 << 20
BATCH_ROWS = 65_536


@dataclass(frozen=True, eq=False, repr=False)
class SignalsTable:
    """N rows of signals, each (N, width) of float16, float32 or float64, possibly memory-mapped; columns (N,) beside.

    Make one with `from_arrays`, `from_columns` or `load_table`, which check everything. `given` holds the row columns
    that were supplied, in canonical form; the properties add the defaults. head_weight (C, D) and head_bias (C,)
    float32 are the model's last linear layer. `source` says where the table came from. With a `tolerance`, a regression's
    row is wrong when its signal `estimate` is off the column `target` by more than that. `empty_groups` (E,) are the ids of
    groups that have no rows, `origin` says how the signals were decoded; None when nobody knows.
    """

    signals: Mapping[str, NDArray[Any]]
    given: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    head_weight: NDArray[np.float32] | None = None
    head_bias: NDArray[np.float32] | None = None
    source: str = "arrays"
    tolerance: float | None = None
    empty_groups: NDArray[Any] | None = None
    origin: Origin | None = None

    @classmethod
    def from_arrays(cls, **columns: Any) -> SignalsTable:
        """A table from keyword arrays: row columns and the head by their names, every other name is a signal.

        Raises: TableError for a wrong name, shape, dtype or number of rows.
        """
        return cls.from_columns(columns)

    @classmethod
    def from_columns(
        cls, columns: Mapping[str, Any], signals: Mapping[str, int] | None = None, source: str = "arrays"
    ) -> SignalsTable:
        """A table from named arrays; `signals` gives the expected signals and widths: other columns are left out.

        Raises: TableError for a wrong name, shape, dtype or number of rows.
        """
        names = wanted(list(columns), signals, source)
        arrays = {name: as_array(columns[name], f"{source}: {name}") for name in names}
        return cls._of(checked(arrays, signals, source), source)

    @classmethod
    def _of(cls, parts: Parts, source: str) -> SignalsTable:
        weight, bias = (parts.head.get(name) for name in HEAD)
        beside: dict[str, Any] = {"empty_groups": parts.empty_groups, "origin": parts.origin}
        return cls(parts.signals, parts.given, weight, bias, source, **beside)

    def __len__(self) -> int:
        return len(next(iter(self.signals.values())))

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {width}" for name, width in self.widths.items())
        return f"<SignalsTable {len(self)} rows of {shapes}; {', '.join(self.given) or 'no columns'}; {self.source}>"

    @property
    def widths(self) -> dict[str, int]:
        """Signal names and widths."""
        return {name: int(array.shape[1]) for name, array in self.signals.items()}

    @property
    def label(self) -> NDArray[np.int64] | None:
        """(N,) true classes, None when unknown."""
        return self.given.get("label")

    @cached_property
    def prediction(self) -> NDArray[np.int64] | None:
        """(N,) predicted classes: as given, else the argmax of `logits`, else None."""
        given: NDArray[np.int64] | None = self.given.get("prediction")
        return self.argmax if given is None else given

    @cached_property
    def argmax(self) -> NDArray[np.int64] | None:
        """(N,) argmax of `logits`, None without them; of a row that is not finite, any class."""
        if "logits" not in self.signals:
            return None
        parts = [np.argmax(batch.signals["logits"], axis=1) for batch in self.only("logits").batches()]
        return np.concatenate([np.empty(0, np.int64), *parts])

    @cached_property
    def loss(self) -> NDArray[Any] | None:
        """(N,) int64, 0 where the model was right, 1 where wrong: as given, else by the tolerance, else prediction != label,
        else None. An estimate that is not finite is wrong. Given losses between 0 and 1 are float64, and `graded`.
        """
        given: NDArray[Any] | None = self.given.get("loss")
        if given is None and self.tolerance is not None and self.target is not None and "estimate" in self.signals:
            off = np.abs(self.target - np.asarray(self.signals["estimate"][:], np.float64)[:, 0])
            return np.asarray(~(off <= self.tolerance), np.int64)
        if given is not None or self.label is None or self.prediction is None:
            return given
        return np.not_equal(self.prediction, self.label).astype(np.int64)

    @property
    def graded(self) -> bool:
        """Whether the losses given are not only 0 and 1."""
        return "loss" in self.given and self.given["loss"].dtype.kind == "f"

    @property
    def right(self) -> NDArray[np.bool_] | None:
        """(N,) whether the model was right; None when unknown, as of graded losses."""
        return None if self.loss is None or self.graded else np.asarray(self.loss == 0)

    @property
    def target(self) -> NDArray[np.float64] | None:
        """(N,) the numbers that a regression should have given, None when unknown."""
        return self.given.get("target")

    @property
    def group_id(self) -> NDArray[Any] | None:
        """(N,) int64 or strings, the group (image, sentence, conversation) of each row; None when rows stand alone."""
        return self.given.get("group_id")

    @cached_property
    def grouping(self) -> Grouping | None:
        """Dense group numbers 0..G-1 in the order of sorted ids; `names` are the ids, or 0..G-1 for string ids."""
        if self.group_id is None:
            return None
        names, index = np.unique(self.group_id, return_inverse=True)
        names = np.arange(len(names)) if names.dtype.kind == "U" else names
        return Grouping(index.astype(np.int64), names.astype(np.int64))

    @property
    def empty(self) -> int:
        """How many groups have no rows, as far as it is known."""
        return 0 if self.empty_groups is None else len(self.empty_groups)

    @property
    def slice(self) -> NDArray[Any] | None:
        """(N,) int64 or strings, the slice each row is reported under."""
        return self.given.get("slice")

    @property
    def weight(self) -> NDArray[np.float64] | None:
        """(N,) float64, at least 0; promises that cannot carry weights refuse it."""
        return self.given.get("weight")

    @property
    def severity(self) -> NDArray[np.int64] | None:
        """(N,) how far each row was perturbed or degraded, at least 0; None when unknown."""
        return self.given.get("severity")

    @property
    def eval_only(self) -> NDArray[np.bool_] | None:
        """(N,) rows made or kept for evaluation, which fit and calibrate refuse; None when no row was marked."""
        given = self.given.get("eval_only")
        return None if given is None else given == 1

    @property
    def id(self) -> NDArray[Any] | None:
        """(N,) int64 or strings, the caller's name of each row."""
        return self.given.get("id")

    def only(self, *names: str) -> SignalsTable:
        """The same rows with these signals and nothing else."""
        return SignalsTable({name: self.signals[name] for name in names}, source=self.source)

    def take(self, rows: Any) -> SignalsTable:
        """Some rows: a slice, indices or a mask (N,). Slices and consecutive indices stay views of a mapped file. Groups
        without rows are not among them.

        Raises: TableError for indices outside the table or a mask of another length.
        """
        where = positions(rows, len(self), self.source)
        return replace(self, signals=cut(self.signals, where), given=cut(self.given, where), empty_groups=None)

    def batches(self, rows: int | None = None) -> Iterator[SignalsTable]:
        """Parts of at most `rows` consecutive rows (default about 16 MiB), signals as contiguous float32 in memory."""
        step = rows or max(1, min(BATCH_ROWS, BATCH_BYTES // (4 * sum(self.widths.values()))))
        for start in range(0, len(self), step):
            part = slice(start, start + step)
            signals = {name: float32(array[part]) for name, array in self.signals.items()}
            yield replace(self, signals=signals, given=cut(self.given, part), empty_groups=None)

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Every signal as one contiguous float32 array in memory."""
        return {name: float32(array) for name, array in self.signals.items()}

    def digest(self) -> str:
        """SHA-256 (hex) over names, dtypes, shapes and contents as demur uses them, signals as float32.

        The same rows have the same digest in every file format. Defaults (prediction, loss) are not part of it.
        """
        digest = TableDigest()
        for name, width in sorted(self.widths.items()):
            parts = (batch.signals[name] for batch in self.only(name).batches())
            digest.add("signal", name, "float32", (len(self), width), parts)
        head = {"head_weight": self.head_weight, "head_bias": self.head_bias}
        digest.add_all("row", self.given)
        digest.add_all("beside", {"empty_groups": np.sort(self.empty_groups)} if self.empty_groups is not None else {})
        digest.add_all("head", {name: array for name, array in head.items() if array is not None})
        return digest.hexdigest()

    def row_hashes(self, names: Collection[str] | None = None, *, target: bool = True) -> NDArray[np.uint64]:
        """(N,) 64-bit hashes of the rows' float32 signals (all, or those named) in the order of names, and of their
        `target` where it is known: two inputs may well get the same few numbers from a regression.
        """
        chosen = sorted(self.signals if names is None else names)
        held = {"target": self.target} if target and self.target is not None else {}
        rows = replace(self, signals={name: self.signals[name] for name in chosen}, given=held)
        return row_hashes(
            [*(batch.signals[n] for n in chosen), *(float32(t)[:, None] for t in batch.given.values())]
            for batch in rows.batches()
        )


def load_table(
    path: str | Path, signals: Mapping[str, int] | None = None, *, limit_bytes: int | None = None
) -> SignalsTable:
    """Read a table from .npz, a folder of .npy or of .parquet, .safetensors, Parquet or Arrow IPC.

    `signals` gives the expected signals and widths; then other columns are not read. Folders and safetensors are
    memory-mapped; other formats are decoded into at most `limit_bytes` (default 80 % of what is free), and what Parquet
    and Arrow hold beyond that into mapped files in TMPDIR.
    Raises: TableError for an unknown suffix, damaged or truncated files, a wrong name, shape, dtype or number of rows.
    """
    source = str(path)
    columns = open_columns(Path(path), Budget(limit_bytes))
    arrays = {}
    for name in wanted(columns.names, signals, source):
        with reading(f"{source}: {name}"):
            arrays[name] = as_array(columns.read(name), f"{source}: {name}")
    return SignalsTable._of(checked(arrays, signals, source), source)  # noqa: SLF001  (the same class, built elsewhere)
