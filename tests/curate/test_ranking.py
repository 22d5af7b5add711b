"""Information against scikit-learn, and a correction that keeps identifiers from the top."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from demur.monitor.curate import CurationError, rank_columns
from demur.monitor.curate.ranking import mutual_information


@pytest.mark.parametrize("seed", range(5))
def test_information_is_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 7, 300), rng.integers(0, 3, 300)
    assert mutual_information(x, y) == pytest.approx(mutual_info_score(x, y), abs=1e-12)


def columns(seed, rows=600):
    rng = np.random.default_rng(seed)
    camera = rng.integers(0, 5, rows)
    wrong = (rng.random(rows) < np.where(camera == 2, 0.6, 0.1)).astype(int)
    noise = {f"noise {i}": rng.integers(0, 2 + 20 * i, rows) for i in range(4)}
    named = np.array([f"camera {c}" for c in camera])
    return {"id": rng.permutation(rows), **noise, "camera": named, "dose": wrong + rng.normal(size=rows)}, wrong


@pytest.mark.parametrize("seed", range(5))
def test_the_cause_comes_first_and_the_identifier_gains_nothing(seed):
    made, wrong = columns(seed)
    ranked = rank_columns(made, wrong, seed=seed)
    assert {ranked[0].name, ranked[1].name} == {"camera", "dose"}
    assert ranked[0].p == ranked[1].p == 1 / 51
    found = {column.name: column for column in ranked}
    assert max(found.values(), key=lambda column: column.information).name == "id"
    assert found["id"].gain == pytest.approx(0, abs=1e-9)
    assert found["id"].p == 1


def test_p_values_of_unrelated_columns_are_not_too_small():
    rng = np.random.default_rng(1)
    unrelated = {str(i): rng.integers(0, 6, 200) for i in range(200)}
    p = np.array([column.p for column in rank_columns(unrelated, rng.integers(0, 2, 200), nulls=99)])
    assert (p <= 0.05).mean() < 0.12
    assert np.mean(p) == pytest.approx(0.5, abs=0.1)


def test_nothing_is_written_to_and_the_seed_decides():
    made, wrong = columns(0)
    wrong.flags.writeable = False
    assert rank_columns(made, wrong, seed=3) == rank_columns(made, wrong, seed=3)


@pytest.mark.parametrize(
    ("made", "target", "message"),
    [
        ({"a": np.zeros(3)}, np.zeros(3), "two different values"),
        ({"a": np.zeros(3)}, np.zeros(0), "two different values"),
        ({"a": np.zeros(2)}, np.arange(3), "a: expected 3 values"),
        ({"a": np.zeros((3, 2))}, np.arange(3), r"a: expected \(n,\)"),
        ({"a": np.array([0, np.nan, 1])}, np.arange(3), "finite"),
    ],
)
def test_what_it_refuses(made, target, message):
    with pytest.raises(CurationError, match=message):
        rank_columns(made, target)
