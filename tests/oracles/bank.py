"""Scores of features h (N, D) against stored rows (M, D)."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp, softmax

from tests.oracles.distance import unit
from tests.oracles.sample import Float


def distances(rows: Float, asked: Float) -> Float:
    """Euclidean, (N, M), from differences."""
    return np.array([np.linalg.norm(rows - row, axis=1) for row in asked])


def cosine_distances(rows: Float, asked: Float) -> Float:
    """1 - cos as half the squared difference of unit vectors, (N, M)."""
    return 0.5 * distances(unit(rows), unit(asked)) ** 2


def nearest(gaps: Float, k: int, aggregate: str = "kth") -> Float:
    """The k-th smallest of each row, or the mean of the k smallest."""
    ordered = np.sort(gaps, axis=1)
    return ordered[:, k - 1] if aggregate == "kth" else ordered[:, :k].mean(axis=1)


def nnguide(bank: Float, bank_logits: Float, features: Float, logits: Float, k: int = 10) -> Float:
    """-E(x) mean of the k largest <u, E_i u_i>, E = logsumexp (Park et al. 2023, equation 5)."""
    guidance = unit(features) @ (logsumexp(bank_logits, axis=1)[:, None] * unit(bank)).T
    return -logsumexp(logits, axis=1) * np.sort(guidance, axis=1)[:, -k:].mean(axis=1)


def relations(bank: Float, bank_logits: Float, features: Float, logits: Float) -> Float:
    """max(0, cos(h, h_i)) p . p_i, (N, M) (Kim et al. 2023, equation 1)."""
    cosine = np.maximum(0.0, unit(features) @ unit(bank).T)
    return cosine * (softmax(logits, axis=1) @ softmax(bank_logits, axis=1).T)


def relation(kernel: Float, power: float = 1.0, least: float = 0.03) -> Float:
    """-mean over the bank of k^power where k > least."""
    return -np.where(kernel > least, kernel**power, 0.0).mean(axis=1)


def cider(bank: Float, projection: Float, k: int = 50) -> Float:
    """Squared distance of unit projections to the k-th neighbour (Ming et al. 2023); 2 for the zero vector, which is
    nobody's neighbour."""
    squares = nearest(distances(unit(bank[bank.any(axis=1)]), unit(projection)) ** 2, k)
    return np.where(projection.any(axis=1), squares, 2.0)


def contrast(known: Float, foreign: Float, features: Float, k: int) -> Float:
    """k-th cosine distance to the reference less the k-th to rows known to be foreign."""
    return nearest(cosine_distances(known, features), k) - nearest(cosine_distances(foreign, features), k)


def cfood(bank: Float, features: Float, covered: float = 0.01, grid: int = 230, off: float = 0.0) -> Float:
    """The smallest neighbourhood size, a share of the bank, at which a share of the bank's rows count the row as theirs.

    Among unit vectors; the ball of a bank row at count m reaches to its m-th nearest other; counts are the whole numbers
    nearest to `grid` numbers spaced geometrically over 1..M - 1. Outside even the largest balls: the K-th smallest ratio
    of the row's squared distance to a largest ball's. `off` moves the row that much further from everything.
    """
    known = unit(bank)
    count = len(known)
    needed = int(np.ceil(covered * count))
    counts = np.unique(np.rint(np.geomspace(1, count - 1, grid)).astype(int))
    among = distances(known, known)
    np.fill_diagonal(among, np.inf)
    balls = np.sort(among, axis=1)[:, :-1]  # (M, M - 1)
    out = []
    for row in np.maximum(distances(known, unit(features)) + off, 0.0):
        holding = [int((row <= balls[:, m - 1]).sum()) for m in counts]
        first = next((m for m, holds in zip(counts, holding, strict=True) if holds >= needed), None)
        beyond = np.sort(row**2 / balls[:, -1] ** 2)[needed - 1]
        out.append(beyond if first is None else first / (count - 1))
    return np.array(out)
