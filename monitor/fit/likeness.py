"""Whether the calibration set looks like the reference set: scores know the one, and promises are about inputs like the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.detectors.storage import attachments, parameters
from demur.monitor.config.policy import PolicyConfig
from demur.monitor.fit.columns import float32
from demur.monitor.fit.gathering import score_alone
from demur.monitor.fit.plan import Plan, stops
from demur.monitor.fit.table import SignalsTable

SAMPLE_ROWS, FEWEST_ROWS = 2000, 20
SAMPLE_BYTES = 128 << 20  # in float64; of rows as wide as images fewer are looked at
MIDDLE = (
    0.1,
    0.9,
)  # the median of further rows of the same data stayed within 0.28 to 0.71 of the reference rows, on 28 sets
ROUNDING = 1e-3  # of a value: rows that a model scales to one length differ by less
SHOWN = 3
UNLIKE, UNLIKE_BEFORE = (f"calibration: unlike the {other}" for other in ("reference set", "calibration set before"))
SEED = 20_261_127
CHECK = (
    "check that both come from one kind of input with the same preprocessing, and that this is no file of outliers "
    "(a model is also surer of rows it was trained on)"
)


def unlike_reference(
    policy: PolicyConfig,
    planned: Plan,
    scores: Mapping[str, Any],
    reference: SignalsTable,
    calibration: SignalsTable,
) -> list[str]:
    """A note when the median calibration row has a signal or a score that the middle 80 % of the reference rows do not.

    Signals are compared by their norm, those of width 1 by their value; scores only where a fit cannot remember the
    reference rows, which are nearer to themselves than any other row is. Both sets in samples of at most 2,000 rows.
    """
    ours, theirs = _sample(reference), _sample(calibration)
    if min(len(ours), len(theirs)) < FEWEST_ROWS:
        return []
    found = list(_signals(policy, planned, ours, theirs))
    widest = max(reference.widths.values())
    told = {n: s for n, s in scores.items() if not remembers(s, len(reference), widest)}
    if told and not planned.stream:
        known, new = (score_alone(policy, planned, told, table) for table in (ours, theirs))
        found += [text for n in told if (text := _outside(known[n], new[n], n))]
    if not found:
        return []
    return [f"{UNLIKE}, in the middle 80 % of which {_joined(found)}; {CHECK}"]


def unlike_before(
    policy: PolicyConfig,
    planned: Plan,
    before: Mapping[str, NDArray[np.float32]],
    now: Mapping[str, NDArray[np.float32]],
) -> list[str]:
    """A note when the median score of new calibration units is one that the middle 80 % of those before do not have."""
    places = {s.name for s in policy.scores if stops(s)}  # of these no scores are kept, but ranks
    columns = [c.name for c in planned.columns if c.score not in places and c.name in now and c.name in before]
    found = [text for n in columns if (text := _outside(before[n], now[n], n))]
    if not found:
        return []
    return [f"{UNLIKE_BEFORE}, in the middle 80 % of which {_joined(found)}; {CHECK}"]


def remembers(score: Any, rows: int, widest: int) -> bool:
    """Whether the fit of a score holds so much that the reference rows look more ordinary to it than further rows do: a model
    of its own; every third row, in an array longer than the `widest` signal; or k numbers of less than k^(3/4) rows (a
    covariance of D columns of D^1.5 rows), or of 10 D.
    """
    arrays = list(parameters(score).values())
    longest = max((size for array in arrays for size in array.shape), default=0)
    if attachments(score):
        return True
    if longest > widest:
        return 3 * longest > rows
    return 10 * longest > rows or sum(array.size for array in arrays) > rows ** (4 / 3)


def _sample(table: SignalsTable) -> SignalsTable:
    count = min(len(table), SAMPLE_ROWS, SAMPLE_BYTES // (8 * sum(table.widths.values())))
    return table.take(np.sort(np.random.default_rng(SEED).choice(len(table), count, replace=False)))


def _signals(policy: PolicyConfig, planned: Plan, ours: SignalsTable, theirs: SignalsTable) -> Iterator[str]:
    for name in policy.signals:
        if (
            name in planned.slicing
            or policy.kind(name) == "mask"
            or not {name} <= ours.widths.keys() & theirs.widths.keys()
        ):
            continue
        what = name if policy.signals[name].width == 1 else f"the norm of {name}"
        if text := _outside(_lengths(ours.signals[name]), _lengths(theirs.signals[name]), what):
            yield text


def _lengths(signal: NDArray[Any]) -> NDArray[np.float64]:
    """(N,) Euclidean norms, of rows with missing cells as if those were like the others; of one column its values."""
    rows = float32(signal).astype(np.float64)
    if rows.shape[1] == 1:
        return rows[:, 0]
    there = ~np.isnan(rows)
    squares = np.where(there, rows, 0.0) ** 2
    return np.asarray(np.sqrt(squares.sum(axis=1) * rows.shape[1] / np.maximum(there.sum(axis=1), 1)))


def _outside(known: NDArray[Any], new: NDArray[Any], what: str) -> str:
    """`what` is from .. to .. and .. here, when it is; "" otherwise, and without enough finite values."""
    known, new = known[np.isfinite(known)], new[np.isfinite(new)]
    if min(len(known), len(new)) < FEWEST_ROWS:
        return ""
    (low, high), middle = np.quantile(known.astype(np.float64), MIDDLE), float(np.median(new.astype(np.float64)))
    slack = ROUNDING * max(abs(low), abs(high))
    if low - slack <= middle <= high + slack:
        return ""
    return f"{what} is {low:.3g} to {high:.3g}, here {middle:.3g} in the median"


def _joined(found: list[str]) -> str:
    more = [f"{len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return "; ".join([*found[:SHOWN], *more])
