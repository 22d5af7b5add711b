"""Wrong numbers among the responses of a regression: residuals measured by how well each could be known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from demur.monitor.curate.checked import CurationError, matrix, vector

Float64 = NDArray[np.float64]
SHARES = (0.01, 0.05, 0.1, 0.15, 0.2)
FINER = 3
FOLDS, RESAMPLES = 5, 10
MANY = 20_000


class Veracity(NamedTuple):
    """score (n,) in (0, 1]: LOW means wrong, as published; risk = 1 - score is higher for less trustworthy responses.

    residual, epistemic, aleatoric (n,) in units of the response; share: the part of the rows left out when the final
    model was fitted, the one that explained the others best, 0 if none helped; suspect (n,): the ceil(n share) lowest.
    """

    score: Float64
    residual: Float64
    epistemic: Float64
    aleatoric: Float64
    share: float
    suspect: NDArray[np.bool_]

    @property
    def risk(self) -> Float64:
        return 1.0 - self.score


class _Known(NamedTuple):
    predicted: Float64
    epistemic: Float64
    aleatoric: Float64


def veracity(
    features: Any,
    response: Any,
    *,
    regressor: Callable[[], Any] | None = None,
    folds: int = FOLDS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Veracity:
    """exp(-(|residual| / u) / median), residuals out of fold, u = epistemic + aleatoric uncertainty.

    epistemic: standard deviation over bootstrap refits; aleatoric: root of the squared residual predicted out of fold.
    Rows of lowest score are left out of fitting in shares of 1 to 20 % (then three finer ones around the best) as long
    as the explained variance of all rows grows. Shapes: features (n, D), response (n,). regressor() has fit and predict.
    Cost: about 9 (2 folds + resamples) fits. Deterministic in the seed when the regressor is.
    Raises: CurationError for other shapes, values that are not finite, fewer than 2 folds of 2 rows.
    Source: Zhou et al. 2023, arXiv:2305.16583, eq. 3 and algorithm 1; differs: the explained variance that chooses the
    share is that of all rows, predicted by models that did not see them.
    """
    from threadpoolctl import threadpool_limits

    rows = matrix(features, "features", least=2 * folds)
    y = vector(response, "response", len(rows))
    if folds < 2 or resamples < 2:
        raise CurationError(f"expected at least 2 folds and 2 resamples, got {folds} and {resamples}")
    make = regressor or _boosted(seed)

    def known(kept: NDArray[np.bool_]) -> _Known:
        # Boosting waits at a barrier after each step: on two busy cores, 120 rows took 68 s with threads, 5 without.
        with threadpool_limits(1 if len(rows) < MANY else None):
            return _learn(rows, y, kept, make, folds, resamples, seed)

    share, final = _left_out(y, known, 2 * folds)
    score = _score(y, final)
    suspect = np.zeros(len(y), bool)
    suspect[np.argsort(score, kind="stable")[: int(np.ceil(share * len(y)))]] = True
    return Veracity(score, y - final.predicted, final.epistemic, final.aleatoric, share, suspect)


def _left_out(y: Float64, known: Callable[[NDArray[np.bool_]], _Known], fewest: int) -> tuple[float, _Known]:
    """The share of rows whose leaving out lets the others, at least `fewest`, explain all rows best, and what they know."""
    everything = np.ones(len(y), bool)
    first = known(everything)
    order = np.argsort(_score(y, first), kind="stable")
    found = {0.0: (_explained(y, first.predicted), first)}

    def attempt(share: float) -> None:
        kept = everything.copy()
        kept[order[: int(np.ceil(share * len(y)))]] = False
        if share not in found and kept.sum() >= fewest:
            learnt = known(kept)
            found[share] = _explained(y, learnt.predicted), learnt

    for share in SHARES:
        attempt(share)
    for share in _around(_best(found)):
        attempt(share)
    share = _best(found)
    return share, found[share][1]


def _best(found: dict[float, tuple[float, _Known]]) -> float:
    return max(found, key=lambda share: (found[share][0], -share))


def _around(share: float) -> list[float]:
    if share == 0:
        return []
    places = (0.0, *SHARES, 0.25)
    place = places.index(share)
    inner = np.linspace(places[place - 1], places[place + 1], FINER + 2)[1:-1]
    return [round(float(value), 4) for value in inner]


def _learn(
    rows: Float64, y: Float64, kept: NDArray[np.bool_], make: Callable[[], Any], folds: int, resamples: int, seed: int
) -> _Known:
    predicted = _out_of_fold(rows, y, kept, make, folds, seed)
    squared = _out_of_fold(rows, (y - predicted) ** 2, kept, make, folds, seed + 1)
    rng, places = np.random.default_rng(seed), np.flatnonzero(kept)
    refits = []
    for _ in range(resamples):
        drawn = rng.choice(places, len(places))
        refits.append(np.asarray(make().fit(rows[drawn], y[drawn]).predict(rows), np.float64).reshape(-1))
    return _Known(predicted, np.std(refits, axis=0), np.sqrt(np.clip(squared, 0, None)))


def _out_of_fold(
    rows: Float64, target: Float64, kept: NDArray[np.bool_], make: Callable[[], Any], folds: int, seed: int
) -> Float64:
    """(n,) each row predicted by a model fitted on the kept rows of the other folds."""
    fold = np.random.default_rng([seed, 7]).permutation(len(rows)) % folds
    predicted = np.empty(len(rows))
    for number in range(folds):
        here = fold == number
        fitted = make().fit(rows[kept & ~here], target[kept & ~here])
        predicted[here] = np.asarray(fitted.predict(rows[here]), np.float64).reshape(-1)
    return predicted


def _score(y: Float64, known: _Known) -> Float64:
    residual, uncertainty = np.abs(y - known.predicted), known.epistemic + known.aleatoric
    floor = 1e-9 * (float(np.std(y)) or 1.0)
    ratio = residual / np.maximum(uncertainty, floor)
    middle = float(np.median(ratio))
    return np.asarray(np.exp(-ratio / (middle if middle > 0 else 1.0)))


def _explained(y: Float64, predicted: Float64) -> float:
    spread = float(((y - y.mean()) ** 2).sum())
    return 1 - float(((y - predicted) ** 2).sum()) / spread if spread > 0 else 0.0


def _boosted(seed: int) -> Callable[[], Any]:
    from sklearn.ensemble import HistGradientBoostingRegressor  # here: thread limits miss libraries loaded under them

    def make() -> Any:
        return HistGradientBoostingRegressor(max_iter=60, random_state=seed)

    return make
