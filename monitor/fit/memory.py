"""How much a reader may allocate, asked before it allocates; what does not fit goes to disk."""

from __future__ import annotations

import functools
import itertools
import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.monitor.fit.errors import TableError

SHARE = 0.8  # of what is free: fitting needs room beside the table
UNKNOWN_BYTES = 4 << 30


class Budget:
    """Bytes that may still be allocated for one table; by default most of what the machine and its cgroup have free."""

    def __init__(self, limit_bytes: int | None = None) -> None:
        self.left_bytes = int(available_bytes() * SHARE) if limit_bytes is None else limit_bytes

    def take(self, count_bytes: int, where: str) -> None:
        """Reserve bytes, or refuse before anything is allocated.

        Raises: TableError when fewer bytes are left.
        """
        self.check(count_bytes, where)
        self.left_bytes -= count_bytes

    def check(self, count_bytes: int, where: str) -> None:
        """Refuse what would not fit, for arrays that do not stay. Raises: TableError as `take`."""
        if count_bytes > self.left_bytes:
            raise TableError(
                f"{where}: expected at most {self.left_bytes:,} bytes (what is free), the file claims {count_bytes:,}; "
                "store the table as a folder of .npy or as .safetensors, which are memory-mapped, or use fewer rows"
            )

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> NDArray[Any]:
        """An empty array: in memory while it fits, else mapped to a file that lives as long as this process.

        Raises: TableError when the disk has no room either.
        """
        size = math.prod(shape) * dtype.itemsize
        if size <= self.left_bytes:
            self.left_bytes -= size
            return np.empty(shape, dtype)
        folder = Path(_spill().name)
        free = shutil.disk_usage(folder).free
        if size > free * SHARE:
            raise TableError(f"{where}: {size:,} bytes fit neither into memory nor into {folder} ({free:,} free)")
        name = folder / f"{next(_NUMBERS)}.npy"
        return np.lib.format.open_memmap(name, mode="w+", dtype=dtype, shape=shape)


_NUMBERS = itertools.count()


@functools.cache
def _spill() -> tempfile.TemporaryDirectory[str]:
    """The folder of mapped arrays, in TMPDIR; removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="demur-table-")


def available_bytes() -> int:
    """Free memory: the smaller of the machine's and the cgroup's (version 2), 4 GiB when neither can be read."""
    free = [amount for amount in (_machine_bytes(), _cgroup_bytes()) if amount is not None]
    return max(min(free, default=UNKNOWN_BYTES), 0)


def _machine_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _cgroup_bytes(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    try:
        limit = int((folder / "memory.max").read_text(encoding="ascii"))
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        pages = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        cached = sum(int(line.split()[1]) for line in pages if line.split()[0] == "inactive_file")
    except (OSError, ValueError, IndexError):  # no cgroup, or "max"
        return None
    return limit - used + cached
