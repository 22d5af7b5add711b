"""Heads found in real exports: features, logits and weights beside what the framework itself computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from demur.adapters.models.instrument import candidates, instrument
from demur.monitor.errors import ConfigurationError
from demur.monitor.session import Session
from tests.models.graphs import BIAS, FIRST, FLOATS, HIDDEN, RNG, WEIGHT, C, D, H, X, hidden, mlp, model

EXPORTS = Path(__file__).parent / "exports"
WHOLE = """mlp_logits mlp_no_bias mlp_opset21 cnn_softmax cnn_logits cnn_gap conv_head vit vit_legacy bert last_token keras_mlp
keras_cnn skl_mlp skl_logistic""".split()


def told(name):
    """What the framework computed: inputs, and the rest."""
    with np.load(EXPORTS / f"{name}.npz") as file:
        arrays = dict(file)
    return {n[3:]: a for n, a in arrays.items() if n.startswith("in.")}, arrays


def run(proto, feed):
    return Session(proto.SerializeToString(), whole=True).run(feed)


def shown(made, feed):
    """The signals of an instrumented model, by name."""
    found = run(made.model, feed)
    return {signal: found[output] for signal, output in made.signals.signals.items()}


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("name", WHOLE)
def test_features_logits_and_head_are_those_of_the_framework(name):
    feed, oracle = told(name)
    made = instrument(EXPORTS / f"{name}.onnx")
    found = shown(made, feed)
    np.testing.assert_allclose(found["features"], oracle["features"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["logits"], oracle["logits"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(made.head_weight, oracle["weight"], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(made.head_bias, oracle["bias"], rtol=1e-6, atol=1e-7)
    assert made.head_weight.dtype == made.head_bias.dtype == np.float32
    assert made.head_error < 1e-4
    assert made.signals.kinds == {"logits": "logits", "features": "features"}


@pytest.mark.parametrize("name", WHOLE)
def test_the_models_own_outputs_keep_every_bit(name):
    feed, oracle = told(name)
    path = EXPORTS / f"{name}.onnx"
    made = instrument(path)
    before = run(onnx.load(path), feed)
    after = run(made.model, feed)
    assert made.moved == 0
    assert [o.name for o in made.model.graph.output][: len(before)] == list(before)
    for output, value in before.items():
        equal = value == after[output] if isinstance(value, list) else value.tobytes() == after[output].tobytes()
        assert equal, output
    if "output" in before:
        np.testing.assert_allclose(before["output"], oracle["output"], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["skl_mlp_binary", "skl_logistic_binary"])
def test_two_classes_get_two_logits_whose_softmax_is_the_models_probability(name):
    feed, oracle = told(name)
    made = instrument(EXPORTS / f"{name}.onnx")
    found = shown(made, feed)
    np.testing.assert_allclose(softmax(found["logits"].astype(np.float64)), oracle["probabilities"], atol=1e-6)
    np.testing.assert_allclose(found["features"], oracle["features"], atol=1e-5)
    np.testing.assert_allclose(made.head_weight, np.concatenate([-oracle["weight"], oracle["weight"]]) / 2, atol=1e-6)
    np.testing.assert_allclose(made.head_bias, np.concatenate([-oracle["bias"], oracle["bias"]]) / 2, atol=1e-6)


def test_trees_give_votes_and_rows_and_say_what_cannot_be():
    feed, oracle = told("skl_forest")
    made = instrument(EXPORTS / "skl_forest.onnx")
    found = shown(made, feed)
    np.testing.assert_allclose(found["logits"], oracle["probabilities"], atol=1e-6)
    assert np.array_equal(found["features"], feed["X"])
    assert made.head_weight is None
    assert made.signals.kinds["logits"] == "probabilities"
    assert "TreeEnsembleClassifier has no linear head" in made.notes[0]


@pytest.mark.parametrize("name", ["yolo_split", "yolo_anchors"])
def test_a_detector_shows_the_maps_that_feed_its_prediction_layers(name):
    feed, oracle = told(name)
    made = instrument(EXPORTS / f"{name}.onnx")
    found = run(made.model, feed)
    assert dict(made.maps) == {"feature_map_1": 8, "feature_map_2": 16, "feature_map_3": 32}
    for i in range(3):
        np.testing.assert_allclose(found[f"feature_map_{i + 1}"], oracle[f"map{i}"], rtol=1e-4, atol=1e-6)
    assert made.signals.signals == {}
    assert found["output"].tobytes() == run(onnx.load(EXPORTS / f"{name}.onnx"), feed)["output"].tobytes()


@pytest.mark.parametrize(
    ("how", "reduce"),
    [
        ("mean", lambda a: a.mean(1)),
        ("cls", lambda a: a[:, 0]),
        ("last", lambda a: a[:, -1]),
        ("max", lambda a: a.max(1)),
    ],
)
def test_a_head_on_every_token_is_pooled_as_told(how, reduce):
    feed, oracle = told("tokens")
    dense = instrument(EXPORTS / "tokens.onnx")
    assert dense.found[0].shape == ("N", "d1", 5)
    assert "judges every position" in dense.notes[0]
    made = instrument(EXPORTS / "tokens.onnx", pool=how)
    found, raw = shown(made, feed), shown(dense, feed)
    np.testing.assert_allclose(found["logits"], reduce(oracle["output"]), atol=1e-5)
    np.testing.assert_allclose(found["features"], reduce(raw["features"]), atol=1e-6)
    assert (made.head_weight is None) == (how == "max")  # a maximum and a linear layer do not commute


def test_without_a_linear_layer_behind_the_outputs_it_says_so_and_lists_tensors():
    with pytest.raises(ConfigurationError) as refused:
        instrument(EXPORTS / "autoencoder.onnx")
    for part in ("output comes from Tanh", "--features", "/1/Relu_output_0  Nx4x4x4 float32"):
        assert part in str(refused.value)


def test_a_head_of_maps_strung_together_by_a_computed_shape():
    """A detector's exporter writes flatten(2) as a Reshape to (N, C, -1), with C and N computed at run time."""
    weight, bias = RNG.normal(size=(3, 5, 1, 1)).astype(np.float32), RNG.normal(size=3).astype(np.float32)
    made = instrument(
        model(
            [
                ("Relu", "x", "h", {}),
                ("Conv", "h weight bias", "z", {}),
                ("Shape", "z", "s", {}),
                ("Slice", "s zero two", "nc", {}),
                ("Concat", "nc rest", "to", {"axis": 0}),
                ("Reshape", "z to", "flat", {}),
                ("Sigmoid", "flat", "y", {}),
            ],
            {
                "weight": weight,
                "bias": bias,
                "zero": np.array([0], np.int64),
                "two": np.array([2], np.int64),
                "rest": np.array([-1], np.int64),
            },
            inputs={"x": ["N", 5, 4, 4]},
            outputs={"y": ["N", 3, 16]},
        )
    )
    x = RNG.normal(size=(2, 5, 4, 4)).astype(np.float32)
    found = shown(made, {"x": x})
    np.testing.assert_array_equal(found["features"], np.maximum(x, 0).reshape(2, 5, 16))
    logits = np.einsum("cd,ndp->ncp", weight[:, :, 0, 0].astype(float), found["features"]) + bias[None, :, None]
    np.testing.assert_allclose(found["logits"], logits, atol=1e-5)
    np.testing.assert_array_equal(made.head_weight, weight[:, :, 0, 0])


def test_a_rectified_convolution_is_no_head_but_its_tensors_can_be_named():
    feed, oracle = told("squeeze")
    with pytest.raises(ConfigurationError, match="output comes from GlobalAveragePool"):
        instrument(EXPORTS / "squeeze.onnx")
    made = instrument(EXPORTS / "squeeze.onnx", features="/0/0.2/Relu_output_0")
    found = shown(made, feed)
    np.testing.assert_allclose(softmax(found["logits"].astype(np.float64)), oracle["output"], atol=1e-6)
    assert found["features"].shape == (4, 6)
    assert made.head_weight is None


def test_attention_probabilities_are_shown_and_are_probabilities():
    feed, _ = told("bert")
    made = instrument(EXPORTS / "bert.onnx", attention=True)
    found = run(made.model, feed)
    for name in ("attention_1", "attention_2"):
        assert found[name].shape == (4, 2, 6, 6)
        np.testing.assert_allclose(found[name].sum(-1), 1, atol=1e-5)
        assert np.all(found[name][1, :, :, 4:] < 1e-6)  # masked in the second row
    assert set(made.signals.signals) == {"logits", "features"}
    with pytest.raises(ConfigurationError, match="eager attention"):
        instrument(EXPORTS / "cnn_gap.onnx", attention=True)


def test_earlier_layers_by_number_and_by_name_are_averaged_to_rows():
    feed, _ = told("vit")
    made = instrument(EXPORTS / "vit.onnx", layers=["3"])
    found = shown(made, feed)
    assert [n for n in found if n.startswith("layer")] == ["layer_1", "layer_2", "layer_3"]
    assert all(found[f"layer_{i}"].shape == (4, 16) for i in (1, 2, 3))
    named = instrument(EXPORTS / "vit.onnx", layers=["layer_norm_4"], features="layer_norm_4", pool="cls")
    tokens = run(instrument(EXPORTS / "vit.onnx", layers=["layer_norm_4"]).model, feed)["layer_1"]
    proto = onnx.load(EXPORTS / "vit.onnx")
    proto.graph.output.append(onnx.ValueInfoProto(name="layer_norm_4"))
    whole = run(proto, feed)["layer_norm_4"].astype(np.float64)
    np.testing.assert_allclose(tokens, whole.mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(shown(named, feed)["features"], whole[:, 0], atol=1e-7)
    assert named.head_weight is not None  # the named tensor, pooled so, is what the head reads


def test_an_output_that_would_move_is_refused_unless_told_how_far():
    feed, _ = told("last_token")
    moving = "/body/block/Add_1_output_0"
    path = EXPORTS / "last_token.onnx"
    with pytest.raises(ConfigurationError, match=r"move by .* when layer_1 \(demur/layer_1/ReduceMean_0\)"):
        instrument(path, layers=[moving])
    made = instrument(path, layers=[moving], tolerance=1e-5)
    assert 0 < made.moved <= 1e-5
    before, after = (run(m, feed)["output"] for m in (onnx.load(path), made.model))
    assert np.abs(before - after).max() <= 1e-5
    counted = instrument(path, layers=["2"])  # by number: a neighbour that moves nothing
    assert counted.moved == 0
    assert moving not in {f.tensor for f in counted.found}


# By hand: every way a head is written.

Y = hidden() @ WEIGHT + BIAS
CASES = {
    "matmul_add": (mlp(), WEIGHT.T, BIAS),
    "gemm_alpha_beta": (
        model([*HIDDEN, ("Gemm", "h weight bias", "y", {"alpha": 0.5, "beta": 2.0})], FLOATS),
        0.5 * WEIGHT.T,
        2 * BIAS,
    ),
    "gemm_trans_b_no_bias": (
        model([*HIDDEN, ("Gemm", "h turned", "y", {"transB": 1})], {**FLOATS, "turned": WEIGHT.T.copy()}),
        WEIGHT.T,
        np.zeros(C),
    ),
    "temperature": (
        model(
            [*HIDDEN, ("MatMul", "h weight", "z0", {}), ("Add", "bias z0", "z", {}), ("Div", "z t", "y", {})],
            {**FLOATS, "t": np.float32(2)},
        ),
        WEIGHT.T / 2,
        BIAS / 2,
    ),
    "negated": (
        model([*HIDDEN, ("MatMul", "h weight", "z", {}), ("Sub", "bias z", "y", {})], FLOATS),
        -WEIGHT.T,
        BIAS,
    ),
    "tied_to_an_embedding": (
        model(
            [
                ("Gather", "table ids", "e", {}),
                ("Sub", "e e", "nothing", {}),
                ("ReduceSum", "nothing axes", "zero", {"keepdims": 0}),
                *HIDDEN,
                ("Add", "h zero", "h1", {}),
                ("Transpose", "table", "w", {"perm": [1, 0]}),
                ("MatMul", "h1 w", "z", {}),
                ("Add", "z bias", "y", {}),
            ],
            {**FLOATS, "table": WEIGHT.T.copy(), "ids": np.array([1, 2]), "axes": np.array([0, 1])},
        ),
        WEIGHT.T,
        BIAS,
    ),
    "folded_transpose": (
        model(
            [
                ("Transpose", "turned", "w", {"perm": [1, 0]}),
                *HIDDEN,
                ("MatMul", "h w", "z", {}),
                ("Add", "z bias", "y", {}),
            ],
            {**FLOATS, "turned": WEIGHT.T.copy()},
        ),
        WEIGHT.T,
        BIAS,
    ),
    "weight_norm": (
        model(
            [
                ("ReduceL2", "weight", "n", {"axes": [0], "keepdims": 1}),
                ("Div", "weight n", "unit", {}),
                ("Mul", "unit g", "w", {}),
                *HIDDEN,
                ("MatMul", "h w", "z", {}),
                ("Add", "z bias", "y", {}),
            ],
            {**FLOATS, "g": np.arange(1, C + 1, dtype=np.float32)[None]},
        ),
        (WEIGHT / np.linalg.norm(WEIGHT, axis=0) * np.arange(1, C + 1)).T,
        BIAS,
    ),
    "softmax_then_argmax": (
        mlp(("Softmax", "z", "p", {"axis": -1}), ("Identity", "p", "y", {}), ("ArgMax", "p", "label", {"axis": 1})),
        WEIGHT.T,
        BIAS,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_head_is_read_however_it_is_written(name):
    proto, weight, bias = CASES[name]
    made = instrument(proto)
    np.testing.assert_allclose(made.head_weight, weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(made.head_bias, bias, rtol=1e-5, atol=1e-6)
    found = shown(made, {"x": X})
    np.testing.assert_allclose(found["features"], hidden(), atol=1e-5)
    np.testing.assert_allclose(found["logits"], hidden() @ weight.T + bias, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_half_and_double_models_give_their_head_in_float32(dtype):
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    proto = model(
        [*HIDDEN, ("Gemm", "h weight bias", "y", {})], {n: a.astype(dtype) for n, a in FLOATS.items()}, dtype=kind
    )
    made = instrument(proto)
    assert made.head_weight.dtype == np.float32
    np.testing.assert_allclose(made.head_weight, WEIGHT.T, atol=2e-3)
    assert shown(made, {"x": X.astype(dtype)})["features"].dtype == dtype


def test_a_quantised_head_gives_features_and_says_why_no_weights():
    q = np.random.default_rng(0).integers(-50, 50, (H, C)).astype(np.int8)
    nodes = [
        *HIDDEN,
        ("DynamicQuantizeLinear", "h", "hq hs hz", {}),
        ("MatMulInteger", "hq q hz", "i", {}),
        ("Cast", "i", "f", {"to": 1}),
        ("Mul", "hs s", "scale", {}),
        ("Mul", "f scale", "y", {}),
    ]
    made = instrument(model(nodes, {**FLOATS, "q": q, "s": np.float32(0.02)}))
    assert made.head_weight is None
    assert "quantised (MatMulInteger)" in made.notes[0]
    np.testing.assert_allclose(shown(made, {"x": X})["features"], hidden(), atol=1e-5)


def test_dequantised_weights_that_the_runtime_multiplies_otherwise_are_not_written():
    nodes = [
        ("DequantizeLinear", "q s", "w", {"axis": 1}),
        *HIDDEN,
        ("MatMul", "h w", "z", {}),
        ("Add", "z bias", "y", {}),
    ]
    q = np.arange(H * C, dtype=np.int8).reshape(H, C)
    made = instrument(model(nodes, {**FLOATS, "q": q, "s": np.full(C, 0.1, np.float32)}))
    close = made.head_error <= 1e-4  # ONNX Runtime 1.31 fuses both into a product of small integers: 2e-3 away
    assert close == (made.head_weight is not None)
    assert close or "miss the logits" in made.notes[0]
    np.testing.assert_allclose(shown(made, {"x": X})["features"], hidden(), atol=1e-5)


def test_a_head_that_rounds_its_answers_gives_no_weights():
    nodes = [
        *HIDDEN,
        ("Gemm", "h weight bias", "z", {}),
        ("QuantizeLinear", "z s o", "zq", {}),
        ("DequantizeLinear", "zq s o", "y", {}),
    ]
    made = instrument(model(nodes, {**FLOATS, "s": np.float32(0.25), "o": np.int8(0)}))
    assert made.head_weight is None
    assert "miss the logits" in made.notes[0]


def test_two_heads_are_not_chosen_between():
    nodes = [*HIDDEN, ("Gemm", "h weight bias", "y", {}), ("Gemm", "h other", "v", {})]
    proto = model(nodes, {**FLOATS, "other": WEIGHT[:, :2].copy()}, outputs={"y": ["N", C], "v": ["N", 2]})
    with pytest.raises(ConfigurationError, match=r"2 linear layers .* y .* v .*--logits TENSOR"):
        instrument(proto)
    made = instrument(proto, logits="v")
    np.testing.assert_allclose(made.head_weight, WEIGHT[:, :2].T)
    assert made.signals.signals["logits"] == "v"


GEMM = ("Gemm", "h weight bias", "z", {})


def test_of_logits_and_their_mean_behind_one_output_the_logits_are_meant():
    mean = [("ReduceMean", "z", "m", {"axes": [1], "keepdims": 1}), ("Sub", "z m", "q", {}), ("Softmax", "q", "y", {"axis": 1})]  # fmt: skip
    made = instrument(model([*HIDDEN, GEMM, *mean], FLOATS))
    np.testing.assert_allclose(shown(made, {"x": X})["logits"], Y, atol=1e-4)
    np.testing.assert_allclose(made.head_weight, WEIGHT.T)


@pytest.mark.parametrize("end", [("Softmax", "a", "y", {"axis": 1}), ("Identity", "a", "y", {})])
def test_a_layer_whose_answers_are_divided_is_not_taken_whole(end):
    """Two classes and two coordinates from one layer: its four numbers are no logits of four classes."""
    nodes = [*HIDDEN, GEMM, ("Split", "z", "a box", {"axis": 1}), end]
    proto = model(nodes, FLOATS, outputs={"y": ["N", 2], "box": ["N", 2]})
    with pytest.raises(ConfigurationError, match=r"'z', is divided \(Split\).*--logits TENSOR, and --features h"):
        instrument(proto)
    found = shown(instrument(proto, logits="a", features="h"), {"x": X})
    np.testing.assert_allclose(found["logits"], Y[:, :2], atol=1e-4)
    np.testing.assert_allclose(found["features"], hidden(), atol=1e-5)
    assert set(shown(instrument(proto, features="h"), {"x": X})) == {"features"}


def test_probabilities_that_are_divided_come_from_all_of_the_logits():
    nodes = [*HIDDEN, GEMM, ("Softmax", "z", "p", {"axis": 1}), ("Split", "p", "y v", {"axis": 1})]
    made = instrument(model(nodes, FLOATS, outputs={"y": ["N", 2], "v": ["N", 2]}))
    np.testing.assert_allclose(made.head_weight, WEIGHT.T)


def test_one_number_is_said_to_be_no_classes():
    proto = model(
        [*HIDDEN, ("Gemm", "h one", "y", {})], {**FLOATS, "one": WEIGHT[:, :1].copy()}, outputs={"y": ["N", 1]}
    )
    assert "one number" in instrument(proto).notes[0]
    assert instrument(CASES["matmul_add"][0]).notes == ()


PIXEL = np.random.default_rng(4).normal(size=(4, 3, 1, 1)).astype(np.float32)
PICTURE = {"x": np.random.default_rng(5).normal(size=(2, 3, 8, 8)).astype(np.float32)}


def test_one_logit_a_pixel_stays_one():
    nodes = [("Relu", "x", "h", {}), ("Conv", "h w", "z", {}), ("Sigmoid", "z", "y", {})]
    proto = model(nodes, {"w": PIXEL[:1]}, inputs={"x": ["N", 3, 8, 8]}, outputs={"y": ["N", 1, 8, 8]})
    made = instrument(proto)
    want = np.einsum("nchw,kc->nkhw", np.maximum(PICTURE["x"], 0), PIXEL[:1, :, 0, 0])
    np.testing.assert_allclose(shown(made, PICTURE)["logits"], want, atol=1e-5)


def test_pictures_turned_to_channels_last_at_the_end_keep_their_head():
    nodes = [("Relu", "x", "h", {}), ("Conv", "h w", "z", {}), ("Transpose", "z", "q", {"perm": [0, 2, 3, 1]}), ("Softmax", "q", "y", {"axis": 3})]  # fmt: skip
    proto = model(nodes, {"w": PIXEL}, inputs={"x": ["N", 3, 8, 8]}, outputs={"y": ["N", 8, 8, 4]})
    made = instrument(proto)
    found = shown(made, PICTURE)
    np.testing.assert_allclose(found["features"], np.maximum(PICTURE["x"], 0).transpose(0, 2, 3, 1))
    np.testing.assert_allclose(found["features"] @ made.head_weight.T + made.head_bias, found["logits"], atol=1e-5)
    with pytest.raises(ConfigurationError, match=r"\(N, H, W, C\) at the end.*--logits z --features h"):
        instrument(proto, pool="mean")
    rows = shown(instrument(proto, pool="mean", logits="z", features="h"), PICTURE)
    np.testing.assert_allclose(rows["features"], np.maximum(PICTURE["x"], 0).mean(axis=(2, 3)), atol=1e-6)


def test_an_output_named_logits_is_taken_among_several():
    nodes = [*HIDDEN, ("Gemm", "h weight bias", "logits", {}), ("Gemm", "h other", "v", {})]
    proto = model(nodes, {**FLOATS, "other": WEIGHT[:, :2].copy()}, outputs={"logits": ["N", C], "v": ["N", 2]})
    assert instrument(proto).head_weight.shape == (C, H)


def test_an_embedding_that_is_an_output_too_is_not_taken_for_the_head():
    nodes = [("Gemm", "x first", "e", {}), ("Relu", "e", "h", {}), ("Gemm", "h weight bias", "y", {})]
    made = instrument(model(nodes, FLOATS, outputs={"e": ["N", H], "y": ["N", C]}))
    np.testing.assert_allclose(made.head_weight, WEIGHT.T)


@pytest.mark.parametrize(("target", "rows"), [([-1, C], 12), ([4, 3, C], 4), ([0, 3, C], 4)])
def test_features_are_reshaped_as_the_logits_are(target, rows):
    nodes = [("MatMul", "x first", "h", {}), ("MatMul", "h weight", "z", {}), ("Reshape", "z shape", "y", {})]
    proto = model(nodes, {**FLOATS, "shape": np.array(target)}, inputs={"x": [4, 3, D]}, outputs={"y": None})
    x = np.random.default_rng(1).normal(size=(4, 3, D)).astype(np.float32)
    made = instrument(proto)
    found = shown(made, {"x": x})
    assert len(found["features"]) == len(found["logits"]) == rows
    np.testing.assert_allclose(
        found["features"], (x @ FIRST).reshape(*found["logits"].shape[:-1], H), rtol=1e-4, atol=1e-5
    )
    assert made.head_weight is not None


def test_features_that_cannot_follow_the_logits_are_refused():
    nodes = [("MatMul", "x first", "h", {}), ("MatMul", "h weight", "z", {}), ("Transpose", "z", "t", {"perm": [0, 2, 1]}), ("Reshape", "t shape", "y", {})]  # fmt: skip
    proto = model(nodes, {**FLOATS, "shape": np.array([4, -1])}, inputs={"x": [4, 3, D]}, outputs={"y": [4, 3 * C]})
    with pytest.raises(
        ConfigurationError, match=r"cannot be taken the way the logits go from MatMul .*Transpose, Reshape"
    ):
        instrument(proto)
    assert instrument(proto, features="h").head_weight is None


def branch(name, weight):
    node = helper.make_node("MatMul", ["h", weight], [f"{name}_z"])
    return helper.make_graph([node], name, [], [helper.make_tensor_value_info(f"{name}_z", 1, None)])


def test_a_head_inside_an_if_is_not_guessed_and_names_inside_follow_a_rename():
    then, other = branch("then", "weight"), branch("other", "double")
    nodes = [*HIDDEN, ("If", "flag", "y", {"then_branch": then, "else_branch": other})]
    weights = {**FLOATS, "double": 2 * WEIGHT, "flag": np.array(True)}
    with pytest.raises(ConfigurationError, match="Layers inside If are not looked into"):
        instrument(model(nodes, weights))
    made = instrument(model(nodes, weights), features="h", logits="y")
    found = shown(made, {"x": X})  # h is called features now, inside the branches too
    np.testing.assert_allclose(found["logits"], hidden() @ WEIGHT, atol=1e-4)
    np.testing.assert_allclose(found["features"], hidden(), atol=1e-5)


def test_a_loop_before_the_head_is_left_alone():
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("MatMul", ["a", "step"], ["b"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", 7, []),
            helper.make_tensor_value_info("go", 9, []),
            helper.make_tensor_value_info("a", 1, ["N", D]),
        ],
        [helper.make_tensor_value_info("on", 9, []), helper.make_tensor_value_info("b", 1, ["N", D])],
    )
    step = np.eye(D, dtype=np.float32) / 2
    nodes = [("Loop", "times go x", "a3", {"body": body}), ("Gemm", "a3 weight bias", "y", {})]
    weights = {"times": np.int64(3), "go": np.array(True), "step": step, "weight": FIRST[:, :C].copy(), "bias": BIAS}
    made = instrument(model(nodes, weights))
    np.testing.assert_allclose(shown(made, {"x": X})["features"], X / 8, atol=1e-6)
    np.testing.assert_allclose(made.head_weight, FIRST[:, :C].T)


def test_functions_of_the_models_own_are_looked_into():
    proto = model([("Head", "x w b", "y", {"domain": "mine"})], {"w": FIRST[:, :C].copy(), "b": BIAS})
    proto.functions.append(
        helper.make_function(
            "mine",
            "Head",
            ["a", "w", "b"],
            ["c"],
            [helper.make_node("Gemm", ["a", "w", "b"], ["c"])],
            [helper.make_opsetid("", 17)],
        )
    )
    np.testing.assert_allclose(instrument(proto).head_weight, FIRST[:, :C].T)


def test_weights_listed_as_inputs_are_weights():
    proto = model([*HIDDEN, ("Gemm", "h weight bias", "y", {})], FLOATS, opset=9, ir=3)
    for name, array in FLOATS.items():
        proto.graph.input.append(helper.make_tensor_value_info(name, 1, array.shape))
    np.testing.assert_allclose(instrument(proto).head_weight, WEIGHT.T)


def test_the_model_input_itself_may_be_the_features():
    made = instrument(model([("Gemm", "x w", "y", {})], {"w": FIRST[:, :C].copy()}))
    assert np.array_equal(shown(made, {"x": X})["features"], X)
    assert [i.name for i in made.model.graph.input] == ["x"]


def test_names_already_taken_are_stepped_around():
    nodes = [("MatMul", "x first", "features", {}), ("Relu", "features", "h", {}), ("Gemm", "h weight bias", "logits_", {}), ("Softmax", "logits_", "logits", {})]  # fmt: skip
    made = instrument(model(nodes, FLOATS, outputs={"logits": ["N", C]}))
    assert made.signals.signals == {"logits": "logits_1", "features": "features_1"}
    np.testing.assert_allclose(shown(made, {"x": X})["logits"], Y, atol=1e-4)


def test_a_model_that_rolls_dice_cannot_be_checked():
    nodes = [
        ("RandomNormalLike", "x", "r", {}),
        ("Add", "x r", "xr", {}),
        ("Gemm", "xr w", "y", {}),
    ]
    with pytest.raises(ConfigurationError, match="differently each time"):
        instrument(model(nodes, {"w": FIRST[:, :C].copy()}))


def test_axes_that_cannot_be_guessed_are_asked_for():
    nodes = [("Reshape", "x s", "r", {}), ("Gemm", "r w", "y", {})]
    weights = {"s": np.array([-1, 35 * D], np.int64), "w": np.ones((35 * D, C), np.float32)}
    proto = model(nodes, weights, inputs={"x": ["N", "T", D]})
    with pytest.raises(ConfigurationError, match=r"runs on no input made up for it .*: --shape x=\?,\?,6"):
        instrument(proto)
    made = instrument(proto, shapes={"x": (2, 35, D)})
    assert made.head_weight.shape == (C, 35 * D)
    assert [f.shape[0] for f in made.found] == ["N", "N"]  # 2 was asked for, the axis stays dynamic
    with pytest.raises(ConfigurationError, match="no input is named 'z'"):
        instrument(proto, shapes={"z": (1,)})


@pytest.mark.parametrize("raw", [b"", b"not a model", b"\x08\x07", np.zeros(3).tobytes()])
def test_bytes_that_are_no_model_are_refused(raw):
    with pytest.raises(ConfigurationError, match="ONNX"):
        instrument(raw)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "absent.onnx"):
        with pytest.raises(ConfigurationError, match="cannot be read"):
            instrument(path)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"layers": ["9"]}, "has 1 activations"),
        ({"layers": ["0"]}, "has 1 activations"),
        ({"layers": ["nope"]}, "no tensor is named 'nope'"),
        ({"features": "nope"}, "no tensor is named 'nope'"),
        ({"features": "weight"}, "no tensor is named 'weight'"),
        ({"logits": "nope"}, "no tensor is named 'nope'"),
    ],
)
def test_names_that_are_not_there_are_refused(asked, why):
    deep = [*HIDDEN, ("Add", "h one", "g", {}), ("Gemm", "g weight bias", "y", {})]
    with pytest.raises(ConfigurationError, match=why):
        instrument(model(deep, {**FLOATS, "one": np.float32(1)}), **asked)


def test_picking_a_token_of_a_picture_is_refused():
    with pytest.raises(ConfigurationError, match="picks a token"):
        instrument(EXPORTS / "squeeze.onnx", features="/0/0.2/Relu_output_0", pool="cls")


def test_candidates_list_shapes_and_leave_plumbing_out():
    rows = {name: (op, shape, dtype) for name, op, shape, dtype in candidates(EXPORTS / "cnn_softmax.onnx")}
    assert rows["/head/Gemm_output_0"] == ("Gemm", "Nx5", "float32")
    assert not [op for op, _, _ in rows.values() if op in ("Constant", "Shape")]
