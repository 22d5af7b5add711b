"""How much of unlabelled traffic is anomalous: a posterior, not a number."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from demur.monitor.curate.checked import CurationError, matrix

Float64 = NDArray[np.float64]
COMPONENTS, PRIOR, ITERATIONS, FEWEST = 100, 0.01, 1500, 2.0
ORDER_DRAWS, ROUNDS, SAMPLES, ATTEMPTS = 1000, 200, 10_000, 5
STEEPEST, FLATTEST = 50.0, 1.0


class Contamination(NamedTuple):
    """samples (S,) of the share of anomalies, their mean, a central interval, and the prior they rest on."""

    samples: Float64
    mean: float
    low: float
    high: float
    p_high: float
    above: float


class Components(NamedTuple):
    """The mixture's parts, most anomalous first: concentration (K,), draws (ORDER_DRAWS, K) of mean / (1 + deviation)."""

    concentration: Float64
    draws: Float64


def contamination(
    scores: Any,
    *,
    p_none: float = 0.01,
    p_high: float = 0.01,
    high: float = 0.15,
    limit: float = 0.25,
    credible: float = 0.9,
    components: int = COMPONENTS,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Contamination:
    """Posterior of the share of anomalies among n rows, from the scores of M detectors.

    scores: (n, M), each higher for less trustworthy rows; a detector whose scores are all equal is refused. They are
    shifted, logged, standardised and described by a Dirichlet-process mixture; its parts are ordered from the most
    anomalous, and part k is anomalous given those before with probability 1 / (1 + exp(tau + delta r_k)).
    The prior decides much: with probability `p_none` nothing is anomalous, with `p_high` the share is `high` or more, and
    it is less than `limit` for certain. Set `high` and `p_high` from what is known, and report them with the result.
    Deterministic in the seed. Cost: up to 5 mixtures of at most `components` parts, O(n components M^2) a step.
    Raises: CurationError for fewer than 20 rows, values that are not finite, constant detectors, levels out of order;
    when no (delta, tau) meets the prior: then no small part of the rows stands out, be it that none is anomalous or too
    many are.
    Source: Perini, Bürkner & Klami 2023, arXiv:2210.10487; differs: delta is solved in one dimension with tau from
    p_none, draws beyond `limit` are rejected, and an unmet prior is an error instead of zeros.
    """
    rows = matrix(scores, "scores", least=20)
    if not (0 < p_none < 1 and 0 < p_high < 1 and 0 < high < limit <= 1 and 0 < credible < 1):
        raise CurationError(f"expected 0 < high < limit <= 1 and levels in (0, 1), got high {high}, limit {limit}")
    parts, (delta, tau) = _fitted(_standardised(rows), min(components, len(rows) - 1), seed, (p_none, p_high, high))
    rng = np.random.default_rng([seed, 1])
    found: Float64 = np.empty(0)
    for _ in range(ROUNDS):
        drawn = _draw(parts, delta, tau, samples, rng)
        found = np.concatenate([found, drawn[drawn < limit]])
        if len(found) >= samples:
            break
    if len(found) < samples:
        raise CurationError(
            f"only {len(found)} of {samples} draws stay below limit = {limit:g}: the most anomalous part of the data is larger; "
            "raise `limit` and `high`, or give scores that separate anomalies"
        )
    found = found[:samples]
    edges = np.quantile(found, [(1 - credible) / 2, (1 + credible) / 2])
    return Contamination(found, float(found.mean()), float(edges[0]), float(edges[1]), p_high, high)


def detector_scores(features: Any, *, neighbours: int = 20, seed: int = 0) -> Float64:
    """(n, 3) scores of three unlike detectors fitted on the rows themselves: k-th distance, LOF, isolation forest.

    Raises: CurationError for fewer than 20 rows or values that are not finite.
    """
    from sklearn.ensemble import IsolationForest
    from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors

    rows = matrix(features, "features", least=20)
    k = min(neighbours, len(rows) - 1)
    apart = NearestNeighbors(n_neighbors=k).fit(rows).kneighbors()[0][:, -1]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Duplicate values are leading")
        local = -LocalOutlierFactor(n_neighbors=k).fit(rows).negative_outlier_factor_
    forest = -IsolationForest(random_state=seed).fit(rows).score_samples(rows)
    return np.stack([apart, local, forest], axis=1)


def _standardised(scores: Float64) -> Float64:
    logged = np.log(scores - scores.min(axis=0) + 0.01)
    spread = logged.std(axis=0)
    if (np.ptp(scores, axis=0) == 0).any():
        raise CurationError(
            f"scores: detector {int(np.argmin(np.ptp(scores, axis=0)))} gives every row the same; leave it out"
        )
    return np.asarray((logged - logged.mean(axis=0)) / spread)


def _fitted(
    rows: Float64, components: int, seed: int, prior: tuple[float, float, float]
) -> tuple[Components, tuple[float, float]]:
    for attempt in range(ATTEMPTS):
        parts = _parts(rows, components, seed + 100 * attempt)
        solved = solve_prior(parts, *prior)
        if solved is not None:
            return parts, solved
    raise CurationError(
        f"no part of the rows stands out such that the share is {prior[2]:g} or more with probability {prior[1]:g}: "
        "there may be no anomalies, or more than that; give scores that separate them, or raise `high` and `p_high`"
    )


def _parts(rows: Float64, components: int, seed: int) -> Components:
    from sklearn.mixture import BayesianGaussianMixture
    from threadpoolctl import threadpool_limits

    mixture = BayesianGaussianMixture(
        n_components=components, weight_concentration_prior=PRIOR, max_iter=ITERATIONS, random_state=seed
    )
    # One thread: on matrices this small more of them only wait (1.5 s became 9 s on two busy cores).
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)  # convergence: the posterior is used as far as it got
        mixture.fit(rows)
    mass = mixture.weight_concentration_[0]
    kept = np.flatnonzero(mass >= FEWEST)
    rng = np.random.default_rng([seed, 0])
    draws = np.stack([_anomalousness(mixture, int(k), rng) for k in kept], axis=1)
    order = np.argsort(-draws.mean(axis=0), kind="stable")
    lost = (mass.sum() - mass[kept].sum()) / len(kept)
    return Components(mass[kept][order] + lost, draws[:, order])


def _anomalousness(mixture: Any, part: int, rng: np.random.Generator) -> Float64:
    """(ORDER_DRAWS,) draws of the mean over detectors of mean / (1 + deviation), from the part's posterior."""
    from scipy.stats import invwishart

    freedom, precision = mixture.degrees_of_freedom_[part], mixture.mean_precision_[part]
    scale = mixture.covariances_[part] * freedom
    width = len(scale)
    spread = invwishart.rvs(freedom, scale, size=ORDER_DRAWS, random_state=rng).reshape(ORDER_DRAWS, width, width)
    root = np.linalg.cholesky(spread / precision)
    mean = mixture.means_[part] + (root @ rng.standard_normal((ORDER_DRAWS, width, 1)))[:, :, 0]
    deviation = np.sqrt(np.diagonal(spread, axis1=1, axis2=2))
    return np.asarray((mean / (1 + deviation)).mean(axis=1))


def solve_prior(parts: Components, p_none: float, p_high: float, high: float) -> tuple[float, float] | None:
    """(delta, tau) with P(the first part is anomalous) = 1 - p_none and P(share >= high) = p_high; None if there is none."""
    from scipy.optimize import brentq
    from scipy.stats import beta

    typical = parts.draws.mean(axis=0)
    above = np.cumsum(parts.concentration)
    rest = parts.concentration.sum() - above
    tail = np.ones(len(above))
    tail[:-1] = beta.sf(high, above[:-1], rest[:-1])

    def offset(steepness: float) -> float:
        return float(np.log(p_none / (1 - p_none)) + steepness * typical[0])

    def excess(steepness: float) -> float:
        return float(exactly(_chances(typical[None], -steepness, offset(steepness)))[0] @ tail) - p_high

    if excess(STEEPEST) > 0 or excess(FLATTEST) < 0:
        return None
    steepness = float(brentq(excess, FLATTEST, STEEPEST))
    return -steepness, offset(steepness)


def _chances(r: Float64, delta: float, tau: float) -> Float64:
    return np.asarray(1 / (1 + np.exp(np.clip(tau + delta * r, -700, 700))))


def exactly(chances: Float64) -> Float64:
    """(S, K) probability that exactly the first k parts are anomalous, from each one's given those before."""
    stops = np.concatenate([1 - chances[:, 1:], np.ones((len(chances), 1))], axis=1)
    return np.asarray(np.cumprod(chances, axis=1) * stops)


def _draw(parts: Components, delta: float, tau: float, count: int, rng: np.random.Generator) -> Float64:
    """`count` draws of the share: how many parts, then their weight; 0 when none is anomalous."""
    r = parts.draws[rng.integers(len(parts.draws), size=count)]
    upto = np.cumsum(exactly(_chances(r, delta, tau)), axis=1)
    how_many = (rng.random(count)[:, None] > (1 - upto[:, -1:]) + np.pad(upto, ((0, 0), (1, 0)))[:, :-1]).sum(axis=1)
    weights = np.cumsum(rng.dirichlet(parts.concentration, count), axis=1)
    padded = np.concatenate([np.zeros((count, 1)), np.minimum(weights, 1.0)], axis=1)
    return np.asarray(padded[np.arange(count), how_many])
