"""A fitted score as plain data, and back: arrays, JSON settings and attached files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from demur.detectors.score import Score


def parameters(score: Score) -> dict[str, NDArray[Any]]:
    """Fitted arrays by dotted field name: `whiten`, `react.clip`, `transforms.0.clip`.

    A compiled graph holds each as the initializer `<score name>.<field>`.
    """
    return {name: value for name, value in _leaves(score) if isinstance(value, np.ndarray)}


def attachments(score: Score) -> dict[str, bytes]:
    """Fields that are files of their own, such as an inlined model: not initializers, so a bundle stores them beside."""
    return {name: value for name, value in _leaves(score) if isinstance(value, bytes)}


def settings(score: Score) -> dict[str, Any]:
    """Everything else, ready for JSON; nested parts carry their `kind`."""
    return {f.name: _plain(getattr(score, f.name)) for f in _fields(score) if _is_setting(getattr(score, f.name))}


def restore(
    name: str,
    stored: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    files: Mapping[str, bytes] | None = None,
) -> Score:
    """The score of kind `name` from its settings, parameters and attachments: compiles to the same bytes.

    Raises: ValueError when the kind is unknown, or a field is missing or has not the axes that its class names.
    """
    return cast("Score", _rebuilt(name, stored, {**arrays, **(files or {})}, ""))


def kind_of(score: object) -> str:
    """The name of the score's class in the catalogue."""
    return next(name for name, cls in _kinds().items() if cls is type(score))


def _kinds() -> dict[str, type[Any]]:
    from demur.detectors.learned.layer import PARTS
    from demur.detectors.scores import SCORES, STREAM_SCORES
    from demur.detectors.transforms import TRANSFORMS

    return {**SCORES, **STREAM_SCORES, **TRANSFORMS, **PARTS}


def _fields(value: Any) -> list[dataclasses.Field[Any]]:
    return [f for f in dataclasses.fields(value) if f.init]


def _leaves(value: Any, name: str = "") -> list[tuple[str, Any]]:
    if dataclasses.is_dataclass(value):
        parts = [(f.name, getattr(value, f.name)) for f in _fields(value)]
    elif isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value)):
        parts = [(str(i), part) for i, part in enumerate(value)]
    else:
        return [(name, value)]
    return [leaf for part, held in parts for leaf in _leaves(held, f"{name}.{part}" if name else part)]


def _is_setting(value: Any) -> bool:
    return not isinstance(value, np.ndarray | bytes)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {"kind": kind_of(value), **settings(cast("Score", value))}
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _rebuilt(kind: str, stored: Mapping[str, Any], data: Mapping[str, Any], prefix: str) -> Any:
    kinds = _kinds()
    if kind not in kinds:
        raise ValueError(f"unknown score {kind!r}; known: {', '.join(kinds)}")
    values = {}
    for field in _fields(kinds[kind]):
        name = prefix + field.name
        if name not in data and field.name not in stored:
            if field.default is not dataclasses.MISSING:  # a setting that older bundles do not have
                continue
            raise ValueError(f"score {kind!r}: field {name!r} is neither among the arrays nor in the settings")
        values[field.name] = data[name] if name in data else _part(stored[field.name], data, name)
    for part, axes in getattr(kinds[kind], "axes", {}).items():
        if len(shape := np.shape(values[part])) != axes:
            raise ValueError(f"score {kind!r}: field {prefix + part!r} has shape {shape}, expected {axes} axes")
    return kinds[kind](**values)


def _part(value: Any, data: Mapping[str, Any], name: str) -> Any:
    if isinstance(value, Mapping) and "kind" in value:
        return _rebuilt(value["kind"], value, data, f"{name}.")
    if isinstance(value, list):
        return tuple(_part(v, data, f"{name}.{i}") for i, v in enumerate(value))
    return value
