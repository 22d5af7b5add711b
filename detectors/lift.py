"""From fitted arrays to named initializers: the whole front end of the compiler."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from demur.detectors.onnx_ops import OnnxOps


def lift(x: Any, name: str, xp: OnnxOps) -> Any:
    """The same dataclass with its arrays replaced by initializers named `score.field`."""
    if isinstance(x, np.ndarray):
        return xp.constant(name, x)
    if isinstance(x, tuple) and any(dataclasses.is_dataclass(e) for e in x):
        return tuple(lift(e, f"{name}.{i}", xp) for i, e in enumerate(x))
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        fields = [f.name for f in dataclasses.fields(x) if f.init]
        return dataclasses.replace(x, **{f: lift(getattr(x, f), f"{name}.{f}", xp) for f in fields})
    return x
