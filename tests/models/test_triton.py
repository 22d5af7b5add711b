"""A Triton model repository: its configurations, and the ensemble's steps run one after the other by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from demur.adapters.models.fuse import fuse
from demur.adapters.models.instrument import instrument
from demur.adapters.models.triton import write_repository
from demur.monitor.errors import ConfigurationError
from demur.monitor.session import Session
from tests.models.graphs import mlp, model
from tests.models.pbtxt import read
from tests.models.test_fuse import EXPORTS, OUTPUTS, POLICY, fitted, grouped, pictures, rows_of

TYPES = {
    "TYPE_FP32": TensorProto.FLOAT,
    "TYPE_INT64": TensorProto.INT64,
    "TYPE_BOOL": TensorProto.BOOL,
    "TYPE_FP16": TensorProto.FLOAT16,
}


@pytest.fixture(scope="module")
def fused():
    made = instrument(EXPORTS / "cnn_softmax.onnx")
    bundle = fitted(
        made,
        pictures,
        {
            **POLICY,
            "scores": POLICY["scores"][:3],
            "rules": [{"novel": {"when": "energy", "promise": {"refuse_good_at_most": 0.1}}}],
        },
    )
    return fuse(made.file, bundle, map=made.signals)


@pytest.fixture(params=[0, 16], ids=["unbatched", "batched"])
def repository(request, fused, tmp_path):
    names = write_repository(fused, tmp_path, "digits", max_batch_size=request.param)
    assert names == ("digits_guarded", "digits", "digits_monitor", "digits_ensemble")
    return tmp_path, {n: read((tmp_path / n / "config.pbtxt").read_text()) for n in names}, request.param


def test_configurations_say_what_the_graphs_have(repository):
    folder, configs, batch = repository
    for name, config in configs.items():
        assert config["name"] == [name]
        assert config["max_batch_size"] == [batch]
        assert (folder / name / "1").is_dir()
        assert ("dynamic_batching" in config) == (batch > 0 and name != "digits_ensemble")
        if name == "digits_ensemble":
            assert config["platform"] == ["ensemble"]
            continue
        assert config["platform"] == ["onnxruntime_onnx"]
        graph = onnx.load(folder / name / "1" / "model.onnx").graph
        for field, values in (("input", graph.input), ("output", graph.output)):
            assert [t["name"][0] for t in config[field]] == [v.name for v in values]
            for said, value in zip(config[field], values, strict=True):
                kind = value.type.tensor_type
                assert TYPES[said["data_type"][0]] == kind.elem_type
                shape = [d.dim_value or -1 for d in kind.shape.dim][bool(batch) :]
                assert said["dims"] == (shape or [1])
                assert ("reshape" in said) == (not shape)


def test_the_ensembles_steps_lead_from_input_to_verdict(repository, fused):
    folder, configs, _ = repository
    ensemble = configs["digits_ensemble"]
    tensors = pictures(9, 4)
    expected = fused.file.session().run(tensors)
    for step in ensemble["ensemble_scheduling"][0]["step"]:
        name = step["model_name"][0]
        session = Session((folder / name / "1" / "model.onnx").read_bytes(), whole=True)
        reads = {m["key"][0]: m["value"][0] for m in step["input_map"]}
        gives = {m["key"][0]: m["value"][0] for m in step["output_map"]}
        assert set(reads) == {t["name"][0] for t in configs[name]["input"]}
        assert set(gives) == {t["name"][0] for t in configs[name]["output"]}
        found = session.run({key: tensors[value] for key, value in reads.items()})
        tensors |= {value: found[key] for key, value in gives.items()}
    for said in ensemble["output"]:
        assert tensors[said["name"][0]].tobytes() == expected[said["name"][0]].tobytes()
        assert "reshape" not in said
    assert {f"demur.{n}" for n in OUTPUTS} <= {t["name"][0] for t in ensemble["output"]}
    same = {
        t["name"][0]: (t["data_type"], t["dims"]) for c in ("digits", "digits_monitor") for t in configs[c]["output"]
    }
    assert {t["name"][0]: (t["data_type"], t["dims"]) for t in ensemble["output"]} == same


def test_the_monitor_alone_takes_half_as_the_model_gives_it(tmp_path):
    proto = model([("Gemm", "x w", "y", {})], {"w": np.ones((6, 4), np.float16) / 7}, dtype=TensorProto.FLOAT16)
    made = instrument(proto)
    bundle = fitted(
        made,
        lambda n, s: {"x": rows_of()(n, s)["x"].astype(np.float16)},
        {
            **POLICY,
            "scores": ["msp", "energy"],
            "rules": [{"novel": {"when": "energy", "promise": {"refuse_good_at_most": 0.1}}}],
        },
    )
    guarded = fuse(made.file, bundle, map=made.signals)
    write_repository(guarded, tmp_path, "half", max_batch_size=4)
    config = read((tmp_path / "half_monitor" / "config.pbtxt").read_text())
    assert [t["data_type"] for t in config["input"]] == [["TYPE_FP16"]]
    feed = {"x": rows_of()(5, 1)["x"].astype(np.float16)}
    own = guarded.file.session().run(feed)
    found = Session((tmp_path / "half_monitor" / "1" / "model.onnx").read_bytes(), whole=True).run({"y": own["y"]})
    assert found["demur.scores"].tobytes() == own["demur.scores"].tobytes()


def test_what_triton_cannot_take_is_refused(fused, tmp_path):
    for name in ("", "a/b", "..", "a b"):
        with pytest.raises(ConfigurationError, match="the name of a model in Triton"):
            write_repository(fused, tmp_path, name)
    made = instrument(EXPORTS / "skl_mlp.onnx")
    bundle = fitted(
        made,
        lambda n, s: {"X": rows_of(4)(n, s)["x"]},
        {**POLICY, "scores": ["msp"], "rules": [{"novel": {"when": "msp", "promise": {"refuse_good_at_most": 0.1}}}]},
    )
    maps = fuse(made.file, bundle, map=made.signals)
    with pytest.raises(ConfigurationError, match=r"output 'output_probability': expected a tensor .* zipmap=False"):
        write_repository(maps, tmp_path, "maps")
    assert list(tmp_path.iterdir()) == []
    fixed = mlp(("Softmax", "z", "y", {}))
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    one = instrument(fixed)
    still = fuse(one.file, fitted(instrument(mlp(("Softmax", "z", "y", {}))), rows_of()), map=one.signals)
    write_repository(still, tmp_path, "still")
    with pytest.raises(ConfigurationError, match="not a dynamic batch"):
        write_repository(still, tmp_path, "still", max_batch_size=8)


def test_requests_with_groups_are_not_joined(tmp_path):
    """Group 0 of one request is another group than group 0 of the next."""
    made, bundle = grouped()
    guarded = fuse(made.file, bundle, map=made.signals)
    with pytest.raises(ConfigurationError, match=r"judges groups, .* max_batch_size 0"):
        write_repository(guarded, tmp_path, "grouped", max_batch_size=8)
    assert list(tmp_path.iterdir()) == []
    write_repository(guarded, tmp_path, "grouped")
    config = read((tmp_path / "grouped_ensemble" / "config.pbtxt").read_text())
    dims = {t["name"][0]: (t["data_type"], t["dims"]) for t in config["input"]}
    assert dims["demur.group_id"] == (["TYPE_INT64"], [-1])
    assert dims["demur.group_count"] == (["TYPE_INT64"], [1])
    last = config["ensemble_scheduling"][0]["step"][1]
    assert {m["value"][0] for m in last["input_map"]} == {"logits", "demur.group_id", "demur.group_count"}


@pytest.mark.parametrize("text", ["name", "name: [", 'name: "open', "a: 1 }", "a { b: 1"])
def test_the_reader_of_these_tests_refuses_what_is_no_message(text):
    with pytest.raises((ValueError, IndexError)):
        read(text)
