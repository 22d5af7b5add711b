"""Which reference rows a bank keeps: indices, deterministic in the seed, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Indices = NDArray[np.int64]
METHODS = ("random", "k_centre", "balanced", "distilled")
BLOCK_VALUES = 1 << 21  # float64 values in one temporary: 16 MiB
LLOYD_STEPS = 25


def select_bank(
    rows: NDArray[np.floating], size: int, method: str, seed: int, labels: NDArray[np.int64] | None = None
) -> Indices:
    """Sorted indices (m,) int64 of m = min(size, n) different rows of `rows` (n, D).

    random: without replacement. k_centre: farthest first from a seeded start; the largest Euclidean distance of a row to
    the bank is at most twice the smallest possible. balanced: equal shares of the classes in `labels` (n,), random
    within; a class with fewer rows gives all and the others share the rest. distilled: k-means in each class (in all
    rows without `labels`), then the member nearest to each centre. random and k_centre do not read `labels`.
    Cost: O(n) for random and balanced, O(n D size) otherwise; temporaries of 16 MiB beside `rows` and O(n).
    Raises: ValueError for an unknown method, a size below 1, rows that are not a finite (n, D) with n > 0, labels of
    another length, or none for `balanced`.
    Source: k_centre: Gonzalez 1985, Theor. Comput. Sci. 38, 293; distilled: Lloyd 1982, seeded as Arthur & Vassilvitskii
    2007.
    """
    data, places = _checked(rows, size, method, labels)
    if size >= len(data):
        return np.arange(len(data))
    rng = np.random.default_rng(seed)
    if method == "random":
        chosen = rng.choice(len(data), size, replace=False)
    elif method == "k_centre":
        chosen = _farthest_first(data, size, int(rng.integers(len(data))))
    else:
        chosen = _by_class(data, places, size, method, seed)
    return np.sort(chosen).astype(np.int64)


def shares(counts: Indices, size: int) -> Indices:
    """How many of `size` each class gives: equal shares, at most `counts`; odd ones go to the first classes."""
    left, given = min(size, int(counts.sum())), np.zeros(len(counts), np.int64)
    order = np.argsort(counts, kind="stable")
    for rank, place in enumerate(order):
        each, odd = divmod(left, len(counts) - rank)
        if counts[place] > each:
            rest = np.sort(order[rank:])
            given[rest] = each
            given[rest[:odd]] += 1
            break
        given[place] = counts[place]
        left -= int(counts[place])
    return given


def _checked(
    rows: NDArray[np.floating], size: int, method: str, labels: NDArray[np.int64] | None
) -> tuple[Float64, Indices]:
    if method not in METHODS:
        raise ValueError(f"bank selection: expected one of {', '.join(METHODS)}, got {method!r}")
    if size < 1:
        raise ValueError(f"bank selection: expected a size of at least 1, got {size}")
    data = np.asarray(rows, np.float64)
    if data.ndim != 2 or not len(data):
        raise ValueError(f"bank selection: expected rows (n, D) with n > 0, got shape {data.shape}")
    broken = [start + int(i) for start, part in _blocks(data) for i in np.flatnonzero(~np.isfinite(part).all(axis=1))]
    if broken:
        raise ValueError(f"bank selection: row {broken[0]} is not finite ({len(broken)} in all); drop such rows first")
    if labels is None and method == "balanced":
        raise ValueError("bank selection: `balanced` needs labels; give the reference set labels, or use `k_centre`")
    classes = np.zeros(len(data), np.int64) if labels is None else np.asarray(labels)
    if classes.shape != (len(data),):
        raise ValueError(f"bank selection: expected labels ({len(data)},), got shape {classes.shape}")
    return data, np.unique(classes, return_inverse=True)[1].astype(np.int64)


def _by_class(data: Float64, places: Indices, size: int, method: str, seed: int) -> Indices:
    parts = []
    for place, count in enumerate(shares(np.bincount(places), size)):
        members = np.flatnonzero(places == place)
        rng = np.random.default_rng([seed, place])
        if count == 0:
            continue
        if method == "balanced" or count == len(members):
            parts.append(rng.choice(members, count, replace=False))
        else:
            parts.append(members[_medoids(data[members], int(count), rng)])
    return np.concatenate(parts)


def _farthest_first(data: Float64, size: int, start: int) -> Indices:
    chosen = np.empty(size, np.int64)
    nearest = np.full(len(data), np.inf)
    for step in range(size):
        chosen[step] = start
        np.minimum(nearest, _squares(data, data[start]), out=nearest)
        nearest[chosen[: step + 1]] = -1.0  # a copy of a chosen row is at 0, and may be chosen later
        start = int(np.argmax(nearest))
    return chosen


def _medoids(data: Float64, size: int, rng: np.random.Generator) -> Indices:
    """Positions of the member nearest to each k-means centre: different rows, since clusters are disjoint."""
    centres = data[_spread_start(data, size, rng)].copy()
    place, apart = _assign(data, centres)
    for _ in range(LLOYD_STEPS):
        counts = np.bincount(place, minlength=size)
        sums = np.stack([np.bincount(place, data[:, d], size) for d in range(data.shape[1])], axis=1)
        full = counts > 0
        centres[full] = sums[full] / counts[full, None]
        before = place
        place, apart = _assign(data, centres)
        if np.array_equal(before, place):
            break
    order = np.lexsort((apart, place))
    first = order[np.unique(place[order], return_index=True)[1]]
    return _filled(first, apart, size)


def _filled(chosen: Indices, apart: Float64, size: int) -> Indices:
    """With the rows farthest from their centre in the place of empty clusters."""
    rest = np.setdiff1d(np.argsort(-apart, kind="stable"), chosen, assume_unique=True)
    return np.concatenate([chosen, rest[: size - len(chosen)]])


def _spread_start(data: Float64, size: int, rng: np.random.Generator) -> Indices:
    """k-means++: each start drawn by its squared distance to those before."""
    chosen = np.empty(size, np.int64)
    nearest = np.full(len(data), np.inf)
    chosen[0] = rng.integers(len(data))
    for step in range(1, size):
        np.minimum(nearest, _squares(data, data[chosen[step - 1]]), out=nearest)
        nearest[chosen[:step]] = 0.0
        mass = np.cumsum(nearest)
        found = int(np.searchsorted(mass, rng.random() * mass[-1], side="right"))
        chosen[step] = (
            found if mass[-1] > 0 and found < len(data) else np.setdiff1d(np.arange(step + 1), chosen[:step])[0]
        )
    return chosen


def _assign(data: Float64, centres: Float64) -> tuple[Indices, Float64]:
    """Each row's nearest centre and the squared distance to it."""
    place, apart = np.empty(len(data), np.int64), np.empty(len(data))
    shift = centres.mean(axis=0)
    moved = centres - shift
    length = np.einsum("kd,kd->k", moved, moved)
    step = max(1, BLOCK_VALUES // max(len(centres), data.shape[1]))
    for start in range(0, len(data), step):
        part = data[start : start + step]
        place[start : start + step] = np.argmin(length - 2 * (part - shift) @ moved.T, axis=1)
        apart[start : start + step] = ((part - centres[place[start : start + step]]) ** 2).sum(axis=1)
    return place, apart


def _squares(data: Float64, point: Float64) -> Float64:
    """(n,) squared distances by differences: exactly 0 for copies."""
    return np.concatenate([((part - point) ** 2).sum(axis=1) for _, part in _blocks(data)])


def _blocks(data: Float64) -> Iterator[tuple[int, Float64]]:
    step = max(1, BLOCK_VALUES // max(1, data.shape[1]))
    for start in range(0, len(data), step):
        yield start, data[start : start + step]
