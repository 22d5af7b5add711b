"""Every metric once more, in float64, straight from its definition: all pairs, all thresholds, all orders. Slow on purpose."""

from __future__ import annotations

import itertools
import math

import numpy as np


def auroc(scores, bad):
    pairs = [(b > g) + 0.5 * (b == g) for b in scores[bad == 1] for g in scores[bad == 0]]
    return float(np.mean(pairs))


def thresholds(scores):
    return sorted(set(scores.tolist()))


def aupr(scores, bad, positive):
    """Average precision: sum of recall gained times precision, from the threshold that selects fewest downwards."""
    flip = 1 if positive == 1 else -1
    total, before, area = (bad == positive).sum(), 0.0, 0.0
    for t in sorted(thresholds(flip * scores), reverse=True):
        chosen = flip * scores >= t
        hits = (chosen & (bad == positive)).sum()
        area += (hits / total - before) * hits / chosen.sum()
        before = hits / total
    return area


def bad_accepted_at_good(scores, bad, at=0.95):
    good = scores[bad == 0]
    for t in thresholds(scores):
        if (good <= t).sum() >= at * len(good) - 1e-9:
            return float((scores[bad == 1] <= t).mean())
    raise AssertionError


def good_rejected_at_bad(scores, bad, at=0.95):
    worse = scores[bad == 1]
    for t in reversed(thresholds(scores)):
        if (worse >= t).sum() >= at * len(worse) - 1e-9:
            return float((scores[bad == 0] >= t).mean())
    raise AssertionError


def aurc(scores, bad):
    """Averaged over every order of tied units, by listing them all."""
    ties = [np.flatnonzero(scores == t) for t in thresholds(scores)]
    found = []
    for orders in itertools.product(*(itertools.permutations(tie) for tie in ties)):
        wrong = bad[list(itertools.chain(*orders))]
        found.append(np.mean([wrong[: k + 1].mean() for k in range(len(wrong))]))
    return float(np.mean(found))


def augrc(scores, bad):
    coverage, risk = [0.0], [0.0]
    for t in thresholds(scores):
        coverage.append(float((scores <= t).mean()))
        risk.append(float(((scores <= t) & (bad == 1)).mean()))
    return float(np.trapezoid(risk, coverage))


def f1_best(scores, bad):
    best = 0.0
    for t in thresholds(scores):
        flagged = scores >= t
        hits = (flagged & (bad == 1)).sum()
        best = max(best, 2 * hits / (flagged.sum() + (bad == 1).sum()))
    return best


def oscr(right, wrong, novel):
    """Trapezoid over every threshold; arrays of scores."""
    every = thresholds(np.concatenate([right, wrong, novel]))
    x = [0.0, *(float((novel <= t).mean()) for t in every)]
    y = [0.0, *(float((right <= t).sum()) / (len(right) + len(wrong)) for t in every)]
    return float(np.trapezoid(y, x))


def ccr_at_fpr(right, wrong, novel, fpr):
    known = len(right) + len(wrong)
    allowed = [t for t in thresholds(np.concatenate([right, wrong, novel])) if (novel <= t).mean() <= fpr + 1e-9]
    return max([(right <= t).sum() / known for t in allowed], default=0.0)


def least_joint_risk(right, wrong, novel, c_in, c_out):
    known = np.concatenate([right, wrong])
    best = c_in
    for t in thresholds(np.concatenate([known, novel])):
        risk = (1 - c_in - c_out) * (wrong <= t).sum() / len(known)
        best = min(best, risk + c_in * (known > t).mean() + c_out * (novel <= t).mean())
    return best


def c_index(scores, severity):
    agree = every = 0.0
    for i, j in itertools.combinations(range(len(scores)), 2):
        if severity[i] != severity[j]:
            every += 1
            direction = (scores[i] - scores[j]) * (severity[i] - severity[j])
            agree += 1.0 if direction > 0 else 0.5 if direction == 0 else 0.0
    return agree / every


def matthews(accept, wrong):
    refused = np.where(accept, 0.0, 1.0)
    if np.std(refused) == 0 or np.std(wrong) == 0:
        return math.nan
    return float(np.corrcoef(refused, wrong)[0, 1])


def loss_augrc(scores, loss):
    """The trapezoid from coverage 0, of the mean over all units of the loss of those at or below each threshold."""
    coverage, risk = [0.0], [0.0]
    for t in thresholds(scores):
        coverage.append(sum(1 for s in scores if s <= t) / len(scores))
        risk.append(math.fsum(x for s, x in zip(scores, loss, strict=True) if s <= t) / len(scores))
    return math.fsum(
        (b - a) * (p + q) / 2
        for (a, b), (p, q) in zip(itertools.pairwise(coverage), itertools.pairwise(risk), strict=True)
    )


def best_area(loss):
    """Selective risk integrated over coverage when units come by rising loss: in (i/n, (i+1)/n] it is (S + (nc - i) l) / nc."""
    n, area, before = len(loss), 0.0, 0.0
    for i, x in enumerate(sorted(loss)):
        area += x / n + ((before - i * x) / n * math.log((i + 1) / i) if i else 0.0)
        before += x
    return area
