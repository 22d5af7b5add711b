"""Signatures, allowed graphs, self-tests: what a server asks before it serves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from onnx import TensorProto, helper

from demur.monitor.bundle import Bundle, activation, graph
from demur.monitor.bundle.bundle import npy
from demur.monitor.bundle.signature import generate, load_private, load_public
from demur.monitor.errors import BundleError, ConfigurationError, DigestMismatch
from demur.monitor.loaded import Loaded

GOLDEN = Path(__file__).parent.parent / "golden" / "sliced.demur"


@pytest.fixture
def good():
    return Bundle.load(GOLDEN)


@pytest.fixture
def key():
    return Ed25519PrivateKey.generate()


def test_a_trusted_signature_is_accepted(good, key):
    raw = good.sign(key).encode()
    assert (
        Bundle.parse(raw, trusted=[Ed25519PrivateKey.generate().public_key(), key.public_key()]).digest == good.digest
    )


def test_unsigned_is_refused_when_a_signature_is_required(good, key):
    with pytest.raises(BundleError, match="signature is required"):
        Bundle.parse(good.encode(), trusted=[key.public_key()])


def test_no_trusted_key_at_all_trusts_nobody(good, key):
    with pytest.raises(DigestMismatch):
        Bundle.parse(good.sign(key).encode(), trusted=[])


def test_the_attackers_own_key_in_the_signature_does_not_help(good, key):
    with pytest.raises(DigestMismatch, match="none of the 1 trusted keys"):
        Bundle.parse(good.sign(Ed25519PrivateKey.generate()).encode(), trusted=[key.public_key()])


def test_a_signature_of_another_bundle_is_refused(good, key, bundle):
    swapped = Bundle(good.manifest, good.raw_manifest, good.members, bundle.sign(key).signature)
    with pytest.raises(DigestMismatch):
        Bundle.parse(swapped.encode(), trusted=[key.public_key()])


@pytest.mark.parametrize("member", [b"", b"{}", b'{"signature": "zz"}', b'{"signature": 7}', b"[1]", b"\xff"])
def test_a_malformed_signature_is_refused(good, key, member):
    with pytest.raises(BundleError):
        Bundle.parse(
            Bundle(good.manifest, good.raw_manifest, good.members, member).encode(), trusted=[key.public_key()]
        )


def test_keys_are_private_and_never_overwritten(tmp_path):
    public = generate(tmp_path / "k")
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o600
    assert load_private(tmp_path / "k").public_key() == load_public(public)
    with pytest.raises(ConfigurationError, match="never overwritten"):
        generate(tmp_path / "k")
    with pytest.raises(ConfigurationError, match="private key"):
        load_private(public)


def rebuilt(good, **members):
    fields = {
        k: getattr(good.manifest, k) for k in type(good.manifest).model_fields if k not in ("members", "schema_version")
    }
    return Bundle.build({**good.members, **members}, **fields)


def model(nodes, *, domain="", opset=18, ir=9, initializers=(), functions=()):
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        list(initializers),
    )
    return helper.make_model(
        made, opset_imports=[helper.make_opsetid(domain, opset)], ir_version=ir, functions=list(functions)
    )


def branch():
    const = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0]))
    return helper.make_graph([const], "b", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, [1])])


def outside():
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def sparse():
    made = model([helper.make_node("Add", ["x", "w"], ["y"])])
    values = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    places = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [2]))
    return made


BAD_GRAPHS = {
    "operator": model([helper.make_node("RandomNormalLike", ["x"], ["y"])]),
    "opset": model([helper.make_node("Relu", ["x"], ["y"])], opset=17),
    "ir": model([helper.make_node("Relu", ["x"], ["y"])], ir=8),
    "domain": model([helper.make_node("Relu", ["x"], ["y"], domain="com.evil")], domain="com.evil", opset=1),
    "subgraph": model(
        [
            helper.make_node("Constant", [], ["t"], value=helper.make_tensor("t", TensorProto.BOOL, [], [True])),
            helper.make_node("If", ["t"], ["y"], then_branch=branch(), else_branch=branch()),
        ]
    ),
}


BAD_GRAPHS["nested in an allowed operator"] = model([helper.make_node("Relu", ["x"], ["y"], body=branch())])


BAD_GRAPHS["function"] = model(
    [helper.make_node("Relu", ["x"], ["y"])],
    functions=[
        helper.make_function(
            "", "F", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [helper.make_opsetid("", 18)]
        )
    ],
)


BAD_GRAPHS["custom operator of the default domain"] = model([helper.make_node("Evil", ["x"], ["y"])])


BAD_GRAPHS["external constant"] = model([helper.make_node("Constant", [], ["y"], value=outside())])


BAD_GRAPHS["sparse"] = sparse()


@pytest.mark.parametrize("name", BAD_GRAPHS)
def test_graphs_off_the_list_are_refused(name):
    with pytest.raises(BundleError):
        graph.check(BAD_GRAPHS[name].SerializeToString())


def test_external_data_is_refused_before_anything_follows_it():
    made = model([helper.make_node("Add", ["x", "w"], ["y"])], initializers=[outside()])
    with pytest.raises(BundleError, match="other files"):
        graph.check(made.SerializeToString())


def test_bytes_that_are_no_graph_are_refused(good):
    with pytest.raises(BundleError, match="not an ONNX model"):
        Loaded.open(rebuilt(good, **{"monitor.onnx": b"\x00" * 100}))


def test_the_manifest_is_what_is_signed(good, key):
    signed = good.sign(key)
    assert json.loads(signed.signature)["algorithm"] == "ed25519"
    other = rebuilt(good, **{"rows/reference.npy": npy(np.zeros(1, np.uint64))})
    with pytest.raises(DigestMismatch):
        Bundle.parse(
            Bundle(other.manifest, other.raw_manifest, other.members, signed.signature).encode(),
            trusted=[key.public_key()],
        )


def test_every_golden_graph_passes():
    for path in GOLDEN.parent.glob("*.demur"):
        assert isinstance(graph.check(Bundle.load(path).graph), onnx.ModelProto)


def test_rules_changed_after_calibration_are_refused(good):
    changed = json.loads(good.raw_manifest)
    changed["rules"][0]["thresholds"] = [None] * len(changed["rules"][0]["thresholds"])
    with pytest.raises(BundleError, match="demur calibrate"):
        Bundle.assemble({"manifest.json": json.dumps(changed).encode(), **good.members})


def test_a_key_file_is_not_left_without_its_public_half(tmp_path):
    (tmp_path / "k.pub").write_bytes(b"another")
    with pytest.raises(ConfigurationError, match="never overwritten"):
        generate(tmp_path / "k")
    assert not (tmp_path / "k").exists()
    with pytest.raises(ConfigurationError, match="cannot be written"):
        generate(tmp_path / "none" / "k")


@pytest.mark.parametrize("raw", [b"{}", b"[" * 30_000, b'{"digest": "zz"}', b"\xff", b"x" * (65 << 10)])
def test_a_file_that_is_no_activation_is_refused(tmp_path, raw):
    activation.path_for(tmp_path / "a.demur").write_bytes(raw)
    with pytest.raises(BundleError, match="activation"):
        activation.read(tmp_path / "a.demur")


def test_an_activation_names_one_digest(tmp_path, good):
    assert activation.read(tmp_path / "a.demur") is None
    written = activation.allow(tmp_path / "a.demur", good, by="o" * 1000, reason="r")
    assert activation.read(tmp_path / "a.demur") == written
    assert written.digest == good.digest
