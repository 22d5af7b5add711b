"""Streaming scores and their monitor: goldens, the graph against NumPy, and what an invalid step does."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from demur.detectors.compile import serialize
from demur.detectors.numpy_monitor import evaluate_stream
from demur.detectors.numpy_ops import NumpyOps
from demur.detectors.policy import Column, Rule
from demur.detectors.pvalue import p_value
from demur.detectors.reason import Reason
from demur.detectors.scores import STREAM_SCORES
from demur.detectors.scores.stream import EntropyInterval, MeanNLL
from demur.detectors.storage import parameters, restore
from demur.detectors.storage import settings as settings_of
from demur.detectors.stream import compile_stream, state_size
from tests.contract.entries import session

V, K = 50_000, 20
WIDTHS = {"token_logprob": 1, "topk_logprobs": K, "topk_mask": K}
OUTPUTS = ["next_state", "scores", "p_values", "rule_hits", "reasons", "accept"]
FRESH = (np.zeros(1, np.float32), np.zeros(1, np.float32))


def zipf(entropy):
    """The Zipf distribution over V tokens whose entropy is the given one, by bisection on the exponent."""
    ranks = np.log(np.arange(1, V + 1))
    low, high = 0.5, 4.0
    for _ in range(60):
        middle = (low + high) / 2
        log_p = -middle * ranks
        log_p -= np.log(np.exp(log_p).sum())
        low, high = (middle, high) if -(np.exp(log_p) * log_p).sum() > entropy else (low, middle)
    return log_p


def one_step(score, log_p, mask=None):
    log_p = np.asarray(log_p, np.float32)[None]
    mask = np.ones_like(log_p) if mask is None else np.asarray(mask, np.float32)[None]
    return float(score(NumpyOps(), FRESH, {"topk_logprobs": log_p, "topk_mask": mask})[1][0])


@pytest.mark.parametrize(
    ("entropy", "lower", "upper", "mass"),
    [(3.16, 2.69, 3.88, 0.83), (5.40, 3.88, 6.66, 0.57), (7.02, 4.62, 8.32, 0.38)],
)
def test_interval_of_truncated_zipf(entropy, lower, upper, mass):
    log_p = zipf(entropy)[:K]
    assert np.exp(log_p).sum() == pytest.approx(mass, abs=0.011)
    assert one_step(EntropyInterval("lower", V), log_p) == pytest.approx(lower, abs=0.02)
    assert one_step(EntropyInterval("upper", V), log_p) == pytest.approx(upper, abs=0.02)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.01, 0.1, 1.0, 10.0]), st.integers(1, 19))
def test_interval_holds_the_entropy(seed, concentration, known):
    rng = np.random.default_rng(seed)
    p = np.sort(rng.dirichlet(np.full(40, concentration)))[::-1] + 1e-30
    p /= p.sum()
    entropy = -(p * np.log(p)).sum()
    log_p = np.log(p[:known])
    low, high = (one_step(EntropyInterval(bound, 40), log_p) for bound in ("lower", "upper"))
    assert low <= entropy + 2e-4
    assert high >= entropy - 2e-4


def test_interval_ignores_order_and_masked_entries():
    log_p = zipf(5.4)[:12]
    order = np.random.default_rng(0).permutation(12)
    padded = np.concatenate([[0.0, 0.0], log_p[order], [0.0] * 6])
    mask = np.concatenate([[0, 0], np.ones(12), [0] * 6])
    for bound in ("lower", "upper"):
        score = EntropyInterval(bound, V)
        assert one_step(score, padded, mask) == pytest.approx(one_step(score, log_p), abs=1e-5)


def test_whole_distribution_has_no_interval():
    p = np.array([0.5, 0.25, 0.125, 0.125])
    for bound in ("lower", "upper"):
        assert one_step(EntropyInterval(bound, 4), np.log(p)) == pytest.approx(-(p * np.log(p)).sum(), abs=1e-5)


def test_step_without_log_probabilities_has_no_score():
    score = EntropyInterval("lower", V)
    assert np.isnan(one_step(score, np.zeros(5), np.zeros(5)))
    assert np.isnan(one_step(score, [-1.0, 0.7]))
    assert np.isnan(float(MeanNLL()(NumpyOps(), FRESH, {"token_logprob": np.array([[0.5]], np.float32)})[1][0]))


def test_mean_nll_is_the_running_mean_and_does_not_drift():
    values = -np.random.default_rng(1).exponential(2.0, 20_000).astype(np.float32)
    state, score = FRESH, MeanNLL()
    for value in values:
        state, mean = score(NumpyOps(), state, {"token_logprob": np.array([[value]])})
    assert mean[0] == pytest.approx(-values.astype(np.float64).mean(), rel=1e-5)


def policy():
    scores = {"nll": MeanNLL(), "low": EntropyInterval("lower", V), "high": EntropyInterval("upper", V)}
    table = np.sort(np.random.default_rng(3).gamma(4.0, 0.5, 500)).astype(np.float32)
    columns = [
        Column("nll", "nll", unit="stream", calibration=(table,)),
        Column("low", "low", unit="stream", calibration=(table * 2,)),
        Column("high", "high", unit="stream"),
    ]
    limit = [np.array([x], np.float32) for x in (2.2, 4.2, np.inf)]
    none = np.zeros(1, bool)
    rules = [
        Rule("unlikely", "nll", Reason.OUT_OF_SCOPE, limit[0], none),
        Rule("flat", "low", Reason.AMBIGUOUS, limit[1], none),
        Rule("never", "high", Reason.NOVEL, limit[2], none),
    ]
    return scores, columns, rules


def steps(count, streams, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        p = -np.sort(-rng.dirichlet(np.full(60, 0.4), streams), axis=1)[:, :K]
        yield {
            "token_logprob": -rng.exponential(1.8, (streams, 1)).astype(np.float32),
            "topk_logprobs": np.log(np.maximum(p, 1e-20)).astype(np.float32),
            "topk_mask": (rng.random((streams, K)) < 0.9).astype(np.float32),
        }


def run_all(batches, streams=6):
    """Every step through ONNX Runtime, with the NumPy monitor and the reference evaluator beside it."""
    scores, columns, rules = policy()
    model = compile_stream(scores, columns, rules, WIDTHS)
    assert [o.name for o in model.graph.output] == OUTPUTS
    graph, third = session(model), ReferenceEvaluator(model)
    state = np.zeros((streams, state_size(scores, columns)), np.float32)
    history = []
    for signals in batches:
        feed = {"state": state, **signals}
        got = dict(zip(OUTPUTS, graph.run(None, feed), strict=True))
        with np.errstate(all="ignore"):
            beside = [evaluate_stream(scores, columns, rules, state, signals)]
            beside.append(dict(zip(OUTPUTS, third.run(None, feed), strict=True)))
        for other in beside:
            compare(got, other)
        state = got["next_state"]
        history.append(got)
    return history


def compare(got, other):
    for name, value in got.items():
        assert value.dtype == other[name].dtype, name
        assert value.shape == other[name].shape, name
        if name == "p_values":
            np.testing.assert_allclose(value, other[name], atol=0.005)
        elif value.dtype.kind == "f":
            np.testing.assert_allclose(value, other[name], rtol=2e-5, atol=2e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(value, other[name], err_msg=name)


def test_monitor_agrees_with_numpy_and_keeps_the_running_maximum():
    history = run_all(steps(25, 6))
    largest = np.maximum.accumulate(np.stack([h["scores"] for h in history]))
    table = policy()[1][0].calibration[0]
    for step, got in enumerate(history):
        np.testing.assert_array_equal(got["next_state"][:, 2:5], largest[step])
        np.testing.assert_array_equal(got["p_values"][:, 0], p_value(table, largest[step][:, 0]))
        np.testing.assert_array_equal(got["rule_hits"] & 1 == 1, largest[step][:, 0] > np.float32(2.2))
        np.testing.assert_array_equal(got["accept"], got["reasons"] == 0)
    hits = np.stack([h["rule_hits"] for h in history])
    assert (np.diff(hits & 1, axis=0) >= 0).all()
    assert 0 < (hits & 1).mean() < 1


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf, 5.0, 1e20])
def test_invalid_step_leaves_the_state_and_latches(broken):
    batches = list(steps(8, 6, seed=5))
    batches[3]["token_logprob"][2] = broken
    history = run_all(batches)
    before, at, after = history[2], history[3], history[4]
    assert at["reasons"][2] & Reason.INVALID
    assert not at["reasons"][2] & Reason.UNAVAILABLE
    np.testing.assert_array_equal(at["next_state"][2, 1:], before["next_state"][2, 1:])
    assert at["next_state"][2, 0] == 1
    assert np.isnan(at["scores"][2, 0])
    for later in history[4:]:
        assert later["reasons"][2] & Reason.UNAVAILABLE
        assert not later["reasons"][2] & Reason.INVALID
        assert not later["accept"][2]
    others = [0, 1, 3, 4, 5]
    assert (after["next_state"][others, 0] == 0).all()
    assert after["next_state"][2, 1] == after["next_state"][0, 1] - 1


def test_invalid_first_step_refuses_nothing_by_rule():
    batches = list(steps(2, 6, seed=6))
    batches[0]["topk_mask"][1] = 0
    first = run_all(batches)[0]
    assert first["rule_hits"][1] == 0
    assert first["reasons"][1] == Reason.INVALID
    assert np.isnan(first["p_values"][1]).all()


def test_streams_do_not_depend_on_their_neighbours():
    scores, columns, rules = policy()
    graph = session(compile_stream(scores, columns, rules, WIDTHS))
    size = state_size(scores, columns)
    (signals,) = steps(1, 9, seed=8)
    whole = graph.run(None, {"state": np.zeros((9, size), np.float32), **signals})
    for i in range(9):
        alone = graph.run(
            None, {"state": np.zeros((1, size), np.float32), **{s: x[i : i + 1] for s, x in signals.items()}}
        )
        for one, all_ in zip(alone, whole, strict=True):
            np.testing.assert_array_equal(one[0], all_[i])


def test_graph_is_reproducible_and_without_control_flow():
    scores, columns, rules = policy()
    model = compile_stream(scores, columns, rules, WIDTHS)
    assert serialize(model) == serialize(compile_stream(scores, columns, rules, WIDTHS))
    assert not {n.op_type for n in model.graph.node} & {"If", "Loop", "Scan"}
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]


def test_stored_scores_compile_to_the_same_bytes():
    scores, columns, rules = policy()
    kinds = {"nll": "mean_nll", "low": "entropy_interval", "high": "entropy_interval"}
    again = {n: restore(kinds[n], json.loads(json.dumps(settings_of(s))), parameters(s)) for n, s in scores.items()}
    assert serialize(compile_stream(again, columns, rules, WIDTHS)) == serialize(
        compile_stream(scores, columns, rules, WIDTHS)
    )


@pytest.mark.parametrize(
    ("hyper", "message"), [({"bound": "middle", "vocabulary": 9}, "lower"), ({"vocabulary": 1}, "2")]
)
def test_bad_hyper_parameters_are_refused(hyper, message):
    with pytest.raises(ValueError, match=message):
        EntropyInterval.fit(**hyper)


@pytest.mark.parametrize("name", STREAM_SCORES)
def test_documented(name):
    doc = " ".join((STREAM_SCORES[name].__doc__ or "").split())
    for part in ("State:", "Shapes:", "Range:", "Source:", "Higher is less trustworthy"):
        assert part in doc or (part == "State:" and "state (M, 2)" in doc)


def test_row_column_in_a_stream_policy_is_refused():
    scores, _, _ = policy()
    with pytest.raises(ValueError, match="unit 'row'"):
        compile_stream(scores, [Column("nll", "nll")], [], WIDTHS)
