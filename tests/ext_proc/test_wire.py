"""Our copy of the protocol's messages: as published, out of everybody's way, and deaf to nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from demur.adapters.servers.ext_proc import handler
from demur.proto.envoy import external_processor_pb2 as pb
from tests.ext_proc import public

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-envoy/bin/python"
KINDS = {5: "int32", 8: "bool", 9: "string", 12: "bytes", 13: "uint32"}
STATUS = ("HttpStatus", "code")  # an enum as published, int32 here: the same varint, and every code fits


def kind(field) -> str:
    named = field.message_type or field.enum_type
    name = named.name if named else KINDS[field.type]
    return f"repeated {name}" if field.is_repeated else name


def test_fields_have_the_published_numbers_and_types():
    ours = {
        m.name: {f.name: (f.number, kind(f)) for f in m.fields} for m in pb.DESCRIPTOR.message_types_by_name.values()
    }
    message, field = STATUS
    assert ours[message][field] == (1, "int32")
    ours[message][field] = public.FIELDS[message][field]
    assert ours == public.FIELDS


def test_enums_and_oneofs_are_the_published_ones():
    messages = pb.DESCRIPTOR.message_types_by_name
    enums = {e.name: {v.name: v.number for v in e.values} for m in messages.values() for e in m.enum_types}
    assert enums == public.ENUMS
    oneofs = {m.name: {o.name: {f.name for f in o.fields} for o in m.oneofs} for m in messages.values() if m.oneofs}
    assert oneofs == public.ONEOFS


def test_the_service_path_is_public_and_the_messages_names_are_not():
    assert f"/{public.SERVICE}/Process" == handler.PROCESS
    assert pb.DESCRIPTOR.package == "demur.vendored.envoy.ext_proc.v3"
    assert pb.DESCRIPTOR.name.startswith("demur/vendored/envoy/")
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("envoy.service.ext_proc.v3.ProcessingRequest")


def test_public_definitions_register_beside_ours_in_either_order():
    """In processes of their own because registration is for ever."""
    found = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(found)
    text = found.SerializeToString().replace(b"demur.vendored.envoy.ext_proc.v3", b"envoy.service.ext_proc.abcdefgh3")
    found = descriptor_pb2.FileDescriptorProto.FromString(text)
    found.name = "envoy/service/ext_proc/v3/external_processor.proto"
    program = (
        "import sys\n"
        "from google.protobuf import descriptor_pool\n"
        "first, raw = sys.argv[1], bytes.fromhex(sys.argv[2])\n"
        "steps = [lambda: descriptor_pool.Default().AddSerializedFile(raw), lambda: __import__('demur.adapters.servers.ext_proc')]\n"
        "for step in steps if first == 'public' else steps[::-1]: step()\n"
        "print('both')\n"
    )
    raw = found.SerializeToString().hex()
    for first in ("public", "ours"):
        done = subprocess.run([sys.executable, "-c", program, first, raw], capture_output=True, text=True, check=False)
        assert done.stdout.strip() == "both", done.stderr


def test_unknown_fields_survive():
    raw = (
        pb.ProcessingRequest(observability_mode=True).SerializeToString() + b"\x42\x00" + b"\x4a\x02\x0a\x00"
    )  # 8 and 9
    assert pb.ProcessingRequest.FromString(raw).SerializeToString(deterministic=True) == raw


def test_every_http_status_fits():
    for code in (100, 412, 503, 599):
        assert pb.HttpStatus.FromString(b"\x08" + bytes([code & 127 | 128, code >> 7])).code == code


@pytest.mark.servers
def test_the_table_is_what_the_published_package_says():
    command = [str(PYTHON), str(Path(__file__).with_name("published.py")), *public.FIELDS]
    said = json.loads(
        subprocess.run([*command, "StreamedBodyResponse"], capture_output=True, text=True, check=True).stdout
    )
    for name, fields in public.FIELDS.items():
        theirs = {n: tuple(f) for n, f in said["fields"][name].items()}
        assert fields.items() <= theirs.items(), name
    assert said["service"] == public.SERVICE
    assert {n: said["enums"][n] for n in public.ENUMS} == public.ENUMS
    for name, oneofs in public.ONEOFS.items():
        assert {n: set(f) for n, f in said["oneofs"][name].items()} == oneofs


@pytest.mark.servers
def test_the_published_stubs_and_ours_live_in_one_process_and_read_each_others_bytes():
    program = (
        "import sys\n"
        "theirs = lambda: __import__('envoy.service.ext_proc.v3.external_processor_pb2', fromlist=['x'])\n"
        "ours = lambda: __import__('demur.proto.envoy.external_processor_pb2', fromlist=['x'])\n"
        "a, b = (theirs, ours) if sys.argv[1] == 'theirs' else (ours, theirs)\n"
        "first, second = a(), b()\n"
        "message = first.ProcessingResponse()\n"
        "message.immediate_response.status.code = 503\n"
        "message.immediate_response.details = 'why'\n"
        "option = message.immediate_response.headers.set_headers.add(append_action=2)\n"
        "option.header.key, option.header.raw_value = 'demur-verdict', b'ABSTAIN'\n"
        "raw = message.SerializeToString(deterministic=True)\n"
        "assert second.ProcessingResponse.FromString(raw).SerializeToString(deterministic=True) == raw\n"
        "print('both')\n"
    )
    for first in ("theirs", "ours"):
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
        command = [str(PYTHON), "-c", program, first]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.stdout.strip() == "both", done.stderr
