"""Rows kept in part files while a table grows, so that nothing is lost when the work is cut off."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.monitor.errors import ConfigurationError
from demur.monitor.fit.errors import TableError

FORMAT = 1
FLUSH_BYTES = 32 << 20
FLUSH_SECONDS = 5.0
Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Part:
    """A file with the rows of inputs start..end-1."""

    path: Path
    start: int
    end: int

    def columns(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shape and dtype of each column, from the headers alone. Raises: OSError, ValueError, BadZipFile."""
        with zipfile.ZipFile(self.path) as archive:
            return {info.filename.removesuffix(".npy"): _header(archive, info) for info in archive.infolist()}

    def read(self, name: str) -> NDArray[Any]:
        """One column."""
        with np.load(self.path, allow_pickle=False) as archive:
            found: NDArray[Any] = archive[name]
        return found


class Parts:
    """A folder of part files with a manifest that says of what work they are. One process at a time."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any], *, restart: bool = False) -> None:
        """Continue where the folder's work stopped; `restart` begins again.

        Raises: ConfigurationError when the folder belongs to other work, naming what changed, or is in use.
        """
        self.folder, self._pending = folder, list[Columns]()
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(folder / "lock")
        try:
            if restart:
                self._empty()
            self._agree(manifest)
            self.parts = _contiguous(folder)
        except BaseException:
            self._lock.close()
            raise
        self.done = self._start = self.parts[-1].end if self.parts else 0
        self._shapes = {name: shape[1:] for name, (shape, _) in self.parts[0].columns().items()} if self.parts else {}
        self._bytes, self._flushed = 0, monotonic()

    def append(self, columns: Columns, inputs: int) -> None:
        """Rows of the next `inputs` inputs; written at least every 5 seconds or 32 MiB.

        Raises: TableError for other columns or widths than those of the first batch.
        """
        shapes = {name: array.shape[1:] for name, array in columns.items()}
        self._shapes = self._shapes or shapes
        if shapes != self._shapes:
            raise TableError(
                f"rows: expected the columns of the first batch, {_widths(self._shapes)}, got {_widths(shapes)}; "
                "every batch must have the same"
            )
        self._pending.append(columns)
        self.done += inputs
        self._bytes += sum(array.nbytes for array in columns.values())
        if self._bytes >= FLUSH_BYTES or monotonic() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is pending, whole or not at all."""
        if self._pending:
            path = self.folder / f"{self._start:012d}-{self.done:012d}.npz"
            joined = {name: np.concatenate([each[name] for each in self._pending]) for name in self._pending[0]}
            _write(path, joined)
            self.parts.append(Part(path, self._start, self.done))
        self._pending.clear()
        self._start, self._bytes, self._flushed = self.done, 0, monotonic()

    def close(self) -> None:
        """Let go of the folder, and keep it when it holds rows."""
        self._lock.close()
        if not self.parts and self.folder.exists():
            shutil.rmtree(self.folder)

    def remove(self) -> None:
        """The folder, when its rows are elsewhere."""
        self._lock.close()
        shutil.rmtree(self.folder)

    def _agree(self, manifest: Mapping[str, Any]) -> None:
        path, wanted = self.folder / "manifest.json", {"format": FORMAT, **manifest}
        if not path.exists() or not any(self.folder.glob("*.npz")):
            self._empty()
            part = path.with_suffix(".part")
            part.write_text(json.dumps(wanted, indent=1, sort_keys=True), encoding="utf-8")
            _sync(part)
            part.replace(path)
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            found = {}
        wanted = json.loads(json.dumps(wanted))
        if found != wanted:
            changed = sorted(k for k in {*found, *wanted} if found.get(k) != wanted.get(k))
            raise ConfigurationError(
                f"{self.folder} holds unfinished work of another {_listed(found, wanted, changed)}; it cannot be "
                "continued with these: undo the change, or begin again with --restart"
            )

    def _empty(self) -> None:
        for file in self.folder.iterdir():
            if file.name != "lock":
                file.unlink()


def _widths(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(
        f"{name} (N{''.join(f', {size}' for size in shape)})" for name, shape in shapes.items() if name[0] != "_"
    )


def _listed(found: Mapping[str, Any], wanted: Mapping[str, Any], changed: list[str]) -> str:
    """What changed; of sections, which of their keys."""
    words = []
    for key in changed:
        old, new = found.get(key), wanted.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            inner = [f"{k}: {old.get(k)!s:.60} then, {new.get(k)!s:.60} now" for k in sorted({*old, *new}) if old.get(k) != new.get(k)]  # fmt: skip
            words.append(f"{key} ({'; '.join(inner)})")
        else:
            words.append(f"{key} ({old!s:.60} then, {new!s:.60} now)")
    return ", ".join(words)


def _locked(path: Path) -> Any:
    file = path.open("w")
    try:
        import fcntl
    except ImportError:  # Windows has no such lock
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise ConfigurationError(
            f"{path.parent}: another process is at work there; wait, or choose another output"
        ) from error
    return file


def _contiguous(folder: Path) -> list[Part]:
    """The parts from the first input on; what is damaged, unfinished or follows a gap is removed and done again."""
    found: list[Part] = []
    for part in _named(folder):
        if part.start == (found[-1].end if found else 0) and _whole(part):
            found.append(part)
        else:
            part.path.unlink()
    for stray in folder.glob(".*.part"):
        stray.unlink()
    return found


def _named(folder: Path) -> Iterator[Part]:
    for path in sorted(folder.glob("*.npz")):
        start, _, end = path.stem.partition("-")
        yield Part(path, int(start), int(end))


def _whole(part: Part) -> bool:
    try:
        with zipfile.ZipFile(part.path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def _header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype[Any]]:
    with archive.open(info) as stream:
        np.lib.format.read_magic(stream)
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    return shape, dtype


def _write(path: Path, columns: Columns) -> None:
    part = path.with_name(f".{path.name}.part")
    arrays: dict[str, Any] = dict(columns)
    with part.open("wb") as file:
        np.savez(file, **arrays)
    _sync(part)
    part.replace(path)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
