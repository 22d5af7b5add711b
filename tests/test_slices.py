"""Slices by a signal that carries codes: beside slices by class, in the graph and in words."""

from __future__ import annotations

import numpy as np
import pytest

from demur.detectors.compile import compile_monitor
from demur.detectors.numpy_monitor import evaluate_monitor
from demur.detectors.policy import Column, Rule, Slicing
from demur.detectors.reason import Reason
from tests.contract.entries import WIDTHS, C, near, session
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
