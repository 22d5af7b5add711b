"""Fixed sequences and Learn-then-Test for selective risk, beside testing many thresholds without paying for them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from demur.detectors.promises import ErrorWhenAcceptedAtMost, binomial, selective
from demur.detectors.promises.sequential import FixedSequence, LearnThenTest, risk_p_values
from tests.simulators import (
    DRAWS,
    ERROR,
    OPTION_LOGITS,
    POWER,
    RISK,
    answers,
    draw,
    easy_when_novel,
    novel,
    risk_below,
    thresholds,
    within,
)

METHODS = {
    "sgr": selective.SGR(),
    "fixed_sequence": FixedSequence(3),
    "one_start": FixedSequence(1),
    "learn_then_test": LearnThenTest(),
}
EDGES = np.linspace(0, 1, 9)
RATE = np.array([0.02, 0.15, 0.02, 0.12, 0.05, 0.2, 0.02, 0.3])


def reached(method, tables, risk=RISK, delta=0.1):
    """The threshold of each table, 0 where nothing is accepted."""
    found = [method.select(t, risk, delta) for t in tables]
    return np.array([0.0 if s is None else float(s.threshold) for s in found])


def highest(tables, passes):
    """The highest threshold that passes on its own; 0 where none does."""
    found = [(t, np.flatnonzero(passes(t))) for t in tables]
    return np.array([float(t.thresholds[at[-1]]) if at.size else 0.0 for t, at in found])


def unpaid(tables, risk=RISK, delta=0.1):
    """Every threshold tested at the whole delta: as many chances as thresholds."""
    return highest(tables, lambda t: risk_p_values(t.wrong, t.accepted, risk) <= delta)


def empirical(tables, risk=RISK):
    return highest(tables, lambda t: t.wrong / t.accepted <= risk)


def monotone(rng, draws, n):
    samples = (draw(rng, n) for _ in range(draws))
    return [selective.prefixes(x.scores["s"], x.loss) for x in samples]


@pytest.mark.parametrize("draws", [DRAWS, pytest.param(10 * DRAWS, marks=pytest.mark.slow)])
def test_selective_risk_holds_by_every_method_and_the_empirical_threshold_breaks_it(draws):
    tables = monotone(np.random.default_rng(21), draws, 600)
    for name, method in METHODS.items():
        u = reached(method, tables)
        assert within(risk_below(u) > RISK, 0.1), name
        assert np.mean(u > 0) > 0.95, name
    assert not within(risk_below(empirical(tables)) > RISK, 0.1)


def stepwise(rng, draws, n, rate):
    """Scores whose error rate is `rate` (8,) on eighths of [0, 1]."""
    tables = []
    for _ in range(draws):
        s = rng.random(n).astype(np.float32)
        wrong = rng.random(n) < rate[np.minimum((s * 8).astype(int), 7)]
        tables.append(selective.prefixes(s, wrong.astype(np.float64)))
    return tables


@pytest.mark.parametrize("draws", [DRAWS, pytest.param(10 * DRAWS, marks=pytest.mark.slow)])
def test_learn_then_test_holds_where_risk_is_not_monotone(draws):
    tables = stepwise(np.random.default_rng(22), draws, 800, RATE)
    mean = np.concatenate([[0], np.cumsum(RATE * np.diff(EDGES))])
    for name in ("learn_then_test", "fixed_sequence"):  # proven for the first, seen for the second
        u = reached(METHODS[name], tables)
        assert within(np.interp(u, EDGES, mean) / np.maximum(u, 1e-9) > RISK, 0.1), name


@pytest.mark.parametrize("draws", [DRAWS, pytest.param(10 * DRAWS, marks=pytest.mark.slow)])
def test_where_every_threshold_is_a_little_too_risky_only_unpaid_tests_pass(draws):
    tables = stepwise(np.random.default_rng(24), draws, 400, np.full(8, RISK + 0.002))
    for name, method in METHODS.items():
        assert within(reached(method, tables) > 0, 0.1), name
    assert not within(unpaid(tables) > 0, 0.1)


@pytest.mark.parametrize("by", ["fixed_sequence", "learn_then_test"])
def test_the_whole_policy_holds_on_survivors(by):
    rng = np.random.default_rng(23)
    spec = dataclasses.replace(ERROR, promise=ErrorWhenAcceptedAtMost(RISK, 0.9, by))
    samples = [draw(rng, 800, easy_when_novel) for _ in range(DRAWS)]
    t, u = thresholds([novel(0.25), spec], samples).T
    risk = np.array([risk_below(1.0, x, easy_when_novel) for x in t])
    assert within(u**POWER * risk > RISK, 0.1)
    assert np.mean(u > 0) > 0.95


# What a prototype of these methods covered: SGR, a fixed sequence over every point, Holm on 100 points.
REPORTED = {
    ("Mistral-7B-v0.1", 0.05): {"sgr": 0.37, "fixed_sequence": 0.25, "learn_then_test": 0.26},
    ("Mistral-7B-v0.1", 0.10): {"sgr": 0.70, "fixed_sequence": 0.60, "learn_then_test": 0.67},
    ("Llama-2-13b-hf", 0.10): {"sgr": 0.55, "one_start": 0.60, "fixed_sequence": 0.55, "learn_then_test": 0.50},
}
SPLITS = 300


@pytest.mark.skipif(not OPTION_LOGITS.is_file(), reason="real option logits are absent; set DEMUR_DATA to their folder")
@pytest.mark.parametrize(("model", "risk"), REPORTED)
def test_coverage_on_resplits_of_real_answers(model, risk):
    """300 splits, 1,000 calibration rows, delta 0.1. A violation counts only when the exact one-sided 99 % lower bound of the
    test error exceeds the promise; coverage is at least what was reported, within two standard errors of both.
    """
    s, wrong = answers(model)
    rng = np.random.default_rng(15)
    covered, broken = {n: [] for n in (*METHODS, "naive")}, {n: [] for n in (*METHODS, "naive")}
    for _ in range(SPLITS):
        order = rng.permutation(len(s))
        cal, rest = order[:1000], order[1000:]
        counts = selective.prefixes(s[cal], wrong[cal])
        naive = counts.thresholds[np.flatnonzero(counts.wrong / counts.accepted <= risk)[-1]]
        for name, shares in covered.items():
            found = METHODS[name].select(counts, risk, 0.1) if name in METHODS else None
            at = naive if name == "naive" else found.threshold if found else -np.inf
            taken = wrong[rest][s[rest] <= at]
            shares.append(taken.size / rest.size)
            broken[name].append(taken.size > 0 and binomial.lower(int(taken.sum()), taken.size, 0.01) > risk)
    print(model, risk, {n: (round(np.mean(c), 3), round(np.mean(broken[n]), 3)) for n, c in covered.items()})
    for name in METHODS:
        assert within(broken[name], 0.1), name
        assert np.mean(broken["naive"]) > np.mean(broken[name]), name
    for name, reported in REPORTED[model, risk].items():
        error = np.std(covered[name]) / np.sqrt(SPLITS)
        assert np.mean(covered[name]) >= reported - 0.005 - 2 * np.sqrt(2) * error, name
