"""The share of untrusted boxes as an image's score: what it is, what is promised about it, and what a naive limit does."""

from __future__ import annotations

import numpy as np
import pytest

import demur
from demur.detectors.reason import Reason

ALPHA, LEVEL, DRAWS = 0.1, 0.05, 60
CONFIG = {
    "monitor": "share",
    "signals": {"logits": 2, "features": 4},
    "scores": [
        "max_logit",
        {"near": {"type": "knn", "bank": 200}},
        {"untrusted": {"type": "flagged", "of": ["max_logit", "near"], "level": LEVEL}},
    ],
    "rules": [
        {
            "crowd": {
                "when": "untrusted",
                "unit": "group",
                "aggregate": "mean",
                "promise": {"refuse_good_at_most": ALPHA},
            }
        }
    ],
    "empty_group": "accept",
}


def images(count, rng, start=0, shift=0.0):
    """One to eight boxes an image, which share what is odd about the image."""
    number = np.repeat(np.arange(count), rng.integers(1, 9, count))
    common = rng.normal(0, 1, (count, 1))[number]
    logits = rng.normal(6 - shift, 1, (len(number), 2)) + common
    features = rng.normal(shift, 1, (len(number), 4)) + common
    return {"logits": logits.astype("f4"), "features": features.astype("f4"), "group_id": number + start}


def fitted(rng):
    return demur.Monitor.of(demur.fit(CONFIG, reference=images(150, rng), calibration=images(200, rng, 1000)))


@pytest.fixture(scope="module")
def monitor():
    return fitted(np.random.default_rng(1))


def test_an_images_score_is_the_share_of_its_boxes_that_some_score_finds_unlikely(monitor):
    table = images(300, np.random.default_rng(2), shift=1.0)
    verdicts = monitor.assess(**table)
    small = (verdicts.p_values[:, :2] <= np.float32(LEVEL)).any(axis=1)
    share = [small[table["group_id"] == image].mean() for image in range(300)]
    np.testing.assert_allclose(verdicts.groups.scores[:, 0], share, rtol=1e-6)
    assert len(set(share)) > 5
    limit = monitor.engine.loaded.policy.rules[0].threshold[0]
    assert (verdicts.groups.accept == (np.float32(share) <= limit)).all()
    assert not verdicts.groups.accept.all()


def test_a_box_that_cannot_be_assessed_makes_its_image_invalid_and_no_box_is_no_share(monitor):
    table = images(3, np.random.default_rng(3))
    table["features"][table["group_id"] == 1, 0] = np.nan
    verdicts = monitor.assess(**table, groups=np.arange(4))
    assert [bool(verdicts.groups.reason_bits[i] & Reason.INVALID) for i in range(4)] == [False, True, False, False]
    assert verdicts.groups.accept[3]


def test_the_promise_on_images_is_kept_where_a_limit_on_boxes_is_not():
    """Over draws of reference and calibration: good images refused at most at alpha on average. An alarm for any flagged box,
    of scores that each flag one box in twenty, refuses far more of them.
    """
    rng = np.random.default_rng(0)
    refused, naive, strange = [], [], []
    for _ in range(DRAWS):
        drawn = fitted(rng)
        verdicts = drawn.assess(**images(400, rng))
        refused.append(1 - verdicts.groups.accept.mean())
        naive.append((verdicts.groups.scores[:, 0] > 0).mean())
        strange.append(1 - drawn.assess(**images(100, rng, shift=3.0)).groups.accept.mean())
    error = np.std(refused, ddof=1) / np.sqrt(DRAWS)
    assert np.mean(refused) <= ALPHA + 3 * error
    assert np.mean(refused) > ALPHA / 3
    assert np.mean(naive) > ALPHA + 3 * error
    assert np.mean(strange) > 0.7


@pytest.mark.parametrize(
    ("hyper", "words"),
    [
        ({"of": []}, "must list other scores"),
        ({"of": ["max_logit", "max_logit"]}, "different"),
        ({"of": ["max_logit"], "level": 0}, "level"),
        ({"of": ["max_logit"], "level": 1}, "every row"),
        ({"of": ["max_logit"], "level": True}, "level"),
        ({"of": "max_logit"}, "must list"),
    ],
)
def test_what_cannot_be_meant_is_refused(hyper, words):
    rng = np.random.default_rng(0)
    document = {**CONFIG, "scores": [*CONFIG["scores"][:2], {"untrusted": {"type": "flagged", **hyper}}]}
    with pytest.raises(ValueError, match=words):
        demur.fit(document, reference=images(60, rng), calibration=images(100, rng, 1000))


def test_where_too_many_good_images_have_doubtful_boxes_alone_the_rule_never_refuses():
    """As its page warns: of images with one box, three in ten reach a share of 1."""
    rng = np.random.default_rng(5)

    def single(count, start, shift=0.0):
        logits, features = rng.normal(6 - shift, 1, (count, 2)), rng.normal(shift, 1, (count, 4))
        return {"logits": logits.astype("f4"), "features": features.astype("f4"), "group_id": np.arange(count) + start}

    found = {}
    for level in (0.3, 0.02):
        flagged = {"untrusted": {"type": "flagged", "of": ["max_logit", "near"], "level": level}}
        document = {**CONFIG, "scores": [*CONFIG["scores"][:2], flagged]}
        drawn = demur.Monitor.of(demur.fit(document, reference=single(150, 0), calibration=single(300, 1000)))
        found[level] = float(drawn.assess(**single(200, 0, shift=5.0)).groups.accept.mean())
    assert found[0.3] == 1
    assert found[0.02] < 0.1
