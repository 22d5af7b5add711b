"""Graded losses: means, ranking and curves against loops from the definitions, and no number that needs right and wrong."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

import demur
from demur.detectors.reason import Reason
from demur.monitor.evaluate import EvaluationError
from demur.monitor.evaluate import risk_coverage as selective
from demur.monitor.evaluate.bootstrap import Resampler
from demur.monitor.evaluate.counts import Counts
from demur.monitor.evaluate.evaluation import plain
from demur.monitor.evaluate.graded import graded_of
from demur.monitor.evaluate.judged import Judged
from demur.monitor.evaluate.loss_ranking import loss_questions, losses_of, rank_losses
from demur.monitor.evaluate.pool import Part, Pool
from demur.monitor.fit.table import TableError
from tests.evaluate import oracles
from tests.evaluate.conftest import noisy
from tests.evaluate.test_report import Page

RIGHT_AND_WRONG = {"errors", "oms", "right_vs_ood", "wrong_vs_ood"}


def judged(scores, loss=None, wrong=None, accept=None, broken=()):
    n = len(scores)
    bits = np.zeros(n, np.int64)
    bits[list(broken)] = int(Reason.INVALID)
    columns = np.asarray(scores, np.float32)[:, None]
    taken = np.ones(n, bool) if accept is None else np.asarray(accept)
    return Judged(columns, np.full((n, 1), 0.5, np.float32), taken & (bits == 0), bits, 0 * bits, wrong, None, None, n,
                  weighted=False, loss=loss)  # fmt: skip


def pool_of(**tables):
    return Pool(("s",), "row", {Part(name, kind): one for name, (kind, one) in tables.items()})


def ranked(pool, resampler=None):
    found = rank_losses(pool, [(0, "s")], loss_questions(pool), resampler, lambda _: lambda _: None)
    return {(r.truth, r.against): (r, counts) for r, counts in found}


def graded_rows(sample, rows, seed, spread=0.5):
    """Losses that grow with what the model gives to other classes, some of them 0."""
    found = noisy(sample, rows, seed, spread)
    z = found["logits"] - found["logits"].max(axis=1, keepdims=True)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    away = 1 - p[np.arange(rows), found.pop("label")]
    return found | {"loss": np.clip(away, 0, 1) * (np.random.default_rng([seed, 5]).random(rows) < 0.7)}


@pytest.fixture(scope="module")
def graded(bundle, sample, tables):
    twice = graded_rows(sample, 300, 31)
    twice = {name: np.concatenate([array, array[:150]]) for name, array in twice.items()}  # ties
    twice["loss"][300:] = twice["loss"][:150][::-1]
    shifted = {"worse": graded_rows(sample, 150, 32, 1.2)}
    return SimpleNamespace(
        table=twice, found=demur.evaluate(bundle, twice, ood=tables["ood"], shifted=shifted, bootstrap=100)
    )


@pytest.mark.parametrize("seed", range(6))
def test_areas_are_those_of_every_order_and_every_threshold_with_ties(seed):
    rng = np.random.default_rng(seed)
    scores, loss = rng.integers(0, 5, 9), np.where(rng.random(9) < 0.3, rng.integers(0, 2, 9), rng.random(9))
    ((found, counts),) = ranked(pool_of(id=("id", judged(scores, loss)))).values()
    metrics = {name: estimate.value for name, estimate in found.metrics.items()}
    area = oracles.aurc(scores, loss)
    assert metrics["aurc"] == pytest.approx(area, abs=1e-12)
    assert metrics["e_aurc"] == pytest.approx(area - oracles.best_area(loss), abs=1e-12)
    assert metrics["augrc"] == pytest.approx(oracles.loss_augrc(scores, loss), abs=1e-12)
    assert (found.units, found.mean_loss) == (9, pytest.approx(math.fsum(loss) / 9))
    curve = selective.risk_coverage_curve(counts)
    for x, y, t in zip(curve.x, curve.y, curve.threshold, strict=True):
        taken = [value for s, value in zip(scores, loss, strict=True) if s <= t]
        assert (x, y) == (len(taken) / 9, pytest.approx(sum(taken) / len(taken)))


def test_losses_of_0_and_1_have_the_areas_of_errors_exactly():
    rng = np.random.default_rng(1)
    scores, wrong = np.round(rng.normal(size=500), 1), rng.random(500) < 0.3
    ((found, _),) = ranked(pool_of(id=("id", judged(scores, wrong.astype(float))))).values()
    errors = Counts.of(scores.astype(np.float32), wrong)
    for name in ("aurc", "e_aurc", "augrc"):
        assert found.metrics[name].value == pytest.approx(getattr(selective, name)(errors), abs=1e-12)


def test_the_best_order_is_by_loss_and_nothing_is_lost_there():
    loss = np.random.default_rng(2).beta(0.5, 3, 3000)
    best, worst = (ranked(pool_of(id=("id", judged(s, loss))))["loss", "id"][0].metrics for s in (loss, -loss))
    assert best["e_aurc"].value == pytest.approx(0, abs=2e-3)
    assert worst["e_aurc"].value > 0.2
    assert best["augrc"].value < loss.mean() / 2 < worst["augrc"].value


def test_novel_inputs_lose_1_wrong_answers_too_and_unknown_or_broken_units_are_in_no_figure():
    rng = np.random.default_rng(3)
    loss, wrong = rng.random(6), np.array([True, False, False])
    pool = pool_of(
        id=("id", judged(rng.random(6), loss, broken=[2])),
        new=("novel", judged(rng.random(4))),
        old=("shifted", judged(rng.random(3), wrong=wrong)),
        dark=("shifted", judged(rng.random(5))),
    )
    np.testing.assert_array_equal(losses_of(pool), [*np.delete(loss, 2), 1, 1, 1, 1, 1, 0, 0, *[np.nan] * 5])
    found = ranked(pool)
    assert {key: r.units for key, (r, _) in found.items()} == {
        ("loss", "id"): 5, ("loss_oms", "new"): 9, ("loss_oms", "old"): 8, ("loss_oms", "all"): 12,
    }  # fmt: skip
    scores = np.concatenate([one.scores[~one.broken, 0] for one in pool.tables.values()])[:12]
    everything = losses_of(pool)[:12]
    metrics = found["loss_oms", "all"][0].metrics
    assert metrics["augrc"].value == pytest.approx(oracles.loss_augrc(scores, everything))
    assert metrics["e_aurc"].value == pytest.approx(metrics["aurc"].value - oracles.best_area(everything))


def test_intervals_are_those_of_resampled_units_also_where_values_are_merged():
    rng = np.random.default_rng(4)
    loss = rng.beta(1, 4, 5000)
    pool = pool_of(id=("id", judged(loss + 0.3 * rng.normal(size=5000), loss)))
    found = ranked(pool, Resampler(pool.table, draws=200))["loss", "id"][0].metrics
    scores, redrawn = pool.scores(0), []
    for _ in range(200):
        at = rng.integers(0, 5000, 5000)
        once, index = np.unique(scores[at], return_inverse=True)
        lost = np.bincount(index, weights=loss[at])
        counts = Counts(once, np.bincount(index) - lost, lost)
        area = selective.aurc(counts)
        redrawn.append((area, area - oracles.best_area(loss[at]), selective.augrc(counts)))
    for name, values in zip(("aurc", "e_aurc", "augrc"), np.transpose(redrawn), strict=True):
        low, high = np.quantile(values, [0.025, 0.975])
        assert low < found[name].value < high
        assert [found[name].low, found[name].high] == pytest.approx([low, high], abs=0.25 * (high - low))


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


def test_a_policy_that_accepts_nothing_loses_nothing():
    pool = pool_of(id=("id", judged(np.arange(4.0), np.array([0.1, 0.5, 0.2, 1.0]), accept=np.zeros(4, bool))))
    settings = SimpleNamespace(confidence=0.95, seed=0)
    found, drawn = graded_of(pool, [(0, "s")], None, settings, lambda _: lambda _: None)
    assert found.sets[0].residual_hazard.value == 0
    assert found.sets[0].safety_gain.value == pytest.approx(0.45)
    assert math.isnan(drawn.operating[0].risk)
    assert drawn.operating[0].coverage == 0
