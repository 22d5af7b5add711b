"""A program for the environment with xds-protos: print what the published protos say of the messages named as arguments."""

from __future__ import annotations

import json
import sys

from envoy.config.core.v3 import base_pb2  # ty: ignore
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2
from envoy.type.v3 import http_status_pb2

FILES = [f.DESCRIPTOR for f in (base_pb2, processing_mode_pb2, external_processor_pb2, http_status_pb2)]


def kind(field) -> str:
    named = field.message_type or field.enum_type
    name = named.name if named else {8: "bool", 9: "string", 12: "bytes", 13: "uint32"}[field.type]
    repeated = field.is_repeated if hasattr(field, "is_repeated") else field.label == 3
    return f"repeated {name}" if repeated else name


def main() -> None:
    messages = {m.name: m for f in FILES for m in f.message_types_by_name.values()}
    fields, enums, oneofs = {}, {}, {}
    for name in sys.argv[1:]:
        message = messages[name]
        fields[name] = {
            f.name: [f.number, kind(f)]
            for f in message.fields
            if "google" not in str(f.message_type and f.message_type.full_name)
        }
        oneofs[name] = {o.name: [f.name for f in o.fields] for o in message.oneofs}
        for enum in message.enum_types:
            enums[enum.name] = {v.name: v.number for v in enum.values}
    service = external_processor_pb2.DESCRIPTOR.services_by_name["ExternalProcessor"]
    print(json.dumps({"fields": fields, "enums": enums, "oneofs": oneofs, "service": service.full_name}))


if __name__ == "__main__":
    main()
