"""`demur.evaluate` as a whole: every figure recomputed from the verdicts that the monitor gives."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import demur
from demur.monitor.evaluate import EvaluationError
from demur.monitor.evaluate.metric_names import METRICS
from tests.evaluate import oracles


@pytest.fixture(scope="module")
def verdicts(bundle, tables):
    monitor = demur.Monitor.of(bundle)
    every = {"id": tables["test"], **tables["ood"], **tables["shifted"]}
    return {n: monitor.assess(features=t["features"], logits=t["logits"]) for n, t in every.items()}


@pytest.fixture(scope="module")
def wrong(tables):
    found = {n: np.ones(len(t["features"]), bool) for n, t in tables["ood"].items()}
    labelled = {"id": tables["test"], **tables["shifted"]}
    return found | {n: t["logits"].argmax(axis=1) != t["label"] for n, t in labelled.items()}


def scores_of(verdicts, score, names):
    place = verdicts["id"].columns.index(score)
    return np.concatenate([verdicts[n].scores[:, place].astype(float) for n in names])


@pytest.mark.parametrize("score", ["msp", "mahalanobis", "fused"])
@pytest.mark.parametrize(
    ("truth", "against", "names"),
    [
        ("errors", "id", ["id"]),
        ("errors", "strong", ["strong"]),
        ("ood", "near", ["id", "near"]),
        ("ood", "all", ["id", "near", "far", "mild", "strong"]),
        ("oms", "far", ["id", "far"]),
        ("oms", "mild", ["id", "mild"]),
        ("oms", "all", ["id", "near", "far", "mild", "strong"]),
    ],
)
def test_a_ranking_is_about_the_units_it_names(evaluation, verdicts, wrong, score, truth, against, names):
    scores = scores_of(verdicts, score, names)
    foreign = np.concatenate([np.full(len(wrong[n]), n != "id") for n in names])
    bad = foreign if truth == "ood" else np.concatenate([wrong[n] for n in names])
    found = evaluation.ranking(truth, score, against)
    assert (found.bad, found.good) == (bad.sum(), (~bad).sum())
    assert found.metrics["auroc"].value == pytest.approx(oracles.auroc(scores, bad * 1), abs=1e-12)
    assert found.f1_optimal.f1 == pytest.approx(oracles.f1_best(scores, bad * 1), abs=1e-12)
    if truth == "ood":
        value = found.metrics["ood_accepted_at_id_tpr95"].value
        assert value == pytest.approx(oracles.bad_accepted_at_good(scores, bad * 1), abs=1e-12)
        assert "aurc" not in found.metrics
    else:
        assert found.metrics["augrc"].value == pytest.approx(oracles.augrc(scores, bad * 1), abs=1e-12)


def test_the_label_noise_split_and_the_open_set_numbers(evaluation, verdicts, wrong):
    inside, novel = scores_of(verdicts, "energy", ["id"]), scores_of(verdicts, "energy", ["near"])
    for truth, chosen in (("right_vs_ood", ~wrong["id"]), ("wrong_vs_ood", wrong["id"])):
        known = inside[chosen]
        expected = oracles.auroc(np.append(known, novel), np.repeat([0, 1], [len(known), len(novel)]))
        assert evaluation.ranking(truth, "energy", "near").metrics["auroc"].value == pytest.approx(expected, abs=1e-12)
    metrics = evaluation.ranking("oms", "energy", "near").metrics
    parts = inside[~wrong["id"]], inside[wrong["id"]], novel
    assert metrics["oscr"].value == pytest.approx(oracles.oscr(*parts), abs=1e-12)
    assert metrics["ccr_at_fpr05"].value == pytest.approx(oracles.ccr_at_fpr(*parts, 0.05), abs=1e-12)
    assert metrics["scod_least_risk"].value == pytest.approx(oracles.least_joint_risk(*parts, 1 / 3, 1 / 3), abs=1e-12)
    assert "oscr" not in evaluation.ranking("oms", "energy", "mild").metrics


def test_the_policy_is_judged_by_its_own_verdicts(evaluation, verdicts, wrong):
    for name, judged in verdicts.items():
        one = evaluation.outcome(name)
        assert one.accepted == judged.accept.sum()
        assert one.wrong_accepted == (judged.accept & wrong[name]).sum()
        assert one.reasons.get("NOVEL", 0) == (judged.reason_bits & 1 != 0).sum()
    names = list(verdicts)
    accept = np.concatenate([verdicts[n].accept for n in names])
    bad = np.concatenate([wrong[n] for n in names])
    policy, oracle = evaluation.pools[-2:]
    assert (policy.decider, policy.against, policy.units) == ("policy", "all", len(bad))
    assert policy.metrics["safety_gain"].value == pytest.approx((~accept & bad).mean())
    assert policy.metrics["residual_hazard"].value == pytest.approx((accept & bad).mean())
    assert policy.metrics["availability_cost"].value == pytest.approx((~accept & ~bad).mean())
    assert policy.metrics["mcc"].value == pytest.approx(oracles.matthews(accept, bad), abs=1e-12)
    foreign = np.concatenate([np.full(len(wrong[n]), n != "id") for n in names])
    assert oracle.decider == "ood oracle"
    assert oracle.metrics["precision"].value == pytest.approx(bad[foreign].mean())
    assert oracle.metrics["recall"].value == pytest.approx(foreign[bad].mean())


def test_causes_share_out_every_unit(evaluation, verdicts, wrong):
    policy, *scores = evaluation.scope
    assert (policy.acceptor, policy.threshold) == ("policy", None)
    causes = {(c.cause, c.set): c for c in policy.causes}
    assert set(causes) == {
        ("ID+", "id"), ("ID-", "id"), ("S", "near"), ("S", "far"),
        ("C+", "mild"), ("C-", "mild"), ("C+", "strong"), ("C-", "strong"),
    }  # fmt: skip
    assert causes["C-", "strong"].accepted == (verdicts["strong"].accept & wrong["strong"]).sum()
    assert sum(c.units for c in causes.values()) == sum(len(v) for v in verdicts.values())
    right = ~wrong["id"]
    for one in scores:
        inside = scores_of(verdicts, one.acceptor, ["id"])[right]
        share = (inside <= one.threshold).mean()
        assert 0.95 <= share < 0.95 + 2 / len(inside) or (inside == one.threshold).sum() > 1
        assert next(c for c in one.causes if c.cause == "ID+").share.value == pytest.approx(share)


def test_intervals_hold_their_values(evaluation):
    held = ("auroc", "augrc", "aurc", "oscr")  # linear enough for percentiles; average precision of few units is not
    found = [(r, r.metrics[n]) for r in evaluation.rankings for n in held if n in r.metrics]
    assert len(found) > 100
    for ranking, estimate in found:
        assert estimate.low <= estimate.value <= estimate.high, (ranking.truth, ranking.against, ranking.score)
    wide = evaluation.ranking("errors", "msp").metrics["auroc"]
    assert 0.02 < wide.high - wide.low < 0.3


def test_severity_follows_the_numbers_given(evaluation, verdicts):
    found = next(s for s in evaluation.severity if s.score == "msp")
    assert found.levels == (0.0, 1.0, 2.0)
    scores = scores_of(verdicts, "msp", ["id", "mild", "strong"])
    level = np.repeat([0, 1, 2], [400, 200, 200])
    keep = np.random.default_rng(0).choice(800, 800, replace=False)
    assert found.c_index.value == pytest.approx(oracles.c_index(scores[keep], level[keep]), abs=1e-12)


def test_the_same_seed_gives_the_same_document_and_no_bootstrap_no_interval(bundle, tables, evaluation):
    given = {k: v for k, v in tables.items() if k != "test"}
    again = demur.evaluate(bundle, tables["test"], **given, bootstrap=100)
    assert again.to_json() == evaluation.to_json()
    without = demur.evaluate(bundle, tables["test"], **given, bootstrap=0)
    for one, other in zip(without.rankings, evaluation.rankings, strict=True):
        assert {n: e.value for n, e in one.metrics.items()} == {n: e.value for n, e in other.metrics.items()}
        assert all(e.low is None for e in one.metrics.values())


def test_the_document_is_json_without_surprises(evaluation, tmp_path):
    evaluation.save(tmp_path / "e.json")
    found = json.loads((tmp_path / "e.json").read_text(), parse_constant=lambda c: pytest.fail(c))
    assert (found["schema_version"], found["kind"]) == (1, "demur.evaluation")
    assert found["subject"]["monitor"] == "toy"
    assert {s["set"]: s["kind"] for s in found["sets"]}["mild"] == "shifted"
    assert found["rankings"][0]["metrics"]["auroc"].keys() == {"value", "low", "high"}
    assert {n for r in found["rankings"] for n in r["metrics"]} == set(METRICS)
    assert all(len(p["x"]) == len(p["y"]) == len(p["threshold"]) <= 400 for p in found["plots"])
    assert "plots" not in evaluation.document(figures=False)
    rows = found["histograms"][0]["counts"]
    assert [sum(row) for row in rows] == [400, 120, 150, 200, 200]


def test_order_of_rows_does_not_matter(bundle, tables, evaluation):
    order = np.random.default_rng(5).permutation(400)
    given = {k: v for k, v in tables.items() if k != "test"}
    mixed = demur.evaluate(bundle, {k: v[order] for k, v in tables["test"].items()}, **given, bootstrap=0)
    for one, other in zip(mixed.rankings, evaluation.rankings, strict=True):
        for name, estimate in one.metrics.items():
            assert estimate.value == pytest.approx(other.metrics[name].value, abs=1e-12)


def test_without_labels_only_the_ood_framing_is_left(bundle, tables):
    bare = {k: v for k, v in tables["test"].items() if k != "label"}
    found = demur.evaluate(bundle, bare, ood=tables["ood"], bootstrap=0)
    assert {r.truth for r in found.rankings} == {"ood"}
    assert found.pools == ()
    assert found.outcome("id").wrong is None
    assert math.isnan(found.outcome("id").selective_risk.value)
    assert {c.cause for c in found.scope[0].causes} == {"ID", "S"}
    assert "no labels" in found.notes[0]
    assert [p.state for p in found.promises] == ["contradicted", "not checked"]
    assert found.promises[1].note == "the test set has no labels"
    assert "<title>" in found.to_html()


def test_the_test_set_alone_is_enough(bundle, tables):
    found = demur.evaluate(bundle, tables["test"], bootstrap=0)
    assert {(r.truth, r.against) for r in found.rankings} == {("errors", "id")}
    assert [p.against for p in found.pools] == ["id"]
    assert found.severity == ()


def test_broken_units_abstain_and_are_counted_apart(bundle, tables):
    spoilt = {k: v.copy() for k, v in tables["test"].items()}
    spoilt["features"][:7] = np.nan
    found = demur.evaluate(bundle, spoilt, ood=tables["ood"], bootstrap=100)
    one = found.outcome("id")
    assert (one.units, one.broken, one.reasons["INVALID"]) == (400, 7, 7)
    assert "7 of 400 units are INVALID or UNAVAILABLE" in found.notes[0]
    ranking = found.ranking("errors", "msp")
    assert ranking.good + ranking.bad == 393
    assert found.promises[0].units == 393
    assert found.pools[0].units == 400


def test_data_that_fit_saw_are_named(bundle, sample):
    found = demur.evaluate(bundle, sample(400, 1), bootstrap=0)
    assert "400 of 400 rows were in the reference set" in found.notes[0]


def test_a_monitor_that_can_judge_nothing_is_an_error(bundle, tables):
    nothing = {k: np.full_like(v, np.nan) if k != "label" else v for k, v in tables["test"].items()}
    with pytest.raises(EvaluationError, match="every row is INVALID"):
        demur.evaluate(bundle, nothing)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"ood": {"id": 0}}, "'id'.*a name of its own"),
        ({"ood": {"a": 0}, "shifted": {"a": 0}}, "'a'.*a name of its own"),
        ({"ood": {"a\nb": 0}}, "printable"),
        ({"severity": {"blur": 1}}, "for one of id"),
        ({"severity": {"id": math.nan}}, "finite number"),
        ({"novel_share": 1.0}, "novel_share"),
        ({"bootstrap": 7}, "at least 100"),
        ({"unit": "group"}, "expected row for this bundle"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_scored(bundle, tables, given, match):
    with pytest.raises(EvaluationError, match=match):
        demur.evaluate(bundle, tables["test"], **given)


def test_asking_for_what_is_not_there(evaluation, tmp_path):
    with pytest.raises(EvaluationError, match="questions are errors on id"):
        evaluation.ranking("oms", "msp", "elsewhere")
    with pytest.raises(EvaluationError, match="sets are id, near"):
        evaluation.outcome("elsewhere")
    with pytest.raises(EvaluationError, match=r"expected \.html or \.json"):
        evaluation.save(tmp_path / "report.pdf")


def test_a_severity_column_counts_unless_a_number_is_given_and_eval_only_rows_are_welcome(bundle, tables):
    half = np.repeat([1, 3], 100)
    mild = tables["shifted"]["mild"] | {"severity": half, "eval_only": np.ones(200, np.int64)}
    by_column = demur.evaluate(bundle, tables["test"], shifted={"mild": mild}, bootstrap=0)
    assert by_column.severity[0].levels == (0.0, 1.0, 3.0)
    by_number = demur.evaluate(bundle, tables["test"], shifted={"mild": mild}, severity={"mild": 2}, bootstrap=0)
    assert by_number.severity[0].levels == (0.0, 2.0)
