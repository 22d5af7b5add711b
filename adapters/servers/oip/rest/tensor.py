"""Tensors of the protocol's JSON form, to and from NumPy."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.adapters.servers.oip import datatypes
from demur.adapters.servers.oip.datatypes import SHARED_MEMORY
from demur.adapters.servers.oip.reading import Tensor, UnreadableOutputError

FLOATS = ("FP16", "BF16", "FP32", "FP64")
# How writers spell what JSON has no number for; null is NaN to those whose JSON library knows no other way.
SPELLED = {"NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf, "inf": np.inf, "-inf": -np.inf, "nan": np.nan}


def tensor(element: Any, binary: memoryview | None) -> Tensor:
    """An element of `inputs` or `outputs`. `binary` holds its contents when it says `binary_data_size`.

    Raises: UnreadableOutputError when it has no name or shape, or its contents are somewhere else.
    """
    if not isinstance(element, Mapping) or not isinstance(element.get("name"), str):
        raise UnreadableOutputError("upstream's answer has an output without a name")
    name, datatype, dims = element["name"], element.get("datatype"), shape_of(element)
    if SHARED_MEMORY in parameters_of(element):
        raise UnreadableOutputError(f"output {name} was written to shared memory, which demur does not read")
    if dims is None or not isinstance(datatype, str):
        raise UnreadableOutputError(f"output {name}: expected a datatype and a shape of whole numbers")
    flat: Callable[[], NDArray[Any]] = (
        partial(_from_list, name, datatype, dims, element.get("data"))
        if binary is None
        else partial(datatypes.from_raw, name, datatype, dims, binary)
    )
    return Tensor(name, datatype, dims, flat)


def shape_of(element: Any) -> tuple[int, ...] | None:
    """What a tensor claims to be; None when it claims nothing that could be one."""
    dims = element.get("shape") if isinstance(element, Mapping) else None
    if not isinstance(dims, list) or any(type(d) is not int or d < 0 for d in dims):
        return None
    return tuple(dims)


def parameters_of(element: Any) -> Mapping[str, Any]:
    """Its `parameters`, empty when it has none."""
    found = element.get("parameters") if isinstance(element, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def rewritten(element: Mapping[str, Any], values: NDArray[Any], *, binary: bool) -> tuple[str, memoryview | None]:
    """The element with these values, and its stretch of the binary part when it has one."""
    datatype = element["datatype"]
    if binary:
        raw = memoryview(datatypes.to_raw(values, datatype))
        said = {**parameters_of(element), "binary_data_size": len(raw)}
        return _text({**element, "shape": list(values.shape), "parameters": said}), raw
    data = element.get("data")
    nested = isinstance(data, list) and bool(data) and isinstance(data[0], list)
    bare = {key: value for key, value in element.items() if key != "data"} | {"shape": list(values.shape)}
    return f'{_text(bare)[:-1]},"data":{listed(values, datatype, nested=nested)}}}', None


def listed(values: NDArray[Any], datatype: str, *, nested: bool) -> str:
    """The JSON of a tensor's `data`, flat in row-major order or nested as its shape is."""
    if datatype == "BYTES":
        values = np.array([v.decode("utf-8", "surrogateescape") for v in values.ravel()], object).reshape(values.shape)
    elif datatype in FLOATS:
        values = values.astype(np.float64)
    return json.dumps((values if nested else values.ravel()).tolist(), separators=(",", ":"))


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _from_list(name: str, datatype: str, shape: tuple[int, ...], data: Any) -> NDArray[Any]:
    if not isinstance(data, list):
        raise UnreadableOutputError(f"output {name}: expected a list of data, got {type(data).__name__}")
    try:
        values = _array(datatype, data)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UnreadableOutputError(f"output {name}: its data is not of {datatype} ({error})") from error
    if values.size != datatypes.elements(shape):
        raise UnreadableOutputError(f"output {name}: expected {datatypes.elements(shape)} values, got {values.size}")
    return values.ravel()


def _array(datatype: str, data: list[Any]) -> NDArray[Any]:
    if datatype == "BYTES":
        return _strings(data)
    if datatype not in datatypes.DTYPES:
        raise ValueError(f"expected one of {', '.join(datatypes.DTYPES)}, BYTES")
    dtype = np.dtype(np.float32) if datatype == "BF16" else datatypes.DTYPES[datatype]
    # NumPy would make room for the longest string in every place.
    values = np.asarray(data, object if _worded(data) else None)
    if datatype in FLOATS:
        if values.size and values.dtype.kind not in "iuf":
            values = _spelled(data)
        with np.errstate(over="ignore"):  # beyond the datatype's range is infinite, and so INVALID
            return values.astype(dtype)
    if values.size and values.dtype.kind not in ("b" if datatype == "BOOL" else "iu"):
        raise ValueError(f"got {values.dtype}")
    cast = values.astype(dtype)
    if not np.array_equal(cast, values):
        raise ValueError("a value does not fit")
    return cast


def _worded(data: list[Any]) -> bool:
    return str in (kinds := set(map(type, data))) or (
        list in kinds and any(_worded(v) for v in data if type(v) is list)
    )


def _spelled(data: list[Any]) -> NDArray[np.float64]:
    """Lists with null, or with words where numbers would not do. Raises: ValueError for any other word."""
    flat = [_number(v) for v in np.asarray(data, object).ravel().tolist()]
    return np.array(flat, np.float64)


def _number(value: Any) -> float:
    if value is None:
        return np.nan
    if isinstance(value, str):
        if value in SPELLED:
            return SPELLED[value]
        raise ValueError(f"{value!r:.40} is no number")
    if type(value) not in (int, float):
        raise ValueError(f"{value!r:.40} is no number")
    return float(value)


def _strings(data: list[Any]) -> NDArray[Any]:
    found: list[bytes] = []
    for value in data:
        if isinstance(value, list):
            found.extend(_strings(value).tolist())
        elif isinstance(value, str):
            found.append(value.encode("utf-8", "surrogateescape"))
        else:
            raise ValueError(f"{value!r:.40} is no string")  # noqa: TRY004  a value of the wire, not of a caller
    values = np.empty(len(found), object)
    values[:] = found
    return values
