"""Whatever the tensors hold: rows that are boxes, or one that says what is not; and a way to take everything out."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from demur.adapters.models.adapters_of import output_adapter
from demur.adapters.models.detection import Detector
from demur.monitor.config.detection import DetectionConfig
from demur.monitor.config.document import parse
from demur.monitor.config.signal_map import SignalMapConfig
from demur.monitor.errors import ConfigurationError, InvalidObservation

F = np.float32
POOL = np.array([np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45, -1e30, -2, -1, 0, 0.3, 0.6, 1, 1.0005, 2, 9, 60], F)
CALM = np.array([0.1, 0.3, 0.6, 0.9, 1], F)
LAYOUTS = {
    "yolov5": {"output0": (2, 12, 8)},
    "yolov8": {"output0": (2, 7, 12)},
    "yolox": {"output": (2, 84, 8)},
    "yolo_end_to_end": {"output0": (2, 12, 6)},
    "detr": {"logits": (2, 12, 4), "pred_boxes": (2, 12, 4)},
    "rt_detr": {"logits": (2, 12, 3), "pred_boxes": (2, 12, 4)},
    "torchvision": {"boxes": (12, 4), "labels": (12,), "scores": (12,)},
    "tensorflow": {"detection_boxes": (2, 12, 4), "detection_scores": (2, 12), "detection_classes": (2, 12)},
    "tensorflow_raw": {"raw_detection_boxes": (2, 12, 4), "raw_detection_scores": (2, 12, 4)},
}


def hostile(layout, seed, dtype=F):
    """Mostly calm numbers; some from the pool."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in LAYOUTS[layout].items():
        array = rng.choice(CALM, shape)
        wild = rng.random(shape) < rng.choice([0.02, 0.3, 1])
        array[wild] = rng.choice(POOL, int(wild.sum()))
        with np.errstate(over="ignore"):
            tensors[name] = array.astype(dtype)
    if layout == "tensorflow":
        tensors["num_detections"] = np.array([12, 7], F)
    return tensors


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_are_boxes_or_say_what_is_not_and_all_can_be_taken_out(layout, dtype):
    seeing = Detector(DetectionConfig(layout=layout, classes=3, image=(64, 64), max_boxes=5, signals=["logits", "box"]))
    broken = whole = 0
    for seed in range(40):
        tensors = hostile(layout, seed, dtype)
        before = {name: array.tobytes() for name, array in tensors.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            seen = seeing(tensors)
            made = seeing.without(tensors, np.ones(len(seen), np.bool_))
            left = seeing(made)
        assert {name: array.tobytes() for name, array in tensors.items()} == before
        is_box = seen.labels >= 0
        size = seen.boxes[is_box, 2:] - seen.boxes[is_box, :2]
        assert np.isfinite(size).all()
        assert (size >= 0).all()
        assert ((seen.scores[is_box] >= 0.25) & (seen.scores[is_box] < 1.01)).all()
        assert np.isnan(seen.signals["logits"][~is_box]).all()
        assert np.isnan(seen.signals["box"][~is_box]).all()
        assert all(((seen.image == i) & ~is_box).sum() <= 1 for i in range(seen.images))
        assert len(left) == 0, "a client would still see something"
        broken, whole = broken + int((~is_box).sum()), whole + int(is_box.sum())
    assert broken > 5
    assert whole > 5


def test_a_refused_query_is_gone_also_where_no_object_was_less_likely_than_anything():
    """Class logits of -10,000 would share the softmax among them if no-object were lower still."""
    seeing = Detector(DetectionConfig(layout="detr", classes=2, image=(64, 64)))
    tensors = {"logits": np.array([[[5, 1, -1e30], [4, 0, 1]]], F), "pred_boxes": np.full((1, 2, 4), 0.5, F)}
    made = seeing.without(tensors, np.array([True, False]))
    assert len(seeing(made)) == 1
    np.testing.assert_array_equal(made["logits"][0, 1], tensors["logits"][0, 1])


def test_a_probability_that_rounding_raised_above_one_is_one():
    rows = np.array([[[9, 9, 4, 4, 1.0005, 0.5], [30, 30, 4, 4, 0.6, 1.1]]], F).transpose(0, 2, 1)
    seen = Detector(DetectionConfig(layout="yolov8", classes=2, image=(64, 64)))({"output0": rows})
    assert seen.labels.tolist() == [0, -1]
    np.testing.assert_allclose(seen.signals["logits"][0], [25 * np.log(2), 0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("objectness", "best"), [(-1, -1), (2, 0.4), (0.4, 2), (-0.1, 0.5), (np.inf, 0.3), (1, np.nan)]
)
def test_two_numbers_whose_product_looks_like_a_probability_are_none(objectness, best):
    """Seen by their features alone, such a box would be judged as if its score were one."""
    rows = np.array([[[9, 9, 4, 4, objectness, best], [30, 30, 4, 4, 0.6, 0.9]]], F)
    seeing = Detector(DetectionConfig(layout="yolov5", classes=1, image=(64, 64), signals=["box"]))
    seen = seeing({"output0": rows})
    assert seen.labels.tolist() == [0, -1]
    assert len(seeing(seeing.without({"output0": rows}, np.array([True, True])))) == 0


def test_a_refused_query_shows_none_of_its_classes():
    """RT-DETR's post-processing takes the best of all queries and classes, so that one query may be shown twice."""
    seeing = Detector(DetectionConfig(layout="rt_detr", classes=3, image=(64, 64)))
    tensors = {"logits": np.array([[[2, 1, -5], [-5, 2, 1]]], F), "pred_boxes": np.full((1, 2, 4), 0.5, F)}
    made = seeing.without(tensors, np.array([True, False]))["logits"][0]
    shown = 1 / (1 + np.exp(-made.astype(np.float64).clip(-700))) > 0.25
    assert shown.tolist() == [[False] * 3, [False, True, True]]


def test_more_boxes_than_can_be_held_are_refused_before_anything_is_made():
    """300 boxes of a map of 2^21 channels: 2.5 GB of features from 34 MB; 400 images of 1,500 classes: 720 MB of logits from 3 MB."""
    regions = {"maps": {"p5": 32}}
    wide = DetectionConfig(
        layout="yolo_end_to_end", classes=1, image=(64, 64), signals=["box_features"], regions=regions
    )
    rows = np.tile(np.array([4, 4, 30, 30, 0.9, 0], F), (1, 300, 1))
    tensors = {"output0": rows, "p5": np.zeros((1, 1 << 21, 2, 2), F)}
    with pytest.raises(InvalidObservation, match="box_features: expected at most"):
        Detector(wide)(tensors)
    many = Detector(DetectionConfig(layout="yolo_end_to_end", classes=1500, image=(64, 64)))
    with pytest.raises(InvalidObservation, match=r"logits: expected at most .* send fewer images"):
        many({"output0": np.repeat(rows, 400, axis=0)})


def test_a_map_with_two_decoders_is_refused():
    document = {
        "detection": {"layout": "yolov8", "classes": 2, "image": [64, 64]},
        "segmentation": {"logits": "masks", "score": "energy"},
    }
    with pytest.raises(ConfigurationError, match="got both"):
        output_adapter(parse(SignalMapConfig, document, "map"))
