"""Logit scores against numbers from papers, hand calculations and textbook libraries."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import weibull_min

from demur.detectors.build import build_score
from demur.detectors.evaluate import evaluate
from demur.detectors.score import Reference
from demur.detectors.scores.open_max import _law_of
from demur.detectors.scores.subspace import Residual
from tests.contract.entries import C, near, reference


def of_logits(rows, **rest):
    logits = np.atleast_2d(np.asarray(rows, np.float32))
    return Reference({"logits": logits, "features": np.ones((len(logits), 2), np.float32)}, **rest)


def value(name, logits, hyper=None, ref=None):
    rows = np.atleast_2d(np.asarray(logits, np.float32))
    score = build_score(name, hyper or {}, ref or of_logits(rows))
    return evaluate({"s": score}, {"logits": rows})["s"]


Z = [2.0, 1.0, -1.0]
CONFIDENT = [300.0, 0.0, -1.0]  # 1 - p is 1e-130: far below float32


@pytest.mark.parametrize(
    ("name", "hyper", "logits", "expected"),
    [
        ("doctor", {}, Z, 0.76635),
        ("doctor", {"by": "beta"}, Z, 1 / 0.70538451 - 1),
        ("max_sup", {}, [3, 1, 0, -2], -2.5),
        ("max_sup", {}, [3e6 + 3, 3e6 + 1, 3e6, 3e6 - 2], -2.5),
        ("margin", {}, Z, -1.0),
        ("margin", {}, [5, 5, 1], 0.0),
        ("margin", {"by": "probabilities"}, Z, 0.25949646 - 0.70538451),
        ("msp", {"temperature": 2.0}, Z, 1 - softmax(np.array(Z) / 2).max()),
        ("odin", {}, Z, 1 / 3 - softmax(np.array(Z) / 1000).max()),
        ("odin", {"temperature": 0.5}, Z, 1 / 3 - softmax(np.array(Z) * 2).max()),
        ("gen", {}, Z, (softmax(Z) ** 0.1 * (1 - softmax(Z)) ** 0.1).sum()),
        ("gen", {"top": 1, "gamma": 0.5}, Z, np.sqrt(0.70538451 * (1 - 0.70538451))),
        ("gen", {"top": 1}, [0, 0], 0.25**0.1),
        ("gen", {}, [0, 0, 0, 0], 4 * (0.25 * 0.75) ** 0.1),
        ("weighted_energy", {"weights": [1.0, 2.0, 0.5]}, Z, -np.log(np.exp(2) + 2 * np.exp(1) + 0.5 * np.exp(-1))),
        ("weighted_energy", {"weights": [1, 1, 1]}, [900, 0, 0], -900),
    ],
)
def test_golden(name, hyper, logits, expected):
    assert value(name, logits, hyper)[0] == pytest.approx(expected, rel=2e-5, abs=2e-7)


@pytest.mark.parametrize(("gap", "gamma"), [(30, 0.1), (100, 0.1), (300, 0.05)])
def test_gen_of_a_confident_row_is_exact_where_one_minus_p_is_not(gap, gamma):
    z = np.array([gap, 0.0, -1.0])
    log_p = log_softmax(z)
    rest = np.array([logsumexp(np.delete(z, i)) - logsumexp(z) for i in range(3)])
    expected = np.exp(gamma * (log_p + rest)).sum()
    assert value("gen", z, {"gamma": gamma})[0] == pytest.approx(expected, rel=1e-4)


def test_odds_of_confident_rows_keep_their_order():
    gaps = np.array([20, 40, 60, 80])
    for by in ("alpha", "beta"):
        scores = value("doctor", [[g, 0.0, -1.0] for g in gaps], {"by": by}).astype(np.float64)
        rest = (1 + np.exp(-1.0)) * np.exp(-gaps.astype(float))
        np.testing.assert_allclose(scores, rest * (2 if by == "alpha" else 1), rtol=1e-5)


def test_odin_orders_a_thousand_classes_at_a_thousand_degrees():
    z = np.random.default_rng(0).normal(size=(500, 1000)) * 3
    exact = -softmax(z.astype(np.float32).astype(np.float64) / 1000, axis=1).max(axis=1)
    scores = value("odin", z)
    assert (np.argsort(scores, kind="stable") == np.argsort(exact, kind="stable")).mean() > 0.99
    assert len(np.unique(scores)) == 500


def test_kl_matching_finds_the_mean_posterior_of_a_predicted_class():
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(60, 4)).astype(np.float32)
    rows[:, 3] -= 50  # never predicted
    p = softmax(rows.astype(np.float64), axis=1)
    means = [p[rows.argmax(axis=1) == k].mean(axis=0) for k in range(3)]
    query = rng.normal(size=(10, 4)).astype(np.float32)
    q = softmax(query.astype(np.float64), axis=1)
    floor = np.log(np.finfo(np.float32).tiny)
    divergence = [(q * (np.log(q) - np.maximum(np.log(m), floor))).sum(axis=1) for m in means]
    np.testing.assert_allclose(value("kl_matching", query, ref=of_logits(rows)), np.min(divergence, axis=0), rtol=1e-5)
    held = build_score("kl_matching", {}, of_logits(rows))
    assert held.log_means.shape == (3, 4)


def test_fitted_temperature_is_the_likeliest():
    rng = np.random.default_rng(5)
    z = rng.normal(size=(3000, 5)).astype(np.float32) * 2
    labels = np.array([rng.choice(5, p=p) for p in softmax(z.astype(np.float64), axis=1)])
    ref = of_logits(z * 3.5, labels=labels)
    fitted = build_score("msp", {"temperature": "fit"}, ref).temperature

    def loss(log_t):
        return -log_softmax(z.astype(np.float64) * 3.5 / np.exp(log_t), axis=1)[np.arange(3000), labels].mean()

    best = np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded", options={"xatol": 1e-9}).x)
    assert fitted == pytest.approx(best, rel=1e-6)
    assert fitted == pytest.approx(3.5, rel=0.05)


@pytest.mark.parametrize(("labels", "end"), [([0, 1, 2], 0.05), ([1, 2, 0], 20.0)])
def test_fitted_temperature_stops_at_the_ends_of_its_range(labels, end):
    ref = of_logits(np.eye(3) * 5, labels=np.array(labels))
    assert build_score("msp", {"temperature": "fit"}, ref).temperature == pytest.approx(end, rel=1e-9)


def test_prior_weights_are_the_frequencies_of_the_labels():
    labels = np.array([0, 0, 0, 1, 2, 2])
    score = build_score("weighted_energy", {}, of_logits(np.zeros((6, 3)), labels=labels))
    np.testing.assert_allclose(np.exp(score.log_weights), [1.5, 0.5, 1.0], rtol=1e-6)


def test_weibull_law_is_the_maximum_of_the_likelihood():
    distances = np.sort(np.random.default_rng(1).gumbel(3.0, 0.4, 20))
    least, shape, scale = _law_of(0, distances)
    x = distances - distances.min() + 10_000
    best = weibull_min.logpdf(x, shape, scale=scale).sum()
    for factor in (0.99, 1.01):
        assert weibull_min.logpdf(x, shape * factor, scale=scale).sum() < best
        assert weibull_min.logpdf(x, shape, scale=scale * (1 + (factor - 1) / 1e4)).sum() < best
    assert least == distances.min()


def test_open_max_is_the_papers_recalibration():
    base, query = reference(), near(12, seed=4)["logits"].copy()
    query[6:] *= 0.4
    z, labels = base.signals["logits"].astype(np.float64), base.labels
    score = build_score("open_max", {"tail": 15}, base)
    means = np.array([z[(labels == c) & base.correct].mean(axis=0) for c in range(C)])
    expected = []
    for row in query.astype(np.float64):
        moved, unknown = row.copy(), 0.0
        for rank, c in enumerate(np.argsort(-row)[:3]):
            tail = np.sort(np.linalg.norm(z[(labels == c) & base.correct] - means[c], axis=1))[-15:]
            least, shape, scale = _law_of(c, tail)
            x = np.linalg.norm(row - means[c]) - least + 10_000
            given = row[c] * (3 - rank) / 3 * weibull_min.cdf(x, shape, scale=scale)
            moved[c], unknown = row[c] - given, unknown + given
        expected.append(np.exp(unknown - logsumexp([*moved, unknown])))
    np.testing.assert_allclose(evaluate({"s": score}, {"logits": query})["s"], expected, rtol=1e-3, atol=1e-6)
    assert max(expected) > 0.5 > min(expected)


@pytest.mark.parametrize("of", ["msp", "entropy", "doctor"])
@pytest.mark.parametrize("by", ["residual", "l1"])
def test_sirc_is_the_logarithm_of_the_papers_form(of, by):
    base, query = reference(), near(20, seed=6)
    query["features"][10:] *= 3
    query["logits"] = query["logits"] * np.float32(0.2)
    query["logits"][15:] = CONFIDENT[0] * np.eye(C, dtype=np.float32)[:5]

    def second(features):
        if by == "l1":
            return np.abs(features.astype(np.float64)).sum(axis=1)
        return -evaluate({"r": Residual.fit(base)}, {"features": features})["r"].astype(np.float64)

    s2 = second(base.signals["features"])
    a, k = s2.mean() - 3 * s2.std(), 1 / s2.std()
    with np.errstate(all="ignore"):
        log_p = log_softmax(query["logits"].astype(np.float64), axis=1)
    rest = np.array([logsumexp(np.delete(row, row.argmax())) for row in log_p])
    inner = {
        "msp": np.ones(20),
        "entropy": np.array([-(np.exp(r) * r).sum() for r in log_p]) / np.exp(rest),
        "doctor": (1 + np.exp(log_p.max(axis=1)) - 0) / np.exp(2 * log_p).sum(axis=1),
    }[of]
    if of == "doctor":
        squares = np.array([np.exp(2 * np.delete(row, row.argmax())).sum() for row in log_p])
        inner -= squares / np.exp(rest) / np.exp(2 * log_p).sum(axis=1)
    expected = rest + np.log(inner) + np.logaddexp(0, -k * (second(query["features"]) - a))
    found = evaluate({"s": build_score("sirc", {"of": of, "by": by}, base)}, query)["s"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)
