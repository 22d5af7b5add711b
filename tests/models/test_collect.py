"""Signals of a model over a dataset: the numbers, the columns, the formats, and what is refused."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from typer.testing import CliRunner

import demur
from demur.adapters.models.collect import collect
from demur.adapters.models.collect.model import Access
from demur.adapters.models.collect.pixels import Pixels
from demur.adapters.models.collect.split import assigned
from demur.adapters.models.instrument import instrument
from demur.monitor.cli.main import app
from demur.monitor.config.decoding import decoding_of
from demur.monitor.config.signal_map import SignalMapConfig
from demur.monitor.errors import ConfigurationError, DemurError, InvalidObservation
from demur.monitor.fit.table import load_table
from tests.models import small


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model.onnx").write_bytes(small.graph())
    return tmp_path


def dataset(rows=50, **more):
    return {"image": small.inputs(rows), "label": np.arange(rows) % small.CLASSES, **more}


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("output", ["table.npz", "table.parquet", "table"])
def test_signals_are_the_models_and_columns_the_datasets(here, output):
    given = dataset(slice=np.arange(50) % 2, id=np.array([f"img-{i}" for i in range(50)]), prediction=np.zeros(50, int))
    made = collect("model.onnx", given, output)
    table = load_table(output)
    features, logits = small.expected(given["image"])
    close(table.signals["features"], features)
    close(table.signals["logits"], logits)
    assert table.widths == {"features": small.HIDDEN, "logits": small.CLASSES}
    np.testing.assert_array_equal(table.label, given["label"])
    np.testing.assert_array_equal(table.slice, given["slice"])
    assert table.id.tolist() == given["id"].tolist()
    np.testing.assert_array_equal(table.prediction, logits.argmax(axis=1))  # this model's, not the column's
    assert made.inputs == made.tables[0].rows == 50
    assert [p.name for p in here.iterdir() if p.name.startswith(".")] == []


def test_the_three_formats_hold_the_same_table(here):
    given = dataset(70, slice=np.array([f"s{i % 11}" for i in range(70)]))
    digests = {load_table(collect("model.onnx", given, o).tables[0].path).digest() for o in ("a.npz", "b.parquet", "c")}
    assert len(digests) == 1


@pytest.mark.parametrize("output", ["table.npz", "table.parquet", "table"])
def test_a_table_says_which_model_it_is_of_instrumented_or_not(here, output):
    digest = hashlib.sha256(Path("model.onnx").read_bytes()).hexdigest()
    collect("model.onnx", dataset(), output)
    assert load_table(output).origin.model == digest
    assert not load_table(output).origin.decoding
    instrument("model.onnx").save("more.instrumented.onnx")
    collect("more.instrumented.onnx", dataset(), f"more-{output}", map="more.signals.yaml")
    assert load_table(f"more-{output}", {"logits": small.CLASSES}).origin.model == digest


def test_metadata_that_is_no_digest_says_nothing_of_the_model(here):
    made = onnx.load("model.onnx")
    made.metadata_props.append(onnx.StringStringEntryProto(key="demur.instrumented_from", value="somewhere"))
    onnx.save(made, "odd.onnx")
    collect("odd.onnx", dataset(), "table.npz")
    assert load_table("table.npz").origin.model == hashlib.sha256(Path("odd.onnx").read_bytes()).hexdigest()


def test_a_table_of_frames_says_how_they_were_decoded(here):
    chart = {"segmentation": {"logits": "logits", "score": "energy", "signals": ["peak", "mean_risk"]}}
    nodes = [helper.make_node("Identity", ["image"], ["logits"])]
    shape = ["N", 4, 8, 8]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("image", "logits")]
    onnx.save(
        helper.make_model(
            helper.make_graph(nodes, "g", ends[:1], ends[1:]), ir_version=8, opset_imports=[helper.make_opsetid("", 17)]
        ),
        "frames.onnx",
    )
    frames = {"image": np.random.default_rng(0).normal(size=(6, 4, 8, 8)).astype(np.float32)}
    collect("frames.onnx", frames, "frames.npz", map=chart)
    found = load_table("frames.npz").origin.decoding
    assert found.digest == decoding_of(SignalMapConfig.model_validate(chart)).digest
    assert found.document["segmentation"]["score"] == "energy"
    assert "logits" not in found.document["segmentation"]


def test_a_map_chooses_outputs_and_brings_the_head(here):
    w = small.weights()
    np.savez("head.npz", head_weight=w["w2"].T, head_bias=w["b2"])
    document = {
        "signals": {"embedding": "pooled", "logits": "logits"},
        "kinds": {"logits": "logits"},
        "head": "head.npz",
    }
    (here / "maps").mkdir()
    Path("head.npz").rename("maps/head.npz")
    Path("maps/model.signals.yaml").write_text(yaml.safe_dump(document))
    collect("model.onnx", dataset(), "table.npz", map="maps/model.signals.yaml")
    table = load_table("table.npz")
    assert table.widths == {"embedding": small.HIDDEN, "logits": small.CLASSES}
    close(table.signals["embedding"], small.expected(small.inputs())[0])  # (N, D, 1, 1) is a row of D
    np.testing.assert_array_equal(table.head_weight, w["w2"].T)
    np.testing.assert_array_equal(table.head_bias, w["b2"])
    assert collect("model.onnx", dataset(), "table.parquet", map="maps/model.signals.yaml").tables[0].without_head


def test_only_the_outputs_that_are_read_are_computed(here):
    """A node that fails at run time stays out when nobody reads what it makes."""
    bad = onnx.helper.make_node("Reshape", ["features", "axes"], ["broken"])
    model = onnx.load_model_from_string(small.graph(extra=[bad]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("broken", TensorProto.FLOAT, [2, 3]))
    onnx.save(model, "model.onnx")
    collect("model.onnx", dataset(), "table.npz")
    close(load_table("table.npz").signals["logits"], small.expected(small.inputs())[1])


def test_weights_in_a_file_beside_the_model(here):
    model = onnx.load_model_from_string(small.graph())
    onnx.save_model(model, "out.onnx", save_as_external_data=True, location="out.bin", size_threshold=100)
    assert Path("out.bin").exists()
    collect("out.onnx", dataset(), "table.npz")
    close(load_table("table.npz").signals["features"], small.expected(small.inputs())[0])
    Path("out.bin").unlink()
    with pytest.raises(DemurError, match=r"out\.bin"):
        collect("out.onnx", dataset(), "table.npz")


@pytest.mark.parametrize("place", ["/dev/zero", "../out.bin", "folder"])
def test_weights_elsewhere_are_refused(here, place):
    """Not opened at all: an endless file would be read for ever."""
    model = onnx.load_model_from_string(small.graph())
    onnx.save_model(model, "out.onnx", save_as_external_data=True, location="out.bin", size_threshold=100)
    model = onnx.load("out.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = place if entry.key == "location" else entry.value
    Path("folder").mkdir()
    Path("out.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ConfigurationError, match="expected its weights in files beside it"):
        collect("out.onnx", dataset(), "table.npz")


@pytest.mark.parametrize(("batch", "rows"), [(1, 5), (8, 8), (8, 19), (8, 3)])
def test_a_model_of_fixed_batches_is_filled_up(here, batch, rows):
    Path("model.onnx").write_bytes(small.graph(batch=batch))
    given = dataset(rows)
    collect("model.onnx", given, "table.npz")
    close(load_table("table.npz").signals["logits"], small.expected(given["image"])[1])
    with pytest.raises(ConfigurationError, match=f"batches of {batch} only"):
        collect("model.onnx", given, "table.npz", batch=batch + 1)


def test_flat_rows_are_folded_and_what_does_not_fit_is_refused(here):
    Path("model.onnx").write_bytes(small.graph(shape=(1, 3, 4)))
    for shape in ((50, 12), (50, 3, 4), (50, 1, 3, 4)):
        collect("model.onnx", {"image": small.inputs().reshape(shape)}, "table.npz")
        close(load_table("table.npz").signals["logits"], small.expected(small.inputs())[1])
    with pytest.raises(InvalidObservation, match=r"image \(N, 1, 3, 4\) FP32 asks for, got \(N, 4, 3\)"):
        collect("model.onnx", {"image": small.inputs().reshape(50, 4, 3)}, "table.npz")
    with pytest.raises(InvalidObservation, match=r"got \(N, 11\)"):
        collect("model.onnx", {"image": small.inputs()[:, :11]}, "table.npz")


def test_dtypes_that_would_change_the_numbers_are_refused(here):
    Path("model.onnx").write_bytes(small.graph(datatype=TensorProto.UINT8))
    whole = np.arange(24).reshape(2, 12)
    collect("model.onnx", {"image": whole}, "table.npz")
    close(load_table("table.npz").signals["logits"], small.expected(whole)[1])
    for bad in (whole.astype(np.float32), whole + 250, np.full((2, 12), "a")):
        with pytest.raises(InvalidObservation, match="image"):
            collect("model.onnx", {"image": bad}, "table.npz")


def test_uint8_images_in_a_table_need_a_scale(here):
    Path("model.onnx").write_bytes(small.graph(shape=(3, 2, 2)))
    images = np.random.default_rng(0).integers(0, 256, (9, 3, 2, 2), np.uint8)
    with pytest.raises(InvalidObservation, match="--scale"):
        collect("model.onnx", {"image": images}, "table.npz")
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    collect("model.onnx", {"image": images}, "table.npz", pixels=Pixels(scale=255, mean=mean, std=std))
    wanted = np.empty(images.shape)
    for n, c, h, w in np.ndindex(images.shape):
        wanted[n, c, h, w] = (images[n, c, h, w] / 255 - mean[c]) / std[c]
    close(load_table("table.npz").signals["logits"], small.expected(wanted)[1])


def test_pixels_in_flat_rows_need_a_scale_too(here):
    rows = np.random.default_rng(0).integers(0, 256, (9, small.INPUT), np.uint8)
    with pytest.raises(InvalidObservation, match="--scale"):
        collect("model.onnx", {"image": rows}, "table.npz")
    collect("model.onnx", {"image": rows}, "table.npz", pixels=Pixels(scale=255))
    close(load_table("table.npz").signals["logits"], small.expected(rows / 255)[1])


def test_mean_and_std_of_images_that_are_floats(here):
    """Channels last, without a scale: nothing that was asked for is left undone."""
    Path("model.onnx").write_bytes(small.graph(shape=(2, 2, 3)))
    images, mean, std = small.inputs(9).reshape(9, 2, 2, 3), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    collect("model.onnx", {"image": images}, "table.npz", pixels=Pixels(mean=mean, std=std))
    wanted = np.empty(images.shape)
    for n, h, w, c in np.ndindex(images.shape):
        wanted[n, h, w, c] = (images[n, h, w, c] - mean[c]) / std[c]
    close(load_table("table.npz").signals["logits"], small.expected(wanted)[1])


def test_an_input_of_uint8_gets_the_pixels_as_they_are(here):
    Path("model.onnx").write_bytes(small.graph(shape=(3, 2, 2), datatype=TensorProto.UINT8))
    images = np.random.default_rng(0).integers(0, 256, (9, 3, 2, 2), np.uint8)
    collect("model.onnx", {"image": images}, "table.npz", pixels=Pixels(scale=255, mean=(0.5,)))
    close(load_table("table.npz").signals["logits"], small.expected(images)[1])


@pytest.mark.parametrize(
    "options", [{"size": (2, 2)}, {"fitting": "crop"}, {"colour": "bgr"}, {"scale": 255.0}, {"mean": (1,)}]
)
def test_options_that_would_do_nothing_are_refused(here, options):
    with pytest.raises(DemurError, match="--"):
        collect("model.onnx", dataset(), "table.npz", pixels=Pixels(**options))
    head = ",".join(f"f{i}" for i in range(small.INPUT))
    Path("rows.csv").write_text(head + "\n" + ",".join("1" * 12) + "\n")
    with pytest.raises(ConfigurationError, match="are for images"):
        collect("model.onnx", "rows.csv", "table.npz", pixels=Pixels(**options))


@pytest.mark.parametrize("options", [{"scale": 0.0}, {"std": (1, 0)}, {"scale": float("nan")}, {"mean": (np.inf,)}])
def test_pixels_are_divided_by_numbers_above_zero(options):
    with pytest.raises(ConfigurationError, match="expected"):
        Pixels(**options)


def test_signals_that_are_the_models_own_inputs(here):
    """As the proxy takes them: the map's `inputs`, flattened, side by side, and of a filled-up batch too."""
    Path("model.onnx").write_bytes(small.graph(shape=(3, 4), batch=8))
    mapped = {"signals": {"logits": "logits"}, "inputs": {"table": ["image", "image"]}}
    given = dataset(19)
    collect("model.onnx", given, "table.npz", map=mapped, shuffle=True)
    table = load_table("table.npz")
    np.testing.assert_array_equal(table.signals["table"], np.tile(given["image"], 2)[table.id])
    for change, words in (
        ({"inputs": {"table": "picture"}}, "no input is named picture"),
        ({"inputs": {"logits": "image"}}, "logits comes from two places"),
        ({"inputs": {"label": "image"}}, "means something else"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            collect("model.onnx", given, "other.npz", map={**mapped, **change})


def test_values_that_are_not_finite_are_written_and_counted(here):
    given = dataset()
    given["image"][7, 0] = np.nan
    given["image"][9, 3] = np.inf
    summary = collect("model.onnx", given, "table.npz").summary()
    assert {s.name: s.not_finite for s in summary.signals}["logits"] == 2
    assert not np.isfinite(load_table("table.npz").signals["logits"][[7, 9]]).all(axis=1).any()


def test_probabilities_named_logits_are_noticed(here):
    Path("model.onnx").write_bytes(small.graph(softmax=True))
    codes = [f.code for f in collect("model.onnx", dataset(), "table.npz").summary().findings]
    assert "probabilities_as_logits" in codes


def test_limit_shuffle_and_seed(here):
    given = dataset()
    plain = load_table(collect("model.onnx", given, "a.npz", limit=20).tables[0].path)
    assert plain.id.tolist() == list(range(20))
    one = load_table(collect("model.onnx", given, "b.npz", limit=20, shuffle=True, seed=5).tables[0].path)
    two = load_table(collect("model.onnx", given, "c.npz", limit=20, shuffle=True, seed=5).tables[0].path)
    other = load_table(collect("model.onnx", given, "d.npz", limit=20, shuffle=True, seed=6).tables[0].path)
    assert one.digest() == two.digest() != other.digest()
    assert len(set(one.id.tolist())) == 20
    close(one.signals["logits"], small.expected(given["image"])[1][one.id])
    np.testing.assert_array_equal(one.label, given["label"][one.id])


def test_a_split_never_cuts_a_group_and_loses_no_row(here):
    groups = np.random.default_rng(3).integers(0, 12, 200)
    given = dataset(200, group_id=groups)
    targets = ["reference.npz", "calibration.npz", "selection"]
    collect("model.onnx", given, targets, split="0.5/0.3/0.2")
    tables = [load_table(t) for t in targets]
    assert sorted(np.concatenate([t.id for t in tables]).tolist()) == list(range(200))
    owners = [set(t.group_id.tolist()) for t in tables]
    assert not owners[0] & owners[1] | owners[1] & owners[2] | owners[0] & owners[2]
    assert [abs(len(t) / 200 - s) < 0.12 for t, s in zip(tables, (0.5, 0.3, 0.2), strict=True)] == [True] * 3
    for table in tables:
        close(table.signals["logits"], small.expected(given["image"])[1][table.id])


def test_shares_are_met_to_one_row_without_groups():
    found = np.bincount(assigned(np.arange(1000), (0.7, 0.3), 0))
    assert found.tolist() == [700, 300]
    assert (assigned(np.arange(1000), (0.7, 0.3), 1) != assigned(np.arange(1000), (0.7, 0.3), 0)).any()
    with pytest.raises(ConfigurationError, match="cannot fill"):
        assigned(np.zeros(10), (0.5, 0.5), 0)


@settings(max_examples=80, deadline=None)
@drawn(
    st.lists(st.integers(1, 9), min_size=3, max_size=60),
    st.lists(st.integers(1, 9), min_size=2, max_size=3),
    st.integers(0, 99),
)
def test_groups_stay_whole_and_shares_are_met_to_one_group(sizes, weights, seed):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    parts = [w / sum(weights) for w in weights]
    try:
        found = assigned(groups, parts, seed)
    except ConfigurationError:  # a share smaller than a group
        assert min(parts) * len(groups) < 2 * max(sizes)
        return
    for group in range(len(sizes)):
        assert len(set(found[groups == group].tolist())) == 1
    for number, share in enumerate(parts):
        assert abs((found == number).sum() - share * len(groups)) <= max(sizes) + 1e-6


@pytest.mark.parametrize(
    ("split", "targets", "words"),
    [
        ("0.7/0.4", ["a.npz", "b.npz"], "sum to 1"),
        ("0.7/0.3", ["a.npz"], "2 shares and 1 tables"),
        ("most/rest", ["a.npz", "b.npz"], "expected shares"),
        (None, ["a.npz", "b.npz"], "1 shares and 2 tables"),
        ("0.5/0.5", ["a.npz", "a.npz"], "a path of its own"),
        (None, ["a.csv"], "expected .npz"),
        (None, ["nowhere/a.npz"], "no folder nowhere"),
        ("0.5/0.5", ["a.npz", "./x/../a.npz"], "a path of its own"),
        ("nan/0.5", ["a.npz", "b.npz"], "sum to 1"),
    ],
)
def test_targets_and_shares_are_checked_before_the_work(here, split, targets, words):
    with pytest.raises(DemurError, match=words):
        collect("model.onnx", dataset(), targets, split=split)
    assert {p.name for p in here.iterdir()} == {"model.onnx"}


def test_a_csv_of_a_tabular_model(here):
    rows, names = small.inputs(20).astype(np.float64), [f"f{i}" for i in range(small.INPUT)]
    with Path("rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*names, "target", "patient"])
        writer.writerows([*row, n % 3, f"p{n % 4}"] for n, row in enumerate(rows.tolist()))
    made = collect("model.onnx", "rows.csv", "table.npz", columns={"label": "target", "group_id": "patient"})
    table = load_table("table.npz")
    close(table.signals["logits"], small.expected(rows)[1])
    assert table.label.tolist() == [n % 3 for n in range(20)]
    assert table.group_id.tolist() == [f"p{n % 4}" for n in range(20)]
    assert made.summary().accuracy is not None
    turned = ",".join(reversed(names))
    collect("model.onnx", "rows.csv", "table.npz", inputs={"image": turned}, columns={"label": "target"})
    close(load_table("table.npz").signals["logits"], small.expected(rows[:, ::-1])[1])
    with pytest.raises(DemurError, match="patient: expected numbers, got text"):
        collect("model.onnx", "rows.csv", "table.npz", inputs={"image": "patient," + ",".join(names[1:])})


def test_an_input_may_have_the_name_of_a_row_column(here):
    """`weight` is a feature of many tables; named with --input it is one, and no weight of rows."""
    rows, names = np.abs(small.inputs(20)).astype(np.float64), [*(f"f{i}" for i in range(small.INPUT - 1)), "weight"]
    lines = [",".join(names), *(",".join(map(repr, row)) for row in rows.tolist())]
    Path("rows.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(InvalidObservation, match=r"got \(N, 11\)"):
        collect("model.onnx", "rows.csv", "table.npz")
    for source in ("rows.csv", {"weight": rows.astype(np.float32)}):
        chosen = ",".join(names) if source == "rows.csv" else "weight"
        collect("model.onnx", source, "table.npz", inputs={"image": chosen})
        close(load_table("table.npz").signals["logits"], small.expected(rows)[1])
        assert load_table("table.npz").weight is None


def test_a_column_under_another_name_is_not_carried_twice(here):
    collect("model.onnx", {"image": small.inputs(9), "target": np.arange(9)}, "t.npz", columns={"label": "target"})
    assert load_table("t.npz").label.tolist() == list(range(9))
    assert load_table("t.npz").target is None


def test_a_comma_in_a_name_is_said(here):
    Path("rows.csv").write_text('"a,b",c\n1,2\n')
    with pytest.raises(DemurError, match="'a,b' has a comma"):
        collect("model.onnx", "rows.csv", "table.npz")


def test_an_empty_field_of_a_csv_is_a_missing_value(here):
    head = ",".join(f"f{i}" for i in range(small.INPUT))
    Path("rows.csv").write_text(head + "\n" + ",".join("1" * 12) + "\n" + "," + ",".join("1" * 11) + "\n")
    summary = collect("model.onnx", "rows.csv", "table.npz").summary()
    assert {s.name: s.not_finite for s in summary.signals}["logits"] == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inputs": {"imag": "image"}}, 'did you mean "image"'),
        ({"inputs": {"image": "pixels"}}, "has columns image"),
        ({"columns": {"label": "y"}}, "--column label=y"),
        ({"columns": {"loss": "label"}}, "expected one of label"),
        ({"map": {"signals": {"logits": "scores"}}}, "expected an output scores, the model has"),
        ({"map": {"signals": {}}}, "names no signals"),
        ({"map": {"signals": {"logits": "answer"}}}, "expected floats in output answer, got int64"),
        ({"map": {"signals": {"label": "logits"}}}, "means something else"),
        ({"map": {"signal": {"logits": "logits"}}}, "cannot be used"),
        ({"map": "none.yaml"}, "cannot be read"),
    ],
)
def test_what_does_not_belong_together_is_said(here, change, words):
    with pytest.raises(DemurError, match=words):
        collect("model.onnx", dataset(), "table.npz", **change)


def test_outputs_without_the_names_of_signals_need_a_map(here):
    model = onnx.load_model_from_string(small.graph().replace(b"logits", b"scores").replace(b"features", b"fortunes"))
    onnx.save(model, "model.onnx")
    with pytest.raises(ConfigurationError, match=r"no output is named like a signal.*fortunes, scores.*--map"):
        collect("model.onnx", dataset(), "table.npz")


def test_maps_of_scikit_learn_are_no_signal(here):
    zipped = onnx.helper.make_node(
        "ZipMap", ["logits"], ["scores"], domain="ai.onnx.ml", classlabels_int64s=list(range(small.CLASSES))
    )
    model = onnx.load_model_from_string(small.graph())
    model.graph.node.append(zipped)
    pairs = onnx.helper.make_map_type_proto(
        TensorProto.INT64, onnx.helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    )
    kind = onnx.helper.make_sequence_type_proto(pairs)
    model.graph.output.append(onnx.helper.make_value_info("scores", kind))
    model.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 3))
    onnx.save(model, "model.onnx")
    with pytest.raises(InvalidObservation, match=r"expected a tensor in output scores, got a list.*zipmap"):
        collect("model.onnx", dataset(), "table.npz", map={"signals": {"probabilities": "scores"}})


def test_a_spatial_output_is_no_signal(here):
    model = onnx.load_model_from_string(small.graph())
    model.graph.node.append(onnx.helper.make_node("Concat", ["pooled", "pooled"], ["tiled"], axis=3))
    model.graph.output.append(onnx.helper.make_tensor_value_info("tiled", TensorProto.FLOAT, ["N", 5, 1, 2]))
    onnx.save(model, "model.onnx")
    with pytest.raises(InvalidObservation, match=r"expected \(N, width\) in output tiled, got \(32, 5, 1, 2\)"):
        collect("model.onnx", dataset(), "table.npz", map={"signals": {"features": "tiled"}})


@pytest.mark.parametrize("target", ["data.npz", "./data.npz", "model.onnx.npz", "map.npz"])
def test_nothing_that_is_read_is_written_over(here, target):
    np.savez("data.npz", **dataset())
    Path("model.onnx.npz").write_bytes(Path("model.onnx").read_bytes())
    Path("map.npz").write_text("signals: {logits: logits}")
    before = Path(target).read_bytes()
    with pytest.raises(ConfigurationError, match="would overwrite"):
        collect("model.onnx.npz", "data.npz", target, map="map.npz")
    assert Path(target).read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"no model", small.graph()[:300]])
def test_bytes_that_are_no_model(here, content):
    Path("model.onnx").write_bytes(content)
    with pytest.raises(DemurError):
        collect("model.onnx", dataset(), "table.npz")


@pytest.mark.parametrize(
    "given", [{}, {"label": np.arange(3)}, {"image": np.zeros((0, 12), np.float32)}, {"image": np.float32(1)},
              {"image": small.inputs(5), "label": np.arange(4)}]
)  # fmt: skip
def test_datasets_without_inputs(here, given):
    with pytest.raises(DemurError):
        collect("model.onnx", given, "table.npz")
    assert not Path("table.npz").exists()


def test_a_folder_of_arrays_gives_what_a_file_of_them_gives(here):
    given = dataset(300)
    Path("data").mkdir()
    for name, array in given.items():
        np.save(f"data/{name}.npy", array)
    collect("model.onnx", "data", "table.npz")
    np.savez("data.npz", **given)
    collect("model.onnx", "data.npz", "other.npz")
    assert Path("table.npz").read_bytes() == Path("other.npz").read_bytes()


def test_the_command_says_what_was_collected_and_what_comes_next(here):
    np.savez("data.npz", **dataset(300))
    words = "collect model.onnx data.npz --split 0.7/0.3 --shuffle reference.npz calibration.npz".split()
    answer = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert answer.exit_code == 0, answer.output
    assert "210 rows of 210 inputs, accuracy" in answer.output
    assert "  demur fit monitor.yaml --reference reference.npz \\\n    --calibration calibration" in answer.output
    assert "features  5 " in answer.output
    answer = CliRunner().invoke(app, "collect model.onnx data.npz test.npz".split(), env={"COLUMNS": "200"})
    assert "next:\n  demur evaluate monitor.demur test.npz\n  # for a fit, --split" in answer.output
    answer = CliRunner().invoke(app, ["collect", "model.onnx", "data.npz", "a test.npz"], env={"COLUMNS": "200"})
    assert "  demur evaluate monitor.demur 'a test.npz'\n" in answer.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--size 3by4", "HEIGHTxWIDTH"), ("--mean a,b", "expected numbers"), ("--input image", "NAME=VALUE"),
        ("--model digits --provider NoSuch", "NoSuch"), ("--header Authorization:s3cret", "--header: expected NAME=VALUE"),
    ],
)  # fmt: skip
def test_wrong_options_are_said_plainly(here, words, said):
    np.savez("data.npz", **dataset())
    answer = CliRunner().invoke(app, ["collect", "model.onnx", "data.npz", "t.npz", *words.split()])
    assert answer.exit_code != 0
    assert said in f"{answer.output} {answer.exception}"
    assert "s3cret" not in f"{answer.output} {answer.exception}"


def test_from_a_model_and_scans_to_a_monitor(here):
    """Real digits: collect, fit, and the verdicts of rows that the model never saw."""
    from demur.monitor.demo.model import load_digits, train

    digits = load_digits()
    Path("digits.onnx").write_bytes(train(*(part[:250] for part in digits.train)))
    for name in ("calibration", "test", "novel"):
        images, label = getattr(digits, name)
        np.savez(f"{name}.npz", image=images, **({} if name == "novel" else {"label": label}))
    collect("digits.onnx", "calibration.npz", ["ref.npz", "cal.npz"], split="0.5/0.5", access=Access(threads=2))
    policy = {
        "monitor": "digits",
        "signals": {"logits": 8, "features": 64},
        "scores": ["energy"],
        "rules": [{"novel": {"when": "energy", "promise": {"refuse_good_at_most": 0.1}}}],
    }
    monitor = demur.Monitor.of(demur.fit(policy, reference="ref.npz", calibration="cal.npz"))
    refused = {}
    for name in ("test", "novel"):
        collect("digits.onnx", f"{name}.npz", f"{name}-signals.npz")
        refused[name] = 1 - monitor.assess(**load_table(f"{name}-signals.npz").arrays()).accept.mean()
    assert refused["test"] < 0.2 < refused["novel"]


def test_an_interrupted_command_says_that_nothing_is_lost(here, monkeypatch):
    from demur.adapters.models.collect.onnx_model import OnnxModel

    np.savez("data.npz", **dataset(300))
    real, calls = OnnxModel.run, []

    def interrupted(self, feed, outputs):
        calls.append(len(feed["image"]))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, feed, outputs)

    monkeypatch.setattr(OnnxModel, "run", interrupted)
    words = ["collect", "model.onnx", "data.npz", "t.npz"]
    stopped = CliRunner().invoke(app, words)
    assert stopped.exit_code != 0
    assert "the same command goes on from here" in stopped.stderr
    answer = CliRunner().invoke(app, words)
    assert "300 inputs, 96 of them before" in answer.output
