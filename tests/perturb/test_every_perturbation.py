"""What every entry of the catalogue keeps: order of severities, identity at 0, seeds, batches, hostile rows."""

from __future__ import annotations

import numpy as np
import pytest

from demur.monitor.perturb import CATALOGUE, SEVERITIES, Context, PerturbationError, find
from tests.perturb.material import ROWS, distance

ENTRIES = [entry for kind in CATALOGUE.values() for entry in kind.values()]
each = pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: f"{e.kind}-{e.name}")
numeric = pytest.mark.parametrize("entry", [e for e in ENTRIES if e.kind != "text"], ids=lambda e: f"{e.kind}-{e.name}")
DATA = {kind: make() for kind, make in ROWS.items()}


def around(entry, rows):
    return Context.of(rows) if entry.needs == "context" else None


def same(a, b):
    return a.dtype.kind == b.dtype.kind and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


@each
def test_a_higher_severity_goes_further(entry):
    rows = DATA[entry.kind]
    found = [distance(entry.kind, rows, entry(rows, severity).array).mean() for severity in (0, *SEVERITIES)]
    assert found[0] == 0
    assert (np.diff(found) > 0).all(), found


@each
def test_severity_0_is_a_copy_and_the_rows_are_never_written_to(entry):
    rows = DATA[entry.kind].copy()
    rows.flags.writeable = False
    before = rows.copy()
    for severity in (0, 5):
        made = entry(rows, severity)
        assert not np.shares_memory(made.array, rows)
        assert same(rows, before)
        assert same(made.array, rows) == (severity == 0)
    if entry.kind == "series":
        assert not entry(rows, 0).touched.any()


@each
def test_the_seed_decides(entry):
    rows = DATA[entry.kind]
    first, again = entry(rows, 3, seed=7), entry(rows, 3, seed=7)
    assert same(first.array, again.array)
    fixed = {"brightness", "contrast", "saturate", "defocus_blur", "gaussian_blur", "pixelate", "block_quantise"}
    fixed |= {"invert", "extrapolate", "scale", "shrink", "truncate", "gain"}
    assert same(first.array, entry(rows, 3, seed=8).array) == (entry.name in fixed)


@each
def test_rows_do_not_depend_on_the_rows_beside_them(entry):
    rows, ids = DATA[entry.kind], [f"row {i}" for i in range(len(DATA[entry.kind]))]
    context, order = around(entry, rows), np.random.default_rng(0).permutation(len(rows))
    whole = entry(rows, 4, ids=ids, context=context)
    parts = [entry(rows[i : i + 1], 4, ids=[ids[i]], context=context) for i in order]
    assert same(np.concatenate([p.array for p in parts]), whole.array[order])
    if entry.kind == "series":
        assert same(np.concatenate([p.touched for p in parts]), whole.touched[order])


@numeric
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_shape_and_dtype_stay(entry, dtype):
    made = entry(DATA[entry.kind].astype(dtype), 5)
    assert made.array.shape == DATA[entry.kind].shape
    assert made.array.dtype == dtype


@pytest.mark.parametrize("entry", CATALOGUE["images"].values(), ids=lambda e: e.name)
def test_bytes_stay_bytes_and_floats_stay_in_range(entry):
    rows = np.round(DATA["images"] * 255).astype(np.uint8)
    made, floats = entry(rows, 5).array, entry(rows / 255, 5).array
    assert made.dtype == np.uint8
    assert np.abs(made / 255 - floats).max() <= 0.5 / 255 + 1e-12
    assert floats.min() >= 0
    assert floats.max() <= 1


@pytest.mark.parametrize("entry", [e for n, e in CATALOGUE["images"].items() if n != "saturate"], ids=lambda e: e.name)
@pytest.mark.parametrize("shape", [(3, 28, 28), (3, 8, 9), (3, 33, 17, 1), (2, 12, 40, 4)])
def test_images_of_any_size(entry, shape):
    rows = np.random.default_rng(0).random(shape)
    made = entry(rows, 5).array
    assert made.shape == shape
    assert np.isfinite(made).all()
    assert not np.array_equal(made, rows)


@numeric
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_not_finite_stays_and_the_others_do_not_see_it(entry, bad):
    rows = DATA[entry.kind].astype(np.float64)
    rows[3].flat[5] = bad
    made = entry(rows, 3, context=around(entry, DATA[entry.kind]))
    assert same(made.array[3], rows[3])
    clean = entry(DATA[entry.kind].astype(np.float64), 3, context=around(entry, DATA[entry.kind]))
    others = np.arange(len(rows)) != 3
    assert same(made.array[others], clean.array[others])
    if entry.kind == "series":
        assert not made.touched[3].any()


@numeric
def test_rows_that_are_all_broken_stay(entry):
    rows = np.full(DATA[entry.kind].shape, np.nan)
    assert same(entry(rows, 5).array, rows)


@numeric
def test_constant_rows_and_one_row_are_taken(entry):
    for rows in (np.full(DATA[entry.kind].shape, 0.25), DATA[entry.kind][:1]):
        made = entry(rows, 5).array
        assert made.shape == rows.shape
        assert np.isfinite(made).all() or entry.name == "missing"


@each
def test_no_rows_give_no_rows(entry):
    rows = DATA[entry.kind][:0]
    assert entry(rows, 5).array.shape == rows.shape


@pytest.mark.parametrize("entry", CATALOGUE["series"].values(), ids=lambda e: e.name)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_windows(entry, steps):
    rows = np.random.default_rng(0).normal(size=(6, steps, 2))
    made = entry(rows, 5)
    assert made.array.shape == made.touched.shape == rows.shape


@pytest.mark.parametrize("entry", CATALOGUE["series"].values(), ids=lambda e: e.name)
def test_touched_says_what_changed(entry):
    rows = DATA["series"].astype(np.float64)
    made = entry(rows, 4)
    assert np.array_equal(rows[~made.touched], made.array[~made.touched])
    changed = rows[made.touched] != made.array[made.touched]
    assert changed.mean() > 0.95


@pytest.mark.parametrize("entry", CATALOGUE["text"].values(), ids=lambda e: e.name)
@pytest.mark.parametrize("value", ["", " ", "a", "1", "naïve 🦊 e\u0301", "\x00\n\t", "word " * 300])
def test_hostile_text(entry, value):
    made = entry([value, "a normal sentence"], 5).array
    assert made.shape == (2,)
    assert made.dtype.kind == "U"
    if value == "":
        assert made[0] == ""


@pytest.mark.parametrize("entry", CATALOGUE["features"].values(), ids=lambda e: e.name)
def test_huge_features_do_no_harm(entry):
    rows = np.array([[3e38, -3e38, 1e-40, 0], [1, 2, 3, 4]], np.float32)
    assert entry(rows, 5).array.shape == rows.shape


@pytest.mark.parametrize("severity", [-1, 6, 2.5, "3", None])
def test_other_severities_are_refused(severity):
    with pytest.raises(PerturbationError, match="expected a severity from 0 to 5"):
        find("features", "scale")(DATA["features"], severity)


@pytest.mark.parametrize(
    ("kind", "rows", "message"),
    [
        ("images", np.zeros((2, 8)), r"expected images as \(N, H, W\).*got \(2, 8\) float64"),
        ("images", np.zeros((2, 0, 8)), "expected images"),
        ("images", np.full((1, 8, 8), 255.0), r"in \[0, 1\], got 255; divide by 255"),
        ("images", np.full((1, 8, 8), -0.1), "got -0.1"),
        ("images", np.zeros((2, 8, 8), np.int32), "int32"),
        ("features", np.zeros((2, 3), np.int64), r"\(N, D\) floats"),
        ("features", np.zeros((2, 0)), "features"),
        ("series", np.zeros((2, 3)), r"\(N, T, C\)"),
        ("text", np.array([b"abc"]), "strings"),
        ("text", np.array([["abc"]]), "strings"),
        ("text", np.array(["abc", None], object), "strings"),
    ],
)
def test_other_shapes_dtypes_and_ranges_are_refused(kind, rows, message):
    for entry in CATALOGUE[kind].values():
        with pytest.raises(PerturbationError, match=message):
            entry(rows, 1)


def test_ids_are_one_a_row_and_names_are_known():
    with pytest.raises(PerturbationError, match="expected 40 ids, one for each row, got 2"):
        find("features", "scale")(DATA["features"], 1, ids=[1, 2])
    with pytest.raises(PerturbationError, match=r"expected one of images, features, text, series, got 'sound'"):
        find("sound", "scale")
    with pytest.raises(PerturbationError, match="did you mean gaussian_noise"):
        find("images", "gausian_noise")


def test_parameters_are_stated_and_in_order():
    assert len(ENTRIES) == 46
    for entry in ENTRIES:
        assert entry.parameter
        assert entry.source
        assert entry.change.__doc__
        steps = np.diff(entry.values)
        assert (steps > 0).all() or (steps < 0).all()
