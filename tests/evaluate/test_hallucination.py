"""Hallucinations counted by hand, matching against every order of greed, and what cannot be counted."""

from __future__ import annotations

import json
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import demur
from demur.monitor.cli.main import app
from demur.monitor.evaluate.errors import EvaluationError
from demur.monitor.evaluate.filtering import threshold
from demur.monitor.evaluate.hallucination import hallucinations
from demur.monitor.evaluate.matching import Objects, labelled, matched, overlaps


def iou(a, b):
    """Of two boxes, by the sides of their common part."""
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(w, 0) * max(h, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def greedy(boxes, scores, labels, truth, classes, least):
    """Detections by falling score, each taking the best object left."""
    found, free = [-1] * len(boxes), set(range(len(truth)))
    for row in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        fits = [(-iou(boxes[row], truth[m]), m) for m in free if classes[m] == labels[row]]
        if fits and -min(fits)[0] >= least:
            found[row] = min(fits)[1]
            free.remove(found[row])
    return found


corner, side = st.integers(0, 12), st.integers(1, 8)
box = st.tuples(corner, corner, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


@given(
    st.lists(st.tuples(box, st.integers(0, 5), st.integers(0, 1)), max_size=7),
    st.lists(st.tuples(box, st.integers(0, 1)), max_size=5),
    st.sampled_from([0.1, 0.5, 0.75]),
)
def test_matching_is_the_greedy_one(found, objects, least):
    boxes, scores, labels = [f[0] for f in found], [f[1] / 5 for f in found], [f[2] for f in found]
    truth, classes = [o[0] for o in objects], [o[1] for o in objects]
    held = Objects(np.array(truth, np.float64).reshape(-1, 4), np.array(classes, np.int64))
    rows = np.array(boxes, np.float32).reshape(-1, 4)
    got = matched(rows, np.array(scores, np.float32), np.array(labels, np.int64), held, least)
    assert got.tolist() == greedy(boxes, scores, labels, truth, classes, least)


def test_overlaps_by_hand():
    """A quarter shared of two squares of 4: 1 / 7; apart: 0; a box of no area: 0, also with itself."""
    a = np.array([[0, 0, 2, 2], [5, 5, 5, 9]], np.float32)
    b = np.array([[1, 1, 3, 3], [0, 0, 2, 2], [5, 5, 5, 9]], np.float32)
    np.testing.assert_allclose(overlaps(a, b), [[1 / 7, 1, 0], [0, 0, 0]])


def test_an_overlap_of_exactly_the_least_is_enough_and_less_is_not():
    half = Objects(np.array([[0, 0, 2, 1]], np.float64), np.zeros(1, np.int64))
    box, one = np.array([[0, 0, 1, 1]], np.float32), np.zeros(1)
    assert matched(box, one, half.labels, half, 0.5).tolist() == [0]
    assert matched(box, one, half.labels, half, 0.501).tolist() == [-1]


def test_objects_of_another_shape_are_refused():
    with pytest.raises(EvaluationError, match=r"\(M, 4\)"):
        Objects(np.zeros((2, 5)), np.zeros(2, np.int64))


def test_a_table_of_boxes_is_labelled_with_what_is_in_the_images():
    """Image 7: a hit, a second box on the same object, the right place by the wrong class. Image 8: labelled nowhere."""
    square = [0, 0, 4, 4]
    columns = {
        "box": np.array([[*square, 1], [*square, 1], [8, 8, 12, 12, 1], [*square, 1], [np.nan] * 5], np.float32),
        "logits": np.array([[2, 0], [1, 0], [1, 0], [2, 0], [np.nan] * 2], np.float32),
        "group_id": np.array([7, 7, 7, 8, 8]),
        "empty_groups": np.array([3]),
    }
    objects = {7: Objects(np.array([square, [8, 8, 12, 12]], np.float32), np.array([0, 1]))}
    found = labelled(columns, objects)
    assert found["loss"].tolist() == [0, 1, 1, 1]
    assert found["label"].tolist() == found["prediction"].tolist() == [0, 0, 0, 0]
    assert found["group_id"].tolist() == [7, 7, 7, 8]
    assert found["empty_groups"].tolist() == [3]
    with pytest.raises(EvaluationError, match="expected box"):
        labelled({"logits": columns["logits"], "group_id": columns["group_id"]}, objects)
    with pytest.raises(EvaluationError, match="logits or prediction"):
        labelled({"box": columns["box"], "group_id": columns["group_id"]}, objects)


@pytest.mark.parametrize(
    ("risks", "keep", "want"),
    [(range(1, 21), 0.95, 19), (range(1, 21), 0.951, 20), ([1, 2, 3], 1.0, 3), ([1, 1, 1, 9], 0.5, 1), ([5], 0.01, 5)],
)
def test_the_threshold_keeps_at_least_the_share(risks, keep, want):
    risk = np.array(list(risks), np.float64)
    assert threshold(risk, np.ones(len(risk)), keep) == want
    assert math.isnan(threshold(risk, np.zeros(len(risk)), keep))


def test_a_threshold_counts_weights_and_keeps_no_broken_box():
    """Of 2 + 1 + 1 detections three quarters lie at or below 2; nine tenths would need the broken one."""
    risk, weight = np.array([1, 2, math.inf]), np.array([2.0, 1, 1])
    assert [threshold(risk, weight, keep) for keep in (0.5, 0.75, 0.9)] == [1, 2, 2]
    assert threshold(risk[2:], weight[2:], 0.5) == -math.inf


@pytest.fixture(scope="module")
def bundle():
    """The score is the negative of the largest logit; the policy refuses at most a tenth of good rows."""
    rng = np.random.default_rng(0)
    config = {
        "monitor": "boxes",
        "signals": {"logits": 2},
        "scores": ["max_logit"],
        "rules": [{"novel": {"when": "max_logit", "promise": {"refuse_good_at_most": 0.1}}}],
    }
    tables = [{"logits": rng.normal(10, 1, (200, 2)).astype(np.float32)} for _ in range(2)]
    return demur.fit(config, reference=tables[0], calibration=tables[1])


def table(confidences, images, **more):
    logits = np.stack([np.array(confidences, np.float32), np.full(len(confidences), -50, np.float32)], axis=1)
    return {"logits": logits, "group_id": np.array(images), **{k: np.array(v) for k, v in more.items()}}


# 20 true detections of confidence 1..20 and two false ones: 95 % are kept from confidence 2 on.
KNOWN = table([*range(1, 21), 0.5, 30], [*range(20), 3, 4], loss=[0] * 20 + [1, 1])
UNKNOWN = table([1.5, 2, 7, 0, 40, 3], [7, 7, 8, 9, 9, 11], loss=[1, 1, 1, 1, 0, 1])


def test_counts_by_hand(bundle):
    """Image 9 has a labelled known object, image 11 one that a person saw; left are 1.5, 2 and 7, of which two stay."""
    found = hallucinations(bundle, KNOWN, UNKNOWN, confirmed=[11], bootstrap=200)
    assert (found.images_given, found.images_removed, found.removed_by_label, found.removed_by_person) == (4, 2, 1, 1)
    assert (found.boxes_removed, found.true_detections) == (3, 20)
    assert found.before.value == 3
    score, policy = found.filters
    assert (score.name, score.threshold, score.kept_true.value, score.after.value) == ("max_logit", -2.0, 0.95, 2)
    assert score.reduction.value == pytest.approx(1 / 3)
    assert score.after.low <= 2 <= score.after.high
    assert policy.name == "policy"
    assert (policy.threshold, policy.after.value) == (None, 0)
    assert found == hallucinations(bundle, KNOWN, UNKNOWN, confirmed=["11"], bootstrap=200)


def test_intervals_resample_images_not_boxes(bundle):
    """Two images, one with every hallucination: resamples have 0, 12 or 24 of them."""
    unknown = table([5] * 12 + [-9], [1] * 12 + [2])
    found = hallucinations(bundle, KNOWN, unknown, bootstrap=400)
    assert found.before.value == 13
    assert (found.before.low, found.before.high) == (2, 24)


def test_a_broken_box_is_never_kept(bundle):
    unknown = table([np.nan, np.inf, 5], [1, 1, 2])
    found = hallucinations(bundle, KNOWN, unknown, bootstrap=0)
    assert found.before.value == 3
    assert found.filters[0].after.value == 1
    assert found.filters[0].after.low is None


def test_more_broken_true_detections_than_may_be_lost_are_told_not_hidden(bundle):
    """Two of four cannot be assessed: the highest threshold there is keeps half, and hallucinations below it are counted."""
    known = table([5, 7, np.nan, np.inf], [1, 2, 3, 4], loss=[0] * 4)
    found = hallucinations(bundle, known, table([4, 6, np.nan], [1, 1, 2]), bootstrap=0)
    score = found.filters[0]
    assert (score.threshold, score.kept_true.value, score.after.value) == (-5.0, 0.5, 1)
    json.dumps(found.document(), allow_nan=False)


def test_boxes_of_refused_images_are_gone_with_the_policy_that_refuses_them():
    """Images of two boxes; the mean refuses an image whose second box is bad, its first box is accepted by itself."""
    rng = np.random.default_rng(0)
    config = {
        "monitor": "boxes",
        "signals": {"logits": 2},
        "scores": ["max_logit"],
        "rules": [
            {"novel": {"when": "max_logit", "promise": {"refuse_good_at_most": 0.05}}},
            {"strange": {"when": "max_logit", "unit": "group", "aggregate": "mean", "promise": {"refuse_good_at_most": 0.05}}},
        ],
    }  # fmt: skip
    images = np.repeat(np.arange(150), 2)
    tables = [{"logits": rng.normal(10, 1, (300, 2)).astype(np.float32), "group_id": images} for _ in range(2)]
    fitted = demur.fit(config, reference=tables[0], calibration=tables[1])
    known = table([10, 10, 10, -20, 10, -20], [1, 1, 2, 2, 3, 3], loss=[0, 0, 0, 1, 0, 0])
    found = hallucinations(fitted, known, table([10, -20, 10, 10], [1, 1, 2, 2]), bootstrap=100)
    boxes, images_too = found.filters[-2:]
    assert [f.name for f in (boxes, images_too)] == ["policy", "policy, images too"]
    assert (boxes.kept_true.value, boxes.after.value) == (4 / 5, 3)
    assert (images_too.kept_true.value, images_too.after.value) == (2 / 5, 2)


def test_rows_that_the_scores_were_fitted_on_are_told(bundle):
    rng = np.random.default_rng(0)
    seen = rng.normal(10, 1, (200, 2)).astype(np.float32)  # as `bundle` was given
    known = {"logits": seen, "group_id": np.arange(200), "loss": np.zeros(200, np.int64)}
    found = hallucinations(bundle, known, UNKNOWN, bootstrap=0)
    assert found.notes == (
        "known: 200 of 200 rows were in the reference set that the scores were fitted on; figures are optimistic",
    )
    assert hallucinations(bundle, KNOWN, UNKNOWN, bootstrap=0).notes == ()


def test_many_boxes_are_resampled_without_a_table_of_boxes_by_draws(bundle):
    """60,000 boxes by 1,000 draws would be half a gigabyte; a few numbers a box are some megabytes."""
    rng = np.random.default_rng(0)
    known = table(rng.normal(10, 2, 60_000), rng.integers(0, 500, 60_000), loss=np.zeros(60_000, np.int64))
    tracemalloc.start()
    try:
        found = hallucinations(bundle, known, UNKNOWN, bootstrap=300)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 60_000 * 300 * 8 / 4
    assert found.filters[0].kept_true.low >= 0.95


def test_nothing_left_is_said_and_not_divided_by(bundle):
    found = hallucinations(bundle, KNOWN, table([5], [1], loss=[0]), bootstrap=100)
    assert found.before.value == 0
    assert math.isnan(found.filters[0].reduction.value)
    json.dumps(found.document(), allow_nan=False)


@pytest.mark.parametrize(
    ("known", "unknown", "more", "words"),
    [
        ({"logits": KNOWN["logits"]}, UNKNOWN, {}, "known: expected group_id"),
        (KNOWN, {"logits": UNKNOWN["logits"]}, {}, "unknown: expected group_id"),
        (table([1, 2], [1, 2]), UNKNOWN, {}, "expected loss or label"),
        (table([1, 2], [1, 2], loss=[1, 1]), UNKNOWN, {}, "expected true detections"),
        (KNOWN, UNKNOWN, {"confirmed": [77]}, "77"),
        (KNOWN, UNKNOWN, {"keep": 0.0}, "keep"),
    ],
)
def test_what_cannot_be_counted_is_refused(bundle, known, unknown, more, words):
    with pytest.raises(EvaluationError, match=words):
        hallucinations(bundle, known, unknown, **more)


def test_the_command_prints_and_writes_the_same(bundle, tmp_path):
    bundle.save(tmp_path / "boxes.demur")
    np.savez(tmp_path / "known.npz", **KNOWN)
    np.savez(tmp_path / "unknown.npz", **UNKNOWN)
    words = [str(tmp_path / name) for name in ("boxes.demur", "known.npz", "unknown.npz")]
    review, seen, out = (str(tmp_path / name) for name in ("review.txt", "seen.txt", "out.json"))
    (tmp_path / "seen.txt").write_text("11\n")
    answer = CliRunner().invoke(
        app, ["hallucinations", *words, "--review", review, "--confirmed", seen, "--json", out], env={"COLUMNS": "200"}
    )
    assert answer.exit_code == 0, answer.output
    assert "3 hallucinations on unknown images; 2 of 4 images" in answer.output
    assert (tmp_path / "review.txt").read_text().split() == ["7", "9", "8", "11"]
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["filters"][0]["after"]["value"] == 2
    assert written["kind"] == "demur.hallucinations"


def test_images_named_with_spaces_go_from_the_review_to_the_confirmed(bundle, tmp_path):
    bundle.save(tmp_path / "boxes.demur")
    np.savez(tmp_path / "known.npz", **KNOWN)
    np.savez(tmp_path / "unknown.npz", **table([1.5, 2, 7], ["a street.png", "b", "b"], loss=[1, 1, 1]))
    words = [str(tmp_path / name) for name in ("boxes.demur", "known.npz", "unknown.npz")]
    looked = tmp_path / "looked.txt"
    run = CliRunner().invoke
    assert run(app, ["hallucinations", *words, "--bootstrap", "0", "--review", str(looked)]).exit_code == 0
    assert looked.read_text() == "b\na street.png\n"
    looked.write_text("a street.png\n\n")
    out = str(tmp_path / "out.json")
    answer = run(app, ["hallucinations", *words, "--bootstrap", "0", "--confirmed", str(looked), "--json", out])
    assert answer.exit_code == 0, answer.output
    written = json.loads((tmp_path / "out.json").read_text())
    assert (written["removed_by_person"], written["before"]["value"]) == (1, 2)
