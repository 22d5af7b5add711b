"""Our copy of the protocol's messages keeps out of the way of everybody else's."""

from __future__ import annotations

import subprocess
import sys

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from demur.proto.oip import inference_pb2

PUBLIC = ("ModelInferRequest", "ModelInferResponse", "InferParameter", "InferTensorContents", "GRPCInferenceService")


def public_definitions() -> descriptor_pb2.FileDescriptorProto:
    """Our messages under the name everybody uses."""
    found = descriptor_pb2.FileDescriptorProto()
    inference_pb2.DESCRIPTOR.CopyToProto(found)
    found.package, found.name = "inference", "grpc_service.proto"
    rename(found.message_type)
    return found


def rename(messages) -> None:
    for message in messages:
        for field in message.field:
            if field.type_name:  # set on a field of a plain type, even to "", it makes the field invalid
                field.type_name = field.type_name.replace(".demur.vendored.oip.v2.", ".inference.")
        rename(message.nested_type)


@pytest.mark.parametrize("name", PUBLIC)
def test_no_public_name_is_in_the_default_pool(name):
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName(f"inference.{name}")


def test_the_file_name_is_our_own():
    assert inference_pb2.DESCRIPTOR.name == "demur/vendored/oip/v2/inference.proto"
    assert inference_pb2.DESCRIPTOR.package == "demur.vendored.oip.v2"


def test_public_definitions_register_beside_ours_in_either_order_and_read_our_bytes():
    """As tritonclient and KServe do at import, in processes of their own because registration is for ever."""
    program = (
        "import sys\n"
        "from google.protobuf import descriptor_pool\n"
        "first, raw = sys.argv[1], bytes.fromhex(sys.argv[2])\n"
        "steps = [lambda: descriptor_pool.Default().AddSerializedFile(raw), lambda: __import__('demur.adapters.servers.oip')]\n"
        "for step in steps if first == 'public' else steps[::-1]: step()\n"
        "descriptor_pool.Default().FindMessageTypeByName('inference.ModelInferRequest')\n"
        "print('both')\n"
    )
    raw = public_definitions().SerializeToString().hex()
    for first in ("public", "ours"):
        done = subprocess.run([sys.executable, "-c", program, first, raw], capture_output=True, text=True, check=False)
        assert done.stdout.strip() == "both", done.stderr


def test_both_packages_have_the_same_wire_bytes():
    pool = descriptor_pool.DescriptorPool()
    pool.Add(public_definitions())
    public = message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelInferResponse"))
    ours = inference_pb2.ModelInferResponse(model_name="m", raw_output_contents=[b"\x01"])
    ours.outputs.add(name="o", datatype="FP32", shape=[1, 2]).contents.fp32_contents.extend([1.0, 2.0])
    ours.parameters["k"].string_param = "v"
    theirs = public.FromString(ours.SerializeToString(deterministic=True))
    assert theirs.outputs[0].contents.fp32_contents == [1.0, 2.0]
    assert theirs.SerializeToString(deterministic=True) == ours.SerializeToString(deterministic=True)
