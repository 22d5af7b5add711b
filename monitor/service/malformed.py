"""Bytes that are not the message they should be. gRPC's own answer would be INTERNAL and a stack trace per request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Malformed:
    """Stands where the message would."""

    message: str


def reader(kind: type[M]) -> Callable[[bytes], M | Malformed]:
    """A deserializer that never fails."""

    def read(raw: bytes) -> M | Malformed:
        try:
            return kind.FromString(raw)
        except (DecodeError, UnicodeDecodeError) as error:
            return Malformed(
                f"malformed request: {len(raw)} bytes are not a {kind.DESCRIPTOR.full_name} ({error}); "
                "check the client's generated code against proto/demur/v1"
            )

    return read
