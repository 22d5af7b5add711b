"""EAP against loops; the prior for what is far from everything; good material above bad."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from demur.monitor.curate import CurationError, expected_anomaly_posterior
from demur.monitor.curate.anomaly_posterior import _needed_k, density


def loop_density(points, normals, k):
    radius = []
    for i, a in enumerate(normals):
        radius.append(sorted(np.linalg.norm(a - b) for j, b in enumerate(normals) if j != i)[k - 1])

    def inverse(x):
        inside = [r for a, r in zip(normals, radius, strict=True) if np.linalg.norm(x - a) <= r]
        return 1 / min(inside) if inside else 0.0

    mass = sum(inverse(a) for a in normals)
    return np.array([inverse(x) / (inverse(x) + mass) for x in points])


@pytest.mark.parametrize("k", [1, 3, 8])
def test_density_is_what_loops_say(k, monkeypatch):
    rng = np.random.default_rng(k)
    normals, points = rng.normal(size=(40, 3)), 1.5 * rng.normal(size=(60, 3))
    expected = loop_density(points, normals, k)
    assert (expected == 0).any()
    assert (expected > 0).any()
    for block in (80, 1 << 21):
        monkeypatch.setattr("demur.monitor.curate.checked.BLOCK_VALUES", block)
        assert density(points, normals, k) == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_the_k_that_anomalies_need_by_trying_each():
    rng = np.random.default_rng(2)
    normals, known = rng.normal(size=(30, 2)), rng.normal(loc=[2.5, 0], size=(5, 2))
    tried = []
    for a in known:
        inside = (k for k in range(1, 30) if loop_density(a[None], normals, k)[0] > 0)
        tried.append(next(inside, 29))
    from scipy.stats import beta

    share = np.clip(np.array(tried) - 5, 0, None) / 24
    expected = int(beta.ppf(0.95, 1 + share.sum(), 6 - share.sum()) * 24) + 5
    assert _needed_k(normals, known) == max(5, min(29, expected))


def scene(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(150, 2)), rng.normal(size=(8, 2)) * 0.3 + [3, 0]


def logistic():
    return LogisticRegression()


def test_a_row_far_from_everything_has_the_prior():
    normals, known = scene()
    far = np.array([[500.0, 500], [-1e6, 3]])
    found = expected_anomaly_posterior(far, normals, known, classifier=logistic, subsets=5)
    assert found == pytest.approx(8 / 158, abs=1e-15)
    found = expected_anomaly_posterior(far, normals, known, classifier=logistic, subsets=5, contamination=0.25)
    assert found == pytest.approx(0.25, abs=1e-15)


@pytest.mark.parametrize("seed", range(4))
def test_realistic_and_distinguishable_rows_come_first(seed):
    normals, known = scene(seed)
    rng = np.random.default_rng(seed + 100)
    good = rng.normal(size=(20, 2)) * 0.3 + [3, 0]
    like_normals, far = rng.normal(size=(20, 2)) * 0.5 - [1, 0], rng.normal(loc=60, size=(20, 2))
    found = expected_anomaly_posterior(np.concatenate([good, like_normals, far]), normals, known, subsets=15, seed=seed)
    means = found.reshape(3, 20).mean(axis=1)
    assert means[0] > means[2] > means[1]
    assert means[0] > 3 * means[2]
    assert ((found >= 0) & (found <= 1)).all()


def test_the_seed_decides():
    normals, known = scene()
    one, again, other = (
        expected_anomaly_posterior(known, normals, known, classifier=logistic, subsets=5, seed=s) for s in (1, 1, 2)
    )
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_copies_of_one_normal_row_do_no_harm():
    found = expected_anomaly_posterior(
        np.ones((2, 2)), np.zeros((30, 2)), np.ones((3, 2)), classifier=logistic, subsets=3
    )
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("candidates", "normals", "known", "message"),
    [
        (np.zeros((1, 2)), np.zeros((6, 2)), np.zeros((1, 2)), "normals: expected"),
        (np.zeros((1, 3)), np.zeros((9, 2)), np.zeros((1, 2)), "expected one width, got 2, 2 and 3"),
        (np.zeros((0, 2)), np.zeros((9, 2)), np.zeros((1, 2)), "candidates"),
        (np.full((1, 2), np.inf), np.zeros((9, 2)), np.zeros((1, 2)), "NaN or infinity"),
        (np.zeros((1, 2)), np.zeros((9, 2)), np.zeros((0, 2)), "anomalies"),
    ],
)
def test_what_it_refuses(candidates, normals, known, message):
    with pytest.raises(CurationError, match=message):
        expected_anomaly_posterior(candidates, normals, known)
