"""Learned heads: published numbers, gradients by finite differences, worlds with a known answer."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from demur.detectors.build import build_score
from demur.detectors.evaluate import evaluate
from demur.detectors.learned.couplings import Couplings, alternating
from demur.detectors.learned.diverse import diverse
from demur.detectors.learned.exposure import Exposure, Mixture, blended, cross_entropy
from demur.detectors.learned.logistic import logistic
from demur.detectors.learned.network import flat, start
from demur.detectors.learned.two_headed import squared, weighted
from demur.detectors.score import Reference
from demur.detectors.scores.sal import gradient_rows, statistics
from demur.detectors.storage import parameters

RNG = np.random.default_rng(0)


def value(score, **signals):
    arrays = {s: np.atleast_2d(np.asarray(x, np.float32)) for s, x in signals.items()}
    return evaluate({"s": score}, arrays)["s"]


def area(good, bad):
    return roc_auc_score(np.repeat([0, 1], [len(good), len(bad)]), np.concatenate([good, bad]))


def slopes_by_differences(loss, at, step=1e-6):
    found = np.zeros_like(at)
    for place in np.ndindex(at.shape):
        kept = at[place]
        at[place] = kept + step
        above = loss()
        at[place] = kept - step
        found[place] = (above - loss()) / (2 * step)
        at[place] = kept
    return found


def test_outlier_term_golden():
    """Hendrycks' 0.5 (logsumexp z - mean z) for z = (2, 0, 0)."""
    term, _ = cross_entropy(np.array([[2.0, 0, 0]]), np.full((1, 3), 1 / 3))
    assert 0.5 * term == pytest.approx(0.78644, abs=5e-6)


@pytest.mark.parametrize("by", ["oe", "mix_oe", "energy_margin"])
@pytest.mark.parametrize("hidden", [(), (4,)])
def test_gradients_of_the_exposed_head(by, hidden):
    rng = np.random.default_rng(3)
    rows, foreign = rng.normal(size=(7, 3)), 2 * rng.normal(size=(5, 3))
    targets, sizes = np.eye(3)[rng.integers(3, size=7)], (3, *hidden, 3)
    given = (rows, targets, foreign, by, (-2.5, -0.5), 0.1, sizes)
    if by == "mix_oe":
        mixed, blend = blended(rows, targets, foreign, rng)
        task = Mixture(rows, targets, mixed, by, (-2.5, -0.5), 0.1, sizes, blend)
        np.testing.assert_allclose(blend.sum(axis=1), 1)
    else:
        task = Exposure(*given)
    at = flat(start(sizes, rng)) + 0.3
    expected = slopes_by_differences(lambda: task.loss(at)[0], at)
    np.testing.assert_allclose(task.loss(at)[1], expected, rtol=1e-5, atol=1e-7)


def test_gradients_of_the_flow():
    rng = np.random.default_rng(4)
    frame = Couplings(alternating(5, 3, seed=1))
    weights = [w + 0.3 * rng.normal(size=w.shape) for w in frame.start(4, 2, rng)]
    for layer, mask in enumerate(frame.masks):  # what training keeps at 0
        weights[6 * layer] *= mask
        for part in (2, 4):
            weights[6 * layer + part] *= (1 - mask)[:, None]
            weights[6 * layer + part + 1] *= 1 - mask
    rows, places = rng.normal(size=(6, 5)), np.array([0, 1, 1, 0, 1, 0])
    _, found = frame.slopes(weights, rows, places)
    assert len(found) == len(weights)
    for index, (weight, slope) in enumerate(zip(weights, found, strict=True)):
        expected = slopes_by_differences(lambda: frame.slopes(weights, rows, places)[0], weight)
        kind = index % 6 if index < 18 else None
        if kind is not None and kind != 1:
            mask = frame.masks[index // 6] if kind == 0 else 1 - frame.masks[index // 6]
            expected = expected * (mask if kind in (0, 3, 5) else mask[:, None])
        np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-7, err_msg=str(index))


@pytest.mark.parametrize("loss", [squared, weighted])
def test_gradients_of_the_auto_encoder(loss):
    rng = np.random.default_rng(5)
    out, rows = rng.normal(size=(4, 6)), rng.normal(size=(4, 3))
    out[1, 4] = 9  # cut off: no gradient
    expected = slopes_by_differences(lambda: loss(out, rows)[0], out)
    np.testing.assert_allclose(loss(out, rows)[1], expected, rtol=1e-5, atol=1e-8)


def test_logistic_regression_is_that_of_scikit_learn():
    rng = np.random.default_rng(6)
    rows, share = rng.normal(3, 2, (300, 4)), rng.uniform(0.5, 2, 300)
    targets = (rows @ [1, -1, 0.5, 0] + rng.logistic(size=300) > 1).astype(float)
    weight, bias = logistic(rows, targets, share, 2.0)
    other = LogisticRegression(C=0.5, tol=1e-10, max_iter=10_000).fit(rows, targets, sample_weight=share)
    np.testing.assert_allclose(weight, other.coef_[0], rtol=1e-4, atol=1e-5)
    assert bias == pytest.approx(other.intercept_[0], rel=1e-4)


def test_logistic_regression_of_separable_rows_ends():
    rows = np.array([[-1e3], [-1], [1], [1e3]])
    weight, _ = logistic(rows, np.array([0.0, 0, 1, 1]), np.ones(4), 1e-6)
    assert 0 < weight[0] < 1e3


def test_diverse_outliers_come_from_every_cluster():
    directions = np.repeat(np.eye(4), [50, 20, 20, 3], axis=0)
    rows = directions + 0.01 * RNG.normal(size=directions.shape)
    risk = np.arange(93.0)
    kept = diverse(rows, risk, 20, 4, seed=0)
    assert len(set(kept)) == 20
    assert {0, 1, 2, 3, 4, 50, 51, 70, 71, 90, 91, 92} <= set(kept)


def test_sal_gradient_is_the_row_of_the_cross_entropy():
    rng = np.random.default_rng(7)
    features, weight, label = rng.normal(size=(1, 3)), rng.normal(size=(4, 3)), np.array([2])

    def loss():
        z = weight @ features[0]
        return np.log(np.exp(z).sum()) - z[2]

    expected = slopes_by_differences(loss, weight)[2]
    np.testing.assert_allclose(gradient_rows(features, features @ weight.T, label)[0], expected, rtol=1e-5)


def test_sal_statistic_by_hand():
    own, of_own = np.array([[1.0, 0], [-1, 0], [5, 5]]), np.array([0, 0, 1])
    asked, of_asked = np.array([[0.0, 3], [0, -1], [9, 9]]), np.array([0, 0, 1])
    np.testing.assert_allclose(statistics(asked, of_asked, own, of_own), [3, 1, 0], atol=1e-12)


def blobs(count, seed, shift=0.0, width=8, share=1.0):
    """Three round classes; foreign rows are shifted where the head does not look, and may keep a share of their class."""
    rng = np.random.default_rng(seed)
    centres = 4 * share * np.eye(3, width)
    labels = np.arange(count) % 3
    rows = centres[labels] + rng.normal(size=(count, width))
    rows[:, 3:5] += shift
    return rows.astype(np.float32), labels


def known_world():
    rows, labels = blobs(900, 0)
    weight, bias = 4 * np.eye(3, 8), np.full(3, -8.0)
    foreign, traffic = blobs(300, 1, shift=2.5)[0], blobs(600, 2)[0]
    wild = np.concatenate([traffic, blobs(200, 3, shift=2.5, share=0.4)[0]])  # SAL looks where p is unsure
    logits = {k: (x @ weight.T + bias).astype(np.float32) for k, x in (("own", rows), ("wild", wild))}
    sides = {
        "outliers": Reference({"features": foreign}),
        "wild": Reference({"features": wild, "logits": logits["wild"]}),
    }
    return Reference({"features": rows, "logits": logits["own"]}, labels, weight, bias, sides=sides)


HEADS = {
    "oe": ("outlier_head", {"hidden": 16}),
    "oe_diverse": ("outlier_head", {"hidden": 16, "dos": True}),
    "mix_oe": ("outlier_head", {"by": "mix_oe", "hidden": 16}),
    "energy_margin": ("outlier_head", {"by": "energy_margin", "hidden": 16}),
    "sal": ("sal", {}),
    "flow": ("flow", {"hidden": 16, "epochs": 40}),
    "apre": ("auto_encoder", {"hidden": 16, "code": 3, "epochs": 100}),
    "mse": ("auto_encoder", {"by": "mse", "hidden": 16, "code": 3, "epochs": 100}),
    "shifted": ("auto_encoder", {"mean_shift": 2, "hidden": 16, "code": 3, "epochs": 100}),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_find_what_the_world_hides(name):
    kind, hyper = HEADS[name]
    score = build_score(kind, hyper, known_world())
    good, bad = (value(score, features=blobs(300, seed, shift)[0]) for seed, shift in ((8, 0.0), (9, 2.5)))
    assert area(good, bad) > 0.85


def test_the_classic_scores_are_blind_there():
    """The foreign direction is one that the head does not read: only training on it, or density, can tell."""
    world = known_world()
    score = build_score("energy", {}, world)
    logits = [
        blobs(300, seed, shift)[0] @ world.head_weight.T + world.head_bias for seed, shift in ((8, 0.0), (9, 2.5))
    ]
    assert abs(area(*(value(score, logits=z) for z in logits)) - 0.5) < 0.1


def test_seeds_decide_everything():
    for kind, hyper in (HEADS["oe"], HEADS["flow"], HEADS["apre"]):
        one, again, other = (parameters(build_score(kind, {**hyper, "seed": s}, known_world())) for s in (1, 1, 2))
        assert all(np.array_equal(one[name], again[name]) for name in one)
        assert any(not np.array_equal(one[name], other[name]) for name in one)


def test_flow_is_a_density():
    """exp(-risk) of a one-class flow integrates to 1 over the plane."""
    rng = np.random.default_rng(8)
    rows = (rng.normal(size=(500, 2)) * [1, 0.3] + [3, -1]).astype(np.float32)
    score = build_score("flow", {"hidden": 8, "epochs": 20}, Reference({"features": rows}, np.zeros(500, int)))
    x, y = np.meshgrid(np.linspace(-9, 15, 400), np.linspace(-9, 7, 400))
    risk = value(score, features=np.column_stack([x.ravel(), y.ravel()]))
    assert np.exp(-risk.astype(float)).sum() * (24 / 399) * (16 / 399) == pytest.approx(1, abs=0.01)


def failures(rows=600, seed=0):
    rng = np.random.default_rng(seed)
    wrong = rng.uniform(size=rows) < 0.2
    p = rng.uniform(size=(rows, 2)) ** np.where(wrong, 5, 1)[:, None]
    noise = rng.uniform(size=rows)
    return Reference({"p:a": p[:, :1], "p:b": p[:, 1:], "p:noise": noise[:, None]}, correct=~wrong)


def test_failure_predictor_weighs_what_tells():
    score = build_score("failure", {"of": ["a", "b", "noise"]}, failures())
    a, b, noise = score.weights
    assert min(a, b) > 3 * abs(noise)
    test = failures(seed=1)
    risk = evaluate({"s": score}, {s: np.asarray(x[:, 0], np.float32) for s, x in test.signals.items()})["s"]
    assert area(risk[test.correct], risk[~test.correct]) > 0.9
    assert np.mean(1 / (1 + np.exp(-risk))) == pytest.approx(np.mean(~test.correct), abs=0.05)


def test_training_takes_seconds():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(10_000, 128)).astype(np.float32)
    sides = {"outliers": Reference({"features": 2 * rows[:2000]})}
    given = Reference({"features": rows}, rng.integers(6, size=10_000), sides=sides)
    began = time.process_time()
    build_score("auto_encoder", {"epochs": 2}, given)
    build_score("flow", {"epochs": 1}, given)
    build_score("outlier_head", {"iterations": 10}, given)
    assert time.process_time() - began < 20  # a tenth of the work of the defaults; 2 s here


def test_too_few_failures_are_refused_with_the_count():
    few = failures(60)
    errors = int((~few.correct).sum())
    with pytest.raises(ValueError, match=f"3 members need at least 20 errors .* got {errors} and {60 - errors}"):
        build_score("failure", {"of": ["a", "b", "noise"]}, few)
