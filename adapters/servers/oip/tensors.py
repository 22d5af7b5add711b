"""Output tensors as the (N, width) arrays that signals are."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from demur.adapters.servers.oip.datatypes import SIGNAL_DATATYPES
from demur.adapters.servers.oip.reading import Tensor, UnreadableOutputError


def rows(tensor: Tensor, width: int, largest_bytes: int) -> NDArray[Any]:
    """The tensor as (N, width), N >= 1, float16, float32 or float64.

    Raises: UnreadableOutputError when it is not of floats, not of that width, or not of its stated size.
    """
    name = tensor.name
    if tensor.datatype not in SIGNAL_DATATYPES:
        raise UnreadableOutputError(f"output {name}: expected {', '.join(SIGNAL_DATATYPES)}, got {tensor.datatype!r}")
    count = rows_of(name, tensor.shape, width)
    if count * width * 4 > largest_bytes:
        raise UnreadableOutputError(f"output {name}: {count} rows of {width} exceed tensor_bytes = {largest_bytes}")
    return tensor.flat().reshape(count, width)


def rows_of(name: str, shape: Any, width: int) -> int:
    """N, when `shape` can be read as (N, width) in one way only: (N, width) with any number of ones after N.

    Raises: UnreadableOutputError.
    """
    dims = tuple(shape)
    inner = [d for d in dims[1:] if d != 1]
    wanted = [] if width == 1 else [width]
    if not dims or inner != wanted:
        raise UnreadableOutputError(f"output {name}: expected shape (N, {width}), got {dims}")
    if dims[0] < 1:
        raise UnreadableOutputError(f"output {name}: expected at least one row, got shape {dims}")
    return int(dims[0])


def claimed_rows(shapes: Any, largest: int) -> int:
    """The batch size that the first usable shape claims, for verdicts about answers that cannot be read; else 1."""
    return next((int(shape[0]) for shape in shapes if len(shape) and 1 <= shape[0] <= largest), 1)
