"""What `demur instrument` and `demur fuse` write, and what they say."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from typer.testing import CliRunner

import demur
from demur.adapters.models.graph_file import ModelFile
from demur.adapters.models.instrument import instrument
from demur.monitor.cli.main import app
from demur.monitor.config.document import parse, read_yaml
from demur.monitor.config.signal_map import SignalMapConfig
from demur.monitor.errors import ConfigurationError, DemurError
from demur.monitor.session import Session
from tests.models.graphs import BIAS, WEIGHT, D, X, hidden, mlp
from tests.models.test_fuse import fitted, rows_of
from tests.models.test_instrument import EXPORTS


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def call(*words):
        return CliRunner().invoke(app, [str(w) for w in words], env={"COLUMNS": "300"})

    return call


def test_three_files_lie_side_by_side_and_know_each_other(tmp_path):
    written = instrument(mlp(("Softmax", "z", "y", {}))).save(tmp_path / "deep" / "net.instrumented.onnx")
    assert [p.name for p in written] == ["net.instrumented.onnx", "net.signals.yaml", "net.head.npz"]
    mapped = parse(SignalMapConfig, read_yaml(written[1]), "map")
    assert mapped.signals == {"logits": "logits", "features": "features"}
    assert mapped.head is not None
    with np.load(written[1].parent / mapped.head) as head:
        np.testing.assert_allclose(
            hidden() @ head["head_weight"].T + head["head_bias"], hidden() @ WEIGHT + BIAS, rtol=1e-5
        )
    onnx.checker.check_model(str(written[0]), full_check=True)
    shapes = {
        o.name: [d.dim_param or d.dim_value for d in o.type.tensor_type.shape.dim]
        for o in onnx.load(written[0]).graph.output
    }
    assert shapes == {"y": ["N", 4], "logits": ["N", 4], "features": ["N", 9]}


def test_the_same_model_gives_the_same_bytes(tmp_path):
    digests = []
    for folder in ("a", "b"):
        written = instrument(EXPORTS / "vit.onnx", layers=["2"]).save(tmp_path / folder / "vit.onnx")
        digests.append([hashlib.sha256(p.read_bytes()).hexdigest() for p in written])
    assert digests[0] == digests[1]


def external(folder):
    folder.mkdir()
    onnx.save(
        mlp(("Softmax", "z", "y", {})),
        folder / "m.onnx",
        save_as_external_data=True,
        location="m.bin",
        size_threshold=0,
    )
    return folder / "m.onnx"


def test_weights_in_a_file_of_their_own_are_read_kept_and_copied(tmp_path):
    path = external(tmp_path / "in")
    made = instrument(path)
    np.testing.assert_allclose(made.head_weight, WEIGHT.T)
    made.save(tmp_path / "in" / "m.instrumented.onnx")
    made.save(tmp_path / "out" / "m.instrumented.onnx")
    assert (tmp_path / "out" / "m.bin").read_bytes() == (tmp_path / "in" / "m.bin").read_bytes()
    assert (tmp_path / "out" / "m.instrumented.onnx").stat().st_size < 2000
    again = ModelFile.read(tmp_path / "out" / "m.instrumented.onnx").session().run({"x": X})
    np.testing.assert_allclose(again["features"], hidden(), atol=1e-5)


def test_weights_that_are_not_there_or_not_ours_are_refused_by_name(tmp_path):
    path = external(tmp_path / "in")
    made = instrument(path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "m.bin").write_bytes(b"someone's")
    with pytest.raises(ConfigurationError, match="another file has the name of"):
        made.save(tmp_path / "out" / "m.instrumented.onnx")
    assert (tmp_path / "out" / "m.bin").read_bytes() == b"someone's"
    (tmp_path / "in" / "m.bin").unlink()
    with pytest.raises(DemurError, match=r"m\.bin"):
        made.save(tmp_path / "elsewhere" / "m.onnx")
    with pytest.raises(DemurError):
        instrument(path)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname"])
def test_weights_outside_the_models_folder_are_not_read(tmp_path, location):
    path = external(tmp_path / "in")
    (tmp_path / "secret.bin").write_bytes((tmp_path / "in" / "m.bin").read_bytes())
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        tensor.external_data[0].value = location
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(DemurError):
        instrument(path)


def test_a_model_beyond_protobufs_limit_is_refused_by_name(monkeypatch, tmp_path):
    import demur.adapters.models.graph_file as subject

    made = instrument(mlp(("Softmax", "z", "y", {})))
    monkeypatch.setattr(subject, "LARGEST_BYTES", 500)
    with pytest.raises(ConfigurationError, match="save it with external data"):
        made.save(tmp_path / "m.onnx")
    onnx.save(mlp(), tmp_path / "m.onnx")
    with pytest.raises(ConfigurationError, match="not one ONNX file"):
        instrument(tmp_path / "m.onnx")


def test_the_command_tells_what_it_found_and_why(run, tmp_path):
    answer = run("instrument", EXPORTS / "cnn_softmax.onnx", "-o", "cnn.instrumented.onnx", "--layers", "1")
    assert answer.exit_code == 0, answer.output
    flat = " ".join(answer.output.split())
    assert "features features Nx10 float32 what the last linear layer (Gemm 10 to 5) reads" in flat
    assert "equal to the last bit" in flat
    assert (tmp_path / "cnn.signals.yaml").exists()


def test_the_command_lists_and_refuses(run, tmp_path):
    listed = run("instrument", EXPORTS / "bert.onnx", "--list")
    assert re.search(r"/body/Tanh_output_0\s+Tanh\s+Nx16\s+float32", listed.output)
    model = tmp_path / "m.onnx"
    onnx.save(mlp(), model)
    for words, why in (
        (["-o", model], "m.onnx, which this command reads"),
        (["--shape", "x=3,0"], "every size at least 1"),
        (["--shape", "x"], "expected INPUT="),
        (["--features", "nope"], "no tensor is named 'nope'"),
    ):
        answer = run("instrument", model, *words)
        assert answer.exit_code != 0
        assert why in str(answer.exception)
    assert hashlib.sha256(model.read_bytes()).digest() == hashlib.sha256(mlp().SerializeToString()).digest()


def test_a_detector_gets_the_lines_for_its_map(run, tmp_path):
    assert run("instrument", EXPORTS / "yolo_split.onnx", "-o", "y.instrumented.onnx").exit_code == 0
    text = (tmp_path / "y.signals.yaml").read_text()
    assert "#   regions: {maps: {'feature_map_1': 8, 'feature_map_2': 16, 'feature_map_3': 32}}" in text
    parse(SignalMapConfig, read_yaml(tmp_path / "y.signals.yaml"), "map")


def test_fuse_reads_the_map_beside_the_model_and_says_what_it_added(run, tmp_path):
    onnx.save(mlp(("Softmax", "z", "y", {})), tmp_path / "m.onnx")
    assert run("instrument", "m.onnx").exit_code == 0
    policy = {
        "monitor": "guard",
        "scores": ["energy"],
        "rules": [{"novel": {"when": "energy", "promise": {"refuse_good_at_most": 0.1}}}],
    }
    fitted(instrument(tmp_path / "m.onnx"), rows_of(), policy).save(tmp_path / "guard.demur")
    answer = run("fuse", "m.instrumented.onnx", "guard.demur", "-o", "guarded.onnx", "--triton", "models")
    assert answer.exit_code == 0, answer.output
    flat = " ".join(answer.output.split())
    assert "added demur.accept, demur.reasons, demur.p_values, demur.scores" in flat
    assert "m_guarded, m, m_monitor, m_ensemble" in flat
    assert "nothing says which model this bundle was fitted on" in flat
    found = ModelFile.read(tmp_path / "guarded.onnx").session().run({"x": X})
    assert set(found) == {"y", "logits", "features", "demur.accept", "demur.reasons", "demur.p_values", "demur.scores"}
    for words, why in (
        ([], "nothing to write"),
        (["-o", "g.onnx", "--signal", "logits"], "expected SIGNAL=OUTPUT"),
        (["-o", "g.onnx", "--map", "absent.yaml"], "cannot be read"),
        (["-o", "g.onnx", "--signal", "logits=y"], "holds probabilities"),
    ):
        refused = run("fuse", "m.instrumented.onnx", "guard.demur", *words)
        assert refused.exit_code != 0
        assert why in str(refused.exception), words
    assert not (tmp_path / "g.onnx").exists()
    assert run("bundle", "keygen", "k").exit_code == 0
    unsigned = run("fuse", "m.instrumented.onnx", "guard.demur", "-o", "g.onnx", "--key", "k.pub")
    assert "a signature is required" in str(unsigned.exception)
    assert run("bundle", "sign", "guard.demur", "--key", "k").exit_code == 0
    assert run("fuse", "m.instrumented.onnx", "guard.demur", "-o", "g.onnx", "--key", "k.pub").exit_code == 0


def test_the_command_says_what_comes_next(run):
    """And what it says runs: a classifier's command is complete but for the dataset."""
    onnx.save(mlp(("Softmax", "z", "y", {})), "net.onnx")
    said = run("instrument", "net.onnx").output
    words = said[said.index("demur collect") :].replace("\\\n", "").split()
    assert words[1:4] == ["collect", "net.instrumented.onnx", "DATASET"]
    np.savez("data.npz", x=np.random.default_rng(0).normal(size=(50, D)).astype(np.float32))
    made = run(*(w.replace("DATASET", "data.npz") for w in words[1:]))
    assert made.exit_code == 0, made.output
    assert sorted(p.name for p in Path().glob("*.npz")) == [
        "calibration.npz",
        "data.npz",
        "net.head.npz",
        "reference.npz",
    ]
    promise = {"refuse_good_at_most": 0.1}
    policy = {
        "monitor": "net",
        "signals": {"logits": 4},
        "scores": ["energy"],
        "rules": [{"novel": {"when": "energy", "promise": promise}}],
    }
    demur.fit(policy, reference="reference.npz", calibration="calibration.npz").save("net.demur")
    fused = run("fuse", "net.instrumented.onnx", "net.demur", "-o", "guarded.onnx")
    assert fused.exit_code == 0, fused.output
    assert "nothing says which model" not in fused.output
    onnx.save(mlp(("LogSoftmax", "z", "y", {})), "twin.onnx")  # the same widths
    refused = run("fuse", "twin.onnx", "net.demur", "-o", "wrong.onnx", "--signal", "logits=y")
    assert "was fitted on signals of the model with SHA-256" in str(refused.exception)
    assert not Path("wrong.onnx").exists()
    shutil.copy(EXPORTS / "yolo_split.onnx", "boxes.onnx")
    said = run("instrument", "boxes.onnx").output
    assert "next: complete `detection:` (docs/detection.md) in\n  boxes.signals.yaml" in said
    assert "--map boxes.signals.yaml boxes.npz" in said


def one_scale(path):
    """A detector of one scale: a 1x1 convolution on pictures of 8 x 8, strung together as YOLO exports do."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(6, 3, 4, 4)), "v": rng.normal(size=(7, 6, 1, 1))}
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], strides=[4, 4]),
        helper.make_node("Relu", ["c"], ["deep"]),
        helper.make_node("Conv", ["deep", "v"], ["raw"]),
        helper.make_node("Reshape", ["raw", "shape"], ["output0"]),
    ]
    held = [numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items()]
    held.append(numpy_helper.from_array(np.array([0, 7, -1], np.int64), "shape"))
    ends = [helper.make_tensor_value_info(n, 1, s) for n, s in (("image", ["N", 3, 32, 32]), ("output0", ["N", 7, 64]))]
    graph = helper.make_graph(nodes, "one-scale", ends[:1], ends[1:], held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_a_feature_map_may_be_named_where_it_is_not_found(run):
    one_scale("one.onnx")
    said = " ".join(run("instrument", "one.onnx").output.split())
    assert "of a detector, --maps deep shows the feature map instead" in said
    assert "next: make rows of these signals" in said
    made = run("instrument", "one.onnx", "--maps", "deep")
    assert made.exit_code == 0, made.output
    assert "regions: {maps: {'feature_map_1': 4}}" in Path("one.signals.yaml").read_text()
    assert "next: complete `detection:`" in made.output
    image = np.random.default_rng(1).normal(size=(2, 3, 32, 32)).astype(np.float32)
    found = Session(Path("one.instrumented.onnx").read_bytes(), whole=True).run({"image": image})
    before = Session(Path("one.onnx").read_bytes(), whole=True).run({"image": image})
    assert found["feature_map_1"].shape == (2, 6, 8, 8)
    assert found["feature_map_1"].min() >= 0
    np.testing.assert_array_equal(found["output0"], before["output0"])
    both = instrument("one.onnx", maps=["deep", "image"])
    assert both.maps == {"feature_map_1": 1, "feature_map_2": 4}
    for name in ("output0", "nowhere", "w"):
        with pytest.raises(ConfigurationError, match=rf"--maps {name}: expected a tensor \(B, D, H, W\)"):
            instrument("one.onnx", maps=[name])
