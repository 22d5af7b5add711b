"""An HTTP body of the protocol: JSON, and behind it the bytes of tensors when Triton's binary extension is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from demur.adapters.servers.oip.rest.document import MalformedError


@dataclass(frozen=True, slots=True)
class Body:
    """`text` is the JSON part, decoded so that encoding it again gives the same bytes whatever they are.

    `extended`: the body came with an Inference-Header-Content-Length, which says where the JSON part ends.
    """

    text: str
    binary: bytes = b""
    extended: bool = False

    def __len__(self) -> int:
        """Characters of the JSON part, and bytes behind it."""
        return len(self.text) + len(self.binary)

    @property
    def raw(self) -> bool:
        """Whether it is a raw request: the bytes of one tensor and no JSON at all."""
        return self.extended and not self.text

    def encoded(self) -> tuple[bytes, int | None]:
        """The body, and its Inference-Header-Content-Length when it has one."""
        head = self.text.encode("utf-8", "surrogateescape")
        return head + self.binary, len(head) if self.extended else None


def body(content: bytes, json_length: str | None) -> Body:
    """The parts of a body. Raises: MalformedError when `json_length` is no length within it."""
    if json_length is None:
        return Body(content.decode("utf-8", "surrogateescape"))
    if not (json_length.isascii() and json_length.isdigit() and len(json_length) < 20):
        raise MalformedError(f"Inference-Header-Content-Length: expected a number of bytes, got {json_length!r:.80}")
    length = int(json_length)
    if length > len(content):
        raise MalformedError(f"Inference-Header-Content-Length: {length} exceeds the {len(content)} bytes of the body")
    return Body(content[:length].decode("utf-8", "surrogateescape"), content[length:], extended=True)


def chunks(elements: Sequence[Any], binary: bytes) -> list[memoryview | None]:
    """For each tensor its stretch of the binary part, None for one whose data stands in the JSON.

    Raises: MalformedError when the sizes that the tensors state do not add up to the binary part.
    """
    view, at = memoryview(binary), 0
    found: list[memoryview | None] = []
    for element in elements:
        said = element.get("parameters") if isinstance(element, Mapping) else None
        size = said.get("binary_data_size") if isinstance(said, Mapping) else None
        if size is None:
            found.append(None)
            continue
        if type(size) is not int or not 0 <= size <= len(binary) - at:
            raise MalformedError(f"binary_data_size: expected at most {len(binary) - at} bytes, got {size!r:.40}")
        found.append(view[at : at + size])
        at += size
    if at != len(binary):
        raise MalformedError(f"{len(binary)} bytes behind the JSON part, but its tensors claim {at}")
    return found
