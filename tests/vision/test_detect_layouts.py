"""Each layout: a hand-made array with boxes worked out on paper, its published shape, and what is not of it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from demur.adapters.models.adapters_of import output_adapter
from demur.adapters.models.detection import Detector
from demur.adapters.models.detection.tensors import LOGIT_LIMIT, from_oip_json, logit
from demur.monitor.config.detection import DetectionConfig
from demur.monitor.config.document import parse
from demur.monitor.config.signal_map import SignalMapConfig
from demur.monitor.errors import ConfigurationError, InvalidObservation

F = np.float32


def detector(layout, classes=2, image=(100, 200), **more):
    return Detector(DetectionConfig(layout=layout, classes=classes, image=image, **more))


def odds(*p):
    return [math.log(x / (1 - x)) for x in p]


YOLOV5 = np.array([[[50, 40, 20, 10, 0.8, 0.1, 0.9], [150, 60, 10, 30, 0.5, 0.6, 0.2], [9, 9, 4, 4, 0.3, 0.5, 0.1]]], F)
WANTED_BOXES = [[40, 35, 60, 45], [145, 45, 155, 75]]


def test_yolov5_centres_objectness_and_classes():
    """Scores 0.8 * 0.9 and 0.5 * 0.6; the third, 0.15, is below the floor of 0.25."""
    seen = detector("yolov5", signals=["logits", "objectness", "box"])({"output0": YOLOV5})
    np.testing.assert_allclose(seen.boxes, WANTED_BOXES)
    np.testing.assert_allclose(seen.scores, [0.72, 0.3], rtol=1e-6)
    assert seen.labels.tolist() == [1, 0]
    np.testing.assert_allclose(seen.signals["logits"], [odds(0.1, 0.9), odds(0.6, 0.2)], rtol=1e-5)
    np.testing.assert_allclose(seen.signals["objectness"], [[0.8], [0.5]])
    np.testing.assert_allclose(
        seen.signals["box"], [[40, 35, 60, 45, 200 / 2e4], [145, 45, 155, 75, 300 / 2e4]], rtol=1e-6
    )


def test_yolov8_has_candidates_last_and_no_objectness():
    rows = np.delete(YOLOV5, 4, axis=2)
    seen = detector("yolov8")({"output0": np.ascontiguousarray(rows.transpose(0, 2, 1))})
    np.testing.assert_allclose(seen.boxes, [*WANTED_BOXES, [7, 7, 11, 11]])
    np.testing.assert_allclose(seen.scores, [0.9, 0.6, 0.5])
    assert seen.labels.tolist() == [1, 0, 0]


def yolox_cells(side=32):
    return [(x, y, s) for s in (8, 16, 32) for y in range(side // s) for x in range(side // s)]


def test_yolox_cells_are_decoded_level_by_level_row_by_row():
    """Cell x 2, y 1 of stride 8: centre ((0.5 + 2) * 8, (0.25 + 1) * 8), sides 8 e^0.5 and 8; and the cell of stride 32."""
    rows = np.zeros((1, 21, 7), F)
    rows[0, yolox_cells().index((2, 1, 8))] = [0.5, 0.25, 0.5, 0, 0.9, 0.2, 0.8]
    rows[0, yolox_cells().index((0, 0, 32))] = [0.5, 0.5, 0, math.log(0.5), 0.6, 0.7, 0.1]
    seen = detector("yolox", image=(32, 32), signals=["objectness"])({"output": rows})
    w = 8 * math.exp(0.5)
    np.testing.assert_allclose(seen.boxes, [[20 - w / 2, 6, 20 + w / 2, 14], [0, 8, 32, 24]], rtol=1e-6)
    np.testing.assert_allclose(seen.scores, [0.72, 0.42], rtol=1e-6)
    np.testing.assert_allclose(seen.signals["objectness"], [[0.9], [0.6]])


def test_yolox_of_a_wide_image_goes_along_rows_first():
    """16 x 32 pixels at stride 8: two rows of four cells. The fifth cell is the first of the second row."""
    rows = np.zeros((1, 8 + 2 + 0, 6), F)
    rows[0, 4] = [0, 0, 0, 0, 1, 1]
    seen = detector("yolox", classes=1, image=(16, 32))({"output": rows})
    np.testing.assert_allclose(seen.boxes, [[-4, 4, 4, 12]])


def test_yolox_exported_decoded_is_taken_as_pixels():
    seen = detector("yolox", decoded=True)({"output": YOLOV5})
    np.testing.assert_allclose(seen.boxes, WANTED_BOXES)


def test_end_to_end_rows_are_corners_score_class_and_padding_scores_nothing():
    rows = np.array([[[40, 35, 60, 45, 0.72, 1], [145, 45, 155, 75, 0.3, 0], [0, 0, 0, 0, 0, 0]]], F)
    seen = detector("yolo_end_to_end", classes=3)({"output0": rows})
    np.testing.assert_allclose(seen.boxes, WANTED_BOXES)
    assert seen.labels.tolist() == [1, 0]
    low = -LOGIT_LIMIT
    np.testing.assert_allclose(seen.signals["logits"], [[low, *odds(0.72), low], [*odds(0.3), low, low]], rtol=1e-5)


def test_detr_softmax_has_no_object_last_and_boxes_in_shares():
    p = np.array([[0.05, 0.85, 0.1], [0.3, 0.2, 0.5], [0.01, 0.01, 0.98]])
    boxes = np.array([[0.25, 0.4, 0.1, 0.1], [0.75, 0.6, 0.05, 0.3], [0, 0, 1, 1]], F)[None]
    seen = detector("detr", signals=["logits", "objectness"])(
        {"logits": np.log(p)[None].astype(F), "pred_boxes": boxes}
    )
    np.testing.assert_allclose(seen.boxes, WANTED_BOXES, rtol=1e-5)
    np.testing.assert_allclose(seen.scores, [0.85, 0.3], rtol=1e-5)
    np.testing.assert_allclose(seen.signals["objectness"], [[0.9], [0.5]], rtol=1e-5)
    np.testing.assert_allclose(seen.signals["logits"], np.log(p[:2, :2]), rtol=1e-5)


@pytest.mark.parametrize("background", [False, True])
def test_rt_detr_sigmoids_and_a_background_slot_that_never_counts(background):
    """The third query claims the background alone."""
    logits = np.array([[*odds(0.1, 0.9), -3], [*odds(0.6, 0.2), -3], [-9, -9, 9]], F)
    boxes = np.array([[0.25, 0.4, 0.1, 0.1], [0.75, 0.6, 0.05, 0.3], [0, 0, 1, 1]], F)[None]
    given = logits[None] if background else logits[None, :, :2]
    seen = detector("rt_detr", outputs={"boxes": "dets", "logits": "labels"})({"labels": given, "dets": boxes})
    np.testing.assert_allclose(seen.boxes, WANTED_BOXES, rtol=1e-5)
    np.testing.assert_allclose(seen.scores, [0.9, 0.6], rtol=1e-6)
    np.testing.assert_array_equal(seen.signals["logits"], logits[:2, :2])


def test_torchvision_has_no_batch_axis_and_labels_from_one():
    given = {"boxes": np.array(WANTED_BOXES, F), "labels": np.array([2, 1]), "scores": np.array([0.72, 0.3], F)}
    seen = detector("torchvision")(given)
    np.testing.assert_allclose(seen.boxes, WANTED_BOXES)
    assert seen.labels.tolist() == [1, 0]
    assert seen.images == 1


TENSORFLOW = {
    "detection_boxes": np.array([[[0.35, 0.2, 0.45, 0.3], [0.45, 0.725, 0.75, 0.775], [0.1, 0.1, 0.2, 0.2]]], F),
    "detection_scores": np.array([[0.72, 0.3, 0.9]], F),
    "detection_classes": np.array([[2, 1, 1]], F),
    "num_detections": np.array([2], F),
}


def test_tensorflow_is_y_first_in_shares_from_one_and_stops_at_the_count():
    seen = detector("tensorflow")(TENSORFLOW)
    np.testing.assert_allclose(seen.boxes, WANTED_BOXES, rtol=1e-5)
    assert seen.labels.tolist() == [1, 0]


def test_tensorflow_scores_of_all_classes_are_logits_without_the_background():
    scores = np.array([[[0.1, 0.15, 0.72], [0.5, 0.3, 0.2], [0.0, 0.9, 0.0]]], F)
    seen = detector("tensorflow", outputs={"class_scores": "detection_multiclass_scores"})(
        {**TENSORFLOW, "detection_multiclass_scores": scores}
    )
    np.testing.assert_allclose(seen.signals["logits"], [odds(0.15, 0.72), odds(0.3, 0.2)], rtol=1e-4)


def test_tensorflow_raw_is_suppressed_here():
    boxes = np.array([[[0.35, 0.2, 0.45, 0.3], [0.36, 0.2, 0.45, 0.3], [0.45, 0.725, 0.75, 0.775]]], F)
    scores = np.array([[[0.9, 0.1, 0.72], [0, 0.2, 0.6], [0, 0.3, 0]]], F)
    seen = detector("tensorflow_raw")({"raw_detection_boxes": boxes, "raw_detection_scores": scores})
    np.testing.assert_allclose(seen.boxes, WANTED_BOXES, rtol=1e-5)


def test_json_lists_are_the_same_tensors():
    answer = {
        "outputs": [
            {"name": "output0", "shape": [1, 3, 7], "datatype": "FP32", "data": YOLOV5.ravel().tolist()},
            {"name": "count", "shape": [2], "datatype": "INT64", "data": [1, 2]},
        ]
    }
    tensors = from_oip_json(answer)
    assert tensors["count"].dtype == np.int64
    for given in (tensors, {"output0": YOLOV5.tolist()}):
        np.testing.assert_array_equal(detector("yolov5")(given).boxes, np.array(WANTED_BOXES, F))


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ({"name": "x", "shape": [10**9, 10**9], "data": [1]}, "values for shape"),
        ({"name": "x", "shape": [-1, 2], "data": [1]}, "whole numbers"),
        ({"name": "x", "shape": [1], "data": ["cat"]}, "numbers"),
        ({"name": "x", "shape": [1]}, "data"),
        ({"name": "x", "shape": [2], "datatype": "INT64", "data": [1, 2**80]}, "numbers"),
        ({"name": "x", "shape": [1] * 70, "data": [1]}, "at most 8"),
        ({"name": "x", "shape": [True], "data": [1]}, "whole numbers"),
        ({"name": "x", "shape": [0, 10**30], "data": []}, "numbers"),
    ],
)
def test_json_whose_shape_and_data_disagree_is_refused(output, words):
    with pytest.raises(InvalidObservation, match=words):
        from_oip_json({"outputs": [output]})


@pytest.mark.parametrize("answer", [None, [], "x", {"outputs": 5}, {"outputs": {"a": 1}}, {"outputs": ["x"]}])
def test_json_that_is_no_answer_is_refused(answer):
    with pytest.raises(InvalidObservation, match="expected an object with `outputs`"):
        from_oip_json(answer)


PUBLISHED = {
    "yolov5": {"output0": (1, 25200, 85)},
    "yolov8": {"output0": (1, 84, 8400)},
    "yolox": {"output": (1, 8400, 85)},
    "yolo_end_to_end": {"output0": (1, 300, 6)},
    "detr": {"logits": (1, 100, 81), "pred_boxes": (1, 100, 4)},
    "rt_detr": {"logits": (1, 300, 80), "pred_boxes": (1, 300, 4)},
    "torchvision": {"boxes": (100, 4), "labels": (100,), "scores": (100,)},
    "tensorflow": {
        "detection_boxes": (1, 100, 4),
        "detection_scores": (1, 100),
        "detection_classes": (1, 100),
        "num_detections": (1,),
    },
    "tensorflow_raw": {"raw_detection_boxes": (1, 1917, 4), "raw_detection_scores": (1, 1917, 81)},
}


@pytest.mark.parametrize("layout", PUBLISHED)
def test_published_shapes_are_taken_and_others_refused(layout):
    seeing = detector(layout, classes=80, image=(640, 640))
    blank = {name: np.zeros(shape, F) for name, shape in PUBLISHED[layout].items()}
    assert set(seeing.outputs) == set(blank)
    if layout == "detr":
        blank["logits"][..., -1] = 9
    if layout == "rt_detr":
        blank["logits"] -= 9
    seen = seeing(blank)
    assert len(seen) == 0
    assert seen.images == 1
    assert seen.arguments()["groups"].tolist() == [0]
    assert seen.signals["logits"].shape == (0, 80)
    for name, array in blank.items():
        with pytest.raises(InvalidObservation, match=name):
            seeing({k: v for k, v in blank.items() if k != name})
        with pytest.raises(InvalidObservation, match=name):
            seeing({**blank, name: array[None]})
        with pytest.raises(InvalidObservation, match=name):
            seeing({**blank, name: [[1, 2], [3]]})
        with pytest.raises(InvalidObservation, match=name):
            seeing({**blank, name: array.astype(str)})


@pytest.mark.parametrize("layout", ["yolov5", "yolov8", "yolox", "detr", "rt_detr", "tensorflow_raw"])
def test_another_number_of_classes_is_refused_with_the_key_to_change(layout):
    blank = {name: np.zeros(shape, F) for name, shape in PUBLISHED[layout].items()}
    with pytest.raises(InvalidObservation, match="classes"):
        detector(layout, classes=20, image=(640, 640))(blank)


@pytest.mark.parametrize("batch", [0, 2])
def test_images_of_a_batch_are_groups(batch):
    rows = np.repeat(YOLOV5, batch, axis=0)
    seen = detector("yolov5").observe({"output0": rows})
    assert seen.groups == batch
    assert seen.group_id.tolist() == [i // 2 for i in range(2 * batch)]


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types_are_decoded_alike(dtype):
    seen = detector("yolov5")({"output0": YOLOV5.astype(dtype)})
    np.testing.assert_allclose(seen.boxes, WANTED_BOXES)
    assert seen.signals["logits"].dtype == np.float32


def test_saturated_probabilities_are_clamped_and_said():
    rows = np.array([[[9, 9, 4, 4, 1.0, 1.0, 0.0], [50, 50, 4, 4, 1.0, 0.9, 0.9]]], F)
    seen = detector("yolov5")({"output0": rows})
    np.testing.assert_allclose(seen.signals["logits"][0], [LOGIT_LIMIT, -LOGIT_LIMIT], rtol=1e-6)
    assert seen.saturated.tolist() == [True, False]


def test_the_inverse_of_a_sigmoid_is_exact_between_the_clamps():
    z = np.linspace(-17, 12, 400)
    p = (1 / (1 + np.exp(-z))).astype(F)
    exact = [math.log(float(x)) - math.log1p(-float(x)) for x in p]
    np.testing.assert_allclose(logit(p), exact, rtol=1e-6, atol=1e-7)
    assert np.isnan(logit(np.array([-0.1, 1.1, np.nan], F))).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"outputs": {"logits": "x"}}, "yolov8 has no logits"),
        ({"decoded": True}, "decoded belongs"),
        ({"signals": ["objectness"]}, "no objectness"),
        ({"signals": ["box_features"]}, "belong together"),
        ({"regions": {"maps": {"p3": 8}}}, "belong together"),
        ({"signals": ["logits", "logits"]}, "twice"),
        ({"classes": 0}, "greater than"),
        ({"iou": 1.0}, "less than"),
        ({"image": [0, 9]}, "greater than"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused(change, words):
    with pytest.raises(ConfigurationError, match=words):
        parse(DetectionConfig, {"layout": "yolov8", "classes": 3, "image": [96, 96], **change}, "map.yaml")


def test_a_signal_map_with_detection_gives_its_adapter():
    assert output_adapter(SignalMapConfig()) is None
    document = {"detection": {"layout": "yolov5", "classes": 2, "image": [100, 200]}}
    adapter = output_adapter(parse(SignalMapConfig, document, "map.yaml"))
    assert adapter.outputs == ("output0",)
    assert adapter.observe({"output0": YOLOV5}).signals["logits"].shape == (2, 2)
