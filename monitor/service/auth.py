"""A bearer token for every method but health."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from demur.monitor.errors import ConfigurationError

LOG = logging.getLogger("demur.service")
EXEMPT = "/grpc.health.v1.Health/"
SHORTEST, LARGEST_BYTES = 16, 4096


def read_token(path: Path) -> bytes:
    """The token in a file, surrounding blanks removed.

    Raises: ConfigurationError, never quoting the contents.
    """
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise ConfigurationError(f"{path}: a token file has at most {LARGEST_BYTES} bytes")
        token = path.read_bytes().strip()
    except OSError as error:
        raise ConfigurationError(f"{path}: the token cannot be read ({error.strerror})") from error
    if len(token) < SHORTEST or not all(33 <= byte <= 126 for byte in token):
        raise ConfigurationError(
            f"{path}: expected one line of at least {SHORTEST} printable characters; make one with `openssl rand -hex 32`"
        )
    return token


class TokenFile:
    """The token of a file that may be rotated."""

    def __init__(self, path: Path) -> None:
        """Raises: ConfigurationError."""
        self._path = path
        self._expected = b"Bearer " + read_token(path)

    def refresh(self) -> None:
        """Read the file again; a bad file keeps the last good token."""
        try:
            self._expected = b"Bearer " + read_token(self._path)
        except ConfigurationError as error:
            LOG.error("keeping the last good token: %s", error)  # noqa: TRY400  the message says it all

    def accepts(self, authorization: str | bytes) -> bool:
        """Whether this is the token, in constant time."""
        said = authorization.encode() if isinstance(authorization, str) else authorization
        return hmac.compare_digest(said, self._expected)

    def __repr__(self) -> str:
        return f"TokenFile({self._path})"


class TokenInterceptor(grpc.ServerInterceptor):  # type: ignore[misc]  # grpc ships no types
    """Refuses calls without the token as UNAUTHENTICATED, before their message is read."""

    def __init__(self, token: TokenFile, refused: Callable[[], None]) -> None:
        self._token, self._refused = token, refused
        # A stream handler needs no first message, so it can refuse every kind of call.
        self._refusal = grpc.stream_stream_rpc_method_handler(self._refuse)

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Any], details: grpc.HandlerCallDetails
    ) -> Any:
        if details.method.startswith(EXEMPT) or self._admits(details.invocation_metadata):
            return continuation(details)
        return self._refusal

    def _admits(self, metadata: Any) -> bool:
        said = [value for key, value in metadata or () if key == "authorization"]
        return len(said) == 1 and self._token.accepts(said[0])

    def _refuse(self, _requests: Any, context: grpc.ServicerContext) -> None:
        self._refused()
        context.abort(
            grpc.StatusCode.UNAUTHENTICATED,
            "expected the server's bearer token in `authorization` metadata, got none or another; pass token= to the client",
        )
