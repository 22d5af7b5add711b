"""Early stopping and calibration on the same rows: with the test row in the choice, and without."""

from __future__ import annotations

import numpy as np
import pytest

from demur.detectors.promises import early_stopping
from tests.simulators import DRAWS, on_average

ALPHA = 0.1


def naive(calibration, test):
    """The checkpoint of least calibration loss, then the split p-value from the same rows."""
    t = int(np.argmin(calibration.sum(axis=0)))
    return (1 + (calibration[:, t][None] >= test[:, t, None]).sum(axis=1)) / (len(calibration) + 1)


def losses(rng, rows, checkpoints):
    """Checkpoints that are equally good: whichever looks best on some rows looks better there than on new ones."""
    return rng.exponential(size=(rows, checkpoints)) * rng.exponential(size=(rows, 1)) ** 0.2


@pytest.mark.parametrize(
    ("n", "checkpoints", "draws"),
    [(20, 30, 2 * DRAWS), (60, 100, DRAWS), pytest.param(60, 100, 10 * DRAWS, marks=pytest.mark.slow)],
)
def test_the_test_row_in_the_choice_keeps_the_level_and_naive_reuse_breaks_it(n, checkpoints, draws):
    rng = np.random.default_rng(n)
    ours, theirs, split = [], [], []
    for _ in range(draws):
        table, fresh = losses(rng, n, checkpoints), losses(rng, 20, checkpoints)
        ours.append(np.mean(early_stopping.p_values(table, fresh) <= ALPHA))
        theirs.append(np.mean(naive(table, fresh) <= ALPHA))
        half = int(np.argmin(table[: n // 2].sum(axis=0)))
        rest = table[n // 2 :, half]
        split.append(np.mean((1 + (rest >= fresh[:, half, None]).sum(axis=1)) / (rest.size + 1) <= ALPHA))
    assert on_average(ours, ALPHA)
    assert on_average(split, ALPHA)
    assert not on_average(theirs, ALPHA)


def test_it_is_the_definition_written_out():
    rng = np.random.default_rng(1)
    scores, fresh = rng.integers(0, 6, (15, 4)).astype(np.float32), rng.integers(0, 6, (9, 4)).astype(np.float32)
    loss, fresh_loss = rng.random((15, 4)), rng.random((9, 4))
    got = early_stopping.p_values(scores, fresh, loss, fresh_loss)
    for z in range(9):
        t = min(range(4), key=lambda t: (sum(loss[:, t]) + fresh_loss[z, t], t))
        assert got[z] == (1 + sum(s >= fresh[z, t] for s in scores[:, t])) / 16


def test_one_checkpoint_is_the_split_p_value():
    rng = np.random.default_rng(2)
    table, fresh = rng.random((50, 1)), rng.random((30, 1))
    np.testing.assert_array_equal(early_stopping.p_values(table, fresh), naive(table, fresh))


def test_what_does_not_belong_together_is_refused():
    table = np.ones((5, 3))
    for calibration, fresh in (
        (table, np.ones((4, 2))),
        (table[:0], table),
        (table, table * np.nan),
        (table[0], table),
    ):
        with pytest.raises(ValueError, match="expected"):
            early_stopping.p_values(calibration, fresh)
    with pytest.raises(ValueError, match="alike"):
        early_stopping.p_values(table, table, table)
