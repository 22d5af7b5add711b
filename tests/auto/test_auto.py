"""--auto: chosen from in-distribution data alone, reproducible, never by noise, and the table says why."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import demur
from demur.detectors.score import Reference
from demur.monitor.auto.axes import worlds
from demur.monitor.auto.candidates import Candidate, candidates
from demur.monitor.auto.choice import choose_errors, choose_novelty, fused
from demur.monitor.auto.measure import Judged, Measured, ranked
from demur.monitor.auto.selection import MEMBER, select
from demur.monitor.errors import ConfigurationError, DemurError
from demur.monitor.monitor import Monitor
from tests.conftest import draw

POLICY = {
    "monitor": "auto",
    "signals": {"logits": 4, "features": 8},
    "scores": "auto",
    "rules": [{"novel": {"when": "novelty", "promise": {"refuse_good_at_most": 0.05}}}],
}


def noisy(rows, seed):
    """The toy rows with a tenth of the labels changed, so that some answers are wrong."""
    table = draw(rows, seed)
    rng = np.random.default_rng(seed)
    other = rng.random(rows) < 0.1
    table["label"] = np.where(other, (table["label"] + 1) % 4, table["label"])
    return table


def given():
    return {"reference": draw(500, 1), "calibration": draw(600, 2), "selection": noisy(500, 3)}


@pytest.fixture(scope="module")
def bundle():
    return demur.fit(POLICY, **given())


def reference_of(table):
    return Reference(
        {n: table[n] for n in ("features", "logits")},
        table["label"],
        correct=table["logits"].argmax(1) == table["label"],
    )


def test_the_bundle_says_what_was_chosen_and_on_which_rows(bundle):
    document = json.loads(bundle.members[MEMBER])
    assert set(bundle.manifest.digests) == {"reference", "calibration", "selection"}
    assert len(set(bundle.manifest.digests.values())) == 3
    names = {s.name for s in bundle.manifest.scores}
    assert {"novelty", "errors"} <= names
    assert set(document["chosen"]["novelty"]["members"]) <= names | {document["candidates"][0]["name"]}
    for candidate in document["candidates"]:
        assert list(candidate["values"]) == sorted(document["axes"])
        assert all(0 <= v <= 1 for v in candidate["values"].values())
        assert all(v >= 0 for v in candidate["spread"].values())
    chosen = {c["name"] for c in document["candidates"] if c["chosen"]}
    assert chosen == {m for c in document["chosen"].values() for m in c["members"]}
    assert any("task shift" in text for text in document["not_informed"])


def test_a_chosen_monitor_refuses_what_is_far(bundle):
    monitor = Monitor.of(bundle)
    ordinary, far = draw(300, 7), draw(300, 8, shift=4.0)
    accepted = [monitor.assess(features=t["features"], logits=t["logits"]).accept.mean() for t in (ordinary, far)]
    assert accepted[0] > 0.85
    assert accepted[1] < 0.2


def test_choosing_again_gives_the_same_bytes(bundle):
    assert demur.fit(POLICY, **given()).digest == bundle.digest


def test_new_promises_keep_the_choice(bundle):
    again = demur.calibrate(bundle, calibration=draw(600, 9))
    assert again.members[MEMBER] == bundle.members[MEMBER]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"selection": draw(600, 2)}, "selection: 600 rows are in the calibration set"),
        ({"selection": draw(500, 1)}, "selection: 500 rows are in the reference set"),
        ({"selection": {**noisy(500, 3), "eval_only": np.ones(500, int)}}, "eval_only"),
    ],
)
def test_the_three_sets_must_not_share_rows(change, message):
    with pytest.raises(DemurError, match=message):
        demur.fit(POLICY, **{**given(), **change})


def test_scores_of_ones_own_are_not_replaced():
    with pytest.raises(ConfigurationError, match="the policy names its own"):
        demur.fit({**POLICY, "scores": ["msp"]}, **given())
    with pytest.raises(ConfigurationError, match="demur fit --auto --selection"):
        demur.fit(POLICY, **{n: t for n, t in given().items() if n != "selection"})


def test_errors_cannot_be_asked_for_without_labels():
    rules = [{"wrong": {"when": "errors", "promise": {"refuse_good_at_most": 0.05}}}]
    unlabelled = {n: a for n, a in noisy(500, 3).items() if n != "label"}
    with pytest.raises(ConfigurationError, match="needs labels"):
        demur.fit({**POLICY, "rules": rules}, **{**given(), "selection": unlabelled})


def test_logits_alone_are_enough_and_tables_of_rows_without_labels_too():
    rows = np.random.default_rng(0).normal(size=(400, 6)).astype(np.float32)
    only = select(Reference({"features": rows[:200]}), Reference({"features": rows[200:]}))
    assert only.errors is None
    assert set(only.measured.kinds) == {"far"}
    assert any(text.startswith("errors:") for text in only.document()["not_informed"])
    table, other = noisy(400, 1), noisy(400, 2)
    logits = [replace(reference_of(t), signals={"logits": t["logits"]}) for t in (table, other)]
    assert select(*logits).errors is not None


def test_left_out_classes_leave_no_trace():
    reference, selection = (
        replace(
            reference_of(noisy(400, s)), head_weight=np.eye(4, 8, dtype=np.float32), head_bias=np.zeros(4, np.float32)
        )
        for s in (1, 2)
    )
    near = [w for w in worlds(reference, selection, 0) if w.axes[0].kind == "near"]
    assert len(near) == 4
    for world in near:
        (axis,) = world.axes
        assert world.reference.signals["logits"].shape[1] == 3 == axis.ordinary["logits"].shape[1]
        assert world.reference.head_weight.shape == (3, 8)
        assert set(np.unique(world.reference.labels)) == {0, 1, 2}
        assert world.reference.rows < reference.rows
        assert len(axis.ordinary["logits"]) + len(axis.strange["logits"]) == 400
    np.testing.assert_array_equal(reference.labels, noisy(400, 1)["label"])


def judged(kind, seed, **scores):
    """Scores as (ordinary, strange) pairs."""
    return Judged(kind, kind, seed, {n: o for n, (o, _) in scores.items()}, {n: s for n, (_, s) in scores.items()})


def shifted(rng, by, rows=2000):
    return rng.normal(size=rows).astype(np.float32), (rng.normal(size=rows) + by).astype(np.float32)


def test_the_simpler_score_wins_inside_the_spread_and_loses_outside_it():
    rng = np.random.default_rng(0)
    same = [judged("errors", s, simple=shifted(rng, 1.0), clever=shifted(rng, 1.0)) for s in range(3)]
    better = [judged("errors", s, simple=shifted(rng, 1.0), clever=shifted(rng, 2.0)) for s in range(3)]
    found = tuple(Candidate(n, n) for n in ("simple", "clever"))
    assert choose_errors(Measured(found, tuple(same))).members == ("simple",)
    assert choose_errors(Measured(found, tuple(better))).members == ("clever",)


def test_a_fusion_grows_only_by_members_that_help():
    rng = np.random.default_rng(1)
    none = [shifted(rng, 0.0) for _ in range(3)]
    axes = []
    for seed in range(3):
        axes.append(judged("far", seed, a=shifted(rng, 3.0), b=none[seed], idle=shifted(rng, 0.0)))
        axes.append(judged("between", seed, a=shifted(rng, 0.2), b=shifted(rng, 3.0), idle=shifted(rng, 0.0)))
    found = tuple(Candidate(n, n) for n in ("idle", "a", "b"))
    chosen = choose_novelty(Measured(found, tuple(axes)))
    assert set(chosen.members) == {"a", "b"}
    for j in axes:
        assert fused(j, chosen.members) > 0.85


def test_ranking_counts_ties_as_halves():
    assert ranked(np.zeros(5, np.float32), np.zeros(7, np.float32)) == 0.5
    assert ranked(np.zeros(5, np.float32), np.ones(7, np.float32)) == 1.0


def test_candidates_fit_the_signals():
    both = {c.type for c in candidates(reference_of(noisy(50, 1)))}
    rows = {c.type for c in candidates(Reference({"features": np.zeros((5, 3), np.float32)}))}
    assert "msp" in both
    assert rows
    assert not rows & {"msp", "energy", "vim"}


@pytest.mark.parametrize(("signal", "value"), [("logits", np.nan), ("features", np.inf)])
def test_a_broken_selection_set_is_named(signal, value):
    sets = given()
    sets["selection"][signal][3, 1] = value
    with pytest.raises(DemurError, match=f"selection: {signal}: 1 rows hold NaN or infinity"):
        demur.fit(POLICY, **sets)


def test_labels_that_are_no_classes_are_named():
    sets = given()
    sets["selection"]["label"] = sets["selection"]["label"] + 2
    with pytest.raises(DemurError, match="selection: label: expected"):
        demur.fit(POLICY, **sets)


def test_when_no_candidate_is_left_the_reasons_are_given():
    broken = noisy(400, 2)
    for name in ("logits", "features"):
        broken[name][::10, 0] = np.nan
    with pytest.raises(ValueError, match=r"nothing to choose novelty scores by.*msp: not finite on"):
        select(reference_of(noisy(400, 1)), reference_of(broken))


def test_features_are_judged_without_a_head_too():
    """Features that no last layer makes logits of: scores of features must not be refused for it."""
    chosen = select(reference_of(noisy(400, 1)), reference_of(noisy(400, 2)))
    assert {"knn_10", "mahalanobis", "msp"} <= {c.name for c in chosen.measured.candidates}


def test_no_candidate_takes_minutes_to_fit():
    wide = Reference({"features": np.zeros((4, 2048), np.float32)})
    assert "robust_mahalanobis" not in {c.name for c in candidates(wide)}
