"""HTTP headers as Envoy sends them, and changes to them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from demur.adapters.servers.oip.rest import coding
from demur.proto.envoy.external_processor_pb2 import HeaderMap, HeaderMutation, HeaderValueOption

OVERWRITE = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
LONGEST_VALUE = 1024  # characters of one header of ours; proxies refuse headers of 60 KiB by default, all together
NOT_PRINTABLE = re.compile(r"[^ -~]")
PREFIX = "demur-"


def read(headers: HeaderMap) -> Mapping[str, str]:
    """By lower-case name, a character for each byte; several of one name are joined by commas, as HTTP allows."""
    found: dict[str, str] = {}
    for header in headers.headers:
        name = header.key.lower()
        value = (header.raw_value or header.value.encode()).decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found and not name.startswith(":") else value
    return MappingProxyType(found)


def change(mutation: HeaderMutation, put: Mapping[str, str], remove: Iterable[str] = ()) -> None:
    """Write changes into a mutation; `put` replaces what upstream said under the same name."""
    for name, value in put.items():
        option = mutation.set_headers.add(append_action=OVERWRITE, keep_empty_value=True)
        option.header.key, option.header.raw_value = name, printable(value).encode("ascii")
    mutation.remove_headers.extend(remove)


def printable(text: str) -> str:
    """Printable ASCII, so that no value ends a header or begins another."""
    return NOT_PRINTABLE.sub("?", text[:LONGEST_VALUE])


def forged(headers: Mapping[str, str]) -> list[str]:
    """Headers of an answer that only demur may write."""
    return [name for name in headers if name.startswith(PREFIX)]


def status(headers: Mapping[str, str]) -> int:
    """The answer's status code; 0, which is no error, when there is none that can be read."""
    said = headers.get(":status", "")
    return int(said) if said.isascii() and said.isdigit() and len(said) == 3 else 0


def media(headers: Mapping[str, str]) -> str:
    """The content type without its parameters, in lower case."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def readable(headers: Mapping[str, str]) -> dict[str, str]:
    """What to change so that upstream is asked only for codings that can be read here."""
    said = headers.get("accept-encoding")
    wanted = None if said is None else coding.acceptable(said)
    return {} if wanted is None or wanted == said else {"accept-encoding": wanted}
