"""The selection table that `demur fit --auto` leaves in a bundle, as far as a report shows it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from demur.monitor.bundle import Bundle

MEMBER = "selection.json"
LARGEST_BYTES = 1 << 20
MOST_CANDIDATES = 500


@dataclass(frozen=True)
class Candidate:
    """One candidate: its value on each axis (None: not measured), and how far behind the best one it is, at worst."""

    name: str
    chosen: bool
    values: tuple[float | None, ...]
    regret: float | None


@dataclass(frozen=True)
class Selection:
    """Candidates against axes; values are higher is better, such as an AUROC on pseudo-novel classes."""

    axes: tuple[str, ...]
    candidates: tuple[Candidate, ...]


def selection_of(bundle: Bundle) -> Selection | None:
    """The table in member `selection.json`; None without one, or with one of another shape.

    Expected: {"axes": [name, ...], "candidates": [{"name": ..., "chosen": bool, "values": {axis: number or null}}, ...]};
    other keys are ignored. Regret is the largest shortfall behind the best candidate over the axes.
    """
    raw = bundle.members.get(MEMBER)
    if raw is None or len(raw) > LARGEST_BYTES:
        return None
    try:
        document = json.loads(raw)
        axes = tuple(str(axis) for axis in document["axes"])
        rows = [
            (str(c["name"]), bool(c.get("chosen", False)), tuple(_number(c["values"].get(axis)) for axis in axes))
            for c in document["candidates"][:MOST_CANDIDATES]
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    best = [max((x for _, _, v in rows if (x := v[i]) is not None), default=0.0) for i in range(len(axes))]
    return Selection(axes, tuple(Candidate(name, chosen, v, _regret(v, best)) for name, chosen, v in rows))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _regret(values: tuple[float | None, ...], best: list[float]) -> float | None:
    behind = [top - value for value, top in zip(values, best, strict=True) if value is not None]
    return max(behind) if behind else None
