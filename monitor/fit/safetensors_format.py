"""Safetensors: validated by its own library, then memory-mapped."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.monitor.fit.beside import beside_column, beside_of
from demur.monitor.fit.errors import TableError

DTYPES = {
    "F16": "<f2", "F32": "<f4", "F64": "<f8", "BOOL": "?",
    "I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8",
    "U8": "<u1", "U16": "<u2", "U32": "<u4", "U64": "<u8",
}  # fmt: skip


class SafetensorsFile:
    """A .safetensors file with one tensor for each column. Nothing is read before it is used."""

    def __init__(self, path: Path) -> None:
        from safetensors import safe_open

        self._path = path
        # INVARIANT: the library refuses overlapping, uncovered or truncated tensors, so the offsets can be trusted.
        with safe_open(str(path), framework="np") as file:
            names, metadata = tuple(file.keys()), file.metadata()
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
        self._tensors: dict[str, dict[str, Any]] = {name: header[name] for name in names}
        self._start = 8 + length
        self._beside = beside_of(metadata)

    @property
    def names(self) -> tuple[str, ...]:
        return (*sorted(self._tensors), *(name for name in self._beside if name not in self._tensors))

    def read(self, name: str) -> NDArray[Any]:
        """The tensor, memory-mapped read-only.

        Raises: TableError for a dtype NumPy does not have (bfloat16, float8).
        """
        if name not in self._tensors:
            return beside_column([self._beside[name]], f"{self._path}: {name}")
        tensor = self._tensors[name]
        if tensor["dtype"] not in DTYPES:
            raise TableError(
                f"{self._path}: {name}: expected one of {', '.join(DTYPES)}, got {tensor['dtype']}; "
                "convert it to float32"
            )
        dtype, shape = np.dtype(DTYPES[tensor["dtype"]]), tuple(tensor["shape"])
        if math.prod(shape) == 0:
            return np.empty(shape, dtype)
        offset = self._start + tensor["data_offsets"][0]
        return np.asarray(np.memmap(self._path, dtype, "r", offset, shape))
