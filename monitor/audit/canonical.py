"""Canonical JSON by the rules of RFC 8785, for strings, integers below 2^53, and lists and maps of them.

Floats, booleans and null are refused: a leaf must have exactly one spelling in every language, and RFC 8785 has none
for NaN.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

LIMIT = 1 << 53
DEPTH = 16
_write = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode


def canonical(value: object) -> bytes:
    """The one UTF-8 spelling of `value`.

    Raises: ValueError for floats, booleans, None, integers outside ±(2^53 - 1), lone surrogates, keys that are not
    strings, and nesting deeper than 16.
    """
    return written(ordered(value))


def written(value: object) -> bytes:
    """Like `canonical`, for a value already known to be in order and in range.

    Raises: ValueError for lone surrogates.
    """
    return _write(value).encode("utf-8")


def ordered(value: object, depth: int = 0) -> object:
    """`value` with every map's keys in the order of their UTF-16 code units; refuses what `canonical` refuses."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return checked(value)
    if depth >= DEPTH:
        raise ValueError(f"canonical JSON: nested deeper than {DEPTH}; flatten the value")
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("canonical JSON: a map's keys must be strings")
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        return {key: ordered(value[key], depth + 1) for key in keys}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [ordered(item, depth + 1) for item in value]
    raise ValueError(
        f"canonical JSON: expected strings, integers, lists or maps, got {type(value).__name__}; "
        "write other numbers as decimal strings"
    )


def checked(number: int) -> int:
    """`number`, when JSON readers that use doubles can hold it exactly.

    Raises: ValueError at and beyond ±2^53.
    """
    if -LIMIT < number < LIMIT:
        return int(number)
    raise ValueError(f"canonical JSON: {number} is not below 2^53; write it as a decimal string")
