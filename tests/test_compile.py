"""The monitor graph against the NumPy monitor written apart from it, and against hand-made cases."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from demur.detectors.compile import compile_monitor, compile_scores, serialize
from demur.detectors.numpy_monitor import evaluate_monitor
from demur.detectors.policy import Column, Rule
from demur.detectors.reason import Reason
from tests.contract.entries import WIDTHS, C, entries, session
from tests.contract.entries import near as every_signal

OUTPUTS = ["scores", "p_values", "rule_hits", "reasons", "pooled", "accept"]
GROUP_OUTPUTS = ["group_scores", "group_p", "group_rule_hits", "group_reasons", "group_accept"]
NAMES = ("msp", "energy", "mahalanobis", "knn")


def near(count, seed=1):
    """The two signals that these monitors read."""
    return {s: x for s, x in every_signal(count, seed).items() if s in ("features", "logits")}


def scores():
    return {n: entries()[n].score for n in NAMES} | {"fused": entries()["fused_min_p"].score}


def calibration(name, rows=150):
    run = session(compile_scores({name: scores()[name]}, WIDTHS))
    table = run.run(None, {i.name: near(rows, seed=21)[i.name] for i in run.get_inputs()})[0][:, 0]
    return np.sort(table)


def threshold(*values):
    return np.array(values, np.float32)


def rule(name, column, reason, *values, pooled=None):
    limits = threshold(*values)
    return Rule(name, column, reason, limits, np.zeros(len(limits), bool) if pooled is None else np.array(pooled))


def row_policy():
    """Two plain columns, one sliced by class, one fused of the three; two rules share a reason."""
    by_class = tuple(calibration("energy", 40 + 10 * c) for c in range(C))
    columns = [
        Column("msp", "msp", calibration=(calibration("msp"),)),
        Column("fused", "fused"),
        Column("energy", "energy", sliced=True, calibration=by_class),
        Column("mahalanobis", "mahalanobis", calibration=(calibration("mahalanobis"),)),
        Column("knn", "knn", calibration=(calibration("knn"),)),
    ]
    rules = [
        rule("strange", "mahalanobis", Reason.NOVEL, np.quantile(calibration("mahalanobis"), 0.8)),
        rule("unsure", "msp", Reason.AMBIGUOUS, 0.05),
        rule("weak", "energy", Reason.NOVEL, *[np.quantile(t, 0.7) for t in by_class], pooled=[True] + [False] * 6),
        rule("never", "knn", Reason.UNHEALTHY, np.inf),
    ]
    return columns, rules


def group_policy():
    columns = [
        Column("worst", "mahalanobis", unit="group", aggregate="max", calibration=(calibration("mahalanobis", 60),)),
        Column("row_knn", "knn", calibration=(calibration("knn"),)),
        Column("typical", "energy", unit="group", aggregate="mean", calibration=(calibration("energy", 60),)),
    ]
    rules = [
        rule("far_row", "row_knn", Reason.OUT_OF_SCOPE, np.quantile(calibration("knn"), 0.9)),
        rule("far_group", "worst", Reason.NOVEL, np.quantile(calibration("mahalanobis"), 0.9)),
        rule("weak_group", "typical", Reason.AMBIGUOUS, np.quantile(calibration("energy"), 0.6)),
    ]
    return columns, rules


def damaged(rows):
    signals = {s: x.copy() for s, x in near(rows, seed=4).items()}
    signals["features"][1, 3] = np.nan
    signals["logits"][2, -1] = -np.inf
    signals["features"][4] *= np.float32(1e20)
    return signals


def compare(model, expected, feed):
    for outputs in (session(model).run(None, feed), ReferenceEvaluator(model).run(None, feed)):
        assert len(outputs) == len(expected)
        for value, got in zip(model.graph.output, outputs, strict=True):
            want = expected[value.name]
            assert got.shape == want.shape, value.name
            assert got.dtype == want.dtype, value.name
            if value.name in ("p_values", "group_p"):  # a score in the last bit moves a count by its ties
                np.testing.assert_allclose(got, want, atol=0.021, err_msg=value.name)
            elif got.dtype.kind == "f":
                np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5, err_msg=value.name)
            else:
                np.testing.assert_array_equal(got, want, err_msg=value.name)


def test_row_monitor_agrees_with_numpy():
    columns, rules = row_policy()
    model = compile_monitor(scores(), columns, rules, WIDTHS)
    assert [o.name for o in model.graph.output] == OUTPUTS
    signals = damaged(50)
    with np.errstate(all="ignore"):
        expected = evaluate_monitor(scores(), columns, rules, signals)
        compare(model, expected, signals)
    assert expected["reasons"][1] & Reason.INVALID
    assert expected["reasons"][2] & Reason.INVALID
    assert expected["accept"].any()
    assert (expected["rule_hits"] & 0b1000 == 0).all()
    assert set(expected["pooled"]) == {0, 0b100}


def test_accept_is_exactly_no_reason():
    columns, rules = row_policy()
    got = dict(
        zip(OUTPUTS, session(compile_monitor(scores(), columns, rules, WIDTHS)).run(None, damaged(50)), strict=True)
    )
    np.testing.assert_array_equal(got["accept"], got["reasons"] == 0)
    hit = {0: Reason.NOVEL, 1: Reason.AMBIGUOUS, 2: Reason.NOVEL, 3: Reason.UNHEALTHY}
    union = np.zeros(50, np.int64)
    for bit, kind in hit.items():
        union |= np.where(got["rule_hits"] >> bit & 1, int(kind), 0)
    np.testing.assert_array_equal(union, got["reasons"] & ~int(Reason.INVALID))


def test_threshold_is_strict_and_equals_the_promise():
    """Score > the ceil((n+1)(1-a))-th smallest is the same event as p <= a, ties included."""
    table = np.sort(np.round(calibration("msp", 200), 3)).astype(np.float32)
    model = compile_scores({"msp": scores()["msp"]}, WIDTHS)
    level = 0.1
    limit = table[int(np.ceil((len(table) + 1) * (1 - level))) - 1]
    columns = [Column("msp", "msp", calibration=(table,))]
    graph = session(compile_monitor(scores(), columns, [rule("a", "msp", Reason.NOVEL, limit)], WIDTHS))
    logits = near(400, seed=6)["logits"] / np.linspace(1, 12, 400, dtype=np.float32)[:, None]
    got, p, hits = graph.run(["scores", "p_values", "rule_hits"], {"logits": logits})
    np.testing.assert_array_equal(hits == 1, p[:, 0] <= level)
    np.testing.assert_array_equal(got, session(model).run(None, {"logits": logits})[0])
    assert 0 < hits.sum() < 400


def test_group_monitor_agrees_with_numpy():
    columns, rules = group_policy()
    signals = damaged(40)
    ids = np.random.default_rng(2).integers(0, 9, 40).astype(np.int64)
    ids[ids == 5] = 3
    for empty_group in (False, True):
        model = compile_monitor(scores(), columns, rules, WIDTHS, empty_group=empty_group)
        assert [o.name for o in model.graph.output] == OUTPUTS + GROUP_OUTPUTS
        feed = signals | {"group_id": ids, "group_count": np.array([11], np.int64)}
        with np.errstate(all="ignore"):
            expected = evaluate_monitor(
                scores(), columns, rules, signals, group_id=ids, group_count=11, empty_group=empty_group
            )
            compare(model, expected, feed)
        reasons = expected["group_reasons"]
        assert (reasons[[5, 9, 10]] == (0 if empty_group else Reason.UNAVAILABLE)).all()
        assert reasons[ids[1]] & Reason.INVALID
        assert reasons[ids[4]] & Reason.INVALID
        assert expected["group_accept"].any()


def test_group_is_invalid_even_if_its_other_rows_are_worse():
    """ONNX Runtime's max-scatter drops NaN: without a count of its own the group would look ordinary."""
    columns, rules = group_policy()
    graph = session(compile_monitor(scores(), columns, rules, WIDTHS))
    signals = {s: x.copy() for s, x in near(6).items()}
    signals["features"][3, 0] = np.nan
    feed = signals | {"group_id": np.array([0, 0, 0, 0, 1, 1], np.int64), "group_count": np.array([2], np.int64)}
    score, reasons = graph.run(["group_scores", "group_reasons"], feed)
    assert np.isnan(score[0]).all()
    assert reasons[0] & Reason.INVALID
    assert not reasons[1] & Reason.INVALID


def test_groups_only_leave_row_columns_empty():
    columns, _ = group_policy()
    only = [c for c in columns if c.unit == "group"]
    model = compile_monitor(scores(), only, [], WIDTHS)
    feed = near(3) | {"group_id": np.zeros(3, np.int64), "group_count": np.array([1], np.int64)}
    expected = evaluate_monitor(scores(), only, [], near(3), group_id=feed["group_id"], group_count=1)
    compare(model, expected, feed)
    assert expected["scores"].shape == (3, 0)


def test_sliced_column_of_features_needs_sound_logits():
    """The slice comes from the logits: if they are corrupt the column has no value, whatever it reads itself."""
    tables = tuple(calibration("knn", 30 + c) for c in range(C))
    columns = [Column("knn", "knn", sliced=True, calibration=tables)]
    model = compile_monitor(scores(), columns, [], WIDTHS)
    signals = {s: x.copy() for s, x in near(3).items()}
    signals["logits"][1, 4] = np.nan
    compare(model, evaluate_monitor(scores(), columns, [], signals), signals)
    score, reasons = session(model).run(["scores", "reasons"], signals)
    assert np.isnan(score[1, 0])
    assert list(reasons) == [0, int(Reason.INVALID), 0]


def test_infinite_score_of_finite_row_is_invalid():
    columns = [Column("mahalanobis", "mahalanobis", calibration=(calibration("mahalanobis"),))]
    graph = session(compile_monitor(scores(), columns, [], WIDTHS))
    features = near(2)["features"].copy()
    features[0] *= np.float32(1e25)
    score, p, reasons, accept = graph.run(["scores", "p_values", "reasons", "accept"], {"features": features})
    assert np.isnan(score[0, 0])
    assert np.isnan(p[0, 0])
    assert reasons[0] == Reason.INVALID
    assert list(accept) == [False, True]


def test_invalid_does_not_hang_on_zero_times_x():
    """A provider that folds 0 * x away still meets IsNaN and IsInf."""
    columns, rules = row_policy()
    model = compile_monitor(scores(), columns, rules, WIDTHS)
    assert {"IsNaN", "IsInf"} <= {n.op_type for n in model.graph.node}


def test_uncalibrated_column_has_no_p_value_and_is_not_invalid():
    columns = [Column("msp", "msp"), Column("energy", "energy", calibration=(calibration("energy"),))]
    got = session(compile_monitor(scores(), columns, [], WIDTHS)).run(
        ["p_values", "reasons"], {"logits": near(4)["logits"]}
    )
    assert np.isnan(got[0][:, 0]).all()
    assert np.isfinite(got[0][:, 1]).all()
    assert (got[1] == 0).all()


@pytest.mark.parametrize("policy", [row_policy, group_policy])
def test_compiling_is_reproducible_named_and_plain(policy):
    columns, rules = policy()
    one, two = (serialize(compile_monitor(scores(), columns, rules, WIDTHS)) for _ in range(2))
    assert one == two
    model = onnx.load_model_from_string(one)
    names = {i.name for i in model.graph.initializer}
    assert {"mahalanobis.whiten", "knn.bank", "rules.row.threshold", "calibration.blocks"} <= names
    assert {n.domain for n in model.graph.node} == {""}
    assert not {n.op_type for n in model.graph.node} & {"If", "Loop", "Scan"}
    free = {"N", "G", "M"}
    for value in (*model.graph.input, *model.graph.output):
        shape = [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        assert all(isinstance(d, int) or d in free for d in shape)


def test_monitor_bits_do_not_depend_on_the_batch():
    columns, rules = row_policy()
    graph = session(compile_monitor(scores(), columns, rules, WIDTHS))
    signals = near(48, seed=13)
    whole = graph.run(None, signals)
    for size in (1, 7, 16):
        parts = [graph.run(None, {s: x[i : i + size] for s, x in signals.items()}) for i in range(0, 48, size)]
        for output, pieces in zip(whole, zip(*parts, strict=True), strict=True):
            np.testing.assert_array_equal(np.concatenate(pieces), output)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-20, 20, width=32), min_size=C, max_size=C),
    st.floats(-30, 30, width=32),
    st.integers(0, C - 1),
    st.sampled_from([0.0, np.nan, np.inf, -np.inf]),
)
def test_decision_is_closed(logits, limit, place, broken):
    """Accepts only a finite row whose score is at or below the threshold."""
    row = np.array([logits], np.float32)
    if broken != 0.0:
        row[0, place] = broken
    columns = [Column("energy", "energy")]
    rules = [rule("a", "energy", Reason.NOVEL, limit)]
    got = evaluate_monitor(scores(), columns, rules, {"logits": row})
    value = got["scores"][0, 0]
    assert got["accept"][0] == (broken == 0.0 and value <= np.float32(limit))
    graph = session(compile_monitor(scores(), columns, rules, WIDTHS))
    assert graph.run(["accept"], {"logits": row})[0][0] == got["accept"][0] or abs(value - limit) < 1e-4


@pytest.mark.parametrize(
    ("columns", "rules", "message"),
    [
        ([], [], "at least one column"),
        ([Column("a", "nope")], [], "no score 'nope'"),
        ([Column("a", "msp"), Column("a", "energy")], [], "must differ"),
        ([Column("a", "msp", unit="stream")], [], "unit 'stream'"),
        ([Column("a", "msp", unit="group", aggregate="max", sliced=True)], [], "can be sliced"),
        ([Column("a", "msp", calibration=(np.array([2, 1], np.float32),))], [], "sorted"),
        ([Column("a", "msp", calibration=(np.array([1, np.nan], np.float32),))], [], "finite"),
        ([Column("a", "msp", calibration=(np.array([1.0]),))], [], "float32"),
        ([Column("a", "msp", sliced=True, calibration=(np.zeros(3, np.float32),) * 2)], [], "one per class"),
        ([Column("fused", "fused")], [], "no calibrated column"),
        ([Column("a", "msp")], [rule("r", "b", Reason.NOVEL, 1)], "no column 'b'"),
        ([Column("a", "msp")], [rule("r", "a", Reason.NOVEL, np.nan)], "without NaN"),
        ([Column("a", "msp")], [rule("r", "a", Reason.NOVEL, 1, 2)], "threshold must be"),
    ],
)
def test_policy_that_does_not_fit_is_refused(columns, rules, message):
    with pytest.raises(ValueError, match=message):
        compile_monitor(scores(), columns, rules, WIDTHS)


def test_missing_width_and_fused_score_are_refused_by_name():
    with pytest.raises(ValueError, match=r"\['logits'\].*widths"):
        compile_scores({"msp": scores()["msp"]}, {"features": 3})
    with pytest.raises(ValueError, match="compile_monitor"):
        compile_scores({"fused": scores()["fused"]}, WIDTHS)
