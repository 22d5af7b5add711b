"""A fusion that learns from calibration labels: the rows that taught it never carry a promise, also when calibrated again."""

from __future__ import annotations

import numpy as np
import pytest

import demur
from demur.detectors.build import accepted
from demur.detectors.scores import FUSIONS, SCORES
from demur.monitor.bundle import selftest
from demur.monitor.fit.checks import ContractViolation
from demur.monitor.fit.taught import LEARNING


def rows(count, seed):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 4, count)
    logits = rng.normal(size=(count, 4)).astype(np.float32)
    logits[np.arange(count), label] += 2
    return {"logits": logits, "label": label}


def policy(seed=0, kind="failure"):
    return {
        "monitor": "taught",
        "seed": seed,
        "signals": {"logits": 4},
        "scores": ["energy", "msp", {"both": {"type": kind, "of": ["energy", "msp"]}}],
        "rules": [{"r": {"when": "both", "promise": {"refuse_good_at_most": 0.1}}}],
    }


@pytest.fixture(scope="module")
def calibration():
    return rows(600, 2)


@pytest.fixture(scope="module")
def learnt(calibration):
    return demur.fit(policy(), reference=rows(300, 1), calibration=calibration)


def test_other_folds_of_the_same_rows_are_refused(learnt, calibration):
    with pytest.raises(ContractViolation, match="rows that promises would come from taught a fusion"):
        demur.calibrate(learnt, config=policy(seed=1), calibration=calibration)


def test_the_same_table_and_new_rows_are_fine_and_the_memory_stays(learnt, calibration):
    assert demur.calibrate(learnt, calibration=calibration).encode() == learnt.encode()
    later = demur.calibrate(learnt, calibration=rows(600, 3))
    with pytest.raises(ContractViolation, match="taught"):
        demur.calibrate(later, config=policy(seed=1), calibration=calibration)


def boxes(seed):
    """400 boxes of 150 images; each seventh says no more than which class is at its limit."""
    made = rows(400, seed)
    limit = np.full((58, 4), -17.33, np.float32)
    limit[np.arange(58), made["label"][::7]] = 17.33
    made["logits"][::7] = limit
    image = np.sort(np.append(np.arange(150), np.random.default_rng(9).integers(0, 150, 250)))
    return {**made, "group_id": image + 1000 * seed}


def test_boxes_at_the_limit_of_their_logits_are_no_rows_that_taught():
    made = demur.fit(policy(), reference=rows(300, 1), calibration=boxes(2))
    assert demur.calibrate(made, calibration=boxes(2)).encode() == made.encode()
    assert demur.calibrate(made, calibration=boxes(3)).digest != made.digest
    with pytest.raises(ContractViolation, match="taught a fusion"):
        demur.calibrate(made, config=policy(seed=1), calibration=boxes(2))


def test_evaluation_on_rows_that_taught_says_so(learnt, calibration):
    found = demur.evaluate(learnt, calibration, bootstrap=0)
    assert any("240 of 600 rows taught a fusion where the model errs" in note for note in found.notes)
    assert not any("taught" in note for note in demur.evaluate(learnt, rows(100, 9), bootstrap=0).notes)


def test_a_fusion_that_learns_nothing_forbids_nothing(calibration):
    made = demur.fit(policy(kind="fused"), reference=rows(300, 1), calibration=calibration)
    assert demur.calibrate(made, config=policy(seed=1, kind="fused"), calibration=calibration).digest != made.digest


def test_fusions_are_the_scores_that_list_members():
    lists = {n for n, s in SCORES.items() if "of" in accepted(s) and "Sequence" in str(accepted(s)["of"].annotation)}
    assert lists == FUSIONS | {"early_stopped"}
    assert (selftest.FUSIONS, selftest.COUNTED) == (FUSIONS, "early_stopped")
    assert {"failure"} == LEARNING


def test_a_score_with_an_of_of_its_own_is_no_fusion(sample):
    for score in ("sirc", {"sirc": {"of": "entropy", "by": "l1"}}):
        document = {"monitor": "sirc", "signals": {"logits": 4, "features": 8}, "scores": [score]}
        document["rules"] = [{"r": {"when": "sirc", "promise": {"refuse_good_at_most": 0.1}}}]
        bundle = demur.fit(document, reference=sample(300, 1), calibration=sample(300, 2))
        assert demur.calibrate(bundle).encode() == bundle.encode()
