"""Rows that the bundle has met before are named, whichever set they are given as; other rows are not."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import demur
from demur.monitor.evaluate.known import met_again
from demur.monitor.fit.evidence import Evidence
from tests.conftest import draw

THRESHOLDS = "which the thresholds come from"


def notes(bundle, test, **sets):
    found = demur.evaluate(bundle, test, bootstrap=0, **sets)
    return [text for text in found.notes if "labels" not in text]


def part(table, rows):
    return {name: column[rows] for name, column in table.items()}


def joined(*tables):
    return {name: np.concatenate([t[name] for t in tables]) for name in tables[0]}


def test_fresh_rows_are_not_known(bundle, sample):
    assert notes(bundle, sample(400, 21), ood={"far": sample(300, 22, shift=3.0)}) == []


def test_the_calibration_set_is_known_as_the_whole_that_it_is(bundle, sample):
    said = f"these are the rows of the calibration set, {THRESHOLDS}"
    assert notes(bundle, sample(600, 2)) == [f"id: {said}; figures are optimistic"]
    assert notes(bundle, sample(400, 21), ood={"a": sample(600, 2)}) == [f"a: {said}; figures mislead"]
    assert notes(bundle, sample(400, 21), shifted={"a": sample(600, 2)}) == [f"a: {said}; figures are optimistic"]


@pytest.mark.parametrize("without", [(), ("label",)])
def test_some_of_its_rows_in_any_order_are_known_by_their_scores(policy, sample, without):
    cal, rules = sample(600, 2), [{"novel": {"when": "msp", "promise": {"refuse_good_at_most": 0.05}}}]
    made = demur.fit({**policy, "scores": ["msp", "energy"], "rules": rules}, reference=sample(400, 1), calibration=cal)
    table = joined(sample(300, 21), part(cal, np.random.default_rng(0).permutation(600)[:200]))
    found = notes(made, {n: a for n, a in table.items() if n not in without})
    assert found == [
        f"id: 200 of 500 rows have the very scores of rows in the calibration set, {THRESHOLDS}; figures are optimistic"
    ]


def test_rows_of_the_fold_that_fusions_learnt_from_cannot_be_told(bundle, sample):
    table = {n: a for n, a in sample(600, 2).items() if n != "label"}
    count = len(Evidence.of(bundle).scores["fused"])
    assert 200 < count < 500
    (text,) = notes(bundle, table)
    assert text.startswith(f"id: {count} of 600 rows have the very scores")


def test_reference_and_test_rows_are_no_novelty(bundle, sample):
    ref, test = sample(400, 1), sample(300, 21)
    said = "400 of 400 rows were in the reference set that the scores were fitted on"
    assert notes(bundle, ref) == [f"id: {said}; figures are optimistic"]
    assert notes(bundle, test, ood={"a": ref}) == [f"a: {said}; figures mislead"]
    mixed = joined(part(test, slice(0, 40)), sample(100, 22, shift=3.0))
    assert notes(bundle, test, ood={"a": mixed}) == ["a: 40 of 140 rows are rows of the test set too; figures mislead"]
    assert notes(bundle, test, shifted={"a": mixed}) == []  # a stress set of severity 0 holds them on purpose


def test_a_selection_set_is_known_by_its_name():
    policy = {
        "monitor": "chosen",
        "signals": {"logits": 4, "features": 8},
        "scores": "auto",
        "rules": [{"novel": {"when": "novelty", "promise": {"refuse_good_at_most": 0.05}}}],
    }
    made = demur.fit(policy, reference=draw(200, 31), calibration=draw(200, 32), selection=draw(100, 33))
    assert notes(made, draw(100, 33)) == [
        "id: 100 of 100 rows were in the selection set that the scores were chosen on; figures are optimistic"
    ]
    assert notes(made, joined(draw(100, 33), draw(20, 34)))[0] == (
        "id: 100 of 120 rows were in the reference or selection set that the scores come from; figures are optimistic"
    )


def test_outliers_that_taught_the_bundle_are_an_optimistic_novelty_set():
    policy = {
        "monitor": "taught",
        "signals": {"features": 8},
        "scores": ["outlier_head"],
        "rules": [{"novel": {"when": "outlier_head", "promise": {"refuse_good_at_most": 0.05}}}],
    }
    known = draw(80, 41, shift=2.0)
    made = demur.fit(policy, reference=draw(200, 42), calibration=draw(200, 43), outliers=known)
    assert notes(made, draw(100, 44), ood={"a": known, "b": draw(80, 45, shift=2.0)}) == [
        "a: 80 of 80 rows were in the outliers set that scores or thresholds learnt from; figures are optimistic"
    ]


def counted(mine, theirs):
    """Units whose scores one unit of the others has, and no second one, by loops."""
    held = Counter(map(tuple, theirs.tolist()))
    return sum(held[tuple(row)] == 1 for row in mine.tolist())


def test_scores_met_again_are_counted_as_by_loops():
    rng = np.random.default_rng(1)
    before = rng.normal(size=(300, 2)).astype(np.float32)
    before[:40] = before[40:80]  # copies tell nothing of one of them
    scores = np.concatenate([before[::3], rng.normal(size=(50, 2)).astype(np.float32)])
    assert met_again(scores, before) == counted(scores, before) > 50
    scores[0] = np.nan
    assert met_again(scores, before) == counted(scores[1:], before)
    assert met_again(scores[1:2], before) == met_again(scores[:0], before) == met_again(scores, before[:0]) == 0
    assert met_again(before[290:], before) == 10


@pytest.mark.parametrize("values", [2, 30, 300, 3000, 100_000])
@pytest.mark.parametrize("sizes", [(100, 900), (500, 500), (3000, 200)])
def test_ties_alone_are_no_acquaintance(values, sizes):
    """Independent draws of a discrete distribution agree often, and are called known in few of 200 runs at most."""
    rng = np.random.default_rng([values, *sizes])
    weight = rng.dirichlet(np.ones(values))
    told = 0
    for _ in range(200):
        mine, theirs = (rng.choice(values, (n, 1), p=weight).astype(np.float32) for n in sizes)
        told += met_again(mine, theirs) > 0
    assert told <= 10
