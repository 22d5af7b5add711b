"""Bank selection: which rows, how many of each class, and how far the others are from them."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from demur.detectors import selection
from demur.detectors.selection import METHODS, select_bank, shares


def _rows(seed, rows=200, width=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, width)), rng.integers(0, 4, rows)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1, 7, 50, 199, 200, 500])
def test_indices_are_sorted_different_and_as_many_as_asked(method, size):
    rows, labels = _rows(1)
    chosen = select_bank(rows, size, method, 3, labels)
    assert chosen.dtype == np.int64
    assert len(chosen) == min(size, 200)
    assert (np.diff(chosen) > 0).all()
    assert chosen[0] >= 0
    assert chosen[-1] < 200
    assert np.array_equal(chosen, select_bank(rows, size, method, 3, labels))


@pytest.mark.parametrize("method", METHODS)
def test_another_seed_is_another_bank_and_the_rows_are_not_written_to(method):
    rows, labels = _rows(2)
    rows.flags.writeable = labels.flags.writeable = False
    banks = {tuple(select_bank(rows, 20, method, seed, labels)) for seed in range(5)}
    assert len(banks) > 1


@pytest.mark.parametrize("method", METHODS)
def test_blocks_change_nothing(method, monkeypatch):
    rows, labels = _rows(3)
    whole = select_bank(rows, 20, method, 0, labels)
    monkeypatch.setattr(selection, "BLOCK_VALUES", 64)
    assert np.array_equal(whole, select_bank(rows, 20, method, 0, labels))


def _radius(rows, chosen):
    return np.linalg.norm(rows[:, None] - rows[None, list(chosen)], axis=2).min(axis=1).max()


@pytest.mark.parametrize("seed", range(8))
def test_k_centre_is_within_twice_the_best_radius(seed):
    rows, _ = _rows(seed, rows=14, width=2)
    best = min(_radius(rows, chosen) for chosen in combinations(range(14), 4))
    assert _radius(rows, select_bank(rows, 4, "k_centre", seed)) <= 2 * best


def test_k_centre_follows_the_farthest_row_by_brute_force():
    rows, _ = _rows(5, rows=60)
    chosen = [int(np.random.default_rng(9).integers(60))]
    while len(chosen) < 12:
        chosen.append(int(np.argmax(np.linalg.norm(rows[:, None] - rows[None, chosen], axis=2).min(axis=1))))
    assert np.array_equal(select_bank(rows, 12, "k_centre", 9), np.sort(chosen))


def test_k_centre_covers_better_than_chance_and_finds_every_cluster():
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1, 2], [400, 5, 5])
    rows = 10 * label[:, None] + rng.normal(size=(410, 2))
    assert set(label[select_bank(rows, 3, "k_centre", 1)]) == {0, 1, 2}
    assert _radius(rows, select_bank(rows, 20, "k_centre", 1)) < _radius(rows, select_bank(rows, 20, "random", 1))


@pytest.mark.parametrize(
    ("counts", "size", "given"),
    [
        ([10, 10, 10], 9, [3, 3, 3]),
        ([10, 10, 10], 10, [4, 3, 3]),
        ([1, 10, 10], 9, [1, 4, 4]),
        ([1, 2, 100], 30, [1, 2, 27]),
        ([5, 5], 99, [5, 5]),
        ([3, 3, 3], 2, [1, 1, 0]),
    ],
)
def test_shares_are_equal_until_a_class_has_no_more(counts, size, given):
    assert shares(np.array(counts), size).tolist() == given


@pytest.mark.parametrize("method", ["balanced", "distilled"])
def test_classes_give_equal_shares(method):
    rows, _ = _rows(4)
    labels = np.repeat([-7, 3, 40], [150, 45, 5])
    counts = np.unique(labels[select_bank(rows, 25, method, 0, labels)], return_counts=True)
    assert counts[0].tolist() == [-7, 3, 40]
    assert counts[1].tolist() == [10, 10, 5]


def test_distilled_rows_stand_for_the_clusters_and_lie_near_their_centres():
    rng = np.random.default_rng(3)
    centres = 20.0 * np.eye(5)
    cluster = np.repeat(np.arange(5), 40)
    rows = centres[cluster] + rng.normal(size=(200, 5))
    chosen = select_bank(rows, 5, "distilled", 1)
    assert sorted(cluster[chosen]) == [0, 1, 2, 3, 4]
    means = np.stack([rows[cluster == c].mean(axis=0) for c in range(5)])
    for row in chosen:
        inside = np.linalg.norm(rows[cluster == cluster[row]] - means[cluster[row]], axis=1)
        assert np.linalg.norm(rows[row] - means[cluster[row]]) == pytest.approx(inside.min())


def test_distilled_loses_less_than_a_random_bank():
    rows, _ = _rows(6, rows=600)
    loss = {m: np.mean([_mean_distance(rows, select_bank(rows, 15, m, s)) for s in range(5)]) for m in METHODS[::3]}
    assert loss["distilled"] < 0.95 * loss["random"]


def _mean_distance(rows, chosen):
    return np.linalg.norm(rows[:, None] - rows[None, chosen], axis=2).min(axis=1).mean()


@pytest.mark.parametrize("method", METHODS)
def test_copies_of_one_row_are_still_different_rows(method):
    rows = np.concatenate([np.ones((30, 2)), np.zeros((1, 2))])
    chosen = select_bank(rows, 9, method, 0, np.zeros(31, np.int64))
    assert len(set(chosen.tolist())) == 9
    if method in ("k_centre", "distilled"):
        assert 30 in chosen


@pytest.mark.parametrize("method", METHODS)
def test_huge_offsets_and_float32_do_no_harm(method):
    rows, labels = _rows(7)
    chosen = select_bank((rows + 1e6).astype(np.float32), 11, method, 0, labels)
    assert len(chosen) == 11


@pytest.mark.parametrize(
    ("rows", "size", "method", "labels", "message"),
    [
        (np.zeros((3, 2)), 2, "best", None, "expected one of random, k_centre"),
        (np.zeros((3, 2)), 0, "random", None, "at least 1, got 0"),
        (np.zeros((0, 2)), 2, "random", None, r"n > 0, got shape \(0, 2\)"),
        (np.zeros(3), 2, "random", None, "expected rows"),
        (np.array([[0.0], [np.nan], [np.inf]]), 2, "k_centre", None, r"row 1 is not finite \(2 in all\)"),
        (np.zeros((3, 2)), 2, "balanced", None, "needs labels"),
        (np.zeros((3, 2)), 2, "distilled", np.zeros(2, np.int64), r"labels \(3,\)"),
    ],
)
def test_what_it_refuses(rows, size, method, labels, message):
    with pytest.raises(ValueError, match=message):
        select_bank(rows, size, method, 0, labels)
