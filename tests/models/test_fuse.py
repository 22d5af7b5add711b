"""Model and monitor in one graph: verdicts of the sidecar, bit for bit, and refusals by name."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import demur
from demur.adapters.models.fuse import fuse
from demur.adapters.models.fuse.opset import at_opset
from demur.adapters.models.instrument import instrument
from demur.detectors.reason import Reason
from demur.monitor.bundle import Bundle
from demur.monitor.config.decoding import Decoding
from demur.monitor.config.signal_map import SignalMapConfig
from demur.monitor.errors import ConfigurationError, SelfTestFailed
from demur.monitor.fit.columns import ORIGIN
from demur.monitor.fit.origin import Origin
from demur.monitor.session import Session
from tests.models.graphs import BIAS, FIRST, FLOATS, HIDDEN, WEIGHT, C, D, H, X, mlp, model
from tests.models.test_instrument import EXPORTS

OUTPUTS = ("accept", "reasons", "p_values", "scores")
POLICY = {
    "monitor": "guard",
    "scores": [
        "msp", "energy", {"mahalanobis": {"shrinkage": "ledoit_wolf"}}, {"knn": {"k": 3, "bank": 100}},
        {"vim": {"dim": 3}}, {"fused": {"of": ["energy", "mahalanobis"], "by": "fisher"}},
    ],
    "rules": [
        {"novel": {"when": "fused", "promise": {"refuse_good_at_most": 0.05}}},
        {"ambiguous": {"when": "msp", "promise": {"error_when_accepted_at_most": 0.2, "confidence": 0.9}}},
    ],
}  # fmt: skip


def signals(made, feed):
    """What an instrumented model shows, as a signals table, with its own argmax as the label."""
    found = Session(made.model.SerializeToString(), whole=True).run(feed)
    rows = {s: found[o].astype(np.float32) for s, o in made.signals.signals.items()}
    return {**rows, "label": rows["logits"].argmax(axis=1)}


def fitted(made, draw, policy=POLICY, **more):
    """A bundle on this model's own signals; `draw(rows, seed)` gives inputs."""
    tables = [signals(made, draw(rows, seed)) for rows, seed in ((400, 1), (500, 2))]
    widths = {s: tables[0][s].shape[1] for s in made.signals.signals}
    head = {} if made.head_weight is None else {"head_weight": made.head_weight, "head_bias": made.head_bias}
    return demur.fit(
        {**policy, "signals": widths, **more}, reference={**tables[0], **head}, calibration={**tables[1], **head}
    )


def pictures(rows, seed):
    return {"image": np.random.default_rng(seed).normal(size=(rows, 1, 8, 8)).astype(np.float32)}


def rows_of(width=D):
    return lambda rows, seed: {"x": np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)}


@pytest.fixture(scope="module")
def cnn():
    made = instrument(EXPORTS / "cnn_softmax.onnx")
    return made, fitted(made, pictures)


@pytest.fixture(scope="module")
def fused(cnn):
    made, bundle = cnn
    return fuse(made.file, bundle, map=made.signals)


@pytest.fixture(scope="module")
def plain():
    """A small MLP that returns features and logits, and its bundle."""
    made = instrument(mlp(("Softmax", "z", "y", {})))
    return made, fitted(made, rows_of())


def bits(array):
    """An array's bytes, every NaN the same one: which one comes out is no part of a verdict."""
    return (np.where(np.isnan(array), np.nan, array) if array.dtype.kind == "f" else array).tobytes()


def hostile(feed):
    """NaN, infinities and large values in rows of their own; the last rows of a larger batch stay ordinary."""
    feed = {n: a.copy() for n, a in feed.items()}
    for array in feed.values():
        for i, value in enumerate((np.nan, np.inf, -np.inf, 1e20, 3e38, 1e-40)[: len(array) - 1]):
            array[i].reshape(-1)[0] = value
    return feed


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [1, 7, 300, 1200])
@pytest.mark.parametrize("broken", [False, True], ids=["ordinary", "hostile"])
def test_verdicts_are_the_sidecars_bit_for_bit(cnn, fused, rows, threads, broken):
    made, bundle = cnn
    feed = hostile(pictures(rows, 3)) if broken else pictures(rows, 3)
    found = fused.file.session(threads).run(feed)
    own = made.file.session(threads).run(feed)
    for name, value in own.items():
        assert found[name].tobytes() == value.tobytes(), name
    # Cut into parts of 256 rows beyond 512, as the sidecar does; the fused graph never is.
    beside = Session(bundle.graph, threads=1).run({"logits": own["logits"], "features": own["features"]})
    for name in OUTPUTS:
        assert bits(found[f"demur.{name}"]) == bits(beside[name]), name
    verdicts = demur.Monitor.of(bundle).assess(logits=own["logits"], features=own["features"])
    assert np.array_equal(found["demur.accept"], verdicts.accept)
    bad = ~(np.isfinite(own["logits"]).all(axis=1) & np.isfinite(own["features"]).all(axis=1))
    assert bad.any() == (broken and rows > 1)  # pooling and Relu launder some of it before a monitor can see it
    assert not found["demur.accept"][bad].any()
    assert np.all(found["demur.reasons"][bad] & Reason.INVALID)
    assert found["demur.accept"].dtype == np.bool_
    assert found["demur.accept"].any() or rows == 1


@pytest.mark.parametrize("rows", [1, 7, 300, 1200])
def test_rows_that_are_not_finite_reach_the_monitor_and_are_refused(rows):
    made = instrument(model([("Gemm", "x weight bias", "y", {})], {"weight": FIRST[:, :C].copy(), "bias": BIAS}))
    bundle = fitted(made, rows_of())
    feed = rows_of()(rows, 4)
    feed["x"][::3, 1] = np.nan
    feed["x"][1::3, 2] = np.inf
    found = fuse(made.file, bundle, map=made.signals).file.session().run(feed)
    broken = ~np.isfinite(feed["x"]).all(axis=1)
    assert np.array_equal((found["demur.reasons"] & Reason.INVALID) != 0, broken)
    assert not found["demur.accept"][broken].any()
    beside = Session(bundle.graph).run({"logits": found["y"], "features": feed["x"]})
    for name in OUTPUTS:
        assert bits(found[f"demur.{name}"]) == bits(beside[name]), name


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"])
def test_at_every_optimisation_level_the_fused_graph_is_the_two_apart(cnn, fused, level):
    made, bundle = cnn

    def session(raw):
        options = ort.SessionOptions()
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        options.intra_op_num_threads = 1
        return ort.InferenceSession(raw, options, providers=["CPUExecutionProvider"])

    feed = hostile(pictures(40, 5))
    together = session(fused.model.SerializeToString())
    found = dict(zip([o.name for o in together.get_outputs()], together.run(None, feed), strict=True))
    own = session(made.model.SerializeToString()).run(["logits", "features"], feed)
    alone = session(bundle.graph)
    beside = dict(
        zip([o.name for o in alone.get_outputs()], alone.run(None, {"logits": own[0], "features": own[1]}), strict=True)
    )
    assert found["logits"].tobytes() == own[0].tobytes()
    for name in OUTPUTS:
        assert bits(found[f"demur.{name}"]) == bits(beside[name]), name


@pytest.mark.parametrize(
    ("name", "draw", "opset"),
    [
        ("mlp_logits", rows_of(7), 18),  # 11: the model is raised
        ("cnn_gap", pictures, 18),
        ("keras_cnn", lambda n, s: {"input": np.random.default_rng(s).normal(size=(n, 8, 8, 1)).astype(np.float32)}, 15),
        ("vit_legacy", lambda n, s: {"pixels": pictures(n, s)["image"]}, 14),  # raising it would move bits
        ("mlp_opset21", rows_of(7), 21),  # the monitor is raised
        ("skl_logistic", lambda n, s: {"X": np.random.default_rng(s).normal(size=(n, 4)).astype(np.float32)}, 18),
    ],
)  # fmt: skip
def test_real_exports_of_every_opset(name, draw, opset):
    made = instrument(EXPORTS / f"{name}.onnx")
    policy = {
        **POLICY,
        "scores": POLICY["scores"][:3],
        "rules": [{"novel": {"when": "mahalanobis", "promise": {"refuse_good_at_most": 0.1}}}],
    }
    bundle = fitted(made, draw, policy)
    guarded = fuse(made.file, bundle, map=made.signals)
    assert max(o.version for o in guarded.model.opset_import if o.domain == "") == opset
    onnx.checker.check_model(guarded.model, full_check=True)
    feed = draw(33, 9)
    found = guarded.file.session().run(feed)
    own = made.file.session().run(feed)
    beside = Session(bundle.graph).run(
        {s: own[o] for s, o in made.signals.signals.items() if s in ("logits", "features")}
    )
    for output in OUTPUTS:
        assert found[f"demur.{output}"].tobytes() == beside[output].tobytes()
    original = Session((EXPORTS / f"{name}.onnx").read_bytes(), whole=True).run(feed)
    for output, value in original.items():
        same = value == found[output] if isinstance(value, list) else value.tobytes() == found[output].tobytes()
        assert same, output


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
def test_every_softmax_of_the_monitor_reads_rows_less_their_largest(opset):
    """As `demur serve` has it on CUDA, whose own takes equal logits of 1e8 for sure; a fused graph runs there without us."""
    golden = Bundle.load("tests/golden/rows.demur")
    graph = at_opset(golden, opset).graph
    makers = {o: n for n in graph.node for o in n.output}
    read = [makers[n.input[0]] for n in graph.node if n.op_type == "LogSoftmax"]
    assert len(read) == 3
    for less in read:
        assert (less.op_type, makers[less.input[1]].op_type) == ("Sub", "ReduceMax")
        assert makers[less.input[1]].input[0] == less.input[0]
        assert less.name
    assert sum(n.op_type == "LogSoftmax" for n in onnx.load_from_string(golden.graph).graph.node) == 3


def test_the_models_own_softmax_is_left_as_it_is(fused):
    own = next(n for n in fused.model.graph.node if n.op_type == "Softmax")
    assert own.input[0] == "logits"


@pytest.mark.parametrize("opset", [13, 14, 15, 16, 17, 18, 19, 21, 23])
def test_the_monitors_graph_keeps_its_bits_in_other_opsets(opset):
    golden = Bundle.load("tests/golden/rows.demur")
    graph = at_opset(golden, opset)
    assert [o.version for o in graph.opset_import] == [opset]
    onnx.checker.check_model(graph, full_check=True)


def test_a_graph_that_gives_other_bits_in_another_opset_is_not_used(monkeypatch, plain):
    import demur.adapters.models.fuse.opset as subject

    def other(raw, version, _):
        moved = onnx.ModelProto()
        moved.CopyFrom(raw)
        for weight in moved.graph.initializer:  # one number of one score, by less than the self-test sees
            if weight.name.startswith("mahalanobis") and weight.data_type == TensorProto.FLOAT:
                values = onnx.numpy_helper.to_array(weight).copy()
                values.reshape(-1)[:1] *= np.float32(1 + 3e-7)
                weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
        return moved

    monkeypatch.setattr(subject, "raised", other)
    with pytest.raises(SelfTestFailed, match="other bits"):
        at_opset(plain[1], 19)


def test_a_fused_graph_that_answers_otherwise_is_not_given_out(monkeypatch, plain):
    import demur.adapters.models.fuse.fused as subject

    made, bundle = plain
    honest = subject.part

    def off(*arguments):
        part = honest(*arguments)
        return replace(part, weights=tuple(_nudged(w) for w in part.weights))

    def _nudged(tensor):
        if "mahalanobis" not in tensor.name or tensor.data_type != TensorProto.FLOAT:
            return tensor
        return onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(1.0001), tensor.name)

    monkeypatch.setattr(subject, "part", off)
    with pytest.raises(SelfTestFailed, match=r"fused, .* moves by"):
        fuse(made.file, bundle, map=made.signals)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_half_and_double_outputs_are_cast_as_the_sidecar_casts_them(dtype, plain):
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    proto = model(
        [*HIDDEN, ("Gemm", "h weight bias", "y", {})], {n: a.astype(dtype) for n, a in FLOATS.items()}, dtype=kind
    )
    made = instrument(proto)
    bundle = fitted(made, lambda n, s: {"x": rows_of()(n, s)["x"].astype(dtype)})
    feed = {"x": X.astype(dtype)}
    found = fuse(made.file, bundle, map=made.signals).file.session().run(feed)
    assert found["y"].dtype == dtype
    beside = Session(bundle.graph).run(
        {"logits": found["y"].astype(np.float32), "features": found["features"].astype(np.float32)}
    )
    for name in OUTPUTS:
        assert found[f"demur.{name}"].tobytes() == beside[name].tobytes()


def test_axes_of_size_one_are_dropped():
    nodes = [*HIDDEN, ("Gemm", "h weight bias", "z", {}), ("Unsqueeze", "z axes", "y", {})]
    proto = model(nodes, {**FLOATS, "axes": np.array([2, 3], np.int64)}, outputs={"y": ["N", C, 1, 1], "h": ["N", H]})
    names = SignalMapConfig(signals={"logits": "y", "features": "h"})
    made = instrument(mlp(("Softmax", "z", "y", {})))
    bundle = fitted(made, rows_of())
    guarded = fuse(proto, bundle, map=names)
    found = guarded.file.session().run({"x": X})
    beside = Session(bundle.graph).run({"logits": found["y"].reshape(-1, C), "features": found["h"]})
    assert found["demur.scores"].tobytes() == beside["scores"].tobytes()


def grouped():
    """A small MLP and a policy that judges groups of its rows."""
    policy = {
        "monitor": "grouped",
        "scores": ["energy"],
        "rules": [
            {"novel": {"when": "energy", "unit": "group", "aggregate": "max", "promise": {"refuse_good_at_most": 0.1}}}
        ],
    }
    made = instrument(mlp(("Softmax", "z", "y", {})))
    tables = [signals(made, rows_of()(rows, seed)) for rows, seed in ((400, 1), (600, 2))]
    for table in tables:
        table["group_id"] = np.arange(len(table["label"])) // 3
    return made, demur.fit(
        {**policy, "signals": {"logits": C, "features": H}}, reference=tables[0], calibration=tables[1]
    )


def test_group_policies_bring_their_inputs_and_outputs():
    made, bundle = grouped()
    guarded = fuse(made.file, bundle, map=made.signals)
    assert [i.name for i in guarded.model.graph.input] == ["x", "demur.group_id", "demur.group_count"]
    groups = {"group_id": np.array([0, 0, 1, 1, 3], np.int64), "group_count": np.array([4], np.int64)}
    found = guarded.file.session().run({"x": X, **{f"demur.{n}": a for n, a in groups.items()}})
    beside = Session(bundle.graph).run({"logits": found["logits"], **groups})
    for name in ("accept", "group_accept", "group_reasons", "group_p", "group_scores"):
        assert found[f"demur.{name}"].tobytes() == beside[name].tobytes()
    assert not found["demur.group_accept"][2]  # the group without rows


def test_a_second_monitor_needs_a_prefix_of_its_own(plain):
    made, bundle = plain
    first = fuse(made.file, bundle, map=made.signals)
    with pytest.raises(ConfigurationError, match=r"already has 'demur\.accept'.*--prefix"):
        fuse(first.file, bundle, map=made.signals)
    with pytest.raises(ConfigurationError, match="prefix: expected at least one character"):
        fuse(made.file, bundle, map=made.signals, prefix="")
    second = fuse(first.file, bundle, map=made.signals, prefix="again").file.session().run({"x": X})
    for name in OUTPUTS:
        assert second[f"demur.{name}"].tobytes() == second[f"again.{name}"].tobytes()


def test_tensors_named_like_the_monitors_stay_apart(plain):
    made, bundle = plain
    taken = {n.name for n in onnx.load_from_string(bundle.graph).graph.initializer} | {"scores", "p_values", "accept"}
    proto = onnx.ModelProto()
    proto.CopyFrom(made.model)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.zeros(1, np.float32), n) for n in sorted(taken))
    found = fuse(proto, bundle, map=made.signals).file.session().run({"x": X})
    assert found["demur.scores"].shape == (5, 6)


def test_the_file_names_bundle_monitor_and_version(plain):
    made, bundle = plain
    guarded = fuse(made.file, bundle, map=made.signals)
    known = {p.key: p.value for p in guarded.model.metadata_props}
    assert known["demur.bundle"] == bundle.digest
    assert known["demur.monitor"] == "guard"
    assert known["demur.version"] == "1"


def test_signals_are_wired_by_option_then_map_then_bundle_then_name(plain):
    bundle = plain[1]
    nodes = [
        *HIDDEN,
        ("Gemm", "h weight bias", "a", {}),
        ("Gemm", "h weight bias", "b", {}),
        ("Identity", "h", "f", {}),
    ]
    proto = model(nodes, FLOATS, outputs={"a": ["N", C], "b": ["N", C], "f": ["N", H]})
    wired = fuse(
        proto, bundle, signals={"logits": "b"}, map=SignalMapConfig(signals={"logits": "a", "features": "f"})
    ).wires
    assert {w.signal: w.tensor for w in wired} == {"logits": "b", "features": "f"}
    fields = bundle.manifest.model_dump(exclude={"members", "rules_digest"})
    fields["signals"] = [{**s, "output": {"logits": "a", "features": "f"}[s["name"]]} for s in fields["signals"]]
    named = Bundle.build(bundle.members, **fields)
    assert {w.signal: w.tensor for w in fuse(proto, named).wires} == {"logits": "a", "features": "f"}


def test_what_cannot_be_a_signal_is_refused_by_name(plain):
    made, bundle = plain
    refusals = {
        r"no output 'h0' \(it is inside the graph\)": {"signals": {"logits": "h0"}},
        r"expected \(\d, 4\) for \d inputs, got \(\d, 9\)": {"signals": {"logits": "features"}},
        r"--signal hidden: monitor guard has no such signal": {"signals": {"hidden": "features"}},
        r"fitted on logits, output 'y' holds probabilities": {"signals": {"logits": "y"}},
    }
    for words, asked in refusals.items():
        with pytest.raises(ConfigurationError, match=words):
            fuse(made.file, bundle, map=made.signals, **asked)
    with pytest.raises(ConfigurationError, match="has no output 'logits'"):
        fuse(mlp(), bundle)
    with pytest.raises(ConfigurationError, match="fitted on logits, output 'logits' holds probabilities"):
        fuse(made.file, bundle, map=SignalMapConfig(signals=made.signals.signals, kinds={"logits": "probabilities"}))


def test_probabilities_made_without_a_softmax_are_seen_in_their_values(plain):
    bundle = plain[1]
    nodes = [
        *HIDDEN,
        ("Gemm", "h weight bias", "z", {}),
        ("Exp", "z", "e", {}),
        ("ReduceSum", "e axis", "s", {}),
        ("Div", "e s", "y", {}),
    ]
    proto = model(
        nodes, {**FLOATS, "axis": np.array([1], np.int64), "weight": WEIGHT / 9}, outputs={"y": ["N", C], "h": ["N", H]}
    )
    with pytest.raises(ConfigurationError, match="holds probabilities"):
        fuse(proto, bundle, signals={"logits": "y", "features": "h"})


def test_labels_cannot_be_a_signal(plain):
    bundle = plain[1]
    proto = mlp(("ArgMax", "z", "label", {"axis": 1}), ("Identity", "z", "y", {}))
    proto.graph.output.extend(
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["N", 1]),
            helper.make_tensor_value_info("h", 1, ["N", H]),
        ]
    )
    with pytest.raises(ConfigurationError, match="expected a float tensor, got int64"):
        fuse(proto, bundle, signals={"logits": "label", "features": "h"})


def test_streams_and_decoded_outputs_are_refused(plain):
    made, bundle = plain
    with pytest.raises(ConfigurationError, match="judges streams"):
        fuse(made.file, "tests/golden/stream.demur")
    detection = {"layout": "yolov8", "classes": 2, "image": (64, 64)}
    mapped = SignalMapConfig.model_validate({"signals": made.signals.signals, "detection": detection})
    with pytest.raises(ConfigurationError, match=r"judges boxes of a detector, .*outside the graph.*`demur serve`"):
        fuse(made.file, bundle, map=mapped)
    frames = {"signals": made.signals.signals, "segmentation": {"logits": "y", "score": "energy", "fitted": "no.onnx"}}
    with pytest.raises(ConfigurationError, match=r"judges frames of a segmentation model.*do not help here"):
        fuse(made.file, bundle, map=SignalMapConfig.model_validate(frames))
    views = {"input": "x", "output": "y", "signal": "logits", "corruptions": ["blur"]}
    with pytest.raises(ConfigurationError, match="judges several views of an input"):
        fuse(made.file, bundle, map=SignalMapConfig.model_validate({"views": views}))


def collected(made, origin):
    """A bundle from tables that say where they came from."""
    tables = [{**signals(made, rows_of()(rows, seed)), ORIGIN: origin.column()} for rows, seed in ((300, 1), (400, 2))]
    widths = {s: tables[0][s].shape[1] for s in made.signals.signals}
    policy = {**POLICY, "signals": widths, "scores": ["msp"], "rules": POLICY["rules"][1:]}
    return demur.fit(policy, reference=tables[0], calibration=tables[1])


def test_a_bundle_of_decoded_rows_is_refused_without_a_map_too(plain):
    made, _ = plain
    bundle = collected(made, Origin(Decoding({"segmentation": {"score": "energy"}})))
    with pytest.raises(ConfigurationError, match="judges frames of a segmentation model"):
        fuse(made.file, bundle)


def test_a_bundle_collected_from_one_model_is_fused_into_no_other(tmp_path):
    onnx.save(mlp(("Softmax", "z", "y", {})), tmp_path / "m.onnx")
    onnx.save(mlp(("LogSoftmax", "z", "y", {})), tmp_path / "other.onnx")
    made, other = (instrument(tmp_path / n) for n in ("m.onnx", "other.onnx"))
    digest = hashlib.sha256((tmp_path / "m.onnx").read_bytes()).hexdigest()
    bundle = collected(made, Origin(model=digest))
    made.save(tmp_path / "m.instrumented.onnx")
    other.save(tmp_path / "other.instrumented.onnx")
    assert fuse(tmp_path / "m.instrumented.onnx", bundle).tried > 0
    own, source = (
        hashlib.sha256((tmp_path / f"other{n}.onnx").read_bytes()).hexdigest() for n in (".instrumented", "")
    )
    with pytest.raises(
        ConfigurationError,
        match=rf"signals of the model with SHA-256 {digest[:16]}.* this is {own[:16]}\.\.\., instrumented from {source[:16]}\.\.\.; "
        "give that model, or collect from this one",
    ):
        fuse(tmp_path / "other.instrumented.onnx", bundle)


def test_an_old_opset_with_foreign_operators_is_refused_by_name(plain):
    bundle = plain[1]
    nodes = [
        ("MatMul", "x first", "h0", {}),
        ("Gelu", "h0", "h", {"domain": "com.microsoft"}),
        ("Gemm", "h weight bias", "y", {}),
    ]
    proto = model(nodes, FLOATS, opset=11, ir=6, outputs={"y": ["N", C], "h": ["N", H]})
    with pytest.raises(ConfigurationError, match=r"opset 11.*cannot be raised.*com\.microsoft"):
        fuse(proto, bundle, signals={"logits": "y", "features": "h"})
    newer = model(nodes, FLOATS, opset=17, outputs={"y": ["N", C], "h": ["N", H]})
    assert fuse(newer, bundle, signals={"logits": "y", "features": "h"}).tried > 0


def test_weights_beside_the_model_stay_beside_it(tmp_path, plain):
    made, bundle = plain
    (tmp_path / "in").mkdir()
    copy = onnx.ModelProto.FromString(made.model.SerializeToString())  # onnx empties what it saves
    onnx.save(copy, tmp_path / "in" / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    bundle.save(tmp_path / "guard.demur")
    guarded = fuse(tmp_path / "in" / "m.onnx", tmp_path / "guard.demur", map=made.signals)
    guarded.save(tmp_path / "out" / "guarded.onnx")
    assert (tmp_path / "out" / "m.bin").read_bytes() == (tmp_path / "in" / "m.bin").read_bytes()
    session = ort.InferenceSession(tmp_path / "out" / "guarded.onnx", providers=["CPUExecutionProvider"])
    accept = session.run(["demur.accept"], {"x": X})[0]
    assert np.array_equal(
        accept, fuse(made.file, bundle, map=made.signals).file.session().run({"x": X})["demur.accept"]
    )


def test_a_bundle_that_names_its_model_is_fused_into_no_other(tmp_path):
    onnx.save(mlp(("Softmax", "z", "y", {})), tmp_path / "m.onnx")
    onnx.save(mlp(("LogSoftmax", "z", "y", {})), tmp_path / "other.onnx")
    made, other = (instrument(tmp_path / n) for n in ("m.onnx", "other.onnx"))
    digest = hashlib.sha256((tmp_path / "m.onnx").read_bytes()).hexdigest()
    bundle = fitted(made, rows_of(), model={"digest": digest})
    made.save(tmp_path / "m.instrumented.onnx")
    other.save(tmp_path / "other.instrumented.onnx")
    assert fuse(tmp_path / "m.instrumented.onnx", bundle).tried > 0
    with pytest.raises(ConfigurationError, match=f"fitted for the model with SHA-256 {digest[:16]}"):
        fuse(tmp_path / "other.instrumented.onnx", bundle)
