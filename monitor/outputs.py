"""Where a command writes, looked at before it works: never over what it reads."""

from __future__ import annotations

from collections.abc import Iterable
from os.path import realpath  # unlike Path.resolve it takes links that lead in a circle
from pathlib import Path

from demur.monitor.errors import ConfigurationError

ELSEWHERE = "choose another name"


def check_outputs(outputs: Iterable[str | Path | None], inputs: Iterable[str | Path | None]) -> None:
    """Outputs are different files, none of them an input or in a folder that is one; folders that they need are made.

    Links are followed, hard ones too. None stands for an output or input that was not given.
    Raises: ConfigurationError with both names, before anything is read or written; for a folder that cannot be made.
    """
    read = [Path(path) for path in inputs if path is not None]
    written: list[Path] = []
    for output in (Path(path) for path in outputs if path is not None):
        for path in read:
            if _same(output, path):
                raise ConfigurationError(f"{output}: would overwrite {path}, which this command reads; {ELSEWHERE}")
            if path.is_dir() and Path(realpath(path)) in Path(realpath(output)).parents:
                raise ConfigurationError(f"{output}: lies in {path}, which this command reads; {ELSEWHERE}")
        for path in written:
            if _same(output, path):
                raise ConfigurationError(f"{output}: would overwrite {path}, which this command writes; {ELSEWHERE}")
        written.append(output)
    for output in written:
        _make_folder(output)


def _same(one: Path, other: Path) -> bool:
    if realpath(one) == realpath(other):
        return True
    return one.exists() and other.exists() and one.samefile(other)


def _make_folder(output: Path) -> None:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"{output}: its folder cannot be made ({error.strerror or error}); choose another place"
        ) from error
