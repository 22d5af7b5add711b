"""Learned scores: what their training must have reached, and their numbers in both backends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from demur.detectors.build import build_score
from demur.detectors.compile import compile_monitor, serialize
from demur.detectors.policy import Column
from demur.detectors.score import Reference
from demur.monitor.session import Session
from tests.backends import RTOL, assert_close, on_both, reference, signals
from tests.judged import ROUNDING
from tests.oracles import confidence, fusion, learned, logit
from tests.oracles.sample import Float
from tests.oracles.worlds import World, world


def dense(part: Any) -> tuple[Float, Float]:
    return part.weight.astype(np.float64), part.bias.astype(np.float64)


def foreign_rows(w: World, seed: int = 0) -> Reference:
    """Entries of the reference, shuffled among the rows and features: half strange to it."""
    rng = np.random.default_rng(seed)
    rows = rng.permuted(rng.permuted(w.features[:250], axis=0), axis=1)
    return Reference({"features": rows, "logits": w.logits(rows)})


HEADS: dict[str, dict[str, Any]] = {
    "oe": {"hidden": 0},
    "oe_bent": {"hidden": 12},
    "oe_diverse": {"hidden": 0, "dos": True},
    "mix_oe": {"by": "mix_oe", "hidden": 8},
    "energy_margin": {"by": "energy_margin", "hidden": 8},
}


@pytest.mark.parametrize("case", HEADS)
@pytest.mark.parametrize("name", ["tall", "wide", "rank_deficient", "offset", "tiny_scale", "rectified"])
def test_outlier_head_is_its_own_network(name: str, case: str):
    w = world(name, 0)
    foreign = foreign_rows(w)
    score: Any = build_score(
        "outlier_head", {"iterations": 50, **HEADS[case]}, replace(reference(w), sides={"outliers": foreign})
    )
    layers = [dense(part) for part in score.layers]
    rows = w.test64[0] - score.centre.astype(np.float64)
    logits = learned.perceptron(rows, layers, lambda x: np.maximum(x, 0))
    want = logit.energy(logits) if case == "energy_margin" else confidence.log_others(logits).min(axis=1)
    off = 4 * ROUNDING * learned.rounding_of(np.abs(rows) + np.abs(score.centre), layers)
    for got in on_both({"head": score}, signals(w)):
        assert_close(got["head"], want, RTOL * np.abs(want) + off + 1e-6)


@pytest.mark.parametrize("name", ["tall", "two_classes", "offset", "tiny_scale"])
def test_linear_outlier_head_is_at_the_only_optimum(name: str):
    """Outlier exposure of a linear head is convex; the features are in their own deviations, so the penalty has no unit."""
    w = world(name, 0)
    foreign = foreign_rows(w)
    hyper = {"hidden": 0, "penalty": 0.05, "iterations": 2000}
    score = build_score("outlier_head", hyper, replace(reference(w), sides={"outliers": foreign}))
    known = w.sample.features[w.correct]
    centre, scale = known.mean(axis=0), known.std(axis=0)
    head = learned.exposed_linear_head(
        (known - centre) / scale, w.labels[w.correct], (foreign.signals["features"] - centre) / scale, 0.05
    )
    want = confidence.log_others(learned.perceptron((w.test64[0] - centre) / scale, [head], abs)).min(axis=1)
    for got in on_both({"head": score}, signals(w)):
        assert_close(got["head"], want, np.full(len(want), 2e-3))


@pytest.mark.parametrize("by", ["oe", "mix_oe", "energy_margin"])
def test_outlier_heads_have_learnt_what_is_foreign(by: str):
    w = world("tall", 1)
    foreign, fresh = foreign_rows(w), foreign_rows(w, 1)
    score = build_score("outlier_head", {"by": by, "hidden": 16}, replace(reference(w), sides={"outliers": foreign}))
    known = w.features[w.correct]
    rows = np.concatenate([known, np.asarray(fresh.signals["features"], np.float32)])
    for got in on_both({"head": score}, {"features": rows}):
        assert np.median(got["head"][: len(known)]) < np.median(got["head"][len(known) :])


def sal_head(w: World, wild: Reference, penalty: float) -> tuple[Float, Float, float]:
    """Centre and weights of the features themselves, and the bias, from the definition."""
    known, labels = w.sample.features[w.correct], w.labels[w.correct]
    gradients = learned.gradient_rows(known, w.sample.logits[w.correct], labels)
    rows, logits = (np.asarray(wild.signals[name], np.float64) for name in ("features", "logits"))
    told = logits.argmax(axis=1)
    wild_gradients = learned.gradient_rows(rows, logits, told)
    own = np.sort(learned.sal_scores(gradients, labels, gradients, labels))
    limit = own[int(np.ceil(0.95 * len(own))) - 1]
    seen = np.isin(told, labels) & (np.bincount(told, minlength=told.max() + 1)[told] >= 2)
    statistic = np.where(seen, 0.0, -1.0)
    statistic[seen] = learned.sal_scores(wild_gradients[seen], told[seen], gradients, labels)
    candidates = rows[statistic > limit]
    both = np.concatenate([known, candidates])
    centre, scale = known.mean(axis=0), known.std(axis=0)
    targets = np.repeat([0.0, 1.0], [len(known), len(candidates)])
    shares = np.where(targets == 1, len(both) / 2 / len(candidates), len(both) / 2 / len(known))
    weight, bias = learned.logistic((both - centre) / scale, targets, shares, penalty)
    return centre, weight / scale, bias


@pytest.mark.parametrize("penalty", [1.0, 20.0])
@pytest.mark.parametrize("name", ["tall", "two_classes", "rank_deficient", "tiny_scale"])
def test_sal_is_the_definition(name: str, penalty: float):
    """Gradients, filter and logistic optimum again from the reference and the wild rows alone."""
    w = world(name, 0)
    strange = np.concatenate([np.asarray(foreign_rows(w).signals["features"]), w.features[::3]])
    wild = Reference({"features": strange, "logits": w.logits(strange)})
    score = build_score("sal", {"penalty": penalty}, replace(reference(w), sides={"wild": wild}))
    centre, weight, bias = sal_head(w, wild, penalty)
    want = (w.test64[0] - centre) @ weight + bias
    off = 8 * ROUNDING * (np.abs(w.test64[0] - centre) @ np.abs(weight) + np.abs(centre) @ np.abs(weight) + abs(bias))
    for got in on_both({"sal": score}, signals(w)):
        assert_close(got["sal"], want, RTOL * np.abs(want) + off + 1e-5)


@pytest.mark.parametrize("name", ["tall", "two_classes", "rank_deficient", "offset", "tiny_scale", "rectified"])
def test_flow_is_the_density_of_its_own_map(name: str):
    """log |det| of the whole map by finite differences of its couplings in float64."""
    w = world(name, 0)
    score: Any = build_score("flow", {"layers": 3, "hidden": 10, "epochs": 8}, reference(w))
    couplings = [
        learned.Coupling(dense(part.inner), dense(part.scale), dense(part.shift), part.bound)
        for part in score.couplings
    ]
    gain = score.gain.astype(np.float64)

    def forward(rows: Float) -> Float:
        y = (rows - score.centre.astype(np.float64)) * gain
        for coupling in couplings:
            y = coupling(y)
        return y

    def standard(rows: Float) -> Float:
        """The map of rows that are in deviations already, whose differences are well scaled."""
        return forward(rows / gain + score.centre)

    moved = (w.test64[0] - score.centre) * gain
    deviations = 1 / score.sharpness.astype(np.float64)
    want = learned.flow(standard, moved, score.means.astype(np.float64), deviations) - np.log(gain).sum()
    y = standard(moved)
    standing = np.abs(y[:, None] - score.means) / deviations
    size = (np.abs(y[:, None]) / deviations).max(axis=(1, 2)) * (1 + np.abs(score.centre * gain).max())
    off = 16 * ROUNDING * (standing.min(axis=1).sum(axis=1) + 4) * (1 + size)
    for got in on_both({"flow": score}, signals(w)):
        assert_close(got["flow"], want, RTOL * np.abs(want) + off + 1e-4)


def test_flow_of_one_class_integrates_to_one():
    """A density, whatever was learnt: summed over a grid of the plane."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400, 2))
    rows[:, 1] = 0.5 * rows[:, 0] ** 2 + 0.4 * rows[:, 1]
    held = Reference({"features": rows.astype(np.float32)}, np.zeros(400, np.int64))
    score = build_score("flow", {"epochs": 15, "hidden": 16}, held)
    side = np.linspace(-9, 9, 361)
    grid = np.stack(np.meshgrid(side, side + 2), axis=-1).reshape(-1, 2).astype(np.float32)
    for got in on_both({"flow": score}, {"features": grid}):
        assert np.exp(-got["flow"].astype(np.float64)).sum() * (side[1] - side[0]) ** 2 == pytest.approx(1.0, abs=0.01)


def test_flow_has_learnt_more_than_a_diagonal_normal():
    """On rows bent so that no normal fits them."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(2000, 2))
    rows[:, 1] = rows[:, 0] ** 2 + 0.2 * rows[:, 1]
    held, fresh = rows[:1500], rows[1500:]
    given = Reference({"features": held.astype(np.float32)}, np.zeros(1500, np.int64))
    score = build_score("flow", {"epochs": 30}, given)
    baseline = -learned.diagonal_log_normal(fresh, held.mean(axis=0), np.log(held.std(axis=0))).mean()
    for got in on_both({"flow": score}, {"features": fresh.astype(np.float32)}):
        assert got["flow"].mean() < baseline - 0.3


ENCODERS: dict[str, dict[str, Any]] = {
    "apre": {},
    "mse": {"by": "mse"},
    "apre_shifted": {"mean_shift": 2, "k": 4},
    "mse_shifted": {"by": "mse", "mean_shift": 1, "bank": 60},
}


@pytest.mark.parametrize("case", ENCODERS)
@pytest.mark.parametrize("name", ["tall", "wide", "rank_deficient", "offset", "tiny_scale", "rectified"])
def test_auto_encoder_is_the_error_of_its_own_network(name: str, case: str):
    w = world(name, 0)
    hyper = {"by": "apre", "mean_shift": 0, "k": 5, "hidden": 12, "code": 4, **ENCODERS[case]}
    score: Any = build_score("auto_encoder", hyper, reference(w))
    centre, gain = score.centre.astype(np.float64), score.gain.astype(np.float64)
    x, known = (w.test64[0] - centre) * gain, (w.sample.features - centre) * gain
    moved, certain = x, np.full(len(x), np.inf)
    if hyper["mean_shift"]:
        bank = score.shift[0].bank.astype(np.float64)
        moved, certain = learned.mean_shift(x, bank, hyper["k"], hyper["mean_shift"])
        gaps = np.array([np.linalg.norm(known - row, axis=1).min() for row in bank])
        assert gaps.max() <= 4 * ROUNDING * (np.abs(centre * gain).max() + np.abs(known).max()) * np.sqrt(len(gain))
        assert len(np.unique(bank, axis=0)) == min(hyper.get("bank", 1000), len(known))
    body, heads = ([dense(part) for part in parts] for parts in (score.body, score.heads))
    bent = np.maximum(learned.perceptron(moved, body, lambda r: np.maximum(r, 0)), 0)
    mean = learned.perceptron(bent, heads[:1], abs)
    spread = learned.perceptron(bent, heads[1:], abs).clip(-6, 6) if hyper["by"] == "apre" else np.zeros_like(mean)
    errors = (x - mean) ** 2
    want = (errors if hyper["by"] == "mse" else 0.5 * (errors / np.exp(spread) + spread)).mean(axis=1)
    precision = 1.0 if hyper["by"] == "mse" else np.exp(-spread).max()
    size = learned.rounding_of(np.abs(moved) + np.abs(centre * gain), [*body, heads[0]])
    off = 4 * ROUNDING * (1 + size) * (1 + np.abs(x - mean).max(axis=1)) * precision
    sure = certain > 16 * ROUNDING * (np.abs(centre * gain).max() + np.abs(x).max(axis=1)) * np.sqrt(len(gain))
    assert sure.mean() > 0.9
    for got in on_both({"a": score}, signals(w)):
        assert_close(got["a"][sure], want[sure], (RTOL * np.abs(want) + off)[sure])


def test_auto_encoder_has_learnt_to_rebuild():
    """Better than rebuilding the mean, whose error is 1 in deviations."""
    w = world("rank_deficient", 0)
    score = build_score("auto_encoder", {"by": "mse", "epochs": 60}, reference(w))
    for got in on_both({"a": score}, {"features": w.features}):
        assert got["a"].mean() < 0.6


@pytest.mark.parametrize("penalty", [1.0, 0.01])
def test_failure_is_the_logistic_optimum_of_log_p(penalty: float):
    """Fitted on given p-values; then served on p-values that the graph itself counts."""
    rng = np.random.default_rng(0)
    correct = rng.random(600) > 0.3
    p = np.where(correct[:, None], rng.random((600, 2)), rng.beta(0.4, 1.0, size=(600, 2))).clip(1e-3)
    given = {"p:max_logit": p[:, :1].astype(np.float32), "p:energy": p[:, 1:].astype(np.float32)}
    held = Reference(given, np.zeros(600, np.int64), correct=correct)
    score: Any = build_score("failure", {"of": ["max_logit", "energy"], "penalty": penalty}, held)
    rows = -np.log(np.column_stack([given["p:max_logit"], given["p:energy"]]).astype(np.float64))
    weight, bias = learned.logistic(rows, (~correct).astype(float), np.ones(600), penalty)
    np.testing.assert_allclose([*score.weights, score.bias], [*weight, bias], rtol=1e-5)

    w = world("tall", 0)
    members = {name: build_score(name, None, reference(w)) for name in ("max_logit", "energy")}
    tables = {name: np.sort(rng.normal(-3, 2, size=99)).astype(np.float32) for name in members}
    columns = [Column(name, name, calibration=(table,)) for name, table in tables.items()]
    widths = {name: array.shape[1] for name, array in signals(w).items()}
    graph = compile_monitor({**members, "failure": score}, [*columns, Column("failure", "failure")], [], widths)
    session = Session(serialize(graph))
    got = session.run({name: signals(w)[name] for name in session.inputs})
    counted = np.array([fusion.conformal_p(t, s) for t, s in zip(tables.values(), got["scores"].T[:2], strict=True)]).T
    want = -np.log(counted) @ weight + bias
    assert_close(got["scores"][:, 2], want, RTOL * np.abs(want) + 1e-5)
