"""Selective risk: how wrong is what a threshold accepts, over every share accepted. Bad units are the wrong ones.

Where losses are graded, a unit counts as bad by its loss and as good by what is missing to 1: sums of losses take the place of
errors in every definition, and with losses of 0 and 1 they are errors.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from demur.monitor.evaluate.counts import Counts, Values, share
from demur.monitor.evaluate.curve import Curve


def aurc(counts: Counts) -> Any:
    """Mean selective risk over coverages: (1/n) sum over k of (errors among the k lowest scores) / k.

    Range: [0, 1], lower is better. Of tied units the expectation over their order is taken, exactly.
    Source: Geifman et al. 2019 (eq. 2); ties are ours.
    """
    after, size = np.rint(counts.good_accepted + counts.bad_accepted), np.rint(counts.good + counts.bad)
    rate = counts.bad / np.maximum(size, 1.0)
    # Sum over j = 1..m of (E + j r) / (n + j), with E errors among the n before: m r + (E - n r)(H(n + m) - H(n)).
    before, errors = after - size, counts.bad_accepted - counts.bad
    harmonic = _harmonic(int(after.max(initial=0)))
    steps = harmonic[after.astype(np.intp)] - harmonic[before.astype(np.intp)]
    return share((counts.bad + (errors - before * rate) * steps).sum(axis=0), counts.good_total + counts.bad_total)


def e_aurc(counts: Counts) -> Any:
    """AURC minus what a perfect ranking of as many errors has in the limit: e + (1 - e) ln(1 - e), e the error rate.

    Range: about [0, 1), lower is better; a few units below 0 is possible in small samples. Source: Geifman et al. 2019.
    """
    error = share(counts.bad_total, counts.good_total + counts.bad_total)
    right = 1 - error
    with np.errstate(divide="ignore", invalid="ignore"):
        log = np.where(right > 0, right * np.log(np.where(right > 0, right, 1.0)), 0.0)
    return aurc(counts) - (error + log)


def augrc(counts: Counts) -> Any:
    """Area under the generalised risk P(wrong and accepted) over coverage, by the trapezoid from coverage 0.

    Range: [e^2 / 2, e - e^2 / 2], lower is better. Equals (1 - AUROC) e (1 - e) + e^2 / 2 exactly, ties included.
    Source: Traub et al. 2024.
    """
    total = counts.good_total + counts.bad_total
    mean = counts.bad_accepted - counts.bad / 2
    return share((mean * (counts.good + counts.bad)).sum(axis=0), np.square(total))


def selective_area(good: Values, bad: Values) -> Any:
    """The integral of selective risk over coverage for any masses (K,) or (K, B) at ascending scores, tied mass spread evenly.

    Range: [0, 1], lower is better; the limit of AURC when every unit is split into ever smaller ones.
    """
    size = good + bad
    rate = np.divide(bad, size, out=np.zeros_like(bad), where=size > 0)
    before = np.cumsum(size, axis=0) - size
    lead = np.cumsum(bad, axis=0) - bad - before * rate
    growth = np.log1p(np.divide(size, before, out=np.zeros_like(size), where=before > 0))
    return share((bad + lead * growth).sum(axis=0), size.sum(axis=0))


def risk_coverage_curve(counts: Counts) -> Curve:
    """Vertices: x = share of units accepted, y = share of the accepted that is bad, at every observed threshold."""
    accepted = np.rint(counts.good_accepted + counts.bad_accepted)
    total = float(counts.good_total + counts.bad_total)
    return Curve(accepted / total, counts.bad_accepted / accepted, counts.scores)


def _harmonic(most: int) -> Values:
    """H(0)..H(most): 0, 1, 1 + 1/2, ..."""
    return np.append(0.0, np.cumsum(1.0 / np.arange(1, most + 1)))
