"""Isolation forest: trees walked level by level, all at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from demur.detectors.hyper import whole
from demur.detectors.numpy_ops import Array
from demur.detectors.score import Reference, Scaling, sample
from demur.detectors.scores.bank import kept_rows
from demur.detectors.tensor import Ops, Signal, Signals, T

Integers = NDArray[np.int32]
FOREST_ROWS = 20_000  # that trees draw theirs from


@dataclass(frozen=True, eq=False)
class IsolationForest:
    """2^(-mean path length / c(n)): how few random cuts it takes to part a row from n others.

    Trees are scikit-learn's, each grown on `rows` of at most 20,000 sampled reference rows, to depth ceil(log2 rows). The
    path length is the leaf's depth plus c(rows in the leaf), c(n) = 2 (ln(n - 1) + 0.5772...) - 2 (n - 1) / n, c(2) = 1,
    c(1) = 0. A row goes left when its value is at most the threshold, compared in float32 as scikit-learn does: thresholds
    are rounded down to float32, which changes no comparison.
    Shapes: features (N, D) -> (N,). Range: (0, 1], dimensionless. Higher is less trustworthy.
    Raises: ValueError in fit with under 2 rows, a row that is not finite, or features that are constant.
    Source: Liu, Ting & Zhou 2008, "Isolation forest", eq. 2.
    """

    # The walk gathers T values at each level. Measured with 100 trees of 256 rows, D = 16, one thread, see docs/banks.md:
    # the matrix form (every cut compared, one product a level) touches each of the 25,500 cuts of full trees.
    feature: Integers  # (nodes,), the column that is cut; 0 at a leaf
    threshold: Array  # (nodes,), +inf at a leaf
    left: Integers  # (nodes,), the left child, whose neighbour is the right one; itself at a leaf
    path: Array  # (nodes,), path length over c(n) and the number of trees, at a leaf
    roots: Array  # (T,)
    depth: int
    inputs: ClassVar[tuple[Signal, ...]] = ("features",)
    scales: ClassVar[Scaling] = sample(FOREST_ROWS)
    source: ClassVar[str] = "Liu, Ting & Zhou 2008, Isolation forest, eq. 2"

    @classmethod
    def fit(cls, reference: Reference, *, trees: int = 100, rows: int = 256, seed: int = 0) -> Self:
        whole("isolation_forest", "trees", trees)
        whole("isolation_forest", "rows", rows, least=2)
        kept = kept_rows(reference, "isolation_forest", "features", size=FOREST_ROWS, seed=seed, least=2).signals[
            "features"
        ]
        grown = _grown(kept.astype(np.float32), trees, min(rows, len(kept)), seed)
        if all(tree.tree_.max_depth == 0 for tree in grown):
            raise ValueError("isolation_forest: the reference features are constant")
        return cls._laid_out([_laid(tree.tree_) for tree in grown], min(rows, len(kept)))

    @classmethod
    def _laid_out(cls, trees: list[_Tree], rows: int) -> Self:
        roots = np.cumsum([0, *(len(t.left) for t in trees)])[:-1]
        left = np.concatenate([t.left + start for t, start in zip(trees, roots, strict=True)])
        path = np.concatenate([t.path for t in trees]) / (len(trees) * float(average_path(np.array([rows]))[0]))
        return cls(
            np.concatenate([t.feature for t in trees]).astype(np.int32),
            np.concatenate([t.threshold for t in trees]),
            left.astype(np.int32),
            path.astype(np.float32),
            roots.astype(np.float32),
            max(t.depth for t in trees),
        )

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        x = signals["features"]
        never = xp.greater(xp.max(x, keepdims=True), np.inf)
        place = xp.index(xp.where(never, self.roots, self.roots))  # (N, T)
        for _ in range(self.depth):
            value = xp.pick(x, xp.take(self.feature, place))
            right = xp.greater(value, xp.take(self.threshold, place))
            place = xp.take(self.left, place) + xp.flags(right)
        return xp.exp(-float(np.log(2)) * xp.sum(xp.take(self.path, place)))


class _Tree(NamedTuple):
    """Nodes with neighbouring children: feature, threshold, left, path (nodes,) each; depth of the deepest leaf."""

    feature: NDArray[np.int64]
    threshold: Array
    left: NDArray[np.int64]
    path: NDArray[np.float64]
    depth: int


def _grown(rows: Array, trees: int, each: int, seed: int) -> list[Any]:
    from sklearn.ensemble import IsolationForest as Forest

    whole("isolation_forest", "seed", seed, least=0)
    return list(Forest(n_estimators=trees, max_samples=each, random_state=seed).fit(rows).estimators_)


def _laid(tree: Any) -> _Tree:
    """A scikit-learn tree with its nodes renumbered breadth first, so that right = left + 1."""
    order, depth = [0], [0]
    for node, level in zip(order, depth, strict=False):  # both grow as they are read
        if tree.children_left[node] >= 0:
            order += [tree.children_left[node], tree.children_right[node]]
            depth += [level + 1, level + 1]
    old, deep = np.array(order), np.array(depth)
    place = np.empty(len(old), np.int64)
    place[old] = np.arange(len(old))
    leaf = tree.children_left[old] < 0
    left = np.where(leaf, np.arange(len(old)), place[np.where(leaf, 0, tree.children_left[old])])
    path = np.where(leaf, deep + average_path(tree.n_node_samples[old]), 0.0)
    threshold = np.where(leaf, np.float32(np.inf), _rounded_down(tree.threshold[old]))
    return _Tree(np.where(leaf, 0, tree.feature[old]), threshold, left, path, int(deep.max()))


def _rounded_down(values: NDArray[np.float64]) -> Array:
    """The largest float32 that is at most each value: x <= value exactly when x <= it, for float32 x."""
    nearest = values.astype(np.float32)
    return np.where(nearest > values, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def average_path(rows: NDArray[Any]) -> NDArray[np.float64]:
    """c(n): the mean depth at which a search fails in a random binary tree of n rows."""
    n = np.maximum(np.asarray(rows, np.float64), 2.0)
    many = 2 * (np.log(np.maximum(n - 1, 1)) + np.euler_gamma) - 2 * (n - 1) / n
    return np.where(rows <= 1, 0.0, np.where(rows == 2, 1.0, many))
