"""How signals were decoded goes from the table into the bundle, and what was decoded otherwise is refused."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import demur
from demur.adapters.models.collect.table_writer import TableWriter
from demur.monitor.bundle import Bundle, Manifest
from demur.monitor.cli.main import app
from demur.monitor.config.decoding import Decoding, decoding_of
from demur.monitor.config.document import parse
from demur.monitor.config.signal_map import SignalMapConfig
from demur.monitor.errors import BundleError, ConfigurationError
from demur.monitor.evaluate.hallucination import hallucinations
from demur.monitor.fit.checks import ContractViolation
from demur.monitor.fit.columns import EMPTY_GROUPS, ORIGIN
from demur.monitor.fit.origin import Origin
from demur.monitor.fit.pipeline import calibrate
from demur.monitor.fit.table import SignalsTable, TableError, load_table
from demur.monitor.fit.writing import write_columns
from demur.monitor.loaded import Loaded

MAP = {"detection": {"layout": "yolov8", "classes": 3, "image": [64, 64], "regions": {"maps": {"a": 8, "b": 16}}}}
SIGNALS = ["logits", "box_features"]
POLICY = {
    "monitor": "boxes",
    "signals": {"logits": 3},
    "scores": ["energy"],
    "rules": [{"unknown": {"when": "energy", "unit": "group", "promise": {"refuse_good_at_most": 0.1}}}],
}
FORMATS = ["t.npz", "t.parquet", "t.safetensors", "t.arrow", "folder"]


def decoding(**changed: object) -> Decoding:
    section = {**MAP["detection"], "signals": SIGNALS, **changed}
    return decoding_of(parse(SignalMapConfig, {"detection": section}, "the map"))


def boxes(seed: int, origin: Origin | None = None, **more: object) -> dict[str, object]:
    rng = np.random.default_rng(seed)
    found = {"logits": rng.normal(size=(200, 3)).astype(np.float32), "group_id": np.arange(200) // 2 + 1000 * seed}
    return {**found, **({} if origin is None else {ORIGIN: origin.column()}), **more}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("signals", [None, {"logits": 3}])
def test_every_format_keeps_origin_and_groups_without_rows(tmp_path, name, signals):
    origin = Origin(decoding(), "ab" * 32)
    write_columns(tmp_path / name, boxes(1, origin, empty_groups=np.array([7, 3])))
    table = load_table(tmp_path / name, signals)
    assert table.origin.decoding.digest == decoding().digest
    assert table.origin.model == "ab" * 32
    assert table.empty_groups.tolist() == [7, 3]
    assert list(table.signals) == ["logits"]


@pytest.mark.parametrize("name", ["t.npz", "t.parquet", "t.arrow", "folder"])
def test_names_of_groups_without_rows_may_be_words(tmp_path, name):
    words = boxes(1, group_id=np.array([f"img{i // 2}" for i in range(200)]), empty_groups=np.array(["none.png"]))
    write_columns(tmp_path / name, words)
    assert load_table(tmp_path / name).empty_groups.tolist() == ["none.png"]


def test_the_digest_is_of_the_canonical_document():
    document = {"b": {"y": 1, "x": [2.5, "ü"]}, "a": True}
    raw = '{"a":true,"b":{"x":[2.5,"\\u00fc"],"y":1}}'
    assert Decoding(document).digest == hashlib.sha256(raw.encode()).hexdigest()


@pytest.mark.parametrize(
    ("chart", "digest"),
    [
        (
            {"detection": {**MAP["detection"], "signals": SIGNALS}},
            "b124a02c7221a6c4045f69d486ec014ec18dee63b71fcb31552652def3fece3a",
        ),
        (
            {"detection": {"layout": "rt_detr", "classes": 80, "image": [640, 640]}},
            "eb8929acd922e065aa89882803a958974c4bdfae1c20d5a15347a0f691d9a969",
        ),
        (
            {"segmentation": {"logits": "out", "score": "energy"}},
            "8fd8b036fa6ef4c65433b1cb7962c9e416f027a48ee17f55b60753434581493a",
        ),
        (
            {"views": {"input": "x", "output": "y", "corruptions": ["blur:1"]}},
            "2a224d3851fc3c6721b979e1b94f5000330708bac6c432c9a49f936061132e65",
        ),
    ],
)
def test_the_same_map_has_the_same_digest_in_every_version(chart, digest):
    """Another digest here refuses every bundle made before: a new key must be None, and left out, where it is not given."""
    assert decoding_of(parse(SignalMapConfig, chart, "the map")).digest == digest


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"floor": 0.1}, "detection.floor: expected 0.25, got 0.1"),
        ({"iou": 0.7}, "detection.iou: expected 0.45, got 0.7"),
        ({"image": [64, 32]}, "detection.image: expected [64, 64], got [64, 32]"),
        ({"first_class": 1}, "detection.first_class: expected 0, got 1"),
        ({"regions": {"maps": {"b": 16, "a": 8}}}, 'detection.regions.maps: expected [["a", 8], ["b", 16]]'),
        ({"classes": 4}, "detection.classes: expected 3, got 4"),
    ],
)
def test_what_decides_the_numbers_is_compared_by_its_key(changed, said):
    assert said in decoding(**changed).conflict(decoding())


@pytest.mark.parametrize("changed", [{"outputs": {"predictions": "boxes"}}, {"signals": ["box_features", "box"]}])
def test_where_tensors_are_does_not_matter(changed):
    assert decoding(**changed).digest == decoding().digest
    assert not decoding(**changed).conflict(decoding())


def test_another_kind_of_decoding_is_told_by_its_section():
    frames = decoding_of(parse(SignalMapConfig, {"segmentation": {"logits": "out", "score": "energy"}}, "the map"))
    assert frames.conflict(decoding()) == (
        "detection: expected a section of that name; segmentation: expected no section of that name"
    )
    assert not decoding().conflict(Decoding({}))


def test_the_file_of_a_segmenter_is_part_of_it(tmp_path):
    section = {"segmentation": {"logits": "out", "score": "energy", "fitted": "seg.onnx"}}
    config = parse(SignalMapConfig, section, "the map")
    with pytest.raises(ConfigurationError, match=r"seg\.onnx: cannot be read"):
        decoding_of(config, tmp_path)
    found = set()
    for raw in (b"one", b"two"):
        (tmp_path / "seg.onnx").write_bytes(raw)
        found.add(decoding_of(config, tmp_path).digest)
    assert len(found) == 2


def test_fit_records_the_decoding_and_the_manifest_keeps_it(tmp_path):
    origin = Origin(decoding(), "cd" * 32)
    bundle = demur.fit(POLICY, reference=boxes(1, origin), calibration=boxes(2, origin))
    bundle.save(tmp_path / "b.demur")
    again = Bundle.load(tmp_path / "b.demur")
    assert again.manifest.decoding.digest == decoding().digest == again.manifest.origin.decoding_digest
    assert again.manifest.origin.model == "cd" * 32
    assert again.manifest.origin.decoding["detection"]["floor"] == 0.25
    document = json.loads(again.raw_manifest)
    document["origin"]["decoding"]["detection"]["floor"] = 0.5
    with pytest.raises(BundleError, match=r"origin\.decoding"):
        Manifest.decode(json.dumps(document).encode())


def test_tables_without_origin_are_compared_with_nothing():
    bare = demur.fit(POLICY, reference=boxes(1), calibration=boxes(2))
    assert bare.manifest.origin is None
    assert b'"origin"' not in bare.raw_manifest
    half = demur.fit(POLICY, reference=boxes(1, Origin(decoding())), calibration=boxes(2))
    assert half.manifest.decoding.digest == decoding().digest


def test_sets_that_were_decoded_otherwise_are_not_fitted_together():
    ours, other = Origin(decoding()), Origin(decoding(iou=0.6))
    with pytest.raises(
        ContractViolation, match=r"calibration: signals.*those of reference: detection\.iou: expected 0\.45"
    ):
        demur.fit(POLICY, reference=boxes(1, ours), calibration=boxes(2, other))
    bundle = demur.fit(POLICY, reference=boxes(1, ours), calibration=boxes(2, ours))
    with pytest.raises(ContractViolation, match=r"those of the bundle: detection\.iou"):
        calibrate(bundle, calibration=boxes(3, other))
    assert calibrate(bundle, calibration=boxes(3)).manifest.decoding.digest == decoding().digest
    for judge in (
        lambda: demur.evaluate(bundle, boxes(3, other), bootstrap=0),
        lambda: hallucinations(bundle, boxes(3, ours, loss=np.zeros(200, int)), boxes(4, other), bootstrap=0),
    ):
        with pytest.raises(ContractViolation, match=r"detection\.iou"):
            judge()


def test_views_count_for_the_monitor_that_reads_them_only():
    """One map may serve several monitors: one of logits, one of views."""
    views = {"input": "x", "output": "y", "corruptions": ["blur:1"]}
    several = decoding_of(parse(SignalMapConfig, {"signals": {"logits": "y"}, "views": views}, "the map"))
    rows = {name: value for name, value in boxes(1).items() if name != "view_logits"}
    bare = demur.fit(POLICY, reference={**rows, ORIGIN: Origin(several).column()}, calibration=boxes(2))
    assert bare.manifest.origin is None
    assert not Loaded.open(bare).conflict(several)
    policy = {**POLICY, "signals": {"logits": 3, "view_logits": 3}}
    looked = [
        {
            **boxes(seed, Origin(several)),
            "view_logits": np.random.default_rng(seed + 9).normal(size=(200, 3)).astype("f4"),
        }
        for seed in (1, 2)
    ]
    bundle = Loaded.open(demur.fit(policy, reference=looked[0], calibration=looked[1]))
    assert not bundle.conflict(several)
    assert "views: expected a section" in bundle.conflict(Decoding({}))
    other = decoding_of(parse(SignalMapConfig, {"views": {**views, "corruptions": ["blur:2"]}}, "the map"))
    assert 'views.corruptions: expected ["blur:1"], got ["blur:2"]' in bundle.conflict(other)


def test_inspect_tells_where_a_bundles_tables_came_from(tmp_path):
    origin = Origin(decoding(), "cd" * 32)
    fitted = demur.fit(POLICY, reference=boxes(1, origin), calibration=boxes(2, origin, empty_groups=np.array([5])))
    fitted.save(tmp_path / "b.demur")
    said = CliRunner().invoke(app, ["inspect", str(tmp_path / "b.demur")], env={"COLUMNS": "100"}).output
    assert f"by detection (sha256:{decoding().digest[:12]}" in said
    assert "the model sha256:cdcdcdcdcdcd" in said
    assert "1 of the calibration groups have no rows" in said
    assert "200 reference (sha256:" in said


def test_two_models_are_told_and_the_calibration_sets_is_recorded():
    first, second = Origin(model="1" * 64), Origin(model="2" * 64)
    bundle = demur.fit(POLICY, reference=boxes(1, first), calibration=boxes(2, second))
    assert bundle.manifest.origin.model == "2" * 64
    assert any("reference from 1111111111111111..." in f for f in bundle.manifest.findings)


def test_that_two_models_met_in_a_bundle_is_not_forgotten_with_new_rows_of_the_second():
    first, second = Origin(model="1" * 64), Origin(model="2" * 64)
    bundle = demur.fit(POLICY, reference=boxes(1, first), calibration=boxes(2, first))
    assert not [f for f in bundle.manifest.findings if "was collected from" in f]
    for seed in (3, 4):
        bundle = calibrate(bundle, calibration=boxes(seed, second))
        (said,) = (f for f in bundle.manifest.findings if "was collected from" in f)
        assert said.startswith("calibration was collected from model 2222222222222222..., the bundle from 1111")


@pytest.mark.parametrize(
    "broken",
    [
        np.array(["{"]),
        np.array(["[]"]),
        np.array(['{"other": 1}']),
        np.array(['{"decoding": 3}']),
        np.array(['{"decoding": {"a": NaN}}']),
        np.array(['{"model": "zz"}']),
        np.array(['{"decoding": ' + '{"a": ' * 500 + "1" + "}" * 501]),
        np.array(['{"decoding": {"a": ' + "[" * 100_000]),
        np.array(['{"decoding": {"a": ' + "[" * 300 + "]" * 300 + "}}"]),
        np.array(['{"decoding": {"a": 1e400}}']),
        np.array(['{"decoding": {"a": "\\ud800"}}']),
        np.array(['{"decoding": {"\\u001b[2J": 1}}']),
        np.arange(3),
        np.array([], np.str_),
    ],
)
def test_an_origin_that_nobody_wrote_is_refused(broken):
    with pytest.raises(TableError, match="_origin: expected what `demur collect` writes"):
        SignalsTable.from_columns(boxes(1, **{ORIGIN: broken}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1e400}', "1e400 is not a JSON number"),
        ('{"a": ' + "[" * 300 + "]" * 300 + "}", r"origin\.decoding is no part of a signal map: expected at most 8"),
        ('{"a": "\\ud800"}', r"origin\.decoding is no part of a signal map: .*surrogates"),
        ('{"\\u001b[2J": 1}', r"origin\.decoding is no part of a signal map: expected keys"),
    ],
)
def test_a_bundle_of_a_decoding_that_nobody_wrote_is_refused(text, said):
    origin = Origin(decoding())
    bundle = demur.fit(POLICY, reference=boxes(1, origin), calibration=boxes(2, origin))
    document = json.loads(bundle.raw_manifest)
    document["origin"]["decoding"] = "here"
    with pytest.raises(BundleError, match=said):
        Manifest.decode(json.dumps(document).replace('"here"', text).encode())


def test_long_values_are_shortened_but_compared_as_a_whole():
    maps = {f"map{number}": 8 + number for number in range(40)}
    ours, theirs = decoding(regions={"maps": maps}), decoding(regions={"maps": {**maps, "map39": 64}})
    said = theirs.conflict(ours)
    assert said.startswith('detection.regions.maps: expected [["map0", 8]')
    assert len(said) < 300


@pytest.mark.parametrize("given", [5, b"x", ["a"]])
def test_a_decoding_that_is_no_digest_abstains(given):
    origin = Origin(decoding())
    bundle = demur.fit(POLICY, reference=boxes(1, origin), calibration=boxes(2, origin))
    rows = {"logits": np.zeros((2, 3), np.float32), "group_id": [0, 0]}
    found = demur.Monitor.of(bundle).assess(**rows, model={"decoding": given})
    assert not found.accept.any()


def test_rows_of_two_origins_are_no_table():
    both = np.concatenate([Origin(decoding()).column(), Origin(decoding(iou=0.6)).column()])
    with pytest.raises(TableError, match="collected in different ways"):
        SignalsTable.from_columns(boxes(1, **{ORIGIN: both}))
    same = np.concatenate([Origin(decoding()).column()] * 2)
    assert SignalsTable.from_columns(boxes(1, **{ORIGIN: same})).origin.decoding.digest == decoding().digest


@pytest.mark.parametrize(
    ("empty", "said"),
    [
        (np.array([1000]), "1000 has some"),
        (np.array([1, 1]), "named twice"),
        (np.array(["a"]), "expected ids like those of group_id"),
        (np.array([0.5]), "whole numbers"),
        (np.zeros((2, 2)), r"expected shape \(N,\)"),
    ],
)
def test_groups_without_rows_are_checked(empty, said):
    with pytest.raises(TableError, match=f"{EMPTY_GROUPS}: .*{said}"):
        SignalsTable.from_columns(boxes(1, empty_groups=empty))
    with pytest.raises(TableError, match="expected group_id beside it"):
        SignalsTable.from_columns({"logits": np.zeros((2, 3), np.float32), EMPTY_GROUPS: np.array([1])})


def test_a_table_written_batch_by_batch_keeps_what_stands_beside_its_rows(tmp_path):
    origin = Origin(decoding())
    for name in ("t.npz", "t.parquet", "folder"):
        with TableWriter(tmp_path / name) as table:
            table.append(boxes(1, origin, empty_groups=np.array([5])))
            table.append(boxes(2, origin, empty_groups=np.array([9, 7])))
        found = load_table(tmp_path / name)
        assert sorted(found.empty_groups.tolist()) == [5, 7, 9]
        assert found.origin.decoding.digest == decoding().digest
        assert len(found) == 400


def test_a_batch_without_a_single_box_says_which_images_it_had(tmp_path):
    nothing = {"logits": np.empty((0, 3), np.float32), "group_id": np.empty(0, np.int64)}
    for name in ("t.npz", "t.parquet", "folder"):
        with TableWriter(tmp_path / name) as table:
            table.append({**nothing, "empty_groups": [], ORIGIN: Origin(decoding()).column()})
            table.append({**nothing, "empty_groups": np.array([7, 8])})
            table.append(boxes(1, Origin(decoding()), empty_groups=np.array([5.0])))
        found = load_table(tmp_path / name)
        assert (len(found), found.empty_groups.tolist()) == (200, [5, 7, 8])
    with TableWriter(tmp_path / "full.parquet") as table:
        table.append(boxes(1, empty_groups=[]))
    assert load_table(tmp_path / "full.parquet").empty_groups.tolist() == []
    with pytest.raises(TableError, match="expected at least one row"), TableWriter(tmp_path / "bare.npz") as table:
        table.append(nothing)


def test_a_batch_of_another_origin_is_refused_before_the_table_is_written(tmp_path):
    with TableWriter(tmp_path / "t.npz") as table:
        table.append(boxes(1, Origin(decoding())))
        with pytest.raises(TableError, match="_origin: this batch was collected in another way"):
            table.append(boxes(2, Origin(decoding(iou=0.6))))
        table.append(boxes(3, Origin(decoding())))
    assert len(load_table(tmp_path / "t.npz")) == 400


@pytest.mark.parametrize("name", ["t.npz", "t.parquet", "t.arrow", "t.safetensors"])
def test_ids_of_groups_without_rows_may_be_whole_floats_or_bytes(tmp_path, name):
    write_columns(tmp_path / name, boxes(1, empty_groups=np.array([7.0, 3.0])))
    assert load_table(tmp_path / name).empty_groups.tolist() == [7, 3]


@pytest.mark.parametrize("text", ["{", "[1.5]", "[[1]]", "[true]", "3", "[" * 5000, "[" + "9" * 30 + "]"])
def test_metadata_that_is_no_list_of_ids_is_refused(tmp_path, text):
    rows = pa.table(
        {"logits": pa.array([[1.0, 2.0]] * 3), "group_id": [0, 1, 2]}, metadata={"demur.empty_groups": text}
    )
    pq.write_table(rows, tmp_path / "t.parquet")
    with pytest.raises(TableError, match=r"t\.parquet: empty_groups: expected"):
        load_table(tmp_path / "t.parquet")


def test_parts_of_a_folder_are_one_table_when_they_were_decoded_alike(tmp_path):
    (tmp_path / "folder").mkdir()
    for number in range(2):
        part = boxes(number, Origin(decoding()), empty_groups=np.array([500 + number]))
        write_columns(tmp_path / "folder" / f"{number}.parquet", part)
    found = load_table(tmp_path / "folder")
    assert found.empty_groups.tolist() == [500, 501]
    assert found.origin.decoding.digest == decoding().digest
    write_columns(tmp_path / "folder" / "2.parquet", boxes(3, Origin(decoding(iou=0.6))))
    with pytest.raises(TableError, match="folder: _origin: its rows were collected in different ways"):
        load_table(tmp_path / "folder")
