"""Feature and head scores against numbers worked out by hand or published with their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import multivariate_normal

from demur.detectors.build import build_score
from demur.detectors.evaluate import evaluate
from demur.detectors.numpy_ops import NumpyOps
from demur.detectors.score import Reference
from demur.detectors.scores.boxes import Box
from demur.detectors.scores.class_gmm import ClassGMM
from demur.detectors.scores.coverage import NAC, nac_edges
from demur.detectors.scores.regret import PNML
from tests.contract.entries import near, reference

WEIGHT = np.array([[1, 0], [0, 1], [1, 1]], np.float32)


def value(score, **signals):
    arrays = {s: np.atleast_2d(np.asarray(x, np.float32)) for s, x in signals.items()}
    return evaluate({"s": score}, arrays)["s"]


def small(features, *, weight=WEIGHT, bias=None, **rest):
    """A reference of these features with the logits of a head."""
    features = np.asarray(features, np.float32)
    bias = np.zeros(len(weight), np.float32) if bias is None else np.asarray(bias, np.float32)
    signals = {"features": features, "logits": features @ weight.T + bias}
    return Reference(signals, head_weight=weight, head_bias=bias, **rest)


def test_nac_gradient_and_states():
    """f = [1, 2]: g = [.08860486, .24330276]; states [.52213673, .61930645] at alpha = 1, [.98822862, 1] at 50."""
    logits = np.array([[1, 2, 3]], np.float32)
    fitted = NAC.fit(small([[1, 2]], labels=None), edges=50, sharpness=1.0)
    xp = NumpyOps()
    p = xp.exp(xp.log_softmax(logits))
    gradient = (p - xp.min(p, keepdims=True)) @ fitted.weight
    np.testing.assert_allclose(gradient, [[0.08860486, 0.24330276]], rtol=1e-6)
    states = expit(np.array([[1, 2]], np.float32) * gradient)
    np.testing.assert_allclose(states, [[0.52213673, 0.61930645]], rtol=1e-6)
    sharp = expit(50 * np.array([[1, 2]], np.float32) * gradient)
    np.testing.assert_allclose(sharp, [[0.98822862, 1.0]], rtol=1e-6)


def test_nac_edges_are_the_published_grid():
    edges = nac_edges(50)
    assert len(edges) == 50
    np.testing.assert_allclose(edges[:3], [0, 0.1191, 0.1835], atol=5e-5)
    np.testing.assert_allclose(edges[23:26], [0.494, 0.5, 0.506], atol=5e-4)
    np.testing.assert_allclose(edges[-3:], [0.8809, 1.01, 1.2], atol=5e-5)
    assert (np.diff(edges) > 0).all()


def test_nac_counts_up_to_the_saturation():
    """Five copies of one row: coverage 5/8 of both neurons there; 0 where neither neuron's state was seen."""
    fitted = NAC.fit(small([[1, 2]] * 5), saturation=8, sharpness=1.0)
    assert value(fitted, features=[1, 2], logits=[1, 2, 3])[0] == pytest.approx(-5 / 8)
    assert value(NAC.fit(small([[1, 2]] * 5), saturation=2, sharpness=1.0), features=[1, 2], logits=[1, 2, 3])[0] == -1
    assert value(fitted, features=[-9, -9], logits=[-9, -9, -18])[0] == 0
    assert fitted.table.reshape(2, 48).sum() == pytest.approx(5 / 8)


def test_nac_layers_on_the_last_layer_is_nac():
    rows = near(50)
    one = build_score("nac", {"edges": 20, "sharpness": 1.0}, reference())
    other = build_score("nac_layers", {"layers": ["features"], "edges": 20, "sharpness": 1.0}, reference())
    np.testing.assert_allclose(value(one, **rows), value(other, **rows), atol=1e-6)


def test_nac_layers_are_averaged_with_their_own_saturation():
    rows = np.array([[1, 2]] * 4, np.float32)
    signals = {"a": rows, "a_grad": rows, "b": rows[:, :1], "b_grad": rows[:, :1]}
    score = build_score(
        "nac_layers", {"layers": ["a", "b"], "saturation": [8, 16], "sharpness": [1, 2]}, Reference(signals)
    )
    assert value(score, **{s: x[0] for s, x in signals.items()})[0] == pytest.approx(-(4 / 8 + 4 / 16) / 2)
    assert score.inputs == ("a", "a_grad", "b", "b_grad")


def test_pnml_by_hand():
    """Reference e1, e2: x = [1, u], X'X = [[2,1,1],[1,1,0],[1,0,1]], of rank 2. At u = e1: a = 1, g = 1/2."""
    fitted = PNML.fit(small([[1, 0], [0, 1]], weight=WEIGHT[:2]))
    p = np.exp([1, 0]) / np.exp([1, 0]).sum()
    seen = np.log2(np.sum(p / (p + p**0.5 * (1 - p))))
    assert value(fitted, features=[7, 0])[0] == pytest.approx(seen, rel=1e-5)
    # u = -e1: x = [1, -1, 0] is at right angles to [2, 1, 1] and has 1/3 outside the span along (1, -1, -1) / sqrt 3
    x = np.array([1.0, -1, 0])
    outside = (x @ np.array([1, -1, -1]) / np.sqrt(3)) ** 2
    gram = np.array([[2.0, 1, 1], [1, 1, 0], [1, 0, 1]])
    a = x @ np.linalg.pinv(gram) @ x
    g = max(a / (1 + a), outside)
    p = np.exp([-1, 0]) / np.exp([-1, 0]).sum()
    assert outside == pytest.approx(4 / 3)
    assert value(fitted, features=[-3, 0])[0] == pytest.approx(np.log2(np.sum(p / (p + p**g * (1 - p)))), rel=1e-5)


def test_pnml_keeps_the_digits_of_small_regrets():
    """The sum over classes is 1 + 8e-8 here: next to 1 in float32."""
    fitted = PNML.fit(small(np.repeat(np.eye(2), 500, axis=0), weight=12 * WEIGHT[:2]))
    p, rest = np.exp(-np.logaddexp(0, [-12.0, 12.0])), np.exp(-np.logaddexp(0, [12.0, -12.0]))
    g = 1 / 501  # a = 1 / 500
    regret = np.sum(p * rest * (1 - p**g) / (p + p**g * rest))
    assert regret < 2e-7
    assert value(fitted, features=[1, 0])[0] == pytest.approx(np.log1p(regret) / np.log(2), rel=2e-2)


def test_box_by_hand():
    """Class 0 spans [0, 2] x [0, 4], class 1 is a point; class 2 was never right."""
    features = [[0, 0], [2, 4], [1, 1], [5, 5], [9, 9]]
    labels = np.array([0, 0, 0, 1, 2])
    correct = np.array([1, 1, 1, 1, 0], bool)
    fitted = Box.fit(small(features, labels=labels, correct=correct), boxes=1)

    def at(x, c):
        return value(fitted, features=x, logits=np.eye(3)[c])[0]

    assert at([1, 2], 0) == 0
    assert at([2, 2], 0) == 1
    assert at([0, 4], 0) == 1
    assert at([4, 2], 0) == 3
    assert at([1, 8], 0) == 3
    assert at([5, 5], 1) == 0
    assert at([5.5, 5], 1) == pytest.approx(5e19)
    assert at([1, 2], 2) == np.float32(1e30)
    wide = Box.fit(small(features, labels=labels, correct=correct), boxes=1, margin=1.0)
    assert value(wide, features=[4, 2], logits=[1, 0, 0])[0] == pytest.approx(1.5)


def test_box_takes_the_nearest_of_its_class():
    features = np.array([[0, 0], [1, 1], [10, 0], [11, 1]], np.float32)
    fitted = Box.fit(small(features, labels=np.zeros(4, int)), boxes=2)
    assert value(fitted, features=[10.5, 0.5], logits=[1, 0, 0])[0] == 0
    assert value(fitted, features=[5.5, 0.5], logits=[1, 0, 0])[0] == pytest.approx(10)


def test_every_correct_row_widens_its_box_beyond_the_sample():
    rng = np.random.default_rng(0)
    ref = small(rng.normal(size=(3000, 2)), labels=np.zeros(3000, int))
    inside = value(
        Box.fit(ref, boxes=4, bank=100), features=ref.signals["features"], logits=np.eye(3)[np.zeros(3000, int)]
    )
    assert inside.max() <= 1 + 1e-6


def test_fdbd_nci_and_grad_norm_by_hand():
    """mu = [1, 1]; h = [4, 1], z = h W' = [4, 1, 5]: c^ = 2, |h - mu| = 3."""
    ref = small([[0, 1], [2, 1]])
    h, z = [4, 1], [4, 1, 5]
    boundaries = (1 / 1 + 4 / 1) / 2  # to class 0: |5 - 4| / |[0, 1]|; to class 1: |5 - 1| / |[1, 0]|
    assert value(build_score("fdbd", {}, ref), features=h, logits=z)[0] == pytest.approx(-boundaries / 3)
    assert value(build_score("nci", {"alpha": 0.1}, ref), features=h, logits=z)[0] == pytest.approx(-(3 / 3 + 0.5))
    assert value(build_score("nci", {"alpha": 0.1}, ref), features=[1, 1], logits=z)[0] == pytest.approx(-0.2)
    p = np.exp([4, 1, 5.0])
    uneven = np.abs(p / p.sum() - 1 / 3).sum()
    assert value(build_score("grad_norm", {}, ref), features=h, logits=z)[0] == pytest.approx(-5 * uneven)
    assert value(build_score("grad_norm", {"bias": True}, ref), features=h, logits=z)[0] == pytest.approx(-6 * uneven)


def test_fdbd_at_the_mean_is_not_finite():
    fitted = build_score("fdbd", {}, small([[0, 1], [2, 1]]))
    assert np.isnan(value(fitted, features=[1, 1], logits=[4, 1, 5])[0])


def test_she_by_hand():
    """Class 2's pattern is the mean of its correct rows, [3, 4]."""
    features = [[1, 0], [0, 1], [2, 4], [4, 4], [90, 0]]
    ref = small(features, labels=np.array([0, 1, 2, 2, 2]), correct=np.array([1, 1, 1, 1, 0], bool))
    want = {"inner_product": -18, "cosine": 1 - 18 / (5 * np.sqrt(13)), "euclidean": np.sqrt(2)}
    for metric, expected in want.items():
        got = value(build_score("she", {"metric": metric}, ref), features=[2, 3], logits=[0, 0, 1])[0]
        assert got == pytest.approx(expected, rel=1e-5)
    assert value(build_score("she", {"metric": "cosine"}, ref), features=[0, 0], logits=[0, 0, 1])[0] == 1


def test_class_mixture_is_the_normal_mixture():
    ref, rows = reference(), near(30)
    fitted = ClassGMM.fit(ref, shrinkage=0.2)
    features = ref.signals["features"].astype(float)
    labels = ref.labels
    kept = ref.correct
    means = np.array([features[kept & (labels == c)].mean(axis=0) for c in range(7)])
    centred = (features - means[labels])[kept]
    sample = centred.T @ centred / len(centred)
    covariance = 0.8 * sample + 0.2 * np.trace(sample) / 16 * np.eye(16)
    share = np.bincount(labels[kept]) / kept.sum()
    density = sum(
        s * multivariate_normal(m, covariance).pdf(rows["features"]) for s, m in zip(share, means, strict=True)
    )
    np.testing.assert_allclose(value(fitted, **rows), -np.log(density), rtol=1e-4, atol=1e-3)
    far = {s: 1e4 * x for s, x in rows.items()}
    assert np.isfinite(value(fitted, **far)).all()


def test_mean_shifted_by_hand():
    """Unit rows e1, e2, -e1: c = e2 / 3. theta of e1 and -e1 mirror each other, that of e2 is e2."""
    ref = Reference({"features": np.array([[5, 0], [0, 2], [-1, 0], [0, 0]], np.float32)})
    fitted = build_score("mean_shifted", {}, ref)
    theta = np.array([[1, -1 / 3], [0, 2 / 3], [-1, -1 / 3]])
    theta /= np.linalg.norm(theta, axis=1, keepdims=True)
    want = np.sort(((theta[1] - theta) ** 2).sum(axis=1))[:2].sum()
    assert value(fitted, features=[0, 9])[0] == pytest.approx(want, rel=1e-5)
    below = np.sort((([0, -1] - theta) ** 2).sum(axis=1))[:2].sum()
    assert value(fitted, features=[0, 0])[0] == pytest.approx(below, rel=1e-5)
    assert len(fitted.bank) == 3


def test_core_by_hand():
    """The head sees the first axis only. Unseen class means: +-[2, 0], so mu is 0 there."""
    features = np.array([[1, 2, 1], [1, 2, -1], [-1, -2, 0], [-1, -2, 0]], np.float32)
    weight = np.array([[1, 0, 0], [-1, 0, 0]], np.float32)
    fitted = build_score("core", {}, small(features, weight=weight, labels=np.array([0, 0, 1, 1])))
    assert value(fitted, features=[9, 5, 0])[0] == pytest.approx(0, abs=1e-6)
    assert value(fitted, features=[9, 0, 5])[0] == pytest.approx(1)
    assert value(fitted, features=[9, 3, 3])[0] == pytest.approx(1 - np.sqrt(0.5), rel=1e-5)
    assert value(fitted, features=[9, 0, 0])[0] == 1


def test_residual_is_the_first_term_of_vim():
    ref, rows = reference(), near(20)
    vim, alone = build_score("vim", {"dim": 6}, ref), build_score("residual", {"dim": 6}, ref)
    logits = rows["logits"].astype(float)
    energy = np.log(np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)) + logits.max(axis=1)
    np.testing.assert_allclose(value(vim, **rows), vim.alpha[0] * value(alone, **rows) - energy, rtol=1e-4, atol=1e-3)
