"""Hyper-parameters: checked, never adjusted."""

from __future__ import annotations

import math


def whole(score: str, name: str, value: object, *, least: int = 1) -> int:
    """Raises: ValueError when the value is not a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{score}: {name} must be a whole number of at least {least}, got {value!r}")
    return value


def between(score: str, name: str, value: object, low: float, high: float) -> float:
    """Raises: ValueError when the value is not a number strictly above `low` and at most `high`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low < value <= high or math.isinf(value):
        raise ValueError(f"{score}: {name} must be a number in ({low:g}, {high:g}], got {value!r}")
    return float(value)


def one_of(score: str, name: str, value: object, options: tuple[str, ...]) -> str:
    """Raises: ValueError when the value is none of the options."""
    if value not in options:
        raise ValueError(f"{score}: {name} must be one of {', '.join(options)}; got {value!r}")
    return str(value)


def flag(score: str, name: str, value: object) -> bool:
    """Raises: ValueError when the value is not true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{score}: {name} must be true or false, got {value!r}")  # noqa: TRY004 - as every hyper-parameter
    return value
