"""Addresses that a server listens on, and those of the servers that it stands in front of."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

LARGEST_PORT = 65535
SCHEME = re.compile(r"(https?|grpcs?|tcp)://")
PORT = re.compile(r":([0-9]+)$")


def _with_port(address: str) -> str:
    port = None if address.startswith("unix:") else PORT.search(address)
    if port is not None and int(port[1]) > LARGEST_PORT:
        raise ValueError(f"expected a port of at most {LARGEST_PORT}")
    return address


def _of_grpc(target: str) -> str:
    scheme = SCHEME.match(target)
    if scheme is not None:
        raise ValueError(
            f"expected host:port or unix:/path, without {scheme[0]}; `upstream_tls_ca` makes it speak TLS, and "
            "the upstream of HTTP is `proxy.rest.upstream`"
        )
    return _with_port(target)


def _of_http(url: str) -> str:
    try:
        urlsplit(url).port  # noqa: B018 - reading it checks it
    except ValueError:
        raise ValueError(f"expected http(s)://host:port, with a port of at most {LARGEST_PORT}") from None
    return url


Address = Annotated[
    str,
    Field(pattern=r"^(unix:.+|\S+:[0-9]{1,5})$", description="host:port (port 0: any free one) or unix:/path"),
    AfterValidator(_with_port),
]
GrpcUpstream = Annotated[str, AfterValidator(_of_grpc)]
HttpUpstream = Annotated[str, Field(pattern=r"^https?://[^/\s?#@]+/?$"), AfterValidator(_of_http)]
