"""Scores of pixels against their float64 oracles."""

from __future__ import annotations

import numpy as np
import pytest

from demur.detectors.build import build_score
from demur.detectors.score import Reference
from tests.backends import RTOL, assert_close, on_both, reference, signals
from tests.judged import EVERYWHERE, ROUNDING
from tests.oracles import pixel
from tests.oracles.worlds import world


@pytest.mark.parametrize("name", EVERYWHERE)
def test_standardised_max_logit_is_its_formula(name):
    w = world(name, 0)
    score = build_score("standardised_max_logit", None, reference(w))
    known = pixel.class_statistics(w.logits(w.features).astype(np.float64))
    logits = signals(w)["logits"].astype(np.float64)
    want = pixel.standardised_max_logit(logits, known)
    seen = np.isfinite(want)
    assert seen.any()
    assert all(std > 1e-6 * abs(mean) for mean, std in known.values())
    mean, std = np.array([known.get(int(c), (0.0, 1.0)) for c in logits.argmax(axis=1)]).T
    rounding = 3 * ROUNDING * (abs(mean) + abs(logits.max(axis=1))) / std
    for got in on_both({"sml": score}, signals(w)):
        assert_close(got["sml"][seen], want[seen], (RTOL * abs(want) + rounding)[seen])
        assert (got["sml"][~seen] >= 1e30).all()


def fitted(rows):
    return build_score("standardised_max_logit", None, Reference({"logits": np.asarray(rows, np.float32)}))


def test_standardised_max_logit_of_a_hand_made_sample():
    """Class 0: largest logits 1, 3 (mean 2, std 1); class 1: 5, 5 (never varies, so std 1); class 2 never predicted."""
    score = fitted([[1, 0, 0], [3, 0, 0], [0, 5, 0], [0, 5, 1]])
    for got in on_both({"sml": score}, {"logits": np.array([[4, 0, 0], [0, 4, 0], [0, 0, 9], [2, 2, 0]], np.float32)}):
        assert got["sml"].tolist() == [-2.0, 1.0, np.float32(1e30), 0.0]


def test_passes_merge_over_many_batches():
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(9000, 5)) + 1e3).astype(np.float32)
    known = pixel.class_statistics(rows.astype(np.float64))
    score = fitted(rows)
    np.testing.assert_allclose(score.mean, [known[c][0] for c in range(5)], rtol=1e-6)
    np.testing.assert_allclose(score.std, [known[c][1] for c in range(5)], rtol=1e-6)


def test_rba_is_its_formula_and_the_golden_of_its_code():
    """Golden: the authors' function on two queries and one pixel."""
    golden = pixel.evidence(np.array([[3.0, 0, -1, 0], [0, 2, 0, 1]]), np.array([2.0, -1]))
    np.testing.assert_allclose(golden, [0.81012, 0.20336, 0.03664], atol=6e-6)
    rng = np.random.default_rng(1)
    rows = [golden, np.zeros(3), *(rng.exponential(size=(60, 3)) * rng.choice([1e-3, 1, 30], size=(60, 1)))]
    want = np.array([pixel.rba(row) for row in rows])
    assert want[0] == pytest.approx(-0.90689, abs=6e-6)
    given = {"evidence": np.array(rows, np.float32)}
    for got in on_both({"rba": build_score("rba", None, Reference(given))}, given):
        assert_close(got["rba"], want, RTOL * abs(want) + 4 * ROUNDING)


def test_given_is_the_largest_entry_of_the_signal():
    rows = np.random.default_rng(2).normal(size=(50, 3)).astype(np.float32)
    for signal, width in (("peak", 1), ("residuals", 3)):
        given = {signal: rows[:, :width]}
        score = build_score("given", {"signal": signal}, Reference(given))
        for got in on_both({"given": score}, given):
            assert got["given"].tolist() == rows[:, :width].max(axis=1).tolist()


def test_given_refuses_a_signal_that_is_not_there():
    with pytest.raises(ValueError, match="peek"):
        build_score("given", {"signal": "peek"}, Reference({"peak": np.ones((2, 1), np.float32)}))
