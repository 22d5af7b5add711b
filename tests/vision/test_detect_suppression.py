"""Which boxes remain, which go when one is refused, and what a client with its own suppression sees then."""

from __future__ import annotations

import time

import numpy as np
import pytest

from demur.adapters.models.detection import Detector
from demur.adapters.models.detection.suppression import cluster, suppressed
from demur.monitor.config.detection import DetectionConfig
from demur.monitor.errors import InvalidObservation
from tests.vision import clients

hypothesis = pytest.importorskip("hypothesis")  # not where PyTorch is
given, settings, st = hypothesis.given, hypothesis.settings, hypothesis.strategies

F = np.float32
SIDE = 64


def detector(layout="yolov8", classes=2, **more):
    return Detector(DetectionConfig(layout=layout, classes=classes, image=(SIDE, SIDE), **{"iou": 0.5, **more}))


# Few places and few scores: overlaps, ties and chains are common. Overlaps of these boxes are never within 1e-4 of 0.5.
centre, size, score = st.integers(3, 14), st.integers(2, 7), st.integers(0, 20)
candidate = st.tuples(centre, centre, size, size, score, score)


def tensor_of(candidates):
    """YOLOv8's layout, (1, 6, A); class scores in twentieths."""
    rows = np.array(candidates, F).reshape(-1, 6)
    rows[:, :4] *= 4
    rows[:, 4:] /= 20
    return np.ascontiguousarray(rows.T[None])


def rows_of(kept):
    return [(one[1], *one[2]) for one in kept]


def decoded(seen):
    return [(int(label), *box) for label, box in zip(seen.labels, seen.boxes.tolist(), strict=True)]


@settings(max_examples=150)
@given(st.lists(candidate, max_size=14), st.booleans())
def test_what_remains_is_what_a_client_keeps(candidates, class_wise):
    tensor = tensor_of(candidates)
    seen = detector(class_wise=class_wise)({"output0": tensor})
    assert decoded(seen) == rows_of(clients.yolov8(tensor[0], 0.25, 0.5, class_wise))


@settings(max_examples=150)
@given(st.lists(candidate, max_size=14), st.integers(0, 2**14), st.booleans())
def test_a_client_sees_exactly_the_accepted_boxes(candidates, bits, class_wise):
    """Candidates that a refused box had suppressed would otherwise be promoted by the client's own suppression."""
    tensor = tensor_of(candidates)
    seeing = detector(class_wise=class_wise)
    seen = seeing({"output0": tensor})
    refused = np.array([bool(bits >> i & 1) for i in range(len(seen))], np.bool_)
    made = seeing.without({"output0": tensor}, refused)["output0"]
    accepted = [row for row, gone in zip(decoded(seen), refused, strict=True) if not gone]
    assert rows_of(clients.yolov8(made[0], 0.25, 0.5, class_wise)) == accepted
    assert np.array_equal(made[:, :4], tensor[:, :4])
    assert ((made == tensor) | (made == 0)).all()


def test_a_box_of_the_floor_itself_is_judged_because_some_clients_show_it():
    """0.25 is a float16 too; the client that compares strictly sees the other box alone, whatever was refused."""
    tensor = tensor_of([(8, 8, 4, 4, 5, 0), (14, 14, 2, 2, 6, 0), (3, 14, 2, 2, 4, 0)])
    seen = detector()({"output0": tensor})
    np.testing.assert_allclose(seen.scores, [0.3, 0.25])
    made = detector().without({"output0": tensor}, np.array([False, True]))["output0"]
    assert len(clients.yolov8(made[0], 0.25, 0.5)) == 1
    assert len(detector(floor=0)({"output0": 0 * tensor})) == 0


@settings(max_examples=80)
@given(st.lists(candidate, max_size=14), st.integers(0, 2**14), st.sampled_from([0.3, 0.6, 0.8]))
def test_a_client_of_another_overlap_never_sees_a_refused_place(candidates, bits, iou):
    tensor = tensor_of(candidates)
    seeing = detector()
    seen = seeing({"output0": tensor})
    refused = np.array([bool(bits >> i & 1) for i in range(len(seen))], np.bool_)
    made = seeing.without({"output0": tensor}, refused)["output0"]
    rows = decoded(seen)
    accepted = [r for r, gone in zip(rows, refused, strict=True) if not gone]
    for label, *box in rows_of(clients.yolov8(made[0], 0.25, iou)):
        near = [r for r, gone in zip(rows, refused, strict=True) if gone and r[0] == label]
        assert (label, *box) in accepted or all(clients.overlap(box, r[1:]) <= 0.5 for r in near)


def test_without_the_cluster_the_next_candidate_would_be_promoted():
    """What the property above protects from: two boxes on one object, the upper one refused."""
    tensor = tensor_of([(8, 8, 4, 4, 18, 0), (8, 8, 4, 5, 16, 0), (14, 14, 2, 2, 10, 0)])
    alone = tensor.copy()
    alone[0, 4:, 0] = 0
    assert len(clients.yolov8(alone[0], 0.25, 0.5)) == 2
    made = detector().without({"output0": tensor}, np.array([True, False]))["output0"]
    assert [one[3] for one in clients.yolov8(made[0], 0.25, 0.5)] == [2]


def scattered(rng, width, count=60):
    rows = rng.uniform(0, 1, (1, count, width)).astype(F)
    rows[..., :2] *= SIDE
    rows[..., 2:4] = rows[..., 2:4] * 20 + 4
    return rows


def queries(rng, width):
    return {
        "logits": rng.normal(-1, 2, (1, 20, width)).astype(F),
        "pred_boxes": rng.uniform(0.1, 0.9, (1, 20, 4)).astype(F),
    }


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "layout", ["yolov5", "yolox", "detr", "rt_detr", "yolo_end_to_end", "torchvision", "tensorflow"]
)
def test_refused_boxes_are_gone_from_every_layout_and_nothing_else_is(layout, seed):
    rng = np.random.default_rng(seed)
    tensors, client = WORLDS[layout](rng)
    seeing = detector(layout, classes=3)
    seen = seeing(tensors)
    assert len(seen) > 3
    assert decoded_near(seen, client(tensors))
    refused = rng.random(len(seen)) < 0.4
    made = seeing.without(tensors, refused)
    assert decoded_near(seen.take(~refused), client(made))
    assert {n: (a.shape, a.dtype) for n, a in made.items()} == {n: (a.shape, a.dtype) for n, a in tensors.items()}
    same = seeing.without(tensors, np.zeros(len(seen), np.bool_))
    assert all(same[name].tobytes() == array.tobytes() for name, array in tensors.items())


def decoded_near(seen, kept):
    assert seen.labels.tolist() == [one[1] for one in kept]
    np.testing.assert_allclose(seen.boxes, np.array([one[2] for one in kept]).reshape(-1, 4), rtol=1e-4, atol=1e-4)
    return True


def yolov5_world(rng):
    return {"output0": scattered(rng, 8)}, lambda t: clients.yolov5(t["output0"][0], 0.25, 0.5)


def yolox_world(rng):
    rows = scattered(rng, 8, 64 + 16 + 4)
    rows[..., :4] = rng.uniform(0, 1, rows[..., :4].shape)
    return {"output": rows}, lambda t: clients.yolox(t["output"][0], 0.25, 0.5, SIDE)


def detr_world(rng):
    given = queries(rng, 4)
    return given, lambda t: clients.detr(t["logits"][0], t["pred_boxes"][0], 0.25, SIDE, SIDE)


def rt_detr_world(rng):
    return queries(rng, 3), lambda t: clients.rt_detr(t["logits"][0], t["pred_boxes"][0], 0.25, SIDE, SIDE, 3)


def chosen(rng):
    corner = rng.uniform(0, 30, (20, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 30, (20, 2))], axis=1).astype(F)
    return boxes, np.sort(rng.uniform(0, 1, 20).astype(F))[::-1].copy(), rng.integers(0, 3, 20)


def shown(boxes, scores, labels):
    rows = zip(scores.tolist(), labels.tolist(), boxes.tolist(), strict=True)
    return [(s, int(c), tuple(b)) for s, c, b in rows if s > 0.25]


def end_to_end_world(rng):
    boxes, scores, labels = chosen(rng)
    rows = np.concatenate([boxes, scores[:, None], labels[:, None]], axis=1).astype(F)[None]
    return {"output0": rows}, lambda t: shown(t["output0"][0, :, :4], t["output0"][0, :, 4], t["output0"][0, :, 5])


def torchvision_world(rng):
    boxes, scores, labels = chosen(rng)
    given = {"boxes": boxes, "scores": scores, "labels": labels + 1}
    return given, lambda t: shown(t["boxes"], t["scores"], t["labels"] - 1)


def tensorflow_world(rng):
    boxes, scores, labels = chosen(rng)
    given = {
        "detection_boxes": boxes[None][..., [1, 0, 3, 2]] / F(SIDE),
        "detection_scores": scores[None],
        "detection_classes": (labels + 1).astype(F)[None],
        "num_detections": np.array([20], F),
    }

    def client(t):
        box = t["detection_boxes"][0][:, [1, 0, 3, 2]] * SIDE
        return shown(box, t["detection_scores"][0], t["detection_classes"][0] - 1)

    return given, client


WORLDS = {
    "yolov5": yolov5_world,
    "yolox": yolox_world,
    "detr": detr_world,
    "rt_detr": rt_detr_world,
    "yolo_end_to_end": end_to_end_world,
    "torchvision": torchvision_world,
    "tensorflow": tensorflow_world,
}


def test_tensorflows_scores_of_all_classes_go_with_the_box_and_its_background_score_of_raw_tensors_stays():
    given, client = tensorflow_world(np.random.default_rng(1))
    every = np.random.default_rng(2).uniform(0.1, 0.9, (1, 20, 4)).astype(F)
    given["detection_multiclass_scores"] = every
    seeing = detector("tensorflow", classes=3, outputs={"class_scores": "detection_multiclass_scores"})
    seen = seeing(given)
    made = seeing.without(given, np.arange(len(seen)) == 0)
    assert decoded_near(seen.take(np.arange(len(seen)) > 0), client(made))
    gone = int(given["detection_scores"][0].argmax())
    assert not made["detection_multiclass_scores"][0, gone].any()
    np.testing.assert_array_equal(np.delete(made["detection_multiclass_scores"], gone, 1), np.delete(every, gone, 1))
    boxes = np.array([[[0.1, 0.1, 0.3, 0.3], [0.1, 0.1, 0.3, 0.31], [0.6, 0.6, 0.8, 0.9]]], F)
    scores = np.array([[[0.05, 0.9, 0.1], [0.2, 0.8, 0.1], [0.3, 0.1, 0.6]]], F)
    raw = {"raw_detection_boxes": boxes, "raw_detection_scores": scores}
    made = detector("tensorflow_raw").without(raw, np.array([True, False]))["raw_detection_scores"]
    np.testing.assert_array_equal(made, np.array([[[0.05, 0, 0], [0.2, 0, 0], [0.3, 0.1, 0.6]]], F))


def test_an_overlap_that_rounding_puts_on_either_side_of_the_limit_goes_with_the_refused_box():
    """A client whose arithmetic finds 0.50001 where ours finds 0.49999 suppresses it; without the refused box it would show it."""
    boxes = np.array([[0, 0, 30000, 1], [10000.2, 0, 40000.2, 1], [10010, 0, 40010, 1]], F)
    overlaps = [clients.overlap(boxes[0].tolist(), b.tolist()) for b in boxes[1:]]
    assert 0.5 - 1e-4 < overlaps[0] < 0.5
    assert overlaps[1] < 0.5 - 1e-4
    assert cluster(boxes, np.zeros(3, np.int64), 0, 0.5, True).tolist() == [True, True, False]


def test_of_equal_scores_the_first_remains():
    boxes = np.repeat(np.array([[0, 0, 9, 9]], F), 4, axis=0)
    kept = suppressed(boxes, np.array([0.5, 0.7, 0.7, 0.7], F), np.zeros(4, np.int64), 0.5, 10)
    assert kept.tolist() == [1]


def test_an_overlap_of_exactly_the_limit_is_not_suppressed():
    """Two squares of 2 x 1 that share half: 1 / 3 exactly representable it is not, so halves of 3 x 1: 2 / 4."""
    boxes = np.array([[0, 0, 3, 1], [1, 0, 4, 1]], F)
    assert suppressed(boxes, np.array([0.9, 0.8], F), np.zeros(2, np.int64), 0.5, 10).tolist() == [0, 1]
    assert suppressed(boxes, np.array([0.9, 0.8], F), np.zeros(2, np.int64), 0.49, 10).tolist() == [0]


BROKEN = {
    "a score that is NaN": (4, np.nan),
    "an infinite score": (4, np.inf),
    "a score that is no probability": (4, 3.0),
    "a negative score": (slice(4, 6), -1.0),
    "a centre that is NaN": (0, np.nan),
    "an infinite side": (2, np.inf),
    "a negative side": (3, -4.0),
    "a box beyond float32": (2, 3.4e38),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_candidate_is_a_row_of_nan_and_never_dropped(what):
    place, value = BROKEN[what]
    tensor = tensor_of([(8, 8, 4, 4, 18, 0), (14, 14, 2, 2, 10, 0)])
    tensor[0, place, 0] = value
    if what == "a box beyond float32":
        tensor[0, 0, 0] = 3.4e38
    seeing = detector(signals=["logits", "box"])
    seen = seeing({"output0": tensor})
    assert seen.labels.tolist() == [0, -1]
    assert all(np.isnan(array[1]).all() for array in (seen.boxes, *seen.signals.values()))
    made = seeing.without({"output0": tensor}, np.array([False, True]))["output0"]
    assert (made[0, 4:, 0] == 0).all()
    np.testing.assert_array_equal(made[..., 1], tensor[..., 1])
    assert len(seen.columns()["group_id"]) == 1


def test_a_class_that_does_not_exist_is_broken():
    rows = np.array(
        [[[1, 1, 9, 9, 0.9, 5], [1, 1, 9, 9, 0.8, 1.5], [20, 20, 30, 30, 0.7, 1], [1, 1, 2, 2, 0.6, np.nan]]], F
    )
    seen = detector("yolo_end_to_end", classes=3)({"output0": rows})
    assert seen.labels.tolist() == [1, -1]


@pytest.mark.parametrize("count", [-1, 4, np.nan, np.inf])
def test_a_count_that_the_tensors_do_not_hold_is_refused(count):
    given, _ = tensorflow_world(np.random.default_rng(0))
    given["num_detections"] = np.array([count if count != 4 else 21], F)
    with pytest.raises(InvalidObservation, match="0 to 20 boxes"):
        detector("tensorflow")(given)


def test_boxes_beyond_the_most_are_one_broken_row_that_takes_them_out():
    """Five apart, two of them judged; with the last row refused a client sees those two alone."""
    tensor = tensor_of(
        [(3 + 5 * i, 3, 2, 2, 20 - i, 0) for i in range(3)] + [(3 + 5 * i, 13, 2, 2, 9, 0) for i in range(2)]
    )
    seeing = detector(max_boxes=2)
    seen = seeing({"output0": tensor})
    assert seen.labels.tolist() == [0, 0, -1]
    made = seeing.without({"output0": tensor}, np.array([False, False, True]))["output0"]
    assert [one[3] for one in clients.yolov8(made[0], 0.25, 0.5)] == [0, 1]


@settings(max_examples=80)
@given(st.lists(candidate, max_size=14), st.integers(1, 4))
def test_with_few_boxes_judged_a_client_still_sees_only_those(candidates, most):
    tensor = tensor_of(candidates)
    seeing = detector(max_boxes=most)
    seen = seeing({"output0": tensor})
    whole = rows_of(clients.yolov8(tensor[0], 0.25, 0.5))
    judged = seen.take(seen.labels >= 0)
    assert decoded(judged) == whole[:most]
    assert (seen.labels < 0).sum() == (len(whole) > most)
    made = seeing.without({"output0": tensor}, seen.labels < 0)["output0"]
    assert rows_of(clients.yolov8(made[0], 0.25, 0.5)) == whole[:most]


@pytest.mark.parametrize("shape", [(0,), (3,), (1, 2)])
def test_refusals_of_another_number_are_refused(shape):
    tensor = tensor_of([(8, 8, 4, 4, 18, 0), (14, 14, 2, 2, 10, 0)])
    with pytest.raises(InvalidObservation, match=r"expected \(2,\)"):
        detector().without({"output0": tensor}, np.zeros(shape, np.bool_))


def test_a_flood_of_candidates_ends():
    """Every candidate above the floor and none overlapping: quadratic in them, it would take minutes."""
    count = 1 << 17
    rows = np.zeros((1, 5, count), F)
    rows[0, 0], rows[0, 1] = np.arange(count) % 4096 * 3, np.arange(count) // 4096 * 3
    rows[0, 2:4], rows[0, 4] = 2, np.linspace(0.3, 0.9, count)
    seeing = detector(classes=1)
    began = time.perf_counter()
    seen = seeing({"output0": rows})
    assert len(seen) == 301
    made = seeing.without({"output0": rows}, np.ones(301, np.bool_))["output0"]
    assert not made[0, 4].any()
    assert time.perf_counter() - began < 20
    with pytest.raises(InvalidObservation, match="at most"):
        seeing({"output0": np.zeros((1, 5, (1 << 18) + 1), F)})
