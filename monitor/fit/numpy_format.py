"""NumPy's own files: a folder of memory-mapped .npy, or one .npz."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from demur.monitor.fit.errors import TableError
from demur.monitor.fit.memory import Budget

SUFFIX = ".npy"


class NpyFolder:
    """A folder with one .npy for each column. Nothing is read before it is used."""

    def __init__(self, path: Path) -> None:
        self._files = {file.stem: file for file in sorted(path.glob("*" + SUFFIX))}
        if not self._files:
            raise TableError(
                f"{path}: expected a folder with one .npy for each column (logits.npy, label.npy, ...), found none"
            )

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._files)

    def read(self, name: str) -> NDArray[Any]:
        """The column, memory-mapped read-only.

        Raises: TableError when the file is longer than its header says; ValueError or OSError when shorter or damaged.
        """
        file = self._files[name]
        array = np.load(file, mmap_mode="r", allow_pickle=False)
        end = array.offset + array.nbytes if isinstance(array, np.memmap) else None
        if end is not None and end != file.stat().st_size:
            raise TableError(
                f"{file}: expected {end:,} bytes as its header says, got {file.stat().st_size:,}; write it again"
            )
        return np.asarray(array)


class NpzFile:
    """One .npz. It cannot be memory-mapped, so each member's size is checked against its header before allocation."""

    def __init__(self, path: Path, budget: Budget) -> None:
        self._path, self._budget = path, budget
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        names = [member.filename for member in members]
        if len(set(names)) != len(names):
            raise TableError(f"{path}: a member appears twice; write it again with np.savez")
        if stray := [name for name in names if not name.endswith(SUFFIX)]:
            raise TableError(f"{path}: expected only .npy members, got {stray[0]!r}; write it with np.savez")
        self._members = {member.filename.removesuffix(SUFFIX): member for member in members}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._members)

    def read(self, name: str) -> NDArray[Any]:
        """The member as an array, never by pickle; the archive's checksum is verified.

        Raises: TableError for object arrays, sizes that disagree or do not fit into memory.
        """
        where, member = f"{self._path}: {name}", self._members[name]
        with zipfile.ZipFile(self._path) as archive:
            with archive.open(member) as stream:
                size = _declared_bytes(stream, where)
            if size != member.file_size:
                raise TableError(
                    f"{where}: expected {size:,} bytes as its header says, got {member.file_size:,}; write it again"
                )
            self._budget.take(size, where)
            with archive.open(member) as stream:
                array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
                stream.read(1)  # the end of the member is where zipfile compares the checksum
        return array


def _declared_bytes(stream: IO[bytes], where: str) -> int:
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise TableError(
            f"{where}: expected .npy version 1.0 or 2.0, got {version[0]}.{version[1]}; write it again with np.save"
        )
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise TableError(
            f"{where}: expected numbers or fixed-width strings, got Python objects; "
            "convert with .astype(str) or .astype(float)"
        )
    return stream.tell() + math.prod(shape) * dtype.itemsize
