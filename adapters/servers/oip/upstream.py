"""The inference server behind the proxy: bytes forward, bytes back, nothing parsed."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import grpc

FOREVER_SECONDS = 365 * 86400.0  # grpcio reports "no deadline" as some 9e18 seconds
OURS_ALONE = frozenset(
    ("user-agent", "content-type", "te", "host", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding", "grpc-status")
)
METHODS_KEPT = 64  # callables kept; the names come from clients

Pairs = tuple[tuple[str, str | bytes], ...]


def passed_on(metadata: Iterable[tuple[str, str | bytes]] | None) -> Pairs:
    """The metadata that belongs to the callers, without what each connection negotiates for itself."""
    return tuple((key, value) for key, value in metadata or () if key not in OURS_ALONE)


def seconds_left(context: Any) -> float | None:
    """Until the client's deadline, None when it set none."""
    left = context.time_remaining()
    return None if left is None or left > FOREVER_SECONDS else max(float(left), 0.0)


class Upstream:
    """One channel to the server. Deadline, metadata and cancellation of the client's call become those of the forwarded one."""

    def __init__(self, target: str, *, credentials: grpc.ChannelCredentials | None, message_bytes: int) -> None:
        options = (
            ("grpc.max_receive_message_length", message_bytes),
            ("grpc.max_send_message_length", message_bytes),
            ("grpc.service_config_disable_resolution", 1),
        )
        self._channel = (
            grpc.insecure_channel(target, options)
            if credentials is None
            else grpc.secure_channel(target, credentials, options)
        )
        self._method = functools.lru_cache(METHODS_KEPT)(self._channel.unary_unary)

    def forward(self, method: str, request: bytes, context: Any) -> Any:
        """The finished call; `code()` says whether `result()` holds an answer."""
        call = self._method(method).future(
            request, timeout=seconds_left(context), metadata=passed_on(context.invocation_metadata())
        )
        if not context.add_callback(call.cancel):
            call.cancel()  # the client had gone before
        call.code()  # returns when the call has ended, however it ended
        return call

    def close(self) -> None:
        self._channel.close()
