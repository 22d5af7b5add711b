"""Opening a table file of any supported format as named columns, read one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from demur.monitor.fit.errors import TableError, suggestion
from demur.monitor.fit.memory import Budget


class Columns(Protocol):
    """An opened file: its column names, and each column as an array when asked for."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def read(self, name: str) -> NDArray[Any]: ...


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Turn whatever a format library raises on damaged bytes into one clear error.

    Raises: TableError.
    """
    try:
        yield
    except TableError:
        raise
    except FileNotFoundError:
        raise TableError(f"{where}: no such file; check the path") from None
    except MemoryError as error:
        raise TableError(f"{where}: not enough memory to read it; use fewer rows or a memory-mapped format") from error
    # Parsers of damaged bytes raise what they like, from struct.error to tokenize.TokenError.
    except Exception as error:
        text = str(error).strip().splitlines()
        detail = f"{type(error).__name__}: {text[0][:300] if text else 'no details'}"
        raise TableError(
            f"{where}: the file is damaged, truncated or of another format ({detail}); write it again"
        ) from error


def open_columns(path: Path, budget: Budget) -> Columns:
    """Open by suffix: a folder of .npy or of .parquet, .npz, .safetensors, .parquet / .pq, .arrow / .arrows / .feather / .ipc.

    Raises: TableError for a missing file, an unknown suffix or a damaged file.
    """
    if path.is_dir():
        opener: Callable[[Path, Budget], Columns] | None = _open_folder
    elif not path.exists():
        raise TableError(f"{path}: no such file; check the path")
    else:
        opener = OPENERS.get(path.suffix.lower())
    if opener is None:
        expected = "a folder of .npy, or one of " + ", ".join(OPENERS)
        one = (
            "; put the .npy files of one table, named by column, into a folder and give the folder"
            if path.suffix == ".npy"
            else ""
        )
        raise TableError(
            f"{path}: expected {expected}, got {path.suffix or 'no suffix'}{one or suggestion(path.suffix, OPENERS)}"
        )
    with reading(str(path)):
        return opener(path, budget)


def _open_folder(path: Path, budget: Budget) -> Columns:
    if any(p.suffix.lower() in (".parquet", ".pq") for p in path.iterdir()):
        return _open_parquet(path, budget)
    from demur.monitor.fit.numpy_format import NpyFolder

    return NpyFolder(path)


def _open_npz(path: Path, budget: Budget) -> Columns:
    from demur.monitor.fit.numpy_format import NpzFile

    return NpzFile(path, budget)


def _open_safetensors(path: Path, _budget: Budget) -> Columns:
    from demur.monitor.fit.safetensors_format import SafetensorsFile

    return SafetensorsFile(path)


def _open_parquet(path: Path, budget: Budget) -> Columns:
    from demur.monitor.fit.arrow_format import ParquetTable

    return ParquetTable(path, budget)


def _open_arrow(path: Path, budget: Budget) -> Columns:
    from demur.monitor.fit.arrow_format import ArrowTable

    return ArrowTable(path, budget)


OPENERS: dict[str, Callable[[Path, Budget], Columns]] = {
    ".npz": _open_npz,
    ".safetensors": _open_safetensors,
    ".parquet": _open_parquet,
    ".pq": _open_parquet,
    ".arrow": _open_arrow,
    ".arrows": _open_arrow,
    ".feather": _open_arrow,
    ".ipc": _open_arrow,
}
