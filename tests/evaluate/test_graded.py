"""An evaluation of graded losses: what it says, what it leaves out, and that losses of 0 and 1 change nothing."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

import demur
from demur.monitor.evaluate import EvaluationError
from demur.monitor.evaluate.evaluation import plain
from demur.monitor.fit.table import TableError
from tests.evaluate import oracles
from tests.evaluate.conftest import graded_rows
from tests.evaluate.test_report import Page

RIGHT_AND_WRONG = {"errors", "oms", "right_vs_ood", "wrong_vs_ood"}


@pytest.fixture(scope="module")
def graded(bundle, sample, tables):
    twice = graded_rows(sample, 300, 31)
    twice = {name: np.concatenate([array, array[:150]]) for name, array in twice.items()}  # ties
    twice["loss"][300:] = twice["loss"][:150][::-1]
    shifted = {"worse": graded_rows(sample, 150, 32, 1.2)}
    return SimpleNamespace(
        table=twice, found=demur.evaluate(bundle, twice, ood=tables["ood"], shifted=shifted, bootstrap=100)
    )


def test_what_needs_right_and_wrong_is_left_out_and_what_does_not_stays(graded):
    found = graded.found
    assert {r.truth for r in found.rankings} == {"ood"}
    assert found.ranking("ood", "mahalanobis", "far").metrics["auroc"].value > 0.95
    assert {(r.truth, r.against) for r in found.graded.rankings} == {
        ("loss", "id"), ("loss", "worse"), *(("loss_oms", name) for name in ("near", "far", "worse", "all")),
    }  # fmt: skip
    assert found.pools == ()
    assert all(math.isnan(one.mcc) for one in found.scope)
    assert found.calibration
    (note,) = [note for note in found.notes if "right and wrong" in note]
    assert note.startswith("id, worse: graded losses")
    assert not any("no labels" in note for note in found.notes)
    with pytest.raises(EvaluationError, match="there are loss on id, loss on worse, loss_oms on all"):
        found.graded.ranking("errors", "msp")


def test_means_over_the_set_are_of_what_the_policy_did(bundle, graded):
    found, loss = graded.found, graded.table["loss"]
    verdicts = demur.Monitor.of(bundle).assess(logits=graded.table["logits"], features=graded.table["features"])
    lost = refused = 0.0
    for value, accepted in zip(loss, verdicts.accept, strict=True):
        lost, refused = (lost + value, refused) if accepted else (lost, refused + value)
    means = found.graded.sets[0]
    assert means.residual_hazard.value == pytest.approx(lost / 450)
    assert means.safety_gain.value == pytest.approx(refused / 450)
    assert means.mean_loss.value == pytest.approx((lost + refused) / 450)
    one = found.outcome("id")
    assert (one.wrong, one.wrong_accepted) == (None, None)
    assert one.selective_risk.value == pytest.approx(lost / verdicts.accept.sum())
    for estimate in (means.residual_hazard, means.mean_loss, one.selective_risk):
        assert estimate.low < estimate.value < estimate.high
    scores, name = verdicts.scores[:, verdicts.columns.index("msp")], found.graded.ranking("loss", "msp").metrics
    assert name["augrc"].value == pytest.approx(oracles.loss_augrc(scores, loss), abs=1e-9)
    policy = next(o for o in found.operating if (o.truth, o.against) == ("loss", "id"))
    assert (policy.coverage, policy.risk) == pytest.approx((verdicts.accept.mean(), lost / verdicts.accept.sum()))


def test_the_report_draws_curves_of_losses_and_no_empty_plot(graded):
    page = Page(graded.found.to_html())
    said = page.text()
    assert "Graded losses" in said
    assert "Metrics that need right and wrong answers are left out" in said
    assert "wrong among accepted" not in said
    assert "mean loss of accepted" in said
    assert f"{graded.found.graded.ranking('loss', 'msp').metrics['aurc'].value:.4f}" in said
    data = json.loads(page.words["script"][0])
    drawn = {(p["kind"], p["truth"]) for p in data["plots"]}
    assert drawn == {("roc", "ood"), ("risk_coverage", "loss"), ("risk_coverage", "loss_oms")}
    assert data["graded"]
    assert all(p["x"] and p["y"] for p in data["plots"])
    document = json.loads(graded.found.to_json())
    assert {"sets", "rankings"} == set(document["graded"])
    assert document["schema_version"] == 1


def test_names_of_sets_stay_text(bundle, sample, graded):
    name = "<img src=x onerror=alert(1)>"
    shifted = {name: graded_rows(sample, 40, 34), "other": graded_rows(sample, 40, 35)}
    page = Page(demur.evaluate(bundle, graded.table, shifted=shifted, bootstrap=0).to_html())
    assert page.open == []
    assert "img" not in page.tags
    assert name in page.text()


def test_a_loss_column_of_0_and_1_gives_the_very_report_of_labels(bundle, tables):
    table = dict(tables["test"])
    by_label = demur.evaluate(bundle, table, ood=tables["ood"], bootstrap=100)
    table["loss"] = (table["logits"].argmax(axis=1) != table["label"]).astype(np.float64)
    by_loss = demur.evaluate(bundle, table, ood=tables["ood"], bootstrap=100)
    documents = [plain(one.document()) for one in (by_label, by_loss)]
    assert documents[0].pop("digests") != documents[1].pop("digests")
    assert documents[0] == documents[1]
    assert "graded" not in documents[0]
    assert by_label.graded is None
    assert "graded" not in json.loads(Page(by_label.to_html()).words["script"][0])


def test_a_set_of_right_and_wrong_beside_a_graded_one_keeps_its_own_figures(bundle, sample, tables):
    found = demur.evaluate(bundle, tables["test"], shifted={"worse": graded_rows(sample, 150, 32, 1.2)}, bootstrap=0)
    alone = demur.evaluate(bundle, tables["test"], bootstrap=0)
    assert found.ranking("errors", "msp", "id") == alone.ranking("errors", "msp")
    assert found.promises == alone.promises
    assert {(r.truth, r.against) for r in found.graded.rankings} == {("loss", "worse"), ("loss_oms", "worse")}
    assert [one.set for one in found.graded.sets] == ["worse"]
    assert not RIGHT_AND_WRONG & {r.truth for r in found.rankings if r.against == "worse"}


def test_losses_of_a_novel_set_are_not_asked_for(bundle, graded, tables):
    foreign = tables["ood"]["near"] | {"loss": np.full(120, 0.25)}
    for table in (graded.table, tables["test"]):
        given, plain_one = (
            demur.evaluate(bundle, table, ood={"near": o}, bootstrap=0) for o in (foreign, tables["ood"]["near"])
        )
        documents = [one.document() for one in (given, plain_one)]
        assert documents[0].pop("digests")["near"] != documents[1].pop("digests")["near"]
        assert documents[0] == documents[1]


@pytest.mark.parametrize("bad", [np.nan, 1.01, -0.01, np.inf])
def test_what_is_no_loss_is_refused_by_the_table(bundle, graded, bad):
    table = graded.table | {"loss": np.append(graded.table["loss"][:-1], bad)}
    with pytest.raises(TableError, match=r"loss: expected numbers from 0"):
        demur.evaluate(bundle, table, bootstrap=0)


def test_broken_units_abstain_and_are_in_no_ranking(bundle, sample):
    table = graded_rows(sample, 60, 33)
    table["logits"][:7] = np.nan
    found = demur.evaluate(bundle, table, bootstrap=0)
    assert found.outcome("id").broken == 7
    assert found.graded.ranking("loss", "msp").units == 53
    assert found.graded.sets[0].units == 60
    assert found.graded.sets[0].residual_hazard.value <= table["loss"][7:].sum() / 60
