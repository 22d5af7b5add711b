"""The segmenter as the proxies, the collector and people in process use it: files, configuration, blanking, pictures."""

from __future__ import annotations

import io
import threading

import numpy as np
import onnx
import pytest
from PIL import Image
from scipy import ndimage

import demur
from demur.adapters.models.adapters_of import output_adapter
from demur.adapters.models.segmentation import Segmenter
from demur.adapters.models.segmentation.blanking import blanked
from demur.adapters.models.segmentation.stored import PEAKS, SETTINGS
from demur.detectors.reason import Reason
from demur.monitor.config.document import parse
from demur.monitor.config.segmentation import SegmentationConfig
from demur.monitor.config.signal_map import SignalMapConfig
from demur.monitor.errors import ConfigurationError, InvalidObservation

ALL = ["peak", "anomaly_area", "largest_region", "mean_risk"]


def config(**rest):
    return SegmentationConfig(**{"logits": "z", "score": "energy", "share": 0.2, "least_area": 4, **rest})


def answers(count, seed, classes=4, shape=(12, 16), odd=0):
    """`count` answers of one frame of smooth logits; `odd` of them with a patch that no class claims."""
    rng = np.random.default_rng(seed)
    z = 8 * ndimage.gaussian_filter(rng.normal(size=(count, classes, *shape)), (0, 0, 2, 2))
    z += 6 * (np.arange(classes)[:, None, None] == rng.integers(min(classes, 2), size=(count, 1, 1, 1)))
    z[:odd, :, 3:9, 4:11] = -9
    return [{"z": frame[None].astype(np.float32)} for frame in z]


def fitted(**rest):
    return Segmenter.fit(config(**rest), reference=answers(8, 1), level=answers(40, 2))


@pytest.mark.parametrize(
    "rest",
    [
        {},
        {"score": "standardised_max_logit"},
        {"score": "standardised_max_logit", "void": 2, "boundary": 4, "smooth": True, "downscale": 2},
        {"channels": "first", "radius": 0, "signals": ALL},
    ],
    ids=str,
)
def test_a_fit_comes_back_from_its_file_bit_by_bit(tmp_path, rest):
    segmenter = fitted(**rest)
    placed = segmenter.save(tmp_path / "street.onnx")
    again = Segmenter.of(placed)
    assert again.level is not None
    assert (again.level.peaks == segmenter.level.peaks).all()
    for answer in answers(5, 3, odd=2):
        one, two = segmenter(answer), again(answer)
        np.testing.assert_array_equal(one.map, two.map)
        assert one.regions == two.regions
        assert {n: v.tolist() for n, v in one.signals.items()} == {n: v.tolist() for n, v in two.signals.items()}


def test_the_same_frames_give_the_same_bytes(tmp_path):
    files = []
    for name in ("a.onnx", "b.onnx"):
        segmenter = fitted(score="standardised_max_logit")
        digest = segmenter.save(tmp_path / name).digest
        files.append(((tmp_path / name).read_bytes(), digest))
    assert files[0] == files[1]


def test_frames_that_the_score_was_fitted_on_set_no_level():
    both = answers(40, 2)
    with pytest.raises(ConfigurationError, match="level: frame 3 is one that the score was fitted on"):
        Segmenter.fit(config(score="standardised_max_logit"), reference=both[:5], level=answers(3, 3) + both[4:])
    assert Segmenter.fit(config(), reference=both, level=both).level is not None  # energy is not fitted on any


def test_class_statistics_are_readable_in_the_file(tmp_path):
    segmenter = fitted(score="standardised_max_logit")
    segmenter.save(tmp_path / "street.onnx")
    held = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "street.onnx").graph.initializer}
    assert held["pixel.mean"].shape == held["pixel.std"].shape == (4,)
    assert (np.sort(held[PEAKS]) == segmenter.level.peaks).all()


def changed(model, how):
    if how == "settings":
        del model.metadata_props[:]
    elif how == "not json":
        model.metadata_props[0].value = "{"
    elif how == "peaks":
        kept = [t for t in model.graph.initializer if t.name != PEAKS]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
    elif how == "operator":
        model.graph.node[0].op_type = "Loop"
    elif how == "list":
        model.metadata_props[0].value = "[1]"
    elif how == "input":
        model.graph.input[0].name = "other"
    elif how == "output":
        model.graph.output[0].name = "other"
        for node in model.graph.node:
            node.output[:] = ["other" if o == "risk" else o for o in node.output]
    assert model.metadata_props[:1] == [] or model.metadata_props[0].key == SETTINGS
    return model


@pytest.mark.parametrize("how", ["settings", "not json", "peaks", "operator", "list", "input", "output"])
def test_a_file_of_somebody_else_is_refused(tmp_path, how):
    path = tmp_path / "street.onnx"
    placed = fitted().save(path).model_copy(update={"digest": None})
    onnx.save(changed(onnx.load(path), how), path)
    with pytest.raises(ConfigurationError, match=r"street.onnx.*(fit again|other settings)"):
        Segmenter.of(placed)


def test_a_changed_missing_or_oversized_file_is_refused(tmp_path, monkeypatch):
    placed = fitted().save(tmp_path / "street.onnx")
    raw = (tmp_path / "street.onnx").read_bytes()
    (tmp_path / "street.onnx").write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(ConfigurationError, match="expected SHA-256"):
        Segmenter.of(placed)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Segmenter.of(placed.model_copy(update={"fitted": tmp_path / "none.onnx"}))
    monkeypatch.setattr("demur.adapters.models.segmentation.stored.LARGEST_BYTES", 10)
    with pytest.raises(ConfigurationError, match="larger than 10 bytes"):
        Segmenter.of(placed)
    (tmp_path / "street.onnx").write_bytes(b"not onnx")
    with pytest.raises(ConfigurationError, match="cannot be read; fit again"):
        Segmenter.of(placed.model_copy(update={"digest": None}))


def test_a_fit_is_only_used_with_its_own_settings(tmp_path):
    placed = fitted().save(tmp_path / "street.onnx")
    for update in ({"radius": 2}, {"share": 0.3}, {"score": "max_logit"}, {"least_area": 5}):
        with pytest.raises(ConfigurationError, match=f"other settings.*{next(iter(update))}"):
            Segmenter.of(placed.model_copy(update=update))
    renamed = Segmenter.of(placed.model_copy(update={"logits": "out", "signals": ["largest_region"]}))
    assert renamed.outputs == ("out",)
    with pytest.raises(InvalidObservation, match="expected 4 classes, as the pixel score was fitted on, got 6"):
        renamed({"out": answers(1, 4, classes=6)[0]["z"]})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"logits": None}, "needs the outputs"),
        ({"kind": "queries"}, "needs the outputs"),
        ({"mask_logits": "m"}, "needs the outputs"),
        ({"score": "rba"}, "rba does not read dense"),
        ({"kind": "queries", "logits": None, "class_logits": "c", "mask_logits": "m"}, "energy does not read queries"),
        ({"kind": "queries", "logits": None, "class_logits": "c", "mask_logits": "m", "score": "rba", "void": 1}, "void"),
        ({"score": "mahalanobis"}, "score"),
        ({"signals": ["peak", "peak"]}, "twice"),
        ({"signals": []}, "signals"),
        ({"signals": ["area"]}, "signals"),
        ({"share": 0.0}, "share"),
        ({"share": 0.3, "area_share": 0.2}, "area_share"),
        ({"radius": -1}, "radius"),
        ({"downscale": 0}, "downscale"),
        ({"digest": "0" * 64}, "name the file"),
        ({"treshold": 0.5}, "treshold"),
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_be_used_says_why(given, says):
    with pytest.raises(ConfigurationError, match=says):
        parse(SegmentationConfig, {"logits": "z", "score": "energy", **given}, "the map")


def test_what_must_be_fitted_is_asked_for_at_once():
    with pytest.raises(ConfigurationError, match="standardised_max_logit is fitted on reference frames"):
        Segmenter(config(score="standardised_max_logit"))
    with pytest.raises(
        ConfigurationError,
        match=r"anomaly_area, largest_region need a fitted level; name the file that Segmenter\.save wrote",
    ):
        Segmenter(config(signals=ALL))
    with pytest.raises(ConfigurationError, match="give `reference`"):
        Segmenter.fit(config(score="standardised_max_logit"), level=answers(40, 2))
    with pytest.raises(ConfigurationError, match="expected good frames, got none"):
        Segmenter.fit(config(), level=[])
    with pytest.raises(ConfigurationError, match=r"3 frames cannot carry share 0.2"):
        Segmenter.fit(config(), level=answers(3, 2))
    with pytest.raises(ConfigurationError, match="nothing was fitted"):
        Segmenter(config()).save("street.onnx")
    bad = answers(3, 2)
    bad[1]["z"][0, 0, 0, 0] = np.nan
    with pytest.raises(ConfigurationError, match="reference: frame 1 holds values that are not finite"):
        Segmenter.fit(config(score="standardised_max_logit"), reference=bad, level=answers(40, 2))
    with pytest.raises(ConfigurationError, match="level: frame 1 holds values"):
        Segmenter.fit(config(), level=bad)


def test_a_signal_map_makes_the_adapter_and_finds_the_file_in_its_own_folder(tmp_path):
    placed = fitted(signals=ALL).save(tmp_path / "street.onnx").model_copy(update={"fitted": "street.onnx"})
    document = {"segmentation": placed.model_dump(mode="json", exclude_none=True)}
    adapter = output_adapter(parse(SignalMapConfig, document, "the map"), tmp_path)
    observed = adapter.observe({"z": np.concatenate([a["z"] for a in answers(3, 5, odd=1)]), "unread": None})
    assert adapter.outputs == ("z",)
    assert observed.groups == 3
    assert observed.group_id is None
    assert {n: (a.shape, a.dtype) for n, a in observed.signals.items()} == dict.fromkeys(ALL, ((3, 1), np.float32))
    assert observed.signals["anomaly_area"][0, 0] > 0.1


def in_one(count, seed, **rest):
    return {"z": np.concatenate([a["z"] for a in answers(count, seed, **rest)])}


def test_refused_regions_say_nothing_in_labels():
    segmenter = fitted(labels="labels", void_label=255)
    tensors = in_one(3, 6, odd=2)
    tensors["labels"] = tensors["z"].argmax(axis=1).astype(np.uint8)
    before = {n: a.copy() for n, a in tensors.items()}
    seen = segmenter(tensors)
    after = segmenter.without(tensors, np.array([True, False, False]))
    mask = seen.frames[0].components.mask
    assert mask[4:8, 5:10].all()
    assert (after["labels"][0][mask] == 255).all()
    assert (after["labels"][0][~mask] == before["labels"][0][~mask]).all()
    assert (after["labels"][1:] == before["labels"][1:]).all()
    assert after["z"] is tensors["z"]
    assert all((tensors[n] == a).all() for n, a in before.items())


def test_labels_of_another_size_are_blanked_where_the_map_stands():
    segmenter = fitted(labels="labels", downscale=2, least_area=2)
    tensors = in_one(1, 6, odd=1)
    tensors["labels"] = np.zeros((1, 1, 24, 32), np.int64)
    mask = segmenter(tensors).only.components.mask
    assert mask.shape == (6, 8)
    after = segmenter.without(tensors, np.array([True]))["labels"]
    assert (after[0, 0] == 255 * np.kron(mask, np.ones((4, 4), bool))).all()
    tensors["labels"] = np.zeros((24, 32), np.int64)
    with pytest.raises(InvalidObservation, match=r"labels: expected class numbers \(B, H, W\)"):
        segmenter.without(tensors, np.array([True]))


def test_what_a_pixel_of_a_downscaled_map_stands_for_is_blanked_whatever_the_size():
    """10 rows by every fourth: the map's three rows stand for 0-3, 4-7 and 8-9, not for a third of 10 each."""
    config = SegmentationConfig(logits="z", labels="labels", score="max_logit", downscale=4)
    tensors = {"z": np.zeros((1, 3, 10, 11), np.float32), "labels": np.zeros((1, 10, 11), np.int64)}
    mask = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], bool)
    after = blanked(config, tensors, {0: mask})["labels"][0]
    want = np.zeros((10, 11), np.int64)
    want[4:8, 4:8] = 255
    assert (after == want).all()


@pytest.mark.parametrize("channels", ["first", "last"])
def test_the_void_class_is_certain_in_refused_regions(channels):
    segmenter = fitted(void=3, channels=channels) if channels == "first" else last_of(fitted(void=3))
    z = in_one(2, 7, odd=2)["z"].astype(np.float16)
    z = z if channels == "first" else np.ascontiguousarray(np.moveaxis(z, 1, 3))
    mask = segmenter({"z": z}).frames[1].components.mask
    after = segmenter.without({"z": z}, np.array([False, True]))["z"]
    assert after.shape == z.shape
    assert after.dtype == z.dtype
    largest = (after if channels == "first" else np.moveaxis(after, 3, 1)).argmax(axis=1)
    assert mask.any()
    assert (largest[1][mask] == 3).all()
    assert (after[0] == z[0]).all()
    again = segmenter({"z": after}).frames[1]
    assert (again.map[mask] == -np.inf).all()
    assert again.regions == ()


def last_of(segmenter):
    """The same fit for a model with channels last."""
    update = {"channels": "last"}
    return Segmenter(segmenter.config.model_copy(update=update), segmenter._scorer, segmenter.level)


def test_no_query_claims_a_refused_region():
    rng = np.random.default_rng(8)
    c = np.where(np.eye(3, 4) > 0, 5.0, -5.0)[None].astype(np.float32)

    def one(odd):
        m = 4 * ndimage.gaussian_filter(rng.normal(size=(1, 3, 10, 12)), (0, 0, 2, 2)).astype(np.float32) + 3
        m[:, :, 2:7, 3:9] -= 9 * odd
        return {"c": c, "m": m}

    queries = SegmentationConfig(kind="queries", class_logits="c", mask_logits="m", score="rba", share=0.2)
    segmenter = Segmenter.fit(queries, level=[one(0) for _ in range(20)])
    tensors = one(1)
    mask = segmenter(tensors).only.components.mask
    assert mask[3:6, 4:8].all()
    after = segmenter.without(tensors, np.array([True]))
    assert (after["m"][0][:, mask] < -1000).all()
    assert (after["m"][0][:, ~mask] == tensors["m"][0][:, ~mask]).all()
    assert (segmenter.maps(after)[0][mask] == 0).all()  # rejected by all


def test_a_refused_frame_without_a_region_is_blanked_whole_and_invalid_pixels_always():
    segmenter = fitted(labels="labels")
    calm = next(a["z"] for a in answers(40, 9) if not segmenter(a).only.low_components.mask.any())
    tensors = {"z": np.concatenate([calm, calm]), "labels": np.zeros((2, 12, 16), np.int64)}
    after = segmenter.without(tensors, np.array([True, False]))["labels"]
    assert (after[0] == 255).all()
    assert (after[1] == 0).all()
    tensors["z"][0, 1, 5, 5] = np.nan
    after = segmenter.without(tensors, np.array([True, False]))["labels"]
    assert np.argwhere(after[0] == 255).tolist() == [[5, 5]]


def test_dense_logits_without_a_void_class_cannot_lose_a_region():
    segmenter, tensors = fitted(), in_one(2, 9)
    assert segmenter.without(tensors, np.zeros(2, bool)) == tensors
    with pytest.raises(ConfigurationError, match="name `void` or `labels`"):
        segmenter.without(tensors, np.array([True, False]))
    with pytest.raises(InvalidObservation, match=r"expected \(2,\) bool"):
        segmenter.without(tensors, np.array([True]))


def test_a_monitor_of_frames_refuses_what_nobody_claims_and_abstains_on_what_is_not_finite():
    segmenter = fitted(signals=ALL)
    policy = {
        "monitor": "street",
        "signals": dict.fromkeys(ALL, 1),
        "scores": [{n: {"type": "given", "signal": n}} for n in ALL],
        "rules": [{"novel": {"when": "peak", "promise": {"refuse_good_at_most": 0.05}}}],
    }
    tables = [
        segmenter({"z": np.concatenate([a["z"] for a in answers(n, s)])}).arguments() for n, s in ((40, 2), (80, 11))
    ]
    monitor = demur.Monitor.of(demur.fit(policy, reference=tables[0], calibration=tables[1]))
    tensors = in_one(12, 12, odd=2)
    tensors["z"][11, 0, 0, 0] = np.inf
    verdicts = monitor.assess(**segmenter(tensors).arguments())
    assert not verdicts.accept[:2].any()
    assert verdicts.accept[2:11].mean() > 0.7
    assert not verdicts.accept[11]
    assert verdicts.reason_bits[11] == Reason.INVALID


def test_pictures_say_what_is_invalid_void_low_and_high():
    segmenter = fitted(void=3, least_area=4)
    tensors = in_one(1, 13, odd=1)
    tensors["z"][0, :, 0, 0] = np.nan
    tensors["z"][0, 3, 11, :3] = 99
    seen = segmenter(tensors)
    image = Image.open(io.BytesIO(seen.png("grey")))
    grey = np.array(image)
    assert image.mode == "I;16"
    assert grey.shape == seen.map.shape
    finite = np.isfinite(seen.map)
    assert (grey[~finite] == 0).all()
    low, high = (float(image.text[n]) for n in ("low", "high"))
    np.testing.assert_allclose(
        low + (grey[finite] - 1.0) / 65534 * (high - low), seen.map[finite], atol=(high - low) / 65534
    )
    colour = np.array(Image.open(io.BytesIO(seen.png())))
    assert colour[0, 0].tolist() == [255, 0, 255]
    assert colour[11, 0].tolist() == [0, 0, 0]
    outline = ndimage.binary_dilation(seen.only.components.mask) & ~seen.only.components.mask
    assert outline.any()
    assert (colour[outline & finite] == 255).all()
    with pytest.raises(ValueError, match="expected colour or grey"):
        seen.png("jpeg")


def test_a_calm_frame_looks_calm():
    segmenter = fitted()
    every = [segmenter(a) for a in answers(40, 9)]
    seen = next(s for s in every if s.map.max() < segmenter.level.value)
    image = Image.open(io.BytesIO(seen.png("grey")))
    assert seen.regions == ()
    assert np.array(image).max() <= 32768
    low, high = (float(image.text[n]) for n in ("low", "high"))
    assert high == pytest.approx(2 * segmenter.level.value - low)


def test_a_flat_map_has_a_picture():
    for value in (0.0, np.nan):
        seen = Segmenter(config())({"z": np.full((1, 4, 3, 3), value, np.float32)})
        assert np.array(Image.open(io.BytesIO(seen.png()))).shape == (3, 3, 3)


def test_several_frames_are_taken_one_by_one():
    seen = Segmenter(config())(in_one(2, 9))
    assert len(seen.frames) == 2
    with pytest.raises(ValueError, match=r"take seen.frames\[i\]"):
        _ = seen.map


def test_threads_and_changing_numbers_of_classes_do_not_disturb_each_other():
    segmenter, found = Segmenter(config()), {}
    inputs = {n: in_one(1, n, classes=3 + n % 3) for n in range(24)}
    want = {n: Segmenter(config()).maps(t) for n, t in inputs.items()}

    def work(start):
        for n in range(start, 24, 4):
            found[n] = segmenter.maps(inputs[n])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((found[n] == want[n]).all() for n in inputs)
