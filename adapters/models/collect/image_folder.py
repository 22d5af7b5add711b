"""A folder of images; subfolders are classes."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demur.adapters.models.collect.dataset import Reading
from demur.adapters.models.collect.pixels import picture, plane, prepared
from demur.adapters.models.collect.tensor_spec import TensorSpec, fitted
from demur.monitor.errors import ConfigurationError, InvalidObservation
from demur.monitor.fit.errors import TableError

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"))
FORMATS = (
    "PNG",
    "JPEG",
    "BMP",
    "GIF",
    "TIFF",
    "WEBP",
    "PPM",
)  # of contents: a .png may hold what Pillow runs a program for
COLUMN = "images"


class ImageFolder:
    """Images in the order of their paths. Names of subfolders, numbered in order, are the labels; `id` is the path."""

    names = (COLUMN,)
    default = COLUMN

    def __init__(self, path: Path, how: Reading) -> None:
        self.where, self._path, self._how = str(path), path, how
        if how.columns:
            raise ConfigurationError(f"{path}: a folder of images has no columns; leave --column out")
        self._files = sorted(p for p in path.rglob("*") if _seen(p.relative_to(path)) and p.is_file())
        if not self._files:
            raise TableError(
                f"{path}: expected images ({', '.join(sorted(SUFFIXES))}) or the files of a table, found none"
            )
        paths = [file.relative_to(path) for file in self._files]
        names = [p.as_posix() for p in paths]
        if odd := next((name for name in names if name.encode(errors="replace").decode() != name), None):
            raise TableError(f"{path}: the name {odd!r} is not UTF-8; rename the file")
        self.known: Mapping[str, NDArray[Any]] = {"id": np.array(names)}
        if classes := sorted({p.parts[0] for p in paths if len(p.parts) > 1}):
            if stray := next((p for p in paths if len(p.parts) == 1), None):
                raise TableError(
                    f"{path}: {stray} is beside the folders of the classes; move it into one, or elsewhere"
                )
            numbers = {name: number for number, name in enumerate(classes)}
            self.known = {**self.known, "label": np.array([numbers[p.parts[0]] for p in paths], np.int64)}

    def __len__(self) -> int:
        return len(self._files)

    def digest(self, rows: NDArray[np.int64]) -> str:
        running = hashlib.sha256()
        for row in rows:
            file = self._files[row]
            with file.open("rb") as stream:
                running.update(f"{file.relative_to(self._path).as_posix()}\n".encode())
                running.update(hashlib.file_digest(stream, "sha256").digest())
        return running.hexdigest()

    def read(self, _column: str, rows: NDArray[np.int64], wanted: TensorSpec) -> NDArray[Any]:
        form = plane(self._how.pixels, wanted)
        images = np.stack([self._image(self._files[row], form) for row in rows])
        return fitted(prepared(images, self._how.pixels, form, wanted), wanted, f"{self.where}: images")

    def _image(self, file: Path, form: Any) -> NDArray[np.uint8]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(file, formats=FORMATS) as image:
                    return picture(image, self._how.pixels, form)
        except InvalidObservation as error:
            raise InvalidObservation(f"{file}: {error}") from error
        # Pillow raises what it likes on damaged bytes, from SyntaxError to struct.error.
        except Exception as error:
            raise TableError(
                f"{file}: not a readable image ({type(error).__name__}: {error}); repair or remove it"
            ) from error


def _seen(path: Path) -> bool:
    """Images, but nothing hidden: file managers and notebooks leave copies of images there."""
    return path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.parts)
