"""A policy calibrated as one pipeline: order, shares, units, folds, refusals and the printed forms."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from demur.detectors.promises import (
    CalibrationRefused,
    CalibrationSample,
    ErrorWhenAcceptedAtMost,
    RefuseGoodAtMost,
    RuleSpec,
    calibrate,
    order,
    policy_digest,
)
from demur.detectors.reason import Reason

NOVEL = RuleSpec("novel", "v", Reason.NOVEL, RefuseGoodAtMost(0.05))
AMBIGUOUS = RuleSpec("ambiguous", "s", Reason.AMBIGUOUS, ErrorWhenAcceptedAtMost(0.05))


def rows(n=2000, seed=0, **more):
    rng = np.random.default_rng(seed)
    s, v = rng.random((2, n)).astype(np.float32)
    return CalibrationSample({"v": v, "s": s}, loss=(rng.random(n) < 0.3 * s**2).astype(np.float64), **more)


def with_promise(spec, promise, **more):
    return dataclasses.replace(spec, promise=promise, **more)


def test_the_printed_example_in_full():
    c = calibrate([NOVEL], CalibrationSample({"v": np.random.default_rng(0).random(412).astype(np.float32)}))
    assert c.statements[0].text == (
        "For traffic exchangeable with the calibration data, refuses at most 5.0 % of good inputs on average over "
        "calibration draws; for this bundle (n = 412) the rate is at most 6.7 % with 95 % confidence."
    )
    assert c.total.text == (
        "The policy's total share of good inputs refused is estimated at 4.6 % (95 % interval 2.7 % to 7.2 %, n = 412), "
        "not promised."
    )
    assert "Not promised under drift or for novel inputs." in c.text
    assert c.rules[0].threshold.dtype == np.float32
    assert np.array_equal(c.rules[0].threshold, c.tables["v"][0][392:393])


def test_a_confidence_promise_prints_the_tolerance_form():
    c = calibrate([with_promise(NOVEL, RefuseGoodAtMost(0.05, confidence=0.9))], rows(412))
    assert c.statements[0].text == (
        "For traffic exchangeable with the calibration data, refuses at most 5.0 % of good inputs for this bundle (n = 412), "
        "with 90 % confidence over the calibration draw."
    )
    assert c.rules[0].threshold[0] == c.tables["v"][0][order.tolerance_rank(412, 0.05, 0.9) - 1]


def test_selective_risk_prints_what_was_tried():
    c = calibrate([NOVEL, AMBIGUOUS], rows())
    start = (
        "With 95 % confidence over the calibration draw, among inputs like the calibration data that the whole policy "
        "accepts, at most 5.0 % are wrong."
    )
    assert c.statements[1].text.startswith(start)
    hard = CalibrationSample(rows(400).scores, loss=(np.arange(400) % 40 == 0).astype(np.float64))
    tried = calibrate([NOVEL, with_promise(AMBIGUOUS, ErrorWhenAcceptedAtMost(0.09))], hard)
    statement = tried.statements[1]
    assert statement.tried_needs is not None
    assert (
        f"(4.5 % was tried: not supported by {statement.n} surviving rows; needs about {statement.tried_needs}.)"
        in statement.text
    )


def test_selective_rules_see_the_survivors_without_the_row_at_the_threshold():
    sample = rows(2000)
    c = calibrate([AMBIGUOUS, NOVEL], sample)
    below = sample.scores["v"] < c.rules[1].threshold[0]
    assert c.survivors == {"ambiguous": int(below.sum())} == {"ambiguous": 1900}
    assert c.folds == {"novel": "all", "ambiguous": "all"}
    assert [r.name for r in c.rules] == ["ambiguous", "novel"]


@pytest.mark.parametrize("why", ["labels", "ties", "clusters"])
def test_disjoint_folds_where_sharing_rows_is_not_exact(why):
    sample, novel = rows(4000), NOVEL
    if why == "labels":
        novel = with_promise(NOVEL, RefuseGoodAtMost(0.05, good="correct"))
    elif why == "ties":
        sample = CalibrationSample(
            {**sample.scores, "v": np.round(sample.scores["v"], 1).astype(np.float32)}, loss=sample.loss
        )
    else:
        sample = CalibrationSample(sample.scores, loss=sample.loss, group=np.arange(4000) // 2)
    c = calibrate([novel, AMBIGUOUS], sample)
    assert c.folds == {"novel": "1 of 2", "ambiguous": "2 of 2"}
    assert c.tables["v"][0].size <= 2000
    assert c.n == (2000 if why == "clusters" else 4000)
    assert c.survivors["ambiguous"] <= c.n / 2


def test_a_refusal_on_a_part_of_the_units_says_so():
    tied = rows(30)
    tied = CalibrationSample({**tied.scores, "v": np.zeros(30, np.float32)}, loss=tied.loss)
    with pytest.raises(CalibrationRefused, match=r"got 15.*counted on 15 of the 30 calibration units") as refused:
        calibrate([NOVEL, AMBIGUOUS], tied)
    assert refused.value.rule == "novel"
    assert refused.value.rows_needed == 19


def test_several_selective_rules_take_turns_on_their_own_rows():
    sample = rows(8000)
    sample = CalibrationSample({**sample.scores, "t": sample.scores["s"] + 0.2 * sample.scores["v"]}, loss=sample.loss)
    first = with_promise(AMBIGUOUS, ErrorWhenAcceptedAtMost(0.08))
    second = dataclasses.replace(AMBIGUOUS, name="doubtful", column="t")
    c = calibrate([first, second], sample)
    assert c.folds == {"ambiguous": "1 of 2", "doubtful": "2 of 2"}
    assert c.statements[0].bound == c.statements[1].bound <= 0.05
    passed = np.count_nonzero(sample.scores["s"] <= c.rules[0].threshold[0])
    assert c.survivors["doubtful"] == pytest.approx(passed / 2, rel=0.05)


def test_refusal_rules_share_the_policys_total():
    other = RuleSpec("far", "s", Reason.NOVEL, RefuseGoodAtMost())
    c = calibrate([with_promise(NOVEL, RefuseGoodAtMost()), other], rows(412), refuse_good_at_most=0.05)
    assert [float(s.level) for s in c.statements] == [0.025, 0.025]
    assert (
        "together are promised at most 5.0 % on average over calibration draws, in shares: novel 2.5 % and far 2.5 %."
        in c.total.text
    )
    with pytest.raises(CalibrationRefused, match="no level"):
        calibrate([other], rows())
    with pytest.raises(CalibrationRefused, match="lower their levels"):
        calibrate([NOVEL, with_promise(NOVEL, RefuseGoodAtMost(0.05), name="n2")], rows(), refuse_good_at_most=0.08)


def test_refusals_say_what_would_work():
    with pytest.raises(CalibrationRefused, match=r'rule "novel": refuse_good_at_most 0\.1 % needs at least 999') as e:
        calibrate([with_promise(NOVEL, RefuseGoodAtMost(0.001))], rows(412))
    assert e.value.rows_needed == 999
    calibrate([with_promise(NOVEL, RefuseGoodAtMost(0.001))], rows(999))
    calibrate([with_promise(NOVEL, RefuseGoodAtMost(e.value.supported))], rows(412))
    with pytest.raises(CalibrationRefused, match="with 95 % confidence needs at least 59") as e:
        calibrate([with_promise(NOVEL, RefuseGoodAtMost(0.05, 0.95))], rows(58))
    calibrate([with_promise(NOVEL, RefuseGoodAtMost(e.value.supported, 0.95))], rows(58))


def test_an_all_abstaining_selective_promise_is_refused():
    with pytest.raises(
        CalibrationRefused, match=r"would accept nothing: not supported by \d+ surviving rows; needs about"
    ) as e:
        calibrate([NOVEL, with_promise(AMBIGUOUS, ErrorWhenAcceptedAtMost(0.001))], rows())
    assert e.value.rule == "ambiguous"
    assert e.value.rows_needed > 2000
    c = calibrate([NOVEL, with_promise(AMBIGUOUS, ErrorWhenAcceptedAtMost(e.value.supported))], rows())
    assert np.isfinite(c.rules[1].threshold).all()


def slices_sample():
    n = 400
    predicted = np.r_[np.zeros(200), np.ones(190), np.full(10, 2)].astype(np.int64)
    v = (np.random.default_rng(0).random(n) + predicted).astype(np.float32)
    return CalibrationSample({"v": v}, predicted=predicted, classes=4)


def test_small_slices_use_the_pooled_table_and_say_so():
    sample = slices_sample()
    sliced = dataclasses.replace(NOVEL, sliced=True)
    c = calibrate([sliced], sample)
    assert c.rules[0].pooled.tolist() == [False, False, True, True]
    assert [t.size for t in c.tables["v"]] == [200, 190, 400, 400]
    assert np.isfinite(c.rules[0].threshold).all()
    for threshold, table in zip(c.rules[0].threshold, c.tables["v"], strict=True):
        assert np.array_equal(table > threshold, order.p_values(table, table) <= np.float32(0.05))
    assert "Listed: 0 and 1. Too few rows in 2 and 3: the pooled table is used, nothing is promised there." in c.text
    with pytest.raises(CalibrationRefused, match="at least 19 calibration rows of predicted class 2, got 10"):
        calibrate([sliced], sample, small_slices="refuse")
    with pytest.raises(CalibrationRefused, match="cannot be promised"):
        calibrate([sliced], sample, refuse_good_at_most=0.05)


def test_group_rules_are_calibrated_on_one_number_a_group():
    group = np.arange(300) // 3
    rng = np.random.default_rng(1)
    row = rng.random(300).astype(np.float32)
    most = row.reshape(100, 3).max(axis=1)
    sample = CalibrationSample({"box": row, "image": most}, group=group, loss=(rng.random(300) < 0.01).astype(float))
    image = RuleSpec("image", "image", Reason.NOVEL, RefuseGoodAtMost(0.05), unit="group")
    box = RuleSpec("box", "box", Reason.NOVEL, RefuseGoodAtMost(0.05))
    c = calibrate([image, box], sample)
    assert c.n == 100
    assert [t[0].size for t in (c.tables["image"], c.tables["box"])] == [100, 100]
    assert "of good groups" in c.statements[0].text
    assert "Rows weigh 1 / group size; n counts groups." in c.statements[1].text
    wrong = RuleSpec("risky", "image", Reason.AMBIGUOUS, ErrorWhenAcceptedAtMost(0.3), unit="group")
    assert "A group is wrong when any of its rows is." in calibrate([wrong], sample).text
    risky_rows = RuleSpec("risky", "box", Reason.AMBIGUOUS, ErrorWhenAcceptedAtMost(0.3))
    c = calibrate([image, risky_rows], sample)
    assert c.survivors["risky"] == 95
    assert "one row was drawn from each group" in c.text
    with pytest.raises(ValueError, match="needs group rules only"):
        calibrate([box, wrong], sample)


def test_streams_are_units_of_their_own():
    stream = dataclasses.replace(NOVEL, unit="stream")
    c = calibrate([stream], CalibrationSample({"v": np.arange(40, dtype=np.float32)}))
    assert "of good streams" in c.text
    assert "(n = 40 streams)" in c.text
    with pytest.raises(ValueError, match="monitor of their own"):
        calibrate([stream, AMBIGUOUS], rows())


def bad(column="v", **values):
    sample = rows(60)
    scores = {k: a.copy() for k, a in sample.scores.items()}
    for at, value in values.items():
        scores[column][int(at[1:])] = value
    return CalibrationSample(scores, loss=sample.loss)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused_by_row(value):
    with pytest.raises(CalibrationRefused, match="2 calibration scores are not finite, rows 3, 41; repair"):
        calibrate([NOVEL], bad(r3=value, r41=value))


def test_samples_that_fit_no_promise_are_refused():
    with pytest.raises(CalibrationRefused, match=r"expected numbers in \[0, 1\], got 1\.5 in row 0"):
        CalibrationSample({}, loss=np.array([1.5]))
    with pytest.raises(CalibrationRefused, match="can carry row weights"):
        calibrate([NOVEL], rows(60, weight=np.ones(60)))
    with pytest.raises(CalibrationRefused, match=r'rule "ambiguous".*labels or losses'):
        calibrate([AMBIGUOUS], CalibrationSample(rows(60).scores))
    with pytest.raises(CalibrationRefused, match=r'rule "novel".*labels or losses'):
        calibrate([with_promise(NOVEL, RefuseGoodAtMost(0.05, good="correct"))], CalibrationSample(rows(60).scores))
    with pytest.raises(ValueError, match=r"ids 0\.\.3, each with a row"):
        CalibrationSample({}, group=np.array([0, 3]))
    with pytest.raises(ValueError, match="each with a row"):
        CalibrationSample({}, group=np.array([0, 2**60]))
    with pytest.raises(ValueError, match="each with a row"):
        CalibrationSample({}, group=np.array([0, -1]))
    with pytest.raises(ValueError, match="got lengths"):
        CalibrationSample({}, loss=np.zeros(2), group=np.zeros(3, dtype=np.int64))
    with pytest.raises(ValueError, match="float32"):
        CalibrationSample({"v": np.zeros(3)})
    with pytest.raises(ValueError, match="column 'v' expected"):
        calibrate([NOVEL], CalibrationSample({"s": np.zeros(30, dtype=np.float32)}))
    with pytest.raises(ValueError, match="got 4 in row 1"):
        CalibrationSample({}, predicted=np.array([0, 4]), classes=4)
    with pytest.raises(CalibrationRefused, match="got 0"):
        calibrate([NOVEL], CalibrationSample({"v": np.zeros(0, dtype=np.float32)}))


@pytest.mark.parametrize(
    "make",
    [
        lambda: RefuseGoodAtMost(0),
        lambda: RefuseGoodAtMost(5),
        lambda: RefuseGoodAtMost(0.05, confidence=1.0),
        lambda: ErrorWhenAcceptedAtMost(float("nan")),
        lambda: RefuseGoodAtMost(0.05, good="all"),
        lambda: RuleSpec("x", "v", Reason.INVALID, RefuseGoodAtMost(0.05)),
        lambda: RuleSpec("x", "v", Reason.NOVEL, RefuseGoodAtMost(0.05), unit="group", sliced=True),
        lambda: RuleSpec("x", "v", Reason.NOVEL, ErrorWhenAcceptedAtMost(0.05), sliced=True),
        lambda: calibrate([], rows()),
        lambda: calibrate([NOVEL, NOVEL], rows()),
    ],
)
def test_nonsense_is_refused(make):
    with pytest.raises(ValueError, match=r"expected|never|slic|differ"):
        make()


def test_the_policy_digest_is_of_the_rules_and_their_order():
    digest = policy_digest([NOVEL, AMBIGUOUS])
    assert digest == calibrate([NOVEL, AMBIGUOUS], rows()).policy_digest
    assert digest == "a1eebde8ad369b2c18e11c90044979063a32f943e7f25b5c714cb0ff761df0c7"
    variants = [
        [AMBIGUOUS, NOVEL],
        [NOVEL],
        [dataclasses.replace(NOVEL, name="new"), AMBIGUOUS],
        [dataclasses.replace(NOVEL, column="w"), AMBIGUOUS],
        [dataclasses.replace(NOVEL, reason=Reason.UNHEALTHY), AMBIGUOUS],
        [with_promise(NOVEL, RefuseGoodAtMost(0.06)), AMBIGUOUS],
        [with_promise(NOVEL, RefuseGoodAtMost(0.05, 0.9)), AMBIGUOUS],
        [dataclasses.replace(NOVEL, sliced=True), AMBIGUOUS],
    ]
    digests = {policy_digest(v) for v in variants} | {policy_digest([NOVEL, AMBIGUOUS], 0.1)}
    assert len(digests | {digest}) == len(variants) + 2


def test_calibration_is_deterministic_in_its_seed():
    sample = CalibrationSample(rows(4000).scores, loss=rows(4000).loss, group=np.arange(4000) // 2)
    one, two, other = (calibrate([NOVEL, AMBIGUOUS], sample, seed=s) for s in (3, 3, 4))
    assert one.text == two.text
    assert [r.threshold[0] for r in one.rules] == [r.threshold[0] for r in two.rules]
    assert one.rules[0].threshold[0] != other.rules[0].threshold[0]
