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

    # All trees are filled up to one depth, a tree a column, level by level, so that the root is row 1 and the children of
    # row i are 2 i and 2 i + 1: a step of the walk takes a feature and a threshold, and no child, from the tree's own column.
    # Comparing every cut instead, one product a level, touches each of 25,500 cuts.
    feature: Integers  # (2^depth, T), the column of the features that is cut; 0 below a leaf, and in the unused row 0
    threshold: Array  # (2^depth, T), +inf below a leaf: to the left
    path: Array  # (2^depth, T), path length over c(n) and the number of trees
    roots: Integers  # (T,), 1
    leaves: Integers  # (1,), 2^depth: row i there is row i - leaves of `path`
    depth: int
    # What `restore` checks: earlier versions had all trees in one row.
    axes: ClassVar[dict[str, int]] = {"feature": 2, "threshold": 2, "path": 2}
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
        return cls._laid_out([tree.tree_ for tree in grown], min(rows, len(kept)))

    @classmethod
    def _laid_out(cls, trees: list[Any], rows: int) -> Self:
        depth = max(tree.max_depth for tree in trees)
        laid = [_laid(tree, depth) for tree in trees]
        unused = np.zeros(1)
        feature, threshold = (np.stack([np.concatenate([unused, *tree[i]]) for tree in laid], axis=1) for i in (0, 1))
        path = np.stack([tree.path for tree in laid], axis=1) / (len(laid) * float(average_path(np.array([rows]))[0]))
        roots = np.ones(len(laid), np.int32)
        leaves = np.array([2**depth], np.int32)
        return cls(
            feature.astype(np.int32), threshold.astype(np.float32), path.astype(np.float32), roots, leaves, depth
        )

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        x = signals["features"]
        never = xp.greater(xp.max(x, keepdims=True), np.inf)
        place = self.roots + xp.flags(never)  # (N, T)
        for _ in range(self.depth):
            value = xp.pick(x, xp.take_each(self.feature, place))
            right = xp.greater(value, xp.take_each(self.threshold, place))
            place = place + place + xp.flags(right)
        return xp.exp(-float(np.log(2)) * xp.sum(xp.take_each(self.path, place - self.leaves)))


class _Tree(NamedTuple):
    """One tree filled up to `depth`: feature and threshold (2^level,) of each level, path (2^depth,)."""

    feature: list[NDArray[np.int64]]
    threshold: list[Array]
    path: NDArray[np.float64]


def _grown(rows: Array, trees: int, each: int, seed: int) -> list[Any]:
    from sklearn.ensemble import IsolationForest as Forest

    whole("isolation_forest", "seed", seed, least=0)
    return list(Forest(n_estimators=trees, max_samples=each, random_state=seed).fit(rows).estimators_)


def _laid(tree: Any, depth: int) -> _Tree:
    """A scikit-learn tree, filled up: below a leaf every row goes left, and every place holds the leaf."""
    node, deep = np.zeros(1, np.int64), np.zeros(1, np.int64)
    feature, threshold = [], []
    for _ in range(depth):
        leaf = tree.children_left[node] < 0
        feature.append(np.where(leaf, 0, tree.feature[node]))
        threshold.append(np.where(leaf, np.float32(np.inf), _rounded_down(tree.threshold[node])))
        below = (np.where(leaf, node, child[node]) for child in (tree.children_left, tree.children_right))
        node, deep = np.stack([*below], axis=1).ravel(), np.repeat(deep + ~leaf, 2)
    path = deep + average_path(tree.n_node_samples[node])
    return _Tree(feature, threshold, path)


def _rounded_down(values: NDArray[np.float64]) -> Array:
    """The largest float32 that is at most each value: x <= value exactly when x <= it, for float32 x."""
    nearest = values.astype(np.float32)
    return np.where(nearest > values, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def average_path(rows: NDArray[Any]) -> NDArray[np.float64]:
    """c(n): the mean depth at which a search fails in a random binary tree of n rows."""
    n = np.maximum(np.asarray(rows, np.float64), 2.0)
    many = 2 * (np.log(np.maximum(n - 1, 1)) + np.euler_gamma) - 2 * (n - 1) / n
    return np.where(rows <= 1, 0.0, np.where(rows == 2, 1.0, many))
