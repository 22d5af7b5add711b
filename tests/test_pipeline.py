"""From data to a bundle: what is promised is what is served."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import demur
from demur.detectors.promises.promise import CalibrationRefused
from demur.monitor.config.document import parse
from demur.monitor.config.policy import PolicyConfig
from demur.monitor.errors import ConfigurationError
from demur.monitor.fit.offline import assess_table
from demur.monitor.fit.table import SignalsTable


def changed(policy, **keys):
    return {**copy.deepcopy(policy), **keys}


def test_fit_is_reproducible_to_the_byte(policy, sample, bundle):
    again = demur.fit(policy, reference=sample(400, 1), calibration=sample(600, 2))
    assert again.encode() == bundle.encode()


def test_refuses_about_alpha_of_good_rows_and_nearly_all_far_ones(bundle, sample):
    monitor = demur.Monitor.of(bundle)
    good, far = sample(4000, 11), sample(500, 12, shift=3.0)
    hits = {
        k: monitor.assess(logits=s["logits"], features=s["features"]).rule_hits & 1
        for k, s in {"good": good, "far": far}.items()
    }
    assert 0.01 < hits["good"].mean() < 0.10
    assert hits["far"].mean() > 0.9


def test_p_values_and_thresholds_say_the_same(bundle, sample):
    verdicts = demur.Monitor.of(bundle).assess(**{k: v for k, v in sample(3000, 5).items() if k != "label"})
    at = verdicts.columns.index("fused")
    np.testing.assert_array_equal(verdicts.p_values[:, at] <= np.float32(0.05), (verdicts.rule_hits & 1) == 1)


def test_calibrating_again_on_stored_scores_changes_nothing(bundle):
    assert demur.calibrate(bundle).encode() == bundle.encode()


def test_a_new_promise_needs_no_data(bundle, policy):
    looser = changed(policy)
    looser["rules"][0]["novel"]["promise"]["refuse_good_at_most"] = 0.2
    made = demur.calibrate(bundle, config=looser)
    assert made.digest != bundle.digest
    assert made.manifest.rules[0].thresholds[0] < bundle.manifest.rules[0].thresholds[0]
    assert made.manifest.policy_digest != bundle.manifest.policy_digest


def test_calibrate_refuses_other_scores(bundle, policy):
    other = changed(policy, scores=["msp"], rules=[{"novel": {"when": "msp", "promise": {"refuse_good_at_most": 0.1}}}])
    with pytest.raises(ConfigurationError, match="fit again"):
        demur.calibrate(bundle, config=other)


def test_calibrate_refuses_rows_the_scores_were_fitted_on(bundle, sample):
    with pytest.raises(demur.DemurError, match="reference set"):
        demur.calibrate(bundle, calibration=sample(400, 1))


def test_fit_refuses_shared_rows(policy, sample):
    table = sample(400, 1)
    with pytest.raises(demur.DemurError, match=r"shared|share"):
        demur.fit(policy, reference=table, calibration=table)


def test_a_promise_the_rows_cannot_carry_is_refused_with_what_would_work(policy, sample):
    strict = changed(policy)
    strict["rules"][0]["novel"]["promise"]["refuse_good_at_most"] = 0.0001
    with pytest.raises(CalibrationRefused, match="9999") as caught:
        demur.fit(strict, reference=sample(400, 1), calibration=sample(600, 2))
    assert caught.value.rule == "novel"
    assert caught.value.rows_needed == 9999


def test_probabilities_passed_as_logits_are_refused(policy, sample):
    reference, calibration = sample(400, 1), sample(600, 2)
    for table in (reference, calibration):
        e = np.exp(table["logits"] - table["logits"].max(1, keepdims=True))
        table["logits"] = e / e.sum(1, keepdims=True)
    with pytest.raises(demur.DemurError, match="probabilit"):
        demur.fit(policy, reference=reference, calibration=calibration)


def test_groups_are_judged_by_one_number_each(sample):
    policy = {
        "monitor": "boxes",
        "signals": {"logits": 4},
        "scores": ["energy"],
        "rules": [
            {
                "unknown_object": {
                    "when": "energy",
                    "unit": "group",
                    "aggregate": "max",
                    "promise": {"refuse_good_at_most": 0.1},
                }
            }
        ],
    }

    def boxes(seed, shift=0.0):
        table = sample(1200, seed, shift)
        return {"logits": table["logits"], "label": table["label"], "group_id": np.repeat(np.arange(300), 4)}

    bundle = demur.fit(policy, reference=boxes(1), calibration=boxes(2))
    assert "300 groups" in bundle.manifest.rules[0].statement
    verdicts = assess_table(demur.Monitor.of(bundle), SignalsTable.from_arrays(**boxes(3)))
    refused = ~verdicts.groups.accept
    assert 0.04 < refused.mean() < 0.18
    highest = verdicts.scores[:, 0].reshape(300, 4).max(1)
    np.testing.assert_array_equal(verdicts.groups.scores[:, 0], highest)
    assert verdicts.accept.all()  # a group rule judges groups


def test_promises_by_predicted_class_fall_back_and_say_so(sample):
    policy = {
        "monitor": "sliced",
        "signals": {"logits": 4},
        "scores": ["energy"],
        "rules": [{"novel": {"when": "energy", "slice": "predicted_class", "promise": {"refuse_good_at_most": 0.1}}}],
    }
    calibration = sample(600, 2)
    predicted = calibration["logits"].argmax(1)
    keep = (predicted != 3) | (np.cumsum(predicted == 3) <= 5)
    bundle = demur.fit(policy, reference=sample(400, 1), calibration={n: a[keep] for n, a in calibration.items()})
    assert bundle.manifest.rules[0].pooled == [False, False, False, True]
    verdicts = demur.Monitor.of(bundle).assess(logits=sample(2000, 4)["logits"])
    rare = sample(2000, 4)["logits"].argmax(1) == 3
    np.testing.assert_array_equal(verdicts.pooled == 1, rare)
    pooled_hit = int(np.flatnonzero(rare & ~verdicts.accept)[0])
    assert "pooled table" in verdicts.reasons[pooled_hit][0]


def test_the_contract_travels(bundle):
    names = {s.name: (s.width, s.kind) for s in bundle.manifest.signals}
    assert names == {"logits": (4, "logits"), "features": (8, "features")}
    assert bundle.manifest.model["version"] == "7"
    assert all(len(bundle.manifest.digests[k]) == 64 for k in ("reference", "calibration"))


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (
            {
                "monitor": "x",
                "signals": {"logits": 3},
                "scores": ["msp"],
                "rules": [{"a": {"when": "mps", "promise": {"refuse_good_at_most": 0.1}}}],
            },
            "no score is named 'mps'",
        ),
        (
            {
                "monitor": "x",
                "signals": {"logits": 3},
                "scores": ["msp"],
                "rules": [{"a": {"when": "msp", "promise": {"refuse_good_at_most": 5}}}],
            },
            "got 5",
        ),
        (
            {
                "monitor": "x",
                "signals": {"logits": 3},
                "scores": ["msp"],
                "rules": [{"a": {"when": "msp", "promise": {}}}],
            },
            "exactly one",
        ),
        (
            {
                "monitor": "x",
                "signals": {"logits": 3},
                "scores": ["msp"],
                "rules": [{"a": {"when": "msp", "promise": {"refuse_good_at_most": 0.1}}}],
                "thresold": 1,
            },
            "thresold",
        ),
        ({"monitor": "x y", "signals": {}, "scores": [], "rules": []}, "monitor"),
    ],
)
def test_a_wrong_policy_says_where(document, says):
    with pytest.raises(ConfigurationError, match=says):
        parse(PolicyConfig, document, "monitor.yaml")


@pytest.mark.parametrize(
    ("promise", "grouped", "by_p"),
    [
        ({"refuse_good_at_most": 0.1}, False, True),
        ({"refuse_good_at_most": 0.1, "good": "correct"}, False, True),
        ({"refuse_good_at_most": 0.1, "confidence": 0.9}, False, False),
        ({"refuse_good_at_most": 0.1}, True, False),
    ],
)
def test_a_reason_names_the_p_value_only_where_it_decides(sample, promise, grouped, by_p):
    """A tolerance limit is stricter than its level, and weighed rows have other thresholds: there the score decides."""
    policy = {
        "monitor": "m",
        "signals": {"logits": 4},
        "scores": ["energy"],
        "rules": [{"novel": {"when": "energy", "promise": promise}}],
    }

    def rows(seed):
        table = {k: v for k, v in sample(900, seed).items() if k != "features"}
        table["label"] = np.where(
            np.random.default_rng(seed).random(900) < 0.1, (table["label"] + 1) % 4, table["label"]
        )
        return table | ({"group_id": np.arange(900) // 3} if grouped else {})

    bundle = demur.fit(policy, reference=rows(1), calibration=rows(2))
    assert demur.calibrate(bundle).encode() == bundle.encode()
    verdicts = demur.Monitor.of(demur.Bundle.parse(bundle.encode())).assess(logits=sample(3000, 5)["logits"])
    hit = verdicts.rule_hits == 1
    assert ("refuses at p <= 0.1" in verdicts.reasons[int(np.flatnonzero(hit)[0])][0]) == by_p
    if by_p:
        np.testing.assert_array_equal(hit, verdicts.p_values[:, 0] <= np.float32(0.1))
    else:
        np.testing.assert_array_equal(hit, verdicts.scores[:, 0] > bundle.manifest.rules[0].thresholds[0])
        assert "refuses above" in verdicts.reasons[int(np.flatnonzero(hit)[0])][0]
