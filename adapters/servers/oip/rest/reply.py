"""An HTTP answer as a whole, and demur's own: errors in the protocol's JSON form."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import grpc

from demur.adapters.servers.oip.rest.headers import Headers
from demur.adapters.servers.oip.withheld import Withheld

# 412 for a verdict that blocks: no inference server's HTTP side sends it, and no client library retries it by itself.
STATUSES = {
    grpc.StatusCode.FAILED_PRECONDITION: 412,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAVAILABLE: 503,
}


@dataclass(frozen=True, slots=True)
class Reply:
    """Status, headers and body."""

    status: int
    headers: Headers = field(default_factory=list)
    content: bytes = b""


class RefusedError(Exception):
    """A request that demur itself answers; `kind` as RefusalEvent names it, "" when upstream is to blame."""

    def __init__(self, status: int, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


def error(status: int, message: str, headers: Headers | None = None) -> Reply:
    """An error as the protocol writes it."""
    content = json.dumps({"error": message}).encode()
    own = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    return Reply(status, own + (headers or []), content)


def withheld(what: Withheld) -> Reply:
    """The refusal in place of an answer, its particulars as `demur-*` headers."""
    particulars = [
        (k.encode(), v if isinstance(v, bytes) else v.encode("latin-1", "replace")) for k, v in what.metadata
    ]
    return error(STATUSES.get(what.status, 500), what.details, particulars)
