"""What must not matter: units of a map, lengths of embeddings, which value hides a missing cell, the order of errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demur.detectors.build import build_score
from demur.detectors.evaluate import evaluate
from demur.detectors.score import Reference
from demur.detectors.scores.regression import conformal_quantile
from demur.monitor.contract import out_of_range
from demur.monitor.observation import Observation
from tests.oracles import modalities

SEEDS = st.integers(0, 2**32 - 1)
FEW = settings(max_examples=40, deadline=None)


def scored(kind: str, hyper: dict[str, object], name: str, rows: np.ndarray) -> np.ndarray:
    score = build_score(kind, hyper, Reference({name: rows}))
    return evaluate({"s": score}, {name: rows})["s"]


@FEW
@given(SEEDS, st.integers(-60, 60), st.floats(0.1, 4))
def test_units_of_a_photometric_map_do_not_matter(seed, power, k):
    rows = np.random.default_rng(seed).gamma(1.0, size=(3, 200)).astype(np.float32)
    before = scored("photometric", {"k": k}, "photometric_error", rows)
    np.testing.assert_array_equal(
        scored("photometric", {"k": k}, "photometric_error", rows * np.float32(2.0**power)), before
    )
    assert (before <= 1 / (1 + k**2) + 1e-6).all()


@FEW
@given(SEEDS, st.sampled_from(["mean", "top"]), st.sampled_from(["newest", "any"]))
def test_lengths_and_signs_of_embeddings_do_not_matter(seed, by, of):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(4, 5, 6)).astype(np.float32)
    factors = (2.0 ** rng.integers(-20, 20, (4, 5, 1)) * rng.choice([-1, 1], (4, 5, 1))).astype(np.float32)
    hyper = {"patches": 5, "by": by, "of": of, "k": 2}
    before, after = (
        scored("self_similarity", hyper, "window_embeddings", w.reshape(4, -1)) for w in (rows, rows * factors)
    )
    np.testing.assert_allclose(after, before, atol=1e-6)
    assert ((before >= 0) & (before <= 1)).all()


@FEW
@given(SEEDS, st.integers(2, 60), st.integers(1, 8))
def test_missingness_sees_the_pattern_and_not_the_values(seed, rows, width):
    rng = np.random.default_rng(seed)
    missing = rng.random((rows, width)) < 0.4
    cells = [np.where(missing, np.nan, rng.normal(size=(rows, width))).astype(np.float32) for _ in range(2)]
    first, second = (
        evaluate(
            {"s": build_score("missingness", {"on": "table"}, Reference({"table": t}, absent=frozenset({"table"})))},
            {"table": t},
        )["s"]
        for t in cells
    )
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, modalities.missingness(cells[0].astype(float), cells[0].astype(float)), rtol=1e-5)


@FEW
@given(SEEDS, st.integers(1, 300), st.decimals("0.01", "0.99", places=2))
def test_the_conformal_quantile_is_the_definition(seed, count, coverage):
    errors = np.random.default_rng(seed).gamma(1.0, size=count)
    try:
        want = modalities.conformal_quantile(errors, str(coverage))
    except IndexError:
        with pytest.raises(ValueError, match="needs at least"):
            conformal_quantile(errors, float(coverage))
        return
    assert conformal_quantile(errors, float(coverage)) == want


def test_a_missing_cell_does_not_hide_a_value_out_of_range():
    class Bundle:
        ranges = {"table": (0.0, 1.0)}  # noqa: RUF012 - a stand-in

    rows = np.float32([[0.5, np.nan], [np.nan, 2.0], [-1.0, np.nan], [np.nan, np.nan]])
    assert out_of_range(Bundle(), Observation({"table": rows}, 4)) == 2
