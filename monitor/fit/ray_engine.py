"""Passes over the data on a Ray cluster: the same accumulators, merged in the same order, so the same bits."""

from __future__ import annotations

import logging
import mmap
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.detectors.score import BATCH_ROWS, Batch, Reference
from demur.monitor.errors import ConfigurationError

PAGE = mmap.ALLOCATIONGRANULARITY  # mappings begin at multiples of it
BY_ROW = ("labels", "correct", "target")  # what a reference has of every row beside signals


@dataclass(frozen=True)
class Mapped:
    """Where an array lies on a disk that every worker sees."""

    path: str
    offset: int
    dtype: str
    shape: tuple[int, ...]

    def open(self) -> NDArray[Any]:
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)


class RayEngine:
    """Chunks of a pass as rows of a Ray dataset.

    Signals that lie in memory are written once to a folder of their own in `folder` (default: TMPDIR), which all workers
    must see; it is removed with the engine. Mapped files are read where they are. `address` joins a running cluster; without it one is started with `workers` processes.
    Raises: ConfigurationError when Ray is not installed.
    """

    def __init__(
        self, *, address: str | None = None, workers: int | None = None, folder: str | Path | None = None
    ) -> None:
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise ConfigurationError(
                f"--engine ray needs Ray ({error}); pip install '.[ray]' in demur's clone"
            ) from error
        if not ray.is_initialized():
            cluster: dict[str, Any] = {"address": address} if address else {"num_cpus": workers}
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="warning", **cluster)
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        self._folder = tempfile.TemporaryDirectory(prefix="demur-ray-", dir=folder)
        self._known: dict[int, tuple[NDArray[Any], Mapped]] = {}

    def __call__(self, reference: Reference, part: Callable[[Batch], Any], needs: tuple[str, ...]) -> Iterator[Any]:
        """The accumulator of every chunk, in the order of the rows."""
        import ray

        columns = {n: self._mapped(a) for n, a in reference.signals.items()}
        rows = {n: self._mapped(a) for n in BY_ROW if (a := getattr(reference, n)) is not None}
        left: Any = dict.fromkeys(BY_ROW)
        bare = replace(reference, signals={}, sides={}, engine=None, recover=None, **left)
        work = ray.put((bare, columns, rows, part, needs))
        numbers = ray.data.from_items(
            [{"chunk": n} for n in range(reference.chunks)], override_num_blocks=reference.chunks
        )
        for found in numbers.map(_Chunk(work)).iter_rows():
            yield ray.cloudpickle.loads(found["found"])

    def _mapped(self, array: Any) -> Mapped:
        """Where the array lies; arrays of memory are written out once."""
        if id(array) not in self._known:
            place = lies_in(array)
            if place is None:
                place = lies_in(_written(array, Path(self._folder.name) / f"{len(self._known)}.npy"))
                assert place is not None  # noqa: S101 - it was mapped just now
            self._known[id(array)] = (array, place)  # held, so that the id stays its own
        return self._known[id(array)][1]


def lies_in(array: Any) -> Mapped | None:
    """Where in a mapped file the array lies, None when it is not a contiguous part of one.

    By address: a slice of a memmap keeps the offset of the whole file (numpy 2.4).
    """
    base = array if isinstance(array, np.memmap) else getattr(array, "base", None)
    if not isinstance(base, np.memmap) or not getattr(base, "filename", None) or not array.flags.c_contiguous:
        return None
    start = np.frombuffer(base._mmap, np.uint8).ctypes.data - base.offset // PAGE * PAGE  # type: ignore[attr-defined] # noqa: SLF001
    return Mapped(str(base.filename), array.ctypes.data - start, array.dtype.str, array.shape)


def _written(array: Any, path: Path) -> NDArray[Any]:
    """A mapped copy, written batch by batch: the array may be rows picked from a file larger than memory."""
    copy = np.lib.format.open_memmap(path, mode="w+", dtype=array.dtype, shape=array.shape)
    for start in range(0, len(array), BATCH_ROWS):
        copy[start : start + BATCH_ROWS] = array[start : start + BATCH_ROWS]
    copy.flush()
    return copy


class _Chunk:
    """One chunk of a pass, in a worker."""

    def __init__(self, work: Any) -> None:
        self._work = work

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        import ray

        bare, columns, rows, part, needs = ray.get(self._work)
        opened = {n: place.open() for n, place in rows.items()}
        reference = replace(bare, signals={n: place.open() for n, place in columns.items()}, **opened)
        return {"found": ray.cloudpickle.dumps(reference.chunk(part, needs, int(row["chunk"])))}
