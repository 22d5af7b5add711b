"""Reject by one cost for being wrong and for being foreign, against the float64 oracle."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from tests.judged import ROUNDING, Case, Seeded, judge, runs
from tests.oracles import confidence, cost, logit
from tests.oracles.sample import Float
from tests.oracles.worlds import World

SCOD: dict[str, Any] = {"score": {"energy": {"temperature": 2.0}}, "slope": 0.5, "intercept": 4.0}


def foreign(w: World, inlier_share: float) -> Float:
    return cost.ratio(logit.energy(w.test64[1], 2.0), 0.5, 4.0, inlier_share)


def of_ratio(w: World, want: Float) -> Float:
    """exp of the novelty score: relative, of the size of the logits; and the difference from the costs crosses 0."""
    return 4 * ROUNDING * np.abs(w.test64[1]).max(axis=1) * (np.abs(want) + 1) + 1e-6


# where the logits are in the thousands the ratio leaves float32, which a monitor calls INVALID
MODEST = ("tall", "two_classes", "many_batches", "tiny_scale")
CASES = {
    "scod_costs": Case(
        {"scod": SCOD | {"c_in": 0.3, "c_out": 0.4}},
        lambda w, _: cost.excess(confidence.max_softmax_risk(w.test64[1], 1.0), foreign(w, 0.0), 0.3, 0.4),
        of_ratio,
        worlds=MODEST,
    ),
    "scod_price": Case(
        {"scod": SCOD | {"c_fn": 0.6, "inlier_share": 0.9}},
        lambda w, _: cost.price(confidence.max_softmax_risk(w.test64[1], 1.0), foreign(w, 0.0), 0.6, 0.9),
        of_ratio,
        worlds=MODEST,
    ),
    "scod_wild": Case(
        {"scod": SCOD | {"c_in": 0.2, "c_out": 0.3, "wild_inlier_share": 0.5}},
        lambda w, _: cost.excess(confidence.max_softmax_risk(w.test64[1], 1.0), foreign(w, 0.5), 0.2, 0.3),
        of_ratio,
        worlds=MODEST,
    ),
}
THIS = sys.modules[__name__]


@pytest.mark.parametrize(("name", "where"), runs(CASES))
def test_score_equals_oracle(name: str, where: Seeded):
    judge(THIS, name, where)
