"""Scores of logits against their float64 oracles."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import softmax

from demur.detectors.build import build_score
from demur.detectors.score import Reference
from tests.backends import RTOL, assert_close, on_both
from tests.judged import ROUNDING, Case, Seeded, judge, runs
from tests.oracles import confidence, distance
from tests.oracles.sample import Float
from tests.oracles.worlds import World


def largest(w: World) -> Float:
    return np.abs(w.test64[1]).max(axis=1)


def of_logits(w: World, _: Float) -> Float:
    """The score crosses 0 between terms of the size of the logits."""
    return ROUNDING * largest(w)


def of_exponents(w: World, want: Float) -> Float:
    """Differences of logits are rounded before exp: relative, of the size of the logits."""
    return 4 * ROUNDING * largest(w) * np.abs(want)


def softmax_steps(w: World, want: Float) -> Float:
    """1 - p comes in steps of 6e-8 near 0, and the softmax adds C rounded terms."""
    return 4e-7 + of_exponents(w, want)


def of_offset(w: World, want: Float) -> Float:
    """The probabilities' offset of 1/C is taken off in float32."""
    return 2 * ROUNDING / w.test64[1].shape[1] + of_exponents(w, want)


def of_weights(w: World, _: Float) -> Float:
    """As `of_logits`; log w is rounded, and so are its sum with the logit and the logarithm of the sum of C."""
    weights = np.log(confidence.class_weights(w.labels, w.test64[1].shape[1]))
    return ROUNDING * (largest(w) + 2 * np.abs(weights).max() + np.log(len(weights)))


def of_weibull(w: World, want: Float) -> Float:
    """A distance is off by a few roundings of the logits; the law's slope is at most shape / (e scale)."""
    laws = [np.ptp(confidence.open_max_tail(w.sample, c)) for c in confidence.mean_logits(w.sample)]
    slope = 20 / (np.e * min(laws))
    means = max(np.linalg.norm(m) for m in confidence.mean_logits(w.sample).values())
    lost = slope * 4 * ROUNDING * (np.linalg.norm(w.test64[1], axis=1) + means)
    return want * (1 - want) * np.expm1(np.minimum(largest(w) * (3 * lost + 8 * ROUNDING), 50.0)) + 1e-7


def of_sirc(by: str) -> Callable[[World, Float], Float]:
    """Logarithms of probabilities as differences of logits; S2 in its own deviations."""

    def room(w: World, _: Float) -> Float:
        size = np.linalg.norm(w.test64[0], axis=1) if by == "residual" else np.abs(w.test64[0]).sum(axis=1)
        return 4 * ROUNDING * (largest(w) + size / second(w, by, w.sample.features).std()) + 1e-6

    return room


def second(w: World, by: str, rows: Float) -> Float:
    """SIRC's S2, a confidence."""
    return -distance.vim_residual(w.sample, rows) if by == "residual" else np.abs(rows).sum(axis=1)


def sirc(of: str, by: str) -> Case:
    def want(w: World, _: object) -> Float:
        doubts = confidence.log_doubt(w.test64[1], of)
        return confidence.sirc(doubts, second(w, by, w.test64[0]), second(w, by, w.sample.features))

    return Case({"sirc": {"of": of, "by": by}}, want, of_sirc(by))


CASES = {
    "margin": Case("margin", lambda w, _: confidence.margin(w.test64[1]), of_logits),
    "margin_p": Case(
        {"margin": {"by": "probabilities"}},
        lambda w, _: confidence.margin(w.test64[1], "probabilities"),
        softmax_steps,
    ),
    "gen": Case("gen", lambda w, _: confidence.gen(w.test64[1]), of_exponents),
    "gen_top": Case({"gen": {"gamma": 0.5, "top": 3}}, lambda w, _: confidence.gen(w.test64[1], 0.5, 3), of_exponents),
    "doctor": Case("doctor", lambda w, _: confidence.doctor(w.test64[1]), of_exponents),
    "doctor_beta": Case({"doctor": {"by": "beta"}}, lambda w, _: confidence.doctor(w.test64[1], "beta"), of_exponents),
    "msp_cool": Case(
        {"msp": {"temperature": 3.0}}, lambda w, _: confidence.max_softmax_risk(w.test64[1], 3.0), softmax_steps
    ),
    "odin": Case("odin", lambda w, _: confidence.odin(w.test64[1]), of_offset),
    "odin_warm": Case({"odin": {"temperature": 20.0}}, lambda w, _: confidence.odin(w.test64[1], 20.0), of_offset),
    "max_sup": Case("max_sup", lambda w, _: confidence.max_sup(w.test64[1]), of_logits),
    "weighted_energy": Case(
        {"weighted_energy": {"weights": "prior"}},
        lambda w, _: confidence.weighted_energy(w.test64[1], confidence.class_weights(w.labels, w.test64[1].shape[1])),
        of_weights,
    ),
    "kl_matching": Case("kl_matching", lambda w, _: confidence.kl_matching(w.sample, w.test64[1]), softmax_steps),
    "open_max": Case("open_max", lambda w, _: confidence.open_max(w.sample, w.test64[1]), of_weibull),
    "open_max_2": Case(
        {"open_max": {"tail": 8, "alpha": 2}},
        lambda w, _: confidence.open_max(w.sample, w.test64[1], 8, 2),
        of_weibull,
    ),
    "sirc": sirc("msp", "residual"),
    "sirc_entropy": sirc("entropy", "l1"),
    "sirc_doctor": sirc("doctor", "residual"),
    "sirc_l1": sirc("msp", "l1"),
}
THIS = sys.modules[__name__]


@pytest.mark.parametrize(("name", "where"), runs(CASES))
def test_score_equals_oracle(name: str, where: Seeded):
    judge(THIS, name, where)


def labelled_logits(seed: int, heat: float) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from softmax(z / heat): the best temperature is about `heat`."""
    rng = np.random.default_rng(seed)
    logits = (3.0 * rng.normal(size=(3000, 4))).astype(np.float32)
    p = softmax(logits / heat, axis=1)
    return logits, np.array([rng.choice(4, p=row) for row in p])


@pytest.mark.parametrize("heat", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_fitted_temperature_is_the_one_of_least_loss(seed: int, heat: float):
    logits, labels = labelled_logits(seed, heat)
    best = confidence.best_temperature(logits.astype(np.float64), labels)
    assert best == pytest.approx(heat, rel=0.2)
    score = build_score("msp", {"temperature": "fit"}, Reference({"logits": logits}, labels))
    assert score.temperature == pytest.approx(best, rel=1e-6)
    want = confidence.max_softmax_risk(logits[:50].astype(np.float64), best)
    for got in on_both({"msp": score}, {"logits": logits[:50]}):
        assert_close(got["msp"], want, RTOL * want + 4e-7)


@pytest.mark.parametrize(("labels", "end"), [("right", 0.05), ("wrong", 20.0)])
def test_fitted_temperature_stops_at_the_ends(labels: str, end: float):
    logits, _ = labelled_logits(0, 1.0)
    given = logits.argmax(axis=1) if labels == "right" else logits.argmin(axis=1)
    assert confidence.best_temperature(logits.astype(np.float64), given) == end
    score = build_score("msp", {"temperature": "fit"}, Reference({"logits": logits}, given))
    assert score.temperature == pytest.approx(end, rel=1e-6)


def test_weights_given_as_numbers():
    logits, labels = labelled_logits(0, 1.0)
    weights = [0.1, 1.0, 2.0, 5.0]
    score = build_score("weighted_energy", {"weights": weights}, Reference({"logits": logits}, labels))
    want = confidence.weighted_energy(logits[:90].astype(np.float64), np.array(weights))
    for got in on_both({"w": score}, {"logits": logits[:90]}):
        assert_close(got["w"], want, RTOL * np.abs(want) + 1e-6)


def test_equal_logits_are_defined():
    """Exact ties, also at the top: the scores see them as their formulas do."""
    logits = np.array([[2, 2, 2, 2], [5, 5, 1, 0], [0, 0, 0, -90], [30, 30, -60, 30]], np.float32)
    z = logits.astype(np.float64)
    held = Reference({"logits": logits}, np.arange(4))
    wanted = {
        "margin": confidence.margin(z),
        "gen": confidence.gen(z),
        "doctor": confidence.doctor(z),
        "odin": confidence.odin(z),
        "max_sup": confidence.max_sup(z),
    }
    assert wanted["margin"].tolist() == [0.0] * 4
    for got in on_both({n: build_score(n, None, held) for n in wanted}, {"logits": logits}):
        for name, want in wanted.items():
            assert_close(got[name], want, RTOL * np.abs(want) + 1e-7)


def test_golden_numbers_of_the_sources():
    one = np.array([[2.0, 1, -1]])
    assert confidence.doctor(one)[0] == pytest.approx(0.76635, abs=5e-6)
    assert confidence.max_sup(np.array([[3.0, 1, 0, -2]]))[0] == -2.5
    p = np.array([0.5, 0.3, 0.15, 0.05])
    assert confidence.gen(np.log(p)[None], 0.1, 2)[0] == pytest.approx(0.25**0.1 + 0.21**0.1)
    held = Reference({"logits": one.astype(np.float32)}, np.array([0]))
    for got in on_both({"doctor": build_score("doctor", None, held)}, {"logits": one.astype(np.float32)}):
        assert got["doctor"][0] == pytest.approx(0.76635045, rel=RTOL)
