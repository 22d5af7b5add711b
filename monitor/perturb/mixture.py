"""AnomalyBERT's mixture of degradations: what it shows a network that learns from normal windows alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from demur.monitor.perturb.catalogue import find
from demur.monitor.perturb.context import Context
from demur.monitor.perturb.errors import PerturbationError
from demur.monitor.perturb.rows import checked, decode, encode, intact

RATES = {"soft_replacement": 0.5, "uniform_replacement": 0.15, "peak_noise": 0.15, "length_adjustment": 0.0}


class Degraded(NamedTuple):
    """array (N, T, C) as given but for what was degraded; touched (N, T, C) bool; kind (N,) the degradation, "" for none."""

    array: NDArray[Any]
    touched: NDArray[np.bool_]
    kind: NDArray[np.str_]


def degraded(
    windows: NDArray[Any],
    *,
    rates: Mapping[str, float] = RATES,
    seed: int = 0,
    ids: Iterable[Any] | None = None,
    context: Context | None = None,
) -> Degraded:
    """Each window (T, C) degraded in one way, drawn by `rates` (the rest stays as it is), as strongly as drawn evenly
    between the weakest and the strongest severity: intervals of 1.5 to 15 % of the window, peaks of 2 to 12 standard
    deviations, speeds of 2 to 4.

    A row's result depends on the row, its id (default 0..N-1), the seed and the context (default: of these windows). Rows that
    are not finite stay.
    Raises: PerturbationError for other shapes, unknown names, or rates that are no distribution.
    Source: Jeong et al. 2023, arXiv:2305.04468, its code's rates.
    """
    rows = checked(windows, "series", "windows")
    entries = [find("series", name) for name in rates]
    shares = np.array(list(rates.values()), np.float64)
    if (shares < 0).any() or not shares.sum() <= 1 + 1e-9:
        raise PerturbationError(f"rates: expected shares of at least 0 that sum to at most 1, got {dict(rates)}")
    names = list(range(len(rows))) if ids is None else list(ids)
    if len(names) != len(rows):
        raise PerturbationError(f"windows: expected {len(rows)} ids, one for each row, got {len(names)}")
    around = Context.of(rows) if context is None and len(rows) else context
    result, touched = rows.copy(), np.zeros(rows.shape, np.bool_)
    kind = np.full(len(rows), "", max((f"U{len(n)}" for n in rates), key=lambda u: int(u[1:]), default="U1"))
    ends = np.cumsum(shares)
    for place, name in enumerate(names):
        rng = _generator(seed, name)
        way, strength = int(np.searchsorted(ends, rng.random(), side="right")), rng.random()
        if way == len(entries) or not intact(rows[place], "series"):
            continue
        weakest, strongest = entries[way].values[0], entries[way].values[-1]
        value = weakest + strength * (strongest - weakest)
        made, touched[place] = entries[way].change(decode(rows[place], "series"), value, rng, around)
        result[place], kind[place] = encode(made, rows), entries[way].name
    return Degraded(result, touched, kind)


def _generator(seed: int, row: Any) -> np.random.Generator:
    digest = hashlib.sha256(f"series/mixture/{seed}/{row}".encode()).digest()
    return np.random.Generator(np.random.PCG64DXSM(int.from_bytes(digest[:16], "little")))
