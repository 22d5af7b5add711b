"""The relation graph against loops, by hand, and on labels known to be wrong."""

from __future__ import annotations

import numpy as np
import pytest

from demur.monitor.curate import CurationError, label_noise
from demur.monitor.curate.label_noise import relation, unit_rows


def test_the_relation_of_three_rows_by_hand():
    f = unit_rows(np.array([[2.0, 0], [0.6, 0.8], [0, 5]]))
    p = np.array([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]])
    assert relation(f, p, f, p) == pytest.approx(np.array([[0.82, 0.3, 0], [0.3, 0.5, 0.4], [0, 0.4, 0.82]]))


def loops(features, p, labels, power=4, edge=0.03, above=0.05, passes=2):
    """Row by row, edge by edge, in float64."""
    n, sign = len(labels), [1.0] * len(labels)
    for turn in range(passes):
        score = []
        for i in range(n):
            total = 0.0
            for j in range(n):
                if i == j:
                    continue
                a, b = features[i], features[j]
                k = max(0.0, a @ b / np.sqrt((a @ a) * (b @ b))) * float(p[i] @ p[j])
                if k > edge:
                    total += sign[j] * k**power * (-1 if labels[i] == labels[j] else 1)
            score.append(total / (n - 1))
        suspect = [s > above * max(map(abs, score)) for s in score]
        if turn < passes - 1:
            sign = [-1.0 if s else 1.0 for s in suspect]
    return np.array(score), np.array(suspect)


def noisy(rows=240, wrong=0.1, seed=0, classes=4):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, rows)
    features = np.eye(classes, 6)[truth] * 3 + rng.normal(size=(rows, 6)) * 0.6
    logits = 1.5 * features[:, :classes]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    bad = rng.random(rows) < wrong
    return features, p, np.where(bad, (truth + rng.integers(1, classes, rows)) % classes, truth), bad


@pytest.mark.parametrize("passes", [1, 2, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_what_loops_say(passes, seed, monkeypatch):
    features, p, labels, _ = noisy(40, seed=seed)
    score, suspect = loops(features, p, labels, passes=passes)
    for block in (64, 1 << 21):
        monkeypatch.setattr("demur.monitor.curate.checked.BLOCK_VALUES", block)
        found = label_noise(features, p, labels, passes=passes)
        assert found.score == pytest.approx(score, rel=1e-10, abs=1e-14)
        assert np.array_equal(found.suspect, suspect)


@pytest.mark.parametrize("seed", range(5))
def test_wrong_labels_stand_out(seed):
    features, p, labels, bad = noisy(400, seed=seed)
    found = label_noise(features, p, labels)
    ahead = (found.score[bad][:, None] > found.score[~bad][None]).mean()
    assert ahead > 0.97
    assert bad[found.suspect].mean() > 0.9
    assert found.suspect[bad].mean() > 0.8


def test_the_second_pass_changes_little_where_wrong_labels_are_few():
    features, p, labels, bad = noisy(300)
    once, twice = (label_noise(features, p, labels, passes=n) for n in (1, 2))
    assert not np.array_equal(once.score, twice.score)
    assert (twice.score[bad][:, None] > twice.score[~bad][None]).mean() > 0.97
    assert np.corrcoef(once.score, twice.score)[0, 1] > 0.9


def test_the_size_of_the_set_does_not_change_the_scale():
    features, p, labels, _ = noisy(200)
    one = label_noise(features, p, labels).score
    twice = label_noise(np.repeat(features, 2, 0), np.repeat(p, 2, 0), np.repeat(labels, 2)).score[::2]
    assert np.corrcoef(one, twice)[0, 1] > 0.99
    assert np.abs(twice).max() == pytest.approx(np.abs(one).max(), rel=0.1)


def test_order_scale_and_names_of_classes_do_not_matter():
    features, p, labels, _ = noisy(100)
    base = label_noise(features, p, labels)
    order = np.random.default_rng(0).permutation(100)
    mixed = label_noise(1e150 * features[order], p[order], np.array(["a", "b", "c", "d"])[labels[order]])
    assert mixed.score == pytest.approx(base.score[order], rel=1e-9, abs=1e-15)


def test_zero_rows_are_related_to_nothing():
    features, p, labels, _ = noisy(50)
    features[3] = 0
    found = label_noise(features, p, labels)
    assert found.score[3] == 0
    assert not found.suspect[3]
    assert not label_noise(np.zeros((5, 2)), np.full((5, 2), 0.5), np.zeros(5)).suspect.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.zeros((1, 2))}, "features: expected"),
        ({"features": np.full((3, 2), np.nan)}, "3 rows hold NaN or infinity"),
        ({"probabilities": np.zeros((2, 2))}, r"probabilities: expected \(3, D\)"),
        ({"probabilities": np.full((3, 2), 3.0)}, "apply softmax"),
        ({"labels": np.zeros(2)}, r"labels: expected \(3,\)"),
        ({"passes": 0}, "passes: expected at least 1"),
    ],
)
def test_what_it_refuses(change, message):
    given = {"features": np.ones((3, 2)), "probabilities": np.full((3, 2), 0.5), "labels": np.zeros(3)} | change
    with pytest.raises(CurationError, match=message):
        label_noise(**given)
