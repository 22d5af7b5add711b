"""Tables for rows that come in groups (boxes of an image): groups are independent, rows inside one are not.

Promised is the share of refused rows when a group is drawn and then one of its rows, so a row weighs 1 / group size. With
L_i(t) the share of group i's rows scoring above t, conformal risk control (Angelopoulos et al. 2024, theorem 1, bound B = 1)
gives E[L(t)] <= alpha for the smallest t with

    (L_1(t) + ... + L_G(t) + 1) / (G + 1) <= alpha,

where the 1 is the test group's own weight, all of whose rows may lie above t. Rounding the weighted count
W(s) = sum of weights of rows >= s up to a whole number turns this into an ordinary table of G numbers, whose j-th largest is
the largest score v with W(v) > j - 1. Then #{table >= s} = ceil(W(s)), so thresholds and p-values read off this table as off
any other, n is the number of groups, and with groups of one row it is the sorted scores. Rounding up only refuses less.

For confidence, {rate of the threshold > b} lies inside {sum of L_i at one fixed point, of mean >= G b, <= G - rank}, whose
probability is at most e P(Bin(G, b) <= G - rank) (Bentkus 2004): the binomial forms hold with delta / e.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

INFLATION = math.e
_COARSE_SCALE = 2**32


def clustered_table(scores: NDArray[np.float32], group: NDArray[np.int64]) -> NDArray[np.float32]:
    """One conservative representative score per group, weighted by 1 / group size.

    Shapes: scores (n,), group (n,) any ids -> (G,) sorted ascending, every entry one of `scores`.
    """
    _, inverse, sizes = np.unique(group, return_inverse=True, return_counts=True)
    scale = _scale(sizes)
    weights = -(-scale // sizes)
    descending = np.argsort(-scores, kind="stable")
    heaped = np.cumsum(weights[inverse[descending]])
    at = np.searchsorted(heaped, np.arange(sizes.size, dtype=np.int64) * scale, side="right")
    return scores[descending[at]][::-1].copy()


def _scale(sizes: NDArray[np.int64]) -> int:
    """Whole-number weights: exact when the least common multiple fits 62 bits, else rounded up, which refuses less."""
    common = math.lcm(*(int(size) for size in np.unique(sizes)))
    return common if common * sizes.size < 2**62 else _COARSE_SCALE


def one_row_per_group(group: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Row numbers, one drawn uniformly from each group: independent draws of the same weighted row distribution.

    Shapes: group (n,) -> (G,), by ascending group id. Deterministic in `seed`.
    """
    keys = np.random.default_rng(seed).random(group.size)
    ordered = np.lexsort((keys, group))
    first = np.ones(group.size, dtype=bool)
    first[1:] = group[ordered][1:] != group[ordered][:-1]
    return ordered[first].astype(np.int64)
