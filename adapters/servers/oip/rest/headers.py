"""HTTP header lists: which of them belong to the callers, and how a few are changed without touching the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Headers = list[tuple[bytes, bytes]]

JSON_LENGTH = b"inference-header-content-length"
# Each connection's own business (RFC 9110 section 7.6.1), and what the next hop's connection states for itself.
HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding upgrade".split()
)
REQUESTS_OWN = frozenset((b"host", b"expect"))
BODYS_OWN = frozenset(b"content-md5 digest content-digest repr-digest etag".split())  # of a body that was changed


def passed_on(headers: Iterable[tuple[bytes, bytes]], but: frozenset[bytes] = frozenset()) -> Headers:
    """End-to-end headers in their order and spelling, those that `Connection` names left out too, and a Content-Length that
    counts for nothing because Transfer-Encoding is there (RFC 9112 section 6.3).
    """
    listed = list(headers)
    named = {part.strip().lower() for k, v in listed if k.lower() == b"connection" for part in v.split(b",")}
    chunked = any(k.lower() == b"transfer-encoding" for k, _ in listed)
    gone = HOP_BY_HOP | named | but | ({b"content-length"} if chunked else frozenset())
    return [(key, value) for key, value in listed if key.lower() not in gone]


def value(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    """A header's value, several joined by commas as RFC 9110 section 5.3 has it; None when absent."""
    found = [v.decode("latin-1") for k, v in headers if k.lower() == name]
    return ", ".join(found) if found else None


def changed(headers: Headers, values: Mapping[bytes, str | None]) -> Headers:
    """With these values, in place where the header stood, behind the others where it did not; None takes it out."""
    left, found = dict(values), []
    for key, old in headers:
        name = key.lower()
        if name not in values:
            found.append((key, old))
        elif (new := left.pop(name, None)) is not None:
            found.append((key, new.encode("latin-1")))
    return found + [(key, new.encode("latin-1")) for key, new in left.items() if new is not None]
