"""The inference server behind the proxy: bytes forward, bytes back, nothing parsed."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from time import perf_counter
from typing import Any

import grpc
from grpc.experimental import ChannelOptions

from demur.adapters.servers.oip.places import CrowdedError, Places
from demur.adapters.servers.oip.renewal import Renewed
from demur.monitor.service.tls import read_authorities

FOREVER_SECONDS = 365 * 86400.0  # grpcio reports "no deadline" as some 9e18 seconds
OURS_ALONE = frozenset(
    ("user-agent", "content-type", "te", "host", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding", "grpc-status")
)
METHODS_KEPT = 64  # callables kept; the names come from clients
SLACK_SECONDS = 0.05  # the deadline travels, and the other side may say first that it has passed
# gRPC's words, which nothing but their text tells from an upstream's own UNAVAILABLE.
BROKEN = re.compile(
    r"failed to connect|connection|socket|ping timeout|keepalive|recvmsg|sendmsg|goaway|resolution", re.IGNORECASE
)
KEEPALIVE = (
    # What was sent to a machine that is gone stays unacknowledged: the kernel gives up after this time (TCP_USER_TIMEOUT),
    # instead of after a quarter of an hour. gRPC sets it only where keepalive is on.
    ("grpc.keepalive_timeout_ms", 20_000),
    # Pings find a peer that acknowledges and does nothing. Servers, by default, end connections pinged more often than every
    # five minutes.
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.http2.ping_timeout_ms", 20_000),  # else a minute, whatever keepalive's own timeout says (grpcio 1.85)
)

Pairs = tuple[tuple[str, str | bytes], ...]


def passed_on(metadata: Iterable[tuple[str, str | bytes]] | None) -> Pairs:
    """The metadata that belongs to the callers, without what each connection negotiates for itself."""
    return tuple([(key, value) for key, value in metadata or () if key not in OURS_ALONE])


def seconds_left(context: Any) -> float | None:
    """Until the client's deadline, None when it set none."""
    left = context.time_remaining()
    return None if left is None or left > FOREVER_SECONDS else max(float(left), 0.0)


def deadline(context: Any) -> float | None:
    """The client's deadline on `time.perf_counter`'s clock, None when it set none."""
    left = seconds_left(context)
    return None if left is None else perf_counter() + left


def traceparent(context: Any) -> str:
    """The W3C trace context that came with the call, or ""."""
    return next((str(value) for key, value in context.invocation_metadata() if key == "traceparent"), "")


@dataclass(slots=True)  # not frozen: one is made for every request
class Outcome:
    """How a forwarded call ended: `answer` holds a message exactly when `code` is OK."""

    code: grpc.StatusCode
    details: str
    answer: bytes
    initial: Pairs
    trailing: Pairs

    @staticmethod
    def of(answer: bytes) -> Outcome:
        """An answer of our own making."""
        return Outcome(grpc.StatusCode.OK, "", answer, (), ())

    def with_answer(self, answer: bytes) -> Outcome:
        """The same end, another answer."""
        return Outcome(self.code, self.details, answer, self.initial, self.trailing)

    @property
    def ok(self) -> bool:
        """Whether there is an answer."""
        return self.code is grpc.StatusCode.OK


class Upstream:
    """Channels to the server. Deadline, metadata and cancellation of the client's call become those of the forwarded one.

    A unary call takes at most `timeout_seconds`, and calls of one model at most three quarters of `calls` places: a server or
    a model that hangs holds up nobody else. Streams have their own bound, and no limit of time.
    `authority`: certificates to trust where `credentials` are None; a changed file is trusted from the next connection on.
    Raises: ConfigurationError when it cannot be read.
    """

    def __init__(
        self,
        target: str,
        *,
        credentials: grpc.ChannelCredentials | None,
        authority: Path | None = None,
        message_bytes: int,
        timeout_seconds: float,
        calls: int,
    ) -> None:
        self.target, self.message_bytes = target, message_bytes
        self._timeout, self._places = timeout_seconds, Places(calls)
        options = (
            ("grpc.max_receive_message_length", message_bytes),
            ("grpc.max_send_message_length", -1),  # a client's message was measured when it came; ours add some names
            ("grpc.service_config_disable_resolution", 1),
            *KEEPALIVE,
        )
        authority = authority if credentials is None else None
        self._channels = Renewed(
            authority, lambda: _Channels(target, credentials or _credentials(authority), options), _Channels.close
        )

    def forward(self, method: str, request: bytes, context: Any, seconds: float | None = None) -> Outcome:
        """Call a unary method, for at most `seconds`; returns when the call has ended, however it ended."""
        try:
            with self._places.one(_kind(method, request)):
                return self._forwarded(method, request, context, seconds)
        except CrowdedError as error:
            return Outcome(grpc.StatusCode.RESOURCE_EXHAUSTED, f"demur: {error}", b"", (), ())

    def _forwarded(self, method: str, request: bytes, context: Any, seconds: float | None) -> Outcome:
        lease = self._channels.lease()
        try:
            return self._ended(lease.held.unary(method), request, context, seconds)
        finally:
            lease.let_go()

    def _ended(self, start: Any, request: bytes, context: Any, seconds: float | None) -> Outcome:
        ends = perf_counter() + self._timeout
        limits = [s for s in (seconds_left(context), seconds, self._timeout) if s is not None]
        call = start(request, timeout=min(limits), metadata=passed_on(context.invocation_metadata()))
        if not context.add_callback(call.cancel):
            call.cancel()  # the client had gone before
        answers: list[bytes] = []
        with contextlib.suppress(grpc.RpcError):  # its status is told below
            for answer in call:
                answers.append(answer)
                if len(answers) > 1:
                    call.cancel()
        code = call.code()
        if len(answers) > 1 or (code is grpc.StatusCode.OK and not answers):
            said = f"demur: expected one answer from upstream, got {'more' if answers else 'none'}"
            return Outcome(grpc.StatusCode.INTERNAL, said, b"", (), ())
        initial, trailing = passed_on(call.initial_metadata()), passed_on(call.trailing_metadata())
        if code is grpc.StatusCode.OK:
            return Outcome(code, "", answers[0], initial, trailing)
        return Outcome(code, self.words(call, late=perf_counter() >= ends - SLACK_SECONDS), b"", initial, trailing)

    def words(self, call: Any, *, late: bool = False) -> str:
        """The details of a call that failed: upstream's own; ours where it said nothing. `late`: its time was over."""
        code, details = call.code(), call.details() or ""
        if code is grpc.StatusCode.DEADLINE_EXCEEDED and late:
            return f"demur: upstream {self.target} did not answer within {self._timeout:g} s (proxy.upstream_timeout_seconds)"
        if code is grpc.StatusCode.UNAVAILABLE and BROKEN.search(details):
            return f"{details} (demur: upstream {self.target} is not there, or went away)"
        return details

    def stream(self, method: str, requests: Iterator[bytes], context: Any) -> Any:
        """Open a call that streams both ways; the caller reads, and ends, what is returned."""
        lease = self._channels.lease()
        call = lease.held.stream(method)(
            requests, timeout=seconds_left(context), metadata=passed_on(context.invocation_metadata())
        )
        if not call.add_callback(lambda: Thread(target=lease.let_go, name="demur-oip-lease").start()):
            lease.let_go()  # in the thread of a callback, closing a channel would wait for the calls that it itself ends
        if not context.add_callback(call.cancel):
            call.cancel()
        return call

    def close(self) -> None:
        """End every call."""
        self._channels.close()


class _Channels:
    """One for streams, and one for unary calls.

    A unary method called as one that streams its answer is the same on the wire. In grpcio it is the one kind of call that
    can be cancelled and yet waits in the calling thread: it costs 0.2 to 0.3 ms less than a future.
    """

    def __init__(self, target: str, credentials: grpc.ChannelCredentials | None, options: Any) -> None:
        alone = (ChannelOptions.SingleThreadedUnaryStream, 1)
        self._both = _channel(target, credentials, options), _channel(target, credentials, (*options, alone))
        self.stream = self._both[0].stream_stream
        self.unary = functools.lru_cache(METHODS_KEPT)(self._both[1].unary_stream)

    def close(self) -> None:
        """End every call."""
        for channel in self._both:
            channel.close()


def _kind(method: str, request: bytes) -> tuple[str, bytes]:
    """Calls that hang together: of one method and one model, whose name begins every message that has one."""
    size = request[1] if request[:1] == b"\x0a" and len(request) > 1 and request[1] < 128 else 0
    return method, request[2 : 2 + size]


def _channel(target: str, credentials: grpc.ChannelCredentials | None, options: Any) -> grpc.Channel:
    if credentials is None:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, credentials, options)


def _credentials(authority: Path | None) -> grpc.ChannelCredentials | None:
    if authority is None:
        return None
    return grpc.ssl_channel_credentials(read_authorities(authority, "proxy.upstream_tls_ca"))
