"""Folders of images: pixels as the model takes them, classes as labels; and models whose inputs have many rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demur.adapters.models.collect import collect, signal_reader
from demur.adapters.models.collect.dataset import Reading
from demur.adapters.models.collect.image_folder import ImageFolder
from demur.adapters.models.collect.pixels import Pixels
from demur.adapters.models.collect.tensor_spec import TensorSpec
from demur.adapters.models.output_adapter import Observed
from demur.monitor.errors import ConfigurationError, DemurError
from demur.monitor.fit.table import load_table
from tests.models import small

H, W = 2, 2  # small.INPUT = 3 * H * W


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model.onnx").write_bytes(small.graph(shape=(3, H, W)))
    return tmp_path


def picture(seed, size=(W, H), mode="RGB"):
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def folder(names, size=(W, H), mode="RGB"):
    for number, name in enumerate(names):
        path = Path("images") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number, size, mode)).save(path)


def read(shape, pixels, datatype="FP32", rows=(0,)):
    found = ImageFolder(Path("images"), Reading({}, pixels))
    return found.read("images", np.array(rows), TensorSpec("image", datatype, (None, *shape)))


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_classes_are_labels_and_paths_are_ids(here):
    folder(["cat/b.png", "cat/a.png", "dog/c.bmp", "ant/d.png", "dog/deep/e.png"])
    (here / "images" / "cat" / "notes.txt").write_text("no image")
    collect("model.onnx", "images", "table.npz")
    table = load_table("table.npz")
    assert table.id.tolist() == ["ant/d.png", "cat/a.png", "cat/b.png", "dog/c.bmp", "dog/deep/e.png"]
    assert table.label.tolist() == [0, 1, 1, 2, 2]
    wanted = np.stack([picture(seed).transpose(2, 0, 1) / 255 for seed in (3, 1, 0, 2, 4)])
    close(table.signals["logits"], small.expected(wanted)[1])


def test_mean_and_std_are_taken_channel_by_channel(here):
    folder(["a.png", "b.png"])
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    for shape in ((3, H, W), (H, W, 3)):
        found = read(shape, Pixels(mean=mean, std=std), rows=(0, 1))
        assert found.shape == (2, *shape)
        assert found.dtype == np.float32
        for n, h, w, c in np.ndindex(2, H, W, 3):
            at = (n, c, h, w) if shape[0] == 3 else (n, h, w, c)
            assert found[at] == pytest.approx((picture(n)[h, w, c] / 255 - mean[c]) / std[c], abs=1e-6)


def test_scale_colours_and_dtypes(here):
    folder(["a.png"])
    pixel = picture(0)
    close(read((3, H, W), Pixels(scale=1))[0], pixel.transpose(2, 0, 1))
    close(read((3, H, W), Pixels(scale=127.5, mean=(1,)))[0], pixel.transpose(2, 0, 1) / 127.5 - 1)
    np.testing.assert_array_equal(read((H, W, 3), Pixels(colour="bgr", scale=1))[0], pixel[:, :, ::-1])
    raw = read((H, W, 3), Pixels(mean=(1,)), "UINT8")
    assert raw.dtype == np.uint8
    np.testing.assert_array_equal(raw[0], pixel)
    assert read((3, H, W), Pixels(), "FP16").dtype == np.float16


@pytest.mark.parametrize("shape", [(1, H, W), (H, W, 1), (H, W), (H * W,)])
def test_grey_models(here, shape):
    folder(["a.png"], mode="L")
    found = read(shape, Pixels(size=(H, W)))
    close(found.reshape(H, W), picture(0, mode="L") / 255)
    assert found.shape == (1, *shape)


def test_a_colour_image_becomes_grey_by_its_luma(here):
    folder(["a.png"])
    r, g, b = (picture(0)[..., c].astype(float) for c in range(3))
    close(read((1, H, W), Pixels(scale=1))[0, 0], np.floor(0.299 * r + 0.587 * g + 0.114 * b + 0.5))


def test_sizes(here):
    folder(["a.png"], size=(80, 40))
    image = Image.fromarray(picture(0, (80, 40)))
    half = image.resize((20, 20), Image.Resampling.BILINEAR)
    close(read((20, 20, 3), Pixels(scale=1))[0], np.asarray(half))
    middle = image.resize((40, 20), Image.Resampling.BILINEAR).crop((10, 0, 30, 20))
    crop = read((20, 20, 3), Pixels(scale=1, fitting="crop"))[0]
    assert np.abs(crop - np.asarray(middle)).mean() < 2  # Pillow crops first, then resizes: edges differ a little
    pad = read((20, 20, 3), Pixels(scale=1, fitting="pad"))[0]
    assert (pad[:5] == 114).all()
    assert (pad[15:] == 114).all()
    close(pad[5:15], np.asarray(image.resize((20, 10), Image.Resampling.BILINEAR)))


def test_a_model_of_any_size_needs_one(here):
    folder(["a.png"])
    with pytest.raises(ConfigurationError, match="--size HxW"):
        read((3, None, None), Pixels())
    assert read((3, None, None), Pixels(size=(6, 4))).shape == (1, 3, 6, 4)
    with pytest.raises(ConfigurationError, match="expected height 2, --size says 6"):
        read((3, H, W), Pixels(size=(6, 2)))
    with pytest.raises(ConfigurationError, match="--layout"):
        read((None, None, None), Pixels(size=(6, 4)))
    assert read((None, None, None), Pixels(size=(6, 4), layout="nhwc")).shape == (1, 6, 4, 3)
    with pytest.raises(ConfigurationError, match="is flat"):
        read((12,), Pixels())
    with pytest.raises(ConfigurationError, match="expected 3 channels, --colour grey has 1"):
        read((3, H, W), Pixels(colour="grey"))
    with pytest.raises(DemurError, match="--mean: expected 1 number or 3"):
        read((3, H, W), Pixels(mean=(1, 2)))


def test_a_damaged_image_is_named_and_the_rest_kept(here, monkeypatch):
    folder([f"{n:02d}.png" for n in range(20)])
    broken = here / "images" / "13.png"
    good = broken.read_bytes()
    broken.write_bytes(good[: len(good) // 2])
    with pytest.raises(DemurError, match=r"(?s)13\.png: not a readable image.*10 inputs are kept"):
        collect("model.onnx", "images", "table.npz", batch=10)
    broken.write_bytes(good)
    with pytest.raises(ConfigurationError, match="another dataset"):  # it is not what it was
        collect("model.onnx", "images", "table.npz", batch=10)
    collect("model.onnx", "images", "table.npz", batch=10, restart=True)


def test_a_bomb_is_refused(here, monkeypatch):
    folder(["a.png"], size=(40, 40))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DemurError, match="not a readable image"):
        read((3, H, W), Pixels())


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.int32])
def test_more_than_8_bits_are_refused_not_clipped(here, dtype):
    Path("images").mkdir()
    Image.fromarray(np.array([[0, 300], [3, 65535]], dtype)).save("images/a.tif")
    with pytest.raises(DemurError, match=r"a\.tif: expected 8 bits a channel"):
        read((1, H, W), Pixels())


def test_no_program_is_run_for_a_file_that_is_no_image(here, monkeypatch):
    """PostScript called .png: Pillow would hand it to Ghostscript."""
    from PIL import EpsImagePlugin

    ran = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: ran.append(1))
    Path("images").mkdir()
    Image.fromarray(picture(0)).save("images/a.eps")
    Path("images/a.eps").rename("images/a.png")
    with pytest.raises(DemurError, match=r"a\.png: not a readable image"):
        read((3, H, W), Pixels())
    assert ran == []


def test_hidden_copies_are_no_images(here):
    folder(["cat/a.png", "dog/b.png", ".ipynb_checkpoints/a.png", "dog/._b.png"])
    (here / "images" / "dog" / "._b.png").write_bytes(b"no image")
    collect("model.onnx", "images", "table.npz")
    assert load_table("table.npz").id.tolist() == ["cat/a.png", "dog/b.png"]
    assert load_table("table.npz").label.tolist() == [0, 1]


def test_a_name_that_is_no_text_is_said(here):
    folder(["a.png"])
    try:
        Path("images/a.png").rename(b"images/\xff.png".decode("utf-8", "surrogateescape"))
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    with pytest.raises(DemurError, match=r"udcff\.png' is not UTF-8"):
        collect("model.onnx", "images", "t.npz")


def test_folders_that_hold_no_dataset(here):
    Path("images").mkdir()
    with pytest.raises(DemurError, match="found none"):
        collect("model.onnx", "images", "t.npz")
    folder(["cat/a.png", "b.png"])
    with pytest.raises(DemurError, match=r"b\.png is beside the folders"):
        collect("model.onnx", "images", "t.npz")


class Boxes:
    """As many rows of an input as its first feature's whole part says."""

    outputs = ("features", "logits")

    def observe(self, tensors):
        counts = tensors["features"][:, 0].astype(int)
        group = np.repeat(np.arange(len(counts)), counts)
        return Observed(
            {"logits": tensors["logits"][group], "features": tensors["features"][group]}, len(counts), group
        )

    def without(self, tensors, refused):
        raise NotImplementedError


@pytest.mark.parametrize("batch", [None, 8])
def test_boxes_are_rows_and_inputs_without_any_are_recorded(here, monkeypatch, batch):
    Path("model.onnx").write_bytes(small.graph(batch=batch or "N"))
    monkeypatch.setattr(signal_reader, "output_adapter", lambda *_: Boxes())
    rows = small.inputs(45)
    features, logits = small.expected(rows)
    counts = features[:, 0].astype(int)
    given = {"image": rows, "label": np.zeros(45, int), "target": np.zeros(45), "slice": np.arange(45) % 2}
    made = collect("model.onnx", given, "table.npz", map={})
    table = load_table("table.npz")
    group = np.repeat(np.arange(45), counts)
    assert (counts == 0).any()
    np.testing.assert_array_equal(table.group_id, group)
    np.testing.assert_array_equal(table.slice, group % 2)
    close(table.signals["logits"], logits[group])
    np.testing.assert_array_equal(np.load("table.npz")["empty_groups"], np.flatnonzero(counts == 0))
    assert (made.tables[0].empty, made.tables[0].inputs) == ((counts == 0).sum(), 45)
    assert table.label is None
    assert table.target is None
    assert made.tables[0].without_labels
    collect("model.onnx", given, ["a.npz", "b.npz"], split="0.5/0.5", map={}, shuffle=True)
    halves = [load_table(name) for name in ("a.npz", "b.npz")]
    assert not set(halves[0].group_id) & set(halves[1].group_id)
    assert sum(map(len, halves)) == len(table)
    kept = {
        *halves[0].group_id,
        *halves[1].group_id,
        *np.load("a.npz")["empty_groups"],
        *np.load("b.npz")["empty_groups"],
    }
    assert kept == set(range(45))


def test_a_table_of_no_rows_at_all_is_not_written(here, monkeypatch):
    Path("model.onnx").write_bytes(small.graph())

    class Nothing(Boxes):
        def observe(self, tensors):
            found = super().observe(tensors)
            none = slice(0, 0)
            return Observed({n: a[none] for n, a in found.signals.items()}, found.groups, found.group_id[none])

    monkeypatch.setattr(signal_reader, "output_adapter", lambda *_: Nothing())
    with pytest.raises(ConfigurationError, match="none of its 50 inputs has rows"):
        collect("model.onnx", {"image": small.inputs()}, "t.npz", map={})


def test_views_are_collected_as_they_are_served(here):
    """The model asked again about mildly corrupted copies: its own logits first, and the same in every run."""
    folder([f"{n}.png" for n in range(5)], size=(8, 8))
    Path("model.onnx").write_bytes(small.graph(shape=(3, H, W)))
    views = {"input": "image", "output": "logits", "corruptions": ["gaussian_noise", "brightness"]}
    mapped = {"signals": {"logits": "logits"}, "views": views}
    for name in ("a.npz", "b.npz"):
        collect("model.onnx", "images", name, map=mapped, batch={"a.npz": 5, "b.npz": 2}[name])
    table = load_table("a.npz")
    assert table.widths == {"logits": small.CLASSES, "view_logits": 3 * small.CLASSES}
    close(table.signals["view_logits"][:, : small.CLASSES], table.signals["logits"])
    assert np.abs(table.signals["view_logits"][:, small.CLASSES :] - np.tile(table.signals["logits"], 2)).mean() > 0.001
    close(load_table("b.npz").signals["view_logits"], table.signals["view_logits"])
