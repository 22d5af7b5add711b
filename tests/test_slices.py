"""Slices by a signal that carries codes: beside slices by class, in the graph and in words."""

from __future__ import annotations

import json

import numpy as np
import pytest

import demur
from demur.detectors.compile import compile_monitor
from demur.detectors.numpy_monitor import evaluate_monitor
from demur.detectors.policy import Column, Rule, Slicing
from demur.detectors.promises import CalibrationRefused, CalibrationSample, RefuseGoodAtMost, RuleSpec, calibrate
from demur.detectors.reason import Reason
from demur.monitor.errors import BundleError, ConfigurationError, InvalidObservation
from demur.monitor.fit.errors import TableError
from tests.contract.entries import WIDTHS, C, near, session
from tests.simulators import DRAWS, on_average, within
from tests.test_compile import calibration, compare, rule, scores

SITES, CAMERAS = Slicing("site", (-3, 0, 7)), Slicing("camera", (1, 2, 40_000), closed=True)
CODED = WIDTHS | {"site": 1, "camera": 1}


def coded(rows):
    """Known codes, unknown ones, halves, NaN, infinities, and codes beyond what float32 counts."""
    rng = np.random.default_rng(rows)
    site = rng.choice([-3, 0, 7, 8, 0.5, -0.0], rows).astype(np.float32)
    camera = rng.choice([1, 2, 40_000, 3, 1.5], rows).astype(np.float32)
    site[3], site[4], camera[5], camera[6], camera[7] = np.nan, np.inf, np.nan, -np.inf, 2.0**30
    return near(rows, seed=rows) | {"site": site[:, None], "camera": camera[:, None]}


def policy():
    """Columns of one table, by class, by two signals; several rules on one column; a rule that never refuses."""
    tables = tuple(calibration("energy", 30 + 7 * i) for i in range(C))
    columns = [
        Column("msp", "msp", calibration=(calibration("msp"),)),
        Column("by_class", "energy", sliced=True, calibration=tables),
        Column("by_site", "energy", sliced=SITES, calibration=tables[:4]),
        Column("by_camera", "mahalanobis", sliced=CAMERAS, calibration=(calibration("mahalanobis", 60),) * 4),
        Column("plain", "mahalanobis", calibration=(calibration("mahalanobis"),)),
    ]
    limits = [float(np.quantile(t, 0.6)) for t in tables]
    far = [float(np.quantile(calibration("mahalanobis"), q)) for q in (0.5, 0.7, 0.9, 0.6)]
    rules = [
        rule("class", "by_class", Reason.NOVEL, *limits, pooled=[False, True] * 3 + [False]),
        rule("site", "by_site", Reason.OUT_OF_SCOPE, *limits[:4], pooled=[False, False, True, True]),
        rule("camera", "by_camera", Reason.UNHEALTHY, *far, pooled=[False] * 3 + [True]),
        rule("all", "plain", Reason.AMBIGUOUS, far[1]),
    ]
    return columns, rules


@pytest.mark.parametrize("twice", [False, True])
def test_three_ways_of_slicing_in_one_graph_agree_with_numpy_and_with_loops(twice):
    columns, rules = policy()
    rules += (
        [rule("stricter", "by_site", Reason.REFUSAL, -1e9, 0, 0, 0), rule("never", "msp", Reason.NOVEL, np.inf)]
        if twice
        else []
    )
    signals = coded(120)
    with np.errstate(all="ignore"):
        expected = evaluate_monitor(scores(), columns, rules, signals)
    model = compile_monitor(scores(), columns, rules, CODED)
    with np.errstate(all="ignore"):
        compare(model, expected, {i.name: signals[i.name] for i in model.graph.input})
    by_hand(columns, rules, signals, expected)


def by_hand(columns, rules, signals, outputs):
    """Row by row, in float64: the slice, the p-value of its table, the rules of its threshold."""
    names = [c.name for c in columns]
    for row in range(len(signals["site"])):
        site, camera = float(signals["site"][row, 0]), float(signals["camera"][row, 0])
        place = {
            "by_class": int(np.argmax(signals["logits"][row])),
            "by_site": SITES.codes.index(site) if site in SITES.codes else 3,
            "by_camera": CAMERAS.codes.index(camera) if camera in CAMERAS.codes else 3,
        }
        broken = {"by_site": not np.isfinite(site), "by_camera": not np.isfinite(camera)}
        reasons, hits, pooled = 0, 0, 0
        for i, column in enumerate(columns):
            s, table = (
                float(outputs["scores"][row, i]),
                column.calibration[place.get(column.name, 0)].astype(np.float64),
            )
            if broken.get(column.name):
                assert np.isnan(outputs["p_values"][row, i])
                reasons |= int(Reason.INVALID)
            else:
                assert outputs["p_values"][row, i] == pytest.approx(
                    (1 + np.sum(table >= s)) / (len(table) + 1), rel=1e-6
                )
        for bit, one in enumerate(rules):
            at = place.get(one.column, 0)
            if float(outputs["scores"][row, names.index(one.column)]) > float(one.threshold[at]):
                hits, reasons = hits | 1 << bit, reasons | int(one.reason)
            pooled |= int(one.pooled[at]) << bit
        if place["by_camera"] == 3 and not broken["by_camera"]:
            reasons |= int(Reason.UNAVAILABLE)
        found = tuple(int(outputs[n][row]) for n in ("reasons", "rule_hits", "pooled", "accept"))
        assert found == (reasons, hits, pooled, int(reasons == 0)), row


def test_an_unknown_code_of_a_closed_slice_is_unavailable_and_a_code_that_is_no_number_is_invalid():
    columns = [Column("far", "mahalanobis", sliced=CAMERAS, calibration=(calibration("mahalanobis"),) * 4)]
    graph = session(compile_monitor(scores(), columns, [rule("r", "far", Reason.NOVEL, *[1e9] * 4)], CODED))
    camera = np.array([1, 3, 2.5, np.nan, np.inf, 40_000], np.float32)[:, None]
    reasons, accept, p = graph.run(
        ["reasons", "accept", "p_values"], {"features": near(6)["features"], "camera": camera}
    )
    away, broken = int(Reason.UNAVAILABLE), int(Reason.INVALID)
    assert reasons.tolist() == [0, away, away, broken, broken, 0]
    assert accept.tolist() == [True, False, False, False, False, True]
    assert np.isnan(p[:, 0]).tolist() == [False, False, False, True, True, False]


def test_slices_that_do_not_fit_their_signal_are_refused():
    table = (calibration("msp"),) * 4
    for column, widths, says in (
        (Column("a", "msp", sliced=SITES, calibration=table), WIDTHS, "a signal of width 1"),
        (Column("a", "msp", sliced=SITES, calibration=table), WIDTHS | {"site": 2}, "a signal of width 1"),
        (Column("a", "msp", sliced=SITES, calibration=table[:3]), CODED, "4 tables, one per slice"),
        (Column("a", "msp", "group", "max", sliced=SITES, calibration=table), CODED, "only row columns"),
    ):
        with pytest.raises(ValueError, match=says):
            compile_monitor(scores(), [column], [], widths)
    column = Column("a", "msp", sliced=SITES, calibration=table)
    with pytest.raises(ValueError, match=r"float32 \(1,\) or \(4,\)"):
        compile_monitor(
            scores(), [column], [Rule("r", "a", Reason.NOVEL, np.zeros(3, np.float32), np.zeros(3, bool))], CODED
        )


CODES, SHIFT = (-1, 4, 900), (0.0, 0.5, 2.0)


def spec(alpha=0.1, confidence=None, **more):
    return RuleSpec("novel", "v", Reason.NOVEL, RefuseGoodAtMost(alpha, confidence), **{"sliced": "site"} | more)


def sites(rng, n):
    at = rng.choice(3, n, p=[0.6, 0.25, 0.15])
    v = (rng.random(n) + np.array(SHIFT)[at]).astype(np.float32)
    return CalibrationSample({"v": v}, codes={"site": np.array(CODES)[at]})


@pytest.mark.parametrize("confidence", [None, 0.9])
def test_each_listed_code_keeps_its_promise_and_one_threshold_for_all_does_not(confidence):
    rng, rates, one = np.random.default_rng(61), [], []
    for _ in range(DRAWS):
        sample = sites(rng, 250)
        found = calibrate([spec(confidence=confidence)], sample).rules[0]
        assert (len(found.threshold), found.pooled[3]) == (4, True)
        rates.append(np.where(found.pooled[:3], 0, np.clip(1 - (found.threshold[:3] - SHIFT), 0, 1)))
        whole = calibrate([spec(confidence=confidence, sliced=False)], sample).rules[0].threshold[0]
        one.append(np.clip(1 - (whole - np.array(SHIFT)), 0, 1))
    for place in range(3):
        ours, theirs = np.array(rates)[:, place], np.array(one)[:, 2]
        assert on_average(ours, 0.1) if confidence is None else within(ours > 0.1, 0.1)
        assert not (on_average(theirs, 0.1) if confidence is None else within(theirs > 0.1, 0.1))
    assert np.mean(rates) > 0.04


def test_few_rows_of_a_code_and_codes_that_nobody_had_are_pooled_or_refused_and_a_total_wants_the_latter():
    rng = np.random.default_rng(62)
    code = np.repeat([3, 7, 8], [100, 90, 5])
    sample = CalibrationSample({"v": rng.random(195).astype(np.float32)}, codes={"site": code})
    c = calibrate([spec()], sample)
    assert c.rules[0].pooled.tolist() == [False, False, True, True]
    assert [t.size for t in c.tables["v"]] == [100, 90, 195, 195]
    assert (
        "in each listed site on average over calibration draws; for this bundle (n = 190) the rate is at most" in c.text
    )
    assert (
        "Listed: 3 and 7. Too few rows in 8: the pooled table is used, nothing is promised there. For any other site"
        in c.text
    )
    with pytest.raises(CalibrationRefused, match="at least 9 calibration rows of site 8, got 5"):
        calibrate([spec()], sample, small_slices="refuse")
    with pytest.raises(CalibrationRefused, match="site 8 and any site that calibration did not have would fall back"):
        calibrate([spec()], sample, refuse_good_at_most=0.2)
    large = CalibrationSample({"v": sample.scores["v"]}, codes={"site": np.minimum(code, 7)})
    with pytest.raises(
        CalibrationRefused, match=r"any site that calibration did not have would fall back.*small_slices: refuse"
    ):
        calibrate([spec()], large, refuse_good_at_most=0.2)
    closed = calibrate([spec(confidence=0.9)], large, refuse_good_at_most=0.2, small_slices="refuse")
    assert (
        "over the calibration draw for each site alone. Listed: 3 and 7. Any other site is UNAVAILABLE." in closed.text
    )
    with pytest.raises(CalibrationRefused, match="slices need each calibration row's site"):
        calibrate([spec()], CalibrationSample({"v": sample.scores["v"]}))


def coded_policy(**more):
    return {
        "monitor": "sites",
        "signals": {"logits": 4, "features": 8, "site": 1},
        "scores": ["mahalanobis", "msp"],
        "rules": [
            {"novel": {"when": "mahalanobis", "slice": "site", "promise": {"refuse_good_at_most": 0.1}}},
            {"odd": {"when": "msp", "slice": "predicted_class", "promise": {"refuse_good_at_most": 0.1}}},
        ],
    } | more


def coded_rows(sample, count, seed, codes=(1, 2, 5)):
    table = sample(count, seed)
    site = np.random.default_rng([seed, 6]).choice(codes, count)
    table["features"] = (table["features"] + 0.2 * site[:, None]).astype(np.float32)
    return table | {"site": site.astype(np.float32)[:, None]}


@pytest.mark.parametrize("small", ["pool", "refuse"])
def test_slices_by_a_signal_reach_the_bundle_and_its_verdicts(sample, small):
    document = coded_policy(small_slices=small)
    bundle = demur.fit(document, reference=sample_reference(sample), calibration=coded_rows(sample, 700, 2))
    entry = next(c for c in bundle.manifest.columns if c.name == "mahalanobis@by.site")
    others = "pooled" if small == "pool" else "unavailable"
    assert (entry.slices.signal, entry.slices.codes, entry.slices.others) == ("site", [1, 2, 5], others)
    assert entry.units[3] == sum(entry.units[:3]) == 700
    assert "in each listed site" in bundle.manifest.rules[0].statement
    assert "Listed: 1, 2 and 5." in bundle.manifest.rules[0].statement
    assert demur.calibrate(bundle).encode() == bundle.encode()
    fresh = {n: a for n, a in coded_rows(sample, 900, 3, (1, 2, 5, 6)).items() if n != "label"}
    fresh["site"][:2, 0] = np.nan, 2.5
    verdicts = demur.Monitor.of(bundle).assess(**fresh)
    at, site = verdicts.columns.index("mahalanobis@by.site"), fresh["site"][:, 0]
    limits = bundle.manifest.rules[0].thresholds
    if small == "refuse":
        assert limits[3] is None  # nothing but UNAVAILABLE is said of other sites
        limits = [*limits[:3], np.inf]
    known = np.isin(site, (1, 2, 5))
    threshold = np.array([limits[[1, 2, 5].index(s)] if s in (1, 2, 5) else limits[3] for s in site])
    np.testing.assert_array_equal(verdicts.rule_hits & 1 == 1, verdicts.scores[:, at] > threshold)
    np.testing.assert_array_equal(verdicts.pooled & 1 == 1, ~known)
    said = [" ".join(r) for r in verdicts.reasons]
    assert said[0].endswith("INVALID: a signal or score of this unit is not finite")
    away = ["UNAVAILABLE: its site is none that calibration had" in s for s in said]
    np.testing.assert_array_equal(away, ~known & np.isfinite(site) if small == "refuse" else np.zeros(900, bool))
    rates = [(verdicts.rule_hits & 1)[site == s].mean() for s in (1, 2, 5)]
    assert max(rates) < 0.17
    by_class = np.asarray(next(c for c in bundle.manifest.columns if c.name == "msp@class").units)
    assert len(by_class) == 4


def test_a_set_that_is_all_of_unknown_codes_is_evaluated_without_a_ranking(sample):
    document = coded_policy(small_slices="refuse")
    bundle = demur.fit(document, reference=sample_reference(sample), calibration=coded_rows(sample, 700, 2))
    away = {n: a for n, a in coded_rows(sample, 60, 4, (9,)).items() if n != "label"}
    found = demur.evaluate(bundle, coded_rows(sample, 300, 3), ood={"away": away}, bootstrap=0)
    assert found.outcome("away").accepted == 0
    assert any("away: 60 of 60 units are INVALID or UNAVAILABLE" in note for note in found.notes)


def sample_reference(sample):
    return coded_rows(sample, 300, 1)


def test_new_calibration_rows_bring_their_own_codes(sample):
    bundle = demur.fit(coded_policy(), reference=sample_reference(sample), calibration=coded_rows(sample, 700, 2))
    later = demur.calibrate(bundle, calibration=coded_rows(sample, 600, 8, (2, 9)))
    assert [c.slices.codes for c in later.manifest.columns if c.slices] == [[2, 9]]
    whole = coded_policy()
    del whole["rules"][0]["novel"]["slice"]
    plain = demur.fit(whole, reference=sample_reference(sample), calibration=coded_rows(sample, 700, 2))
    assert all("slices" not in c for c in json.loads(plain.manifest.encode())["columns"])
    with pytest.raises(BundleError, match="give calibration data"):
        demur.calibrate(plain, config=coded_policy())


@pytest.mark.parametrize(
    ("values", "says"),
    [(0.5, "whole numbers below"), (2.0**24, "whole numbers below"), (None, "at most 256 different codes")],
)
def test_codes_that_are_no_codes_are_refused_with_their_row(sample, values, says):
    table = coded_rows(sample, 700, 2)
    table["site"][17:] = np.arange(683)[:, None] if values is None else values
    heard = []
    with pytest.raises(ConfigurationError, match=f"site: expected .*{says}.*" + ("" if values is None else "row 17")):
        demur.fit(
            coded_policy(),
            reference=sample_reference(sample),
            calibration=table,
            tick=lambda stage, *_: heard.append(stage),
        )
    assert not heard  # before anything is fitted


def test_a_refusal_names_the_slice_where_no_level_says_its_threshold(sample):
    document = coded_policy()
    document["rules"][0]["novel"]["promise"] = {"refuse_good_at_most": 0.1, "confidence": 0.9}
    bundle = demur.fit(document, reference=sample_reference(sample), calibration=coded_rows(sample, 700, 2))
    fresh = {n: a for n, a in coded_rows(sample, 200, 3).items() if n != "label"}
    verdicts = demur.Monitor.of(bundle).assess(**fresh)
    row = int(np.flatnonzero(verdicts.rule_hits & 1)[0])
    assert verdicts.reasons[row][0].endswith('rule "novel" refuses above the threshold of its slice')


def test_all_rows_may_come_from_one_site(sample):
    one = {"reference": coded_rows(sample, 300, 1, (2,)), "calibration": coded_rows(sample, 200, 2, (2,))}
    bundle = demur.fit(coded_policy(), **one)
    assert "in each listed site" in bundle.manifest.rules[0].statement
    assert [
        c.slices.codes for c in demur.calibrate(bundle, calibration=one["calibration"]).manifest.columns if c.slices
    ]
    unsliced = coded_policy()
    del unsliced["rules"][0]["novel"]["slice"]
    with pytest.raises(ValueError, match="constant_signal: reference: site: every row is the same"):
        demur.fit(unsliced, **one)
    one["reference"]["site"][5] = np.nan
    with pytest.raises(ValueError, match="not_finite: reference: site"):
        demur.fit(coded_policy(), **one)


def test_row_weights_are_refused_by_what_they_are(sample):
    table = coded_rows(sample, 700, 2) | {"weight": np.ones(700)}
    with pytest.raises(CalibrationRefused, match="no promise here can carry row weights; remove the weight column"):
        demur.fit(coded_policy(), reference=sample_reference(sample), calibration=table)


def test_a_signal_that_is_named_as_the_predicted_class_is_not_mistaken_for_it(sample):
    document = coded_policy()
    document["signals"]["predicted_class"] = 1
    with pytest.raises(ConfigurationError, match="is the argmax of logits, and a signal has that name"):
        demur.fit(document, reference=sample_reference(sample), calibration=coded_rows(sample, 700, 2))


@pytest.mark.parametrize("by", ["features", "camera", "sites"])
def test_slices_name_a_signal_of_width_one(sample, by):
    document = coded_policy()
    document["rules"][0]["novel"]["slice"] = by
    with pytest.raises(ConfigurationError, match=f"slice: expected predicted_class or a signal of width 1.*got {by}"):
        demur.fit(document, reference=sample_reference(sample), calibration=coded_rows(sample, 700, 2))


def test_codes_may_be_integers_and_a_vector(sample):
    """The natural form of a site is (N,) int64, in tables and in service."""
    whole = [coded_rows(sample, n, seed) for n, seed in ((300, 1), (700, 2))]
    bundle = demur.fit(coded_policy(), reference=whole[0], calibration=whole[1])
    numbers = [t | {"site": t["site"][:, 0].astype(np.int64)} for t in whole]
    assert demur.fit(coded_policy(), reference=numbers[0], calibration=numbers[1]).encode() == bundle.encode()
    monitor, fresh = demur.Monitor.of(bundle), {n: a for n, a in coded_rows(sample, 50, 3).items() if n != "label"}
    codes = fresh | {"site": fresh["site"][:, 0].astype(np.int32)}
    verdicts = monitor.assess(**codes)
    np.testing.assert_array_equal(verdicts.scores, monitor.assess(**fresh).scores)
    assert any("mahalanobis by site p =" in " ".join(r) for r in verdicts.reasons)
    with pytest.raises(InvalidObservation, match="site: expected float32"):
        monitor.assess(**(codes | {"site": codes["site"] + 2**24}))
    with pytest.raises(TableError, match="number its values"):
        demur.fit(coded_policy(), reference=numbers[0], calibration=numbers[1] | {"site": numbers[1]["site"] + 2**24})
