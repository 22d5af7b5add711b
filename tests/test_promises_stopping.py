"""A column chosen on the calibration rows it is calibrated on: exact, as a score of a bundle with one table and one threshold."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import demur
from demur.detectors.build import build_score
from demur.detectors.compile import compile_monitor, serialize
from demur.detectors.numpy_ops import NumpyOps
from demur.detectors.policy import Column
from demur.detectors.promises import (
    CalibrationRefused,
    CalibrationSample,
    ErrorWhenAcceptedAtMost,
    RefuseGoodAtMost,
    RuleSpec,
    calibrate,
    early_stopping,
)
from demur.detectors.promises.binomial import interval
from demur.detectors.pvalue import p_value
from demur.detectors.reason import Reason
from demur.detectors.score import Reference
from demur.detectors.scores.stopping import EarlyStopped
from demur.monitor.errors import ConfigurationError
from demur.monitor.session import Session
from tests.simulators import DRAWS, on_average
from tests.test_simulators_early_stopping import losses, naive

ALPHA = 0.1
STOPPED = RuleSpec("novel", "stopped", Reason.NOVEL, RefuseGoodAtMost(ALPHA, by="early_stopping"))


def fitted(table: np.ndarray) -> EarlyStopped:
    """On calibration scores (n, T)."""
    names = [f"c{t}" for t in range(table.shape[1])]
    reference = Reference({f"s:{n}": table[:, t : t + 1].astype(np.float32) for t, n in enumerate(names)})
    score: Any = build_score("early_stopped", {"of": names}, reference)
    return score


def scored(score: EarlyStopped, rows: np.ndarray) -> np.ndarray:
    return score(NumpyOps(), {s: rows[:, t].astype(np.float32) for t, s in enumerate(score.inputs)})


def written_out(table, rows):
    """(N,) ranks 1 + #{i: s_i,t* >= s_t*}, in float64 loops."""
    found = []
    for row in rows.astype(np.float64):
        t = min(range(table.shape[1]), key=lambda t: (float(np.sort(table[:, t].astype(np.float64)).sum()) + row[t], t))
        found.append(1 + sum(bool(s >= row[t]) for s in table[:, t]))
    return np.array(found)


@pytest.mark.parametrize(
    ("n", "checkpoints", "draws"), [(20, 30, 2 * DRAWS), pytest.param(60, 100, 10 * DRAWS, marks=pytest.mark.slow)]
)
def test_the_rule_keeps_its_level_and_reading_the_best_column_off_its_own_rows_does_not(n, checkpoints, draws):
    rng = np.random.default_rng([n, 1])
    ours, theirs = [], []
    for _ in range(draws):
        table, fresh = losses(rng, n, checkpoints), losses(rng, 20, checkpoints)
        score = fitted(table)
        sample = CalibrationSample({"stopped": score.places(table.astype(np.float32))})
        (rule,) = calibrate([STOPPED], sample).rules
        ours.append(np.mean(scored(score, fresh) > rule.threshold[0]))
        theirs.append(np.mean(naive(table, fresh) <= ALPHA))
    assert on_average(ours, ALPHA)
    assert np.mean(ours) > 0.08
    assert not on_average(theirs, ALPHA)


@pytest.mark.parametrize("n", [1, 2, 9, 10, 19, 57])
def test_score_over_threshold_p_at_most_alpha_and_the_definition_are_one_event(n):
    """Ties everywhere: few values, and checkpoints that are copies of each other."""
    rng = np.random.default_rng(n)
    table = rng.integers(0, 4, (n, 3)).astype(np.float64)
    table, fresh = np.column_stack([table, table[:, 0]]), rng.integers(0, 5, (60, 4)).astype(np.float64)
    fresh[:, 3] = fresh[:, 0]
    score = fitted(table)
    rank = written_out(table, fresh)
    np.testing.assert_array_equal(scored(score, fresh), -rank)
    places = score.places(table.astype(np.float32))
    np.testing.assert_array_equal(np.sort(places), -np.arange(n + 1, 1, -1))
    p = p_value(np.sort(places), scored(score, fresh))
    np.testing.assert_array_equal(p, rank.astype(np.float32) / np.float32(n + 1))
    np.testing.assert_allclose(p, early_stopping.p_values(table, fresh), rtol=1e-7)
    for alpha in (0.05, 0.1, 0.25, 0.5):
        spec = RuleSpec("novel", "stopped", Reason.NOVEL, RefuseGoodAtMost(alpha, by="early_stopping"))
        try:
            threshold = calibrate([spec], CalibrationSample({"stopped": places})).rules[0].threshold[0]
        except CalibrationRefused as refused:
            assert (refused.rows_needed or 0) > n
            continue
        refuses = [Fraction(int(r), n + 1) <= Fraction(str(alpha)) for r in rank]
        np.testing.assert_array_equal(scored(score, fresh) > threshold, refuses)


def test_the_order_of_the_calibration_rows_changes_no_bit():
    rng = np.random.default_rng(7)
    table = losses(rng, 300, 12)
    one, two = fitted(table), fitted(table[rng.permutation(300)])
    assert one.totals.tobytes() == two.totals.tobytes()
    assert one.tables.tobytes() == two.tables.tobytes()


def test_the_graph_gives_the_same_whole_numbers_as_loops_in_float64():
    rng = np.random.default_rng(8)
    table, fresh = losses(rng, 700, 5), losses(rng, 300, 5).astype(np.float32)
    table = (table - table.mean(axis=0) + 1).astype(np.float32)  # a close call, which rows decide
    score = fitted(table)
    given = {
        n: build_score("given", {"signal": n}, Reference({n: table[:, t : t + 1]})) for t, n in enumerate(score.of)
    }
    columns = [*(Column(n, n) for n in score.of), Column("stopped", "stopped")]
    graph = compile_monitor({**given, "stopped": score}, columns, [], dict.fromkeys(score.of, 1))
    session = Session(serialize(graph))
    got = session.run({n: fresh[:, t : t + 1] for t, n in enumerate(score.of)})["scores"][:, -1]
    np.testing.assert_array_equal(got, -written_out(table, fresh))
    assert len(set(np.argmin(score.totals + fresh, axis=1).tolist())) > 1


def policy(**more):
    scores = [
        "energy",
        {"near": {"type": "knn", "k": 1}},
        {"wide": {"type": "knn", "k": 9}},
        "mahalanobis",
        {"far": {"type": "knn", "k": 30}},
    ]
    stopped = {"type": "early_stopped", "of": ["near", "wide", "far"]}
    rule = {"when": "stopped", "promise": {"refuse_good_at_most": 0.1}} | more
    return {
        "monitor": "stopped",
        "signals": {"logits": 4, "features": 8},
        "scores": [*scores, {"stopped": stopped}],
        "rules": [{"novel": rule}],
    }


def candidates(verdicts):
    return np.column_stack([verdicts.scores[:, verdicts.columns.index(n)] for n in ("near", "wide", "far")])


def signals(rows):
    return {n: rows[n] for n in ("logits", "features")}


def test_a_bundle_holds_one_table_and_one_threshold_and_keeps_them_through_calibration(sample):
    bundle = demur.fit(policy(), reference=sample(300, 1), calibration=sample(57, 2))
    monitor, (rule,) = demur.Monitor.of(bundle), bundle.manifest.rules
    verdicts = monitor.assess(**signals(sample(500, 3, shift=0.1)))
    held = bundle.arrays("calibration")
    table = np.column_stack([held[f"scores/{n}"] for n in ("near", "wide", "far")])
    rank = written_out(table, candidates(verdicts))
    at = verdicts.columns.index("stopped")
    np.testing.assert_array_equal(verdicts.scores[:, at], -rank)
    np.testing.assert_allclose(verdicts.p_values[:, at], rank / 58, rtol=1e-6)
    np.testing.assert_array_equal(verdicts.accept, rank > 5)  # 10 % of 58
    assert 0 < (~verdicts.accept).mean() < 1
    assert (rule.column, rule.thresholds) == ("stopped", [-6.0])
    assert rule.statement.endswith(
        "refuses at most 10.0 % of good inputs on average over calibration draws (n = 57), although the same rows choose the "
        "column: each input joins the choice. For this bundle alone no rate is promised."
    )
    assert any(
        "novel, conformalised early stopping (Liang, Zhou & Sesia 2023), from 57 rows" in s
        for s in bundle.manifest.statements
    )
    assert demur.calibrate(bundle).encode() == bundle.encode()
    stricter = demur.calibrate(bundle, config=policy(promise={"refuse_good_at_most": 0.02}))
    assert stricter.manifest.rules[0].thresholds == [-2.0]
    later = demur.calibrate(bundle, calibration=sample(80, 9))
    fresh = demur.fit(policy(), reference=sample(300, 1), calibration=sample(80, 9))
    assert later.graph == fresh.graph


def test_no_interval_is_given_of_what_this_bundle_refuses_in_all(sample):
    """One computed as if the column were given misses the true share of a third of these calibrations, not of 5 %."""
    bundle = demur.fit(policy(), reference=sample(300, 1), calibration=sample(57, 2))
    assert (
        "estimated at 7.0 % (n = 57, no interval because the same rows choose a column), not promised."
        in bundle.manifest.statements[1]
    )
    rng = np.random.default_rng(4)
    missed = []
    for _ in range(DRAWS // 4):
        table, fresh = losses(rng, 100, 30), losses(rng, 2000, 30)
        score = fitted(table)
        calibrated = calibrate([STOPPED], CalibrationSample({"stopped": score.places(table.astype(np.float32))}))
        assert (calibrated.total.low, calibrated.total.high, calibrated.statements[0].bound) == (None, None, 1.0)
        low, high = interval(calibrated.total.refused, 100, 0.95)
        share = np.mean(scored(score, fresh) > calibrated.rules[0].threshold[0])
        missed.append(not low - 0.01 <= share <= high + 0.01)
    assert np.mean(missed) > 0.15


def test_outliers_are_not_counted_by_what_other_calibration_rows_said_of_them(sample):
    document = policy()
    power = {"refuse_good_at_most": 0.1, "confidence": 0.9, "by": "neyman_pearson"}
    document["rules"].append({"known": {"when": ["energy", "mahalanobis"], "promise": power}})
    given = {"reference": sample(300, 1), "outliers": sample(90, 4, shift=1)}
    bundle = demur.fit(document, calibration=sample(57, 2), **given)
    assert "Of the 90 labelled outliers" in bundle.manifest.rules[0].statement
    later = demur.calibrate(bundle, calibration=sample(300, 9)).manifest.rules
    fresh = demur.fit(document, calibration=sample(300, 9), **given).manifest.rules
    assert "labelled outliers" not in later[0].statement
    assert later[1].statement == fresh[1].statement


def test_what_is_not_finite_is_invalid_and_what_is_far_is_refused(sample):
    monitor = demur.Monitor.of(demur.fit(policy(), reference=sample(300, 1), calibration=sample(57, 2)))
    rows = signals(sample(4, 3))
    rows["features"][0, 3], rows["features"][1, 0] = np.nan, np.inf
    rows["features"][2] = sample(3, 4, shift=5)["features"][2]
    verdicts = monitor.assess(**rows)
    at = verdicts.columns.index("stopped")
    assert np.isnan(verdicts.scores[:2, at]).all()
    assert [any(r.startswith("INVALID") for r in some) for some in verdicts.reasons] == [True, True, False, False]
    assert verdicts.scores[2, at] > -6
    assert not verdicts.accept[2]


def test_it_shares_a_total_with_other_refusal_rules_and_stands_beside_a_fusion(sample):
    document = policy(promise={"refuse_good_at_most": "share"})
    document["scores"].append({"both": {"type": "fused", "of": ["energy", "near"]}})
    document["rules"].append({"odd": {"when": "both", "promise": {"refuse_good_at_most": "share"}}})
    document["refuse_good_at_most"] = 0.1
    bundle = demur.fit(document, reference=sample(300, 1), calibration=sample(200, 2))
    assert "n = 120" in bundle.manifest.rules[0].statement  # fold B
    assert "in shares: novel 5.0 % and odd 5.0 %" in bundle.manifest.statements[2]
    assert demur.calibrate(bundle).encode() == bundle.encode()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"promise": {"refuse_good_at_most": 0.1, "confidence": 0.9}}, "on average and nothing else"),
        ({"promise": {"refuse_good_at_most": 0.1, "confidence": 0.9, "by": "simes"}}, "on average and nothing else"),
        ({"promise": {"refuse_good_at_most": 0.1, "good": "correct"}}, "on average and nothing else"),
        ({"promise": {"stable_at_contamination": 0.1}}, "on average and nothing else"),
        ({"promise": {"error_when_accepted_at_most": 0.1}}, "on average and nothing else"),
        ({"promise": {"wrong_and_accepted_at_most": 0.1}}, "on average and nothing else"),
        (
            {
                "when": ["near", "stopped"],
                "promise": {"refuse_good_at_most": 0.1, "confidence": 0.9, "by": "neyman_pearson"},
            },
            "on average and nothing else",
        ),
        ({"unit": "group"}, "for all rows alike"),
        ({"slice": "predicted_class"}, "for all rows alike"),
    ],
)
def test_promises_that_early_stopping_does_not_carry_are_refused(sample, more, says):
    with pytest.raises(ConfigurationError, match=f"rule novel: stopped is .*{says}"):
        demur.fit(policy(**more), reference=sample(300, 1), calibration=sample(57, 2), outliers=sample(50, 4))


def test_policies_tables_and_scores_that_do_not_go_with_it_are_refused(sample):
    given = {"reference": sample(300, 1), "calibration": sample(57, 2)}
    document = policy()
    document["rules"].append({"errors": {"when": "energy", "promise": {"error_when_accepted_at_most": 0.3}}})
    with pytest.raises(ValueError, match=r'rule "novel" chooses its column on all calibration rows.*rule "errors"'):
        demur.fit(document, **given)
    grouped = given["calibration"] | {"group_id": np.arange(57) // 3}
    with pytest.raises(ConfigurationError, match="score stopped: early_stopped needs rows that stand alone"):
        demur.fit(policy(), reference=given["reference"], calibration=grouped)
    for of, says in ((["near"], "at least 2"), (["near", "both"], "both is none"), ("near", "at least 2")):
        document = policy()
        document["scores"] += [{"both": {"type": "fused", "of": ["energy", "mahalanobis"]}}]
        document["scores"][5]["stopped"]["of"] = of
        with pytest.raises(ConfigurationError, match=says):
            demur.fit(document, **given)
    document = policy()
    document["scores"].append({"both": {"type": "fused", "of": ["energy", "stopped"]}})
    with pytest.raises(ConfigurationError, match="can feed no fusion"):
        demur.fit(document, **given)
    broken = sample(57, 2)
    broken["features"][5, 1] = np.nan
    with pytest.raises(ValueError, match="not_finite"):
        demur.fit(policy(), reference=given["reference"], calibration=broken)


def test_the_library_refuses_what_its_theorem_does_not_say():
    with pytest.raises(ValueError, match="leave out confidence"):
        RefuseGoodAtMost(0.1, 0.9, by="early_stopping")
    with pytest.raises(ValueError, match="for all rows alike"):
        RuleSpec("novel", "stopped", Reason.NOVEL, RefuseGoodAtMost(0.1, by="early_stopping"), "group")
    errors = RuleSpec("errors", "s", Reason.AMBIGUOUS, ErrorWhenAcceptedAtMost(0.1))
    sample = CalibrationSample({"stopped": -np.arange(2, 32, dtype=np.float32)}, group=np.arange(30) // 2)
    with pytest.raises(ValueError, match="none is left to count errors on"):
        calibrate([STOPPED, errors], sample)
    with pytest.raises(CalibrationRefused, match="by early_stopping needs independent units"):
        calibrate([STOPPED], sample)
    with pytest.raises(ValueError, match="at least 2 different columns"):
        build_score("early_stopped", {"of": ["a", "a"]}, Reference({"s:a": np.ones((3, 1))}))
    with pytest.raises(ValueError, match="b of calibration row 1 is not finite"):
        build_score(
            "early_stopped",
            {"of": ["a", "b"]},
            Reference({"s:a": np.ones((3, 1)), "s:b": np.array([[1], [np.nan], [2]])}),
        )
    with pytest.raises(ValueError, match="expected at most"):
        build_score(
            "early_stopped",
            {"of": ["a", "b"]},
            Reference({f"s:{n}": np.broadcast_to(0.0, (2**23 + 1, 1)) for n in "ab"}),
        )
