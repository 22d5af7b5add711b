"""Views of images, asked about again: the same copies everywhere, within a budget or not at all."""

from __future__ import annotations

import time

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import demur
from demur.adapters.models.view_gather import gather_of
from demur.adapters.models.viewed_model import ViewedModel, asked_of
from demur.adapters.models.views import Views, gathered
from demur.detectors.build import build_score
from demur.detectors.evaluate import evaluate
from demur.detectors.score import Reference
from demur.monitor.config.document import parse
from demur.monitor.config.signal_map import SignalMapConfig
from demur.monitor.errors import ConfigurationError, InvalidObservation
from demur.monitor.evaluate.view_choice import choose_views
from demur.monitor.perturb import CATALOGUE
from demur.monitor.session import Session

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def pictures(count: int, seed: int = 0, size: int = 12) -> np.ndarray:
    """(N, H, W, 3) uint8: smooth blobs."""
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[0:size, 0:size] / size
    waves = rng.uniform(0, 6, size=(count, 3, 3))
    rows = np.stack(
        [np.sin(w[:, 0, None, None] * down + w[:, 1, None, None] * across + w[:, 2, None, None]) for w in waves]
    )
    return np.round(127.5 * (1 + rows.transpose(0, 2, 3, 1))).astype(np.uint8)


@pytest.mark.parametrize("name", list(CATALOGUE["images"]))
def test_every_layout_and_dtype_gives_the_perturbation_itself(name):
    images = pictures(3, size=32)
    names = [f"{name}:5"]
    (want,) = Views(names, layout="NHWC").of(images)
    assert want.dtype == np.uint8
    assert want.shape == images.shape
    assert (want != images).any()
    (turned,) = Views(names).of(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    np.testing.assert_array_equal(turned.transpose(0, 2, 3, 1), want)
    grey = np.ascontiguousarray(images[..., 0])
    if name != "saturate":
        assert Views(names).of(grey)[0].shape == grey.shape


def test_standardised_floats_are_undone_and_redone():
    images = pictures(4)
    floats = ((images / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)
    looks = {"mean": MEAN.tolist(), "std": STD.tolist()}
    (got,) = Views(["brightness:1"], **looks).of(floats)
    want = ((np.clip(images / 255 + 0.1, 0, 1) - MEAN) / STD).transpose(0, 3, 1, 2)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=2e-6)
    (byte,) = Views(["brightness"], layout="NHWC", white=255).of(images.astype(np.float16))
    np.testing.assert_allclose(byte, np.clip(images + 25.5, 0, 255), atol=0.13)


def test_an_image_gets_the_same_views_whatever_stands_beside_it():
    images = pictures(5)
    views = Views(["gaussian_noise", "motion_blur:2"], layout="NHWC")
    whole = views.of(images)
    for place in range(5):
        for one, all_rows in zip(views.of(images[place : place + 1]), whole, strict=True):
            np.testing.assert_array_equal(one[0], all_rows[place])
    other = Views(["gaussian_noise"], layout="NHWC", seed=1).of(images)[0]
    assert (other != whole[0]).any()


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays(broken):
    images = pictures(2).astype(np.float32) / 255
    images[1, 0, 0, 0] = broken
    (view,) = Views(["brightness"], layout="NHWC").of(images)
    np.testing.assert_array_equal(view[1], images[1])
    assert (view[0] >= images[0]).all()


@pytest.mark.parametrize(
    ("images", "looks", "words"),
    [
        (np.zeros((2, 5), np.float32), {}, r"expected images \(N, H, W\) or NCHW"),
        (np.zeros((2, 4, 4), np.int64), {}, "expected images"),
        (np.full((1, 3, 4, 4), 2.0, np.float32), {}, "expected pixels from 0 to 1, got 2; set `white`"),
        (np.zeros((1, 4, 4, 3), np.float32), {"mean": [0, 0, 0], "std": [1, 1, 1]}, "3 means for images of shape"),
        (np.zeros((1, 1, 4, 4), np.float32), {"names": ["saturate"]}, "saturate: expected 3 channels"),
    ],
)
def test_what_cannot_be_corrupted(images, looks, words):
    names = looks.pop("names", ["brightness"])
    with pytest.raises(InvalidObservation, match=words):
        Views(names, **looks).of(images)


def test_unknown_corruptions_are_named():
    with pytest.raises(ConfigurationError, match="did you mean defocus_blur"):
        Views(["defocus_blu"])


def linear(images: np.ndarray, _seconds: float | None = None) -> np.ndarray:
    weight = np.random.default_rng(7).normal(size=(images[0].size, 4))
    return (images.reshape(len(images), -1).astype(np.float64) @ weight / 255).astype(np.float32)


def test_gathered_logits_feed_cover():
    """-mean over the input and its views of the largest softmax (Chen et al. 2024), from the images on."""
    images, views = pictures(6), Views(["brightness:2", "defocus_blur"], layout="NHWC")
    found = gathered(views, linear, images)
    want = []
    for place, image in enumerate(images):
        seen = [image, *(view[place] for view in views.of(images))]
        largest = [np.exp(z).max() / np.exp(z).sum() for z in (linear(v[None])[0].astype(np.float64) for v in seen)]
        want.append(-sum(largest) / 3)
    score = build_score("cover", {"views": views.count}, Reference({"view_logits": found}))
    np.testing.assert_allclose(evaluate({"c": score}, {"view_logits": found})["c"], want, rtol=1e-5)


def test_own_logits_save_a_call():
    calls = []

    def counted(images, seconds):
        calls.append(seconds)
        return linear(images)

    images, views = pictures(2), Views(["brightness"], layout="NHWC")
    np.testing.assert_array_equal(gathered(views, counted, images, own=linear(images)), gathered(views, linear, images))
    assert calls == [None]


def test_a_budget_that_does_not_suffice_says_how_far_it_came():
    left = []

    def slow(images, seconds):
        left.append(seconds)
        time.sleep(0.05)
        return linear(images)

    views = Views(["brightness", "fog", "contrast"], layout="NHWC")
    began = time.perf_counter()
    with pytest.raises(InvalidObservation, match=r"views: [12] of 4 views in 80 ms; raise `budget_ms`"):
        gathered(views, slow, pictures(1), seconds=0.08)
    assert time.perf_counter() - began < 0.4
    assert left == sorted(left, reverse=True)
    assert max(left) <= 0.08
    with pytest.raises(InvalidObservation, match="views: 0 of 4 views in 0 ms"):
        gathered(views, slow, pictures(1), seconds=0.0)


def test_many_small_images_do_not_outlast_a_budget():
    """A client that sends 20,000 of them: copies alone would take a second."""
    calls = []
    began = time.perf_counter()
    with pytest.raises(InvalidObservation, match="views: 1 of 2 views in 50 ms"):
        gathered(
            Views(["brightness"]),
            lambda *_: calls.append(1),
            np.zeros((20_000, 1, 4, 4)),
            own=np.zeros((20_000, 2)),
            seconds=0.05,
        )
    assert time.perf_counter() - began < 0.5
    assert not calls


def test_a_large_image_is_refused_before_it_is_corrupted():
    with pytest.raises(InvalidObservation, match=r"shape \(3, 33, 32\) exceeds largest_values = 3072"):
        Views(["brightness"], largest_values=3072).of(np.zeros((1, 3, 33, 32), np.uint8))
    assert Views(["brightness"], largest_values=3072).of(np.zeros((2, 3, 32, 32), np.uint8))
    assert Views(["brightness"]).of(np.zeros((0, 3, 8, 8), np.uint8))[0].shape == (0, 3, 8, 8)


def test_further_calls_have_a_budget_when_nobody_names_one():
    seen: list[float | None] = []

    def again(inputs, seconds):
        seen.append(seconds)
        return Exchange(scores=linear(inputs["images"]))

    images = pictures(1).transpose(0, 3, 1, 2)
    gather_of(parse(SignalMapConfig, MAP, "map"), 1 << 20)(Exchange(images=images), Exchange(), again, None)
    assert len(seen) == 2
    assert max(seen) <= 1


@pytest.mark.parametrize(
    "answer", [np.zeros((1, 4), np.float32), np.zeros(2, np.float32), np.zeros((2, 4), np.int64), np.zeros((2, 4, 1))]
)
def test_answers_of_another_shape_are_refused(answer):
    with pytest.raises(InvalidObservation, match=r"expected logits \(2, C\) floats"):
        gathered(Views(["brightness"], layout="NHWC"), lambda *_: answer, pictures(2))


def test_views_of_an_onnx_model():
    """A model in ONNX Runtime is one lambda."""
    weight = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 12, 12])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = Session(model.SerializeToString(), whole=True)
    images = (pictures(3) / 255).transpose(0, 3, 1, 2).astype(np.float32)
    found = gathered(Views(["brightness"]), lambda x, _: session.run({"images": x})["logits"], images)
    pixels = images.astype(np.float64)
    want = [p.mean(axis=(2, 3)) @ weight for p in (pixels, np.clip(pixels + 0.1, 0, 1))]
    np.testing.assert_allclose(found, np.concatenate(want, axis=1), rtol=1e-4, atol=1e-5)


MAP = {"signals": {"logits": "scores"}, "views": {"input": "images", "output": "scores", "corruptions": ["brightness"]}}


class Exchange:
    """A message of a proxy: tensors by name."""

    def __init__(self, **arrays: np.ndarray) -> None:
        self.arrays, self.names = arrays, tuple(arrays)

    def inputs(self):
        return {name: Held(array) for name, array in self.arrays.items()}

    def tensor(self, name):
        return Held(self.arrays[name])


class Held:
    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def array(self, largest_bytes: int) -> np.ndarray:
        assert self._array.nbytes <= largest_bytes
        return self._array


def test_the_gather_of_a_proxied_exchange():
    images = pictures(2).transpose(0, 3, 1, 2)
    asked_again: list[float | None] = []

    def again(inputs, seconds):
        asked_again.append(seconds)
        return Exchange(scores=linear(inputs["images"]))

    config = parse(SignalMapConfig, {**MAP, "views": {**MAP["views"], "budget_ms": 5000}}, "map")
    gather = gather_of(config, 1 << 20)
    assert gather.signals == ("view_logits",)
    want = gathered(Views(["brightness"]), linear, images)
    found = gather(Exchange(images=images), Exchange(scores=linear(images)), again, 60.0)
    np.testing.assert_array_equal(found["view_logits"], want)
    assert len(asked_again) == 1
    assert asked_again[0] <= 5
    found = gather(Exchange(images=images), Exchange(), again, 0.9)
    np.testing.assert_array_equal(found["view_logits"], want)
    assert len(asked_again) == 3
    assert max(asked_again[1:]) <= 0.9
    with pytest.raises(InvalidObservation, match=r"the request has no input images; correct `views\.input`"):
        gather(Exchange(pixels=images), Exchange(), again, None)
    assert gather_of(parse(SignalMapConfig, {"signals": {"logits": "z"}}, "map"), 1) is None


class Model:
    """As `collect` runs one."""

    inputs = ()
    outputs = ("scores", "more")

    def identity(self):
        return {"name": "m"}

    def run(self, feed, outputs):
        scores = linear(feed["images"]) + feed["bias"][:, :1]
        return {name: {"scores": scores, "more": -scores}[name] for name in outputs}

    def close(self):
        self.closed = True


def test_collecting_sees_what_serving_sees():
    config = parse(SignalMapConfig, MAP, "map").views
    images = pictures(3).transpose(0, 3, 1, 2)
    feed = {"images": images, "bias": np.ones((3, 1), np.float32)}
    model = Model()
    viewed = ViewedModel(model, config)
    assert viewed.outputs == ("scores", "more", "view_logits")
    assert asked_of(config, ("more", "view_logits")) == ("more", "scores")
    found = viewed.run(feed, ("more", "view_logits"))
    assert set(found) == {"more", "view_logits"}
    want = gathered(Views(["brightness"]), lambda x, _: linear(x) + 1, images)
    np.testing.assert_array_equal(found["view_logits"], want)
    assert viewed.run(feed, ("more",)).keys() == {"more"}
    assert viewed.identity() != ViewedModel(model, config.model_copy(update={"seed": 3})).identity()
    viewed.close()
    assert model.closed


@pytest.mark.parametrize(
    ("views", "words"),
    [
        ({"corruptions": ["brightness:6"]}, "brightness:6"),
        ({"corruptions": []}, "corruptions"),
        ({"corruptions": ["fog", "fog"]}, "each corruption once"),
        ({"corruptions": ["fog"], "mean": [0.5]}, "mean and std for every channel"),
        ({"corruptions": ["fog"], "budget_ms": 0}, "budget_ms"),
    ],
)
def test_maps_that_make_no_sense(views, words):
    with pytest.raises(ConfigurationError, match=words):
        parse(SignalMapConfig, {"signals": {"logits": "z"}, "views": {"input": "x", "output": "z", **views}}, "map")


def peaked(confidence: np.ndarray) -> np.ndarray:
    """(N, 2) logits whose larger softmax is the confidence."""
    return np.stack([np.log(confidence), np.log(1 - confidence)], axis=1)


def test_the_choice_refuses_what_costs_confidence_and_is_greedy():
    rng = np.random.default_rng(0)
    own = rng.uniform(0.7, 0.99, 400)
    losses = {"mild": 0.01, "milder": 0.0, "harsh": 0.2, "third": 0.02, "fourth": 0.03}
    ordinary = {n: peaked(own - d) for n, d in losses.items()}
    found = choose_views(peaked(own), ordinary, drop_at_most=0.05)
    assert found.corruptions == ("milder", "mild", "third")
    assert found.refused == ("harsh",)
    assert found.drops == pytest.approx(losses, abs=1e-12)
    foreign = rng.uniform(0.65, 0.97, 400)
    seen = {n: peaked(foreign - d) for n, d in losses.items()}
    seen["fourth"] = peaked(np.clip(foreign - 0.3, 0.5, 1))  # foreign inputs mutate under it
    seen["harsh"] = peaked(np.full(400, 0.5))
    best = choose_views(peaked(own), ordinary, outliers=(peaked(foreign), seen))
    assert best.corruptions[0] == "fourth"
    assert "harsh" not in best.corruptions
    assert best.auroc > choose_views(peaked(own), {}, outliers=(peaked(foreign), {})).auroc
    with pytest.raises(ConfigurationError, match="expected logits"):
        choose_views(peaked(own), {"mild": peaked(own[:3])})
    with pytest.raises(ConfigurationError, match="expected the outliers under"):
        choose_views(peaked(own), ordinary, outliers=(peaked(foreign), {}))


def test_a_monitor_of_views_from_fit_to_verdict():
    """The whole in process: ordinary pictures pass, black ones, which the model cannot tell, do not."""
    views = Views(["brightness", "defocus_blur"], layout="NHWC")
    config = {
        "monitor": "views",
        "signals": {"view_logits": 12},
        "scores": [{"cover": {"views": 3}}],
        "rules": [{"novel": {"when": "cover", "promise": {"refuse_good_at_most": 0.1}}}],
    }
    tables = [{"view_logits": gathered(views, linear, pictures(200, seed))} for seed in (1, 2)]
    monitor = demur.Monitor.of(demur.fit(config, reference=tables[0], calibration=tables[1]))
    black = np.zeros((60, 12, 12, 3), np.uint8)
    ordinary, strange = (
        monitor.assess(view_logits=gathered(views, linear, asked)).accept.mean() for asked in (pictures(60, 3), black)
    )
    assert ordinary > 0.75
    assert strange == 0
