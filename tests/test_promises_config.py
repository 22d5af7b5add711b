"""From the `promise:` block to a bundle that keeps it: every kind, every way, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import demur
from demur.detectors.promises import CalibrationRefused
from demur.monitor.config.document import parse
from demur.monitor.config.policy import PolicyConfig
from demur.monitor.errors import ConfigurationError
from demur.monitor.fit.plan import plan


def policy(promise, **more):
    return {
        "monitor": "promises",
        "signals": {"logits": 4},
        "scores": ["energy", "msp"],
        "rules": [{"judge": {"when": more.pop("when", "energy"), "promise": promise, **more}}],
    }


def rows(sample, count, seed, wrong=0.1):
    table = {k: v for k, v in sample(count, seed).items() if k != "features"}
    flip = np.random.default_rng([seed, 77]).random(count) < wrong
    return table | {"label": np.where(flip, (table["label"] + 1) % 4, table["label"])}


EVERY = [
    ({"refuse_good_at_most": 0.1, "confidence": 0.9, "by": "simes"}, "NOVEL", "at this and every other level at once"),
    (
        {"refuse_good_at_most": 0.1, "confidence": 0.9, "by": "asymptotic"},
        "NOVEL",
        "at this and every other level at once",
    ),
    ({"refuse_good_at_most": 0.1, "confidence": 0.9, "by": "split"}, "NOVEL", "for this bundle (n = 900)"),
    ({"refuse_good_at_most": 0.1, "confidence": 0.9, "by": "neyman_pearson"}, "NOVEL", "its power is not known"),
    ({"error_when_accepted_at_most": 0.2, "by": "sgr"}, "AMBIGUOUS", "at most 20.0 % are wrong"),
    ({"error_when_accepted_at_most": 0.2, "by": "fixed_sequence"}, "AMBIGUOUS", "at most 20.0 % are wrong"),
    (
        {"error_when_accepted_at_most": 0.2, "by": "fixed_sequence", "starts": 5},
        "AMBIGUOUS",
        "at most 20.0 % are wrong",
    ),
    ({"error_when_accepted_at_most": 0.2, "by": "learn_then_test"}, "AMBIGUOUS", "at most 20.0 % are wrong"),
    ({"wrong_and_accepted_at_most": 0.05}, "AMBIGUOUS", "are wrong and accepted by the whole policy, on average"),
    (
        {"wrong_and_accepted_at_most": 0.05, "confidence": 0.9},
        "AMBIGUOUS",
        "With 90 % confidence over the calibration draw",
    ),
    ({"wrong_and_accepted_at_most": 0.05, "confidence": 0.9, "by": "betting"}, "AMBIGUOUS", "are wrong and accepted"),
    ({"stable_at_contamination": 0.1}, "NOVEL", "Taking 10.0 % of the calibration data as anomalous"),
    ({"stable_at_contamination": 0.1, "tail_nats": 8}, "NOVEL", "below e^-8"),
]


@pytest.mark.parametrize(("promise", "reason", "says"), EVERY, ids=lambda x: str(x)[:60])
def test_every_promise_ends_in_a_bundle_that_keeps_it(sample, promise, reason, says):
    bundle = demur.fit(policy(promise), reference=rows(sample, 300, 1), calibration=rows(sample, 900, 2))
    rule = bundle.manifest.rules[0]
    assert says in rule.statement
    assert rule.promise == {**promise, "good": "id"}
    assert any(text.startswith("By theorem: judge, ") for text in bundle.manifest.statements)
    assert demur.calibrate(bundle).encode() == bundle.encode()
    verdicts = demur.Monitor.of(bundle).assess(logits=(fresh := rows(sample, 3000, 3))["logits"])
    at = verdicts.columns.index("energy")
    np.testing.assert_array_equal(~verdicts.accept, verdicts.scores[:, at] > rule.thresholds[0])
    assert not (~verdicts.accept).all()
    assert (~verdicts.accept).any() or "wrong_and" in next(iter(promise)) or "error" in next(iter(promise))
    assert reason in {r.partition(":")[0] for some in verdicts.reasons for r in some} | (
        {reason} if verdicts.accept.all() else set()
    )
    wrong = fresh["logits"].argmax(1) != fresh["label"]
    if "error_when_accepted_at_most" in promise:
        assert wrong[verdicts.accept].mean() < 0.22
    if "wrong_and_accepted_at_most" in promise:
        assert (wrong & verdicts.accept).mean() < 0.065
    if "refuse_good_at_most" in promise:
        assert (~verdicts.accept).mean() < 0.12


def test_outliers_set_no_threshold_and_report_power_with_an_interval(sample):
    promise = {"refuse_good_at_most": 0.1, "confidence": 0.9, "by": "neyman_pearson"}
    given = {"reference": rows(sample, 300, 1), "calibration": rows(sample, 900, 2)}
    outliers = {"logits": np.random.default_rng(5).normal(size=(200, 4)).astype(np.float32) * 0.3}
    without, with_them = demur.fit(policy(promise), **given), demur.fit(policy(promise), **given, outliers=outliers)
    assert with_them.manifest.rules[0].thresholds == without.manifest.rules[0].thresholds
    assert "Of the 200 labelled outliers" in with_them.manifest.rules[0].statement
    refused = ~demur.Monitor.of(with_them).assess(**outliers).accept
    assert f"outliers {100 * refused.mean():.1f} % are refused" in with_them.manifest.rules[0].statement
    assert demur.calibrate(with_them).encode() == with_them.encode()


def test_power_counts_one_row_of_each_outlier_group_and_group_rules_ask_for_groups(sample):
    promise = {"refuse_good_at_most": 0.1, "confidence": 0.9, "by": "neyman_pearson"}
    given = {"reference": rows(sample, 300, 1), "calibration": rows(sample, 900, 2)}
    logits = np.repeat(np.random.default_rng(6).normal(size=(50, 4)).astype(np.float32), 4, axis=0)
    logits += 0.01 * np.random.default_rng(7).normal(size=logits.shape).astype(np.float32)
    outliers = {"logits": logits, "group_id": np.arange(200) // 4}
    assert (
        "Of the 50 labelled outliers"
        in demur.fit(policy(promise), **given, outliers=outliers).manifest.rules[0].statement
    )
    given = {n: t | {"group_id": np.arange(len(t["label"])) // 3} for n, t in given.items()}
    by_group = policy(promise, unit="group")
    assert "Of the 50 labelled outliers" in demur.fit(by_group, **given, outliers=outliers).manifest.rules[0].statement
    with pytest.raises(ConfigurationError, match="outliers: expected group_id"):
        demur.fit(by_group, **given, outliers={"logits": logits})


def test_two_sided_scores_refuse_what_looks_too_good(sample):
    document = policy({"refuse_good_at_most": 0.1}, when="typical")
    document["scores"] = ["energy", {"typical": {"type": "two_sided", "of": ["energy"]}}]
    bundle = demur.fit(document, reference=rows(sample, 300, 1), calibration=rows(sample, 900, 2))
    fresh = rows(sample, 2000, 3)["logits"]
    monitor = demur.Monitor.of(bundle)
    assert 0.05 < (~monitor.assess(logits=fresh).accept).mean() < 0.15
    assert (~monitor.assess(logits=fresh * 4).accept).mean() > 0.9
    assert (~monitor.assess(logits=fresh * np.float32(0.05)).accept).mean() > 0.9


@pytest.mark.parametrize(
    ("promise", "says", "needed"),
    [
        ({"refuse_good_at_most": 0.01, "confidence": 0.9, "by": "simes"}, "by simes needs at least 460", 460),
        ({"refuse_good_at_most": 0.01, "confidence": 0.9, "by": "asymptotic"}, "by asymptotic needs at least", None),
        ({"wrong_and_accepted_at_most": 0.001}, "needs at least 999 rows, got 90", 999),
        ({"wrong_and_accepted_at_most": 0.01, "confidence": 0.9}, "needs at least 230 rows", 230),
        ({"wrong_and_accepted_at_most": 0.01, "confidence": 0.9, "by": "betting"}, "needs at least", None),
        (
            {"stable_at_contamination": 0.1},
            "needs at least 160 calibration rows, got 90; 17.8 % would work with 90",
            160,
        ),
        ({"error_when_accepted_at_most": 0.01, "by": "fixed_sequence"}, "would accept nothing", None),
        ({"error_when_accepted_at_most": 0.01, "by": "learn_then_test"}, "would accept nothing", None),
    ],
)
def test_what_ninety_rows_cannot_carry_is_refused_with_what_would_do(sample, promise, says, needed):
    given = {"reference": rows(sample, 300, 1), "calibration": rows(sample, 90, 2)}
    with pytest.raises(CalibrationRefused, match=says) as caught:
        demur.fit(policy(promise), **given)
    assert caught.value.rule == "judge"
    assert needed is None or caught.value.rows_needed == needed
    kind = next(iter(promise))
    if caught.value.supported is not None and not kind.startswith("error"):
        demur.fit(policy(promise | {kind: caught.value.supported}), **given)


@pytest.mark.parametrize(
    ("promise", "says"),
    [
        ({}, "exactly one of"),
        ({"refuse_good_at_most": 0.1, "stable_at_contamination": 0.1}, "exactly one of"),
        ({"refuse_good_at_most": 0.1, "by": "sgr"}, "by: sgr is no way of refuse_good_at_most; expected split, simes"),
        ({"refuse_good_at_most": 0.1, "by": "simes"}, "add a confidence"),
        ({"wrong_and_accepted_at_most": 0.1, "by": "betting"}, "add a confidence"),
        ({"stable_at_contamination": 0.1, "by": "split"}, "one way only"),
        ({"stable_at_contamination": 0.1, "confidence": 0.9}, "see tail_nats"),
        ({"stable_at_contamination": 0.6}, "less than 0.5"),
        (
            {"error_when_accepted_at_most": 0.1, "starts": 3},
            "`starts` belongs to error_when_accepted_at_most by fixed_sequence",
        ),
        ({"refuse_good_at_most": 0.1, "tail_nats": 8}, "`tail_nats` belongs to stable_at_contamination"),
        ({"wrong_and_accepted_at_most": 0.1, "good": "correct"}, "`good` belongs to refuse_good_at_most"),
        ({"refuse_good_at_most": 0.1, "by": "magic"}, "by"),
    ],
)
def test_promises_that_mean_nothing_are_refused_where_they_are_written(promise, says):
    with pytest.raises(ConfigurationError, match=says):
        parse(PolicyConfig, policy(promise), "monitor.yaml")


def test_slices_belong_to_refusal_promises():
    document = policy({"wrong_and_accepted_at_most": 0.1}, slice="predicted_class")
    with pytest.raises(ValueError, match="wrong_and_accepted_at_most is promised for the whole policy, not by slice"):
        plan(parse(PolicyConfig, document, "monitor.yaml"))
