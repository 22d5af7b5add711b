"""Envoy's ext_proc filter as its published contract has it, driving a real gRPC stream.

One HTTP exchange is one stream. Each message gets exactly one answer of the same part, or an immediate response; anything
else is "spurious" and counts as a failure; a failure is 500, lateness 504, unless `failure_mode_allow` lets the exchange go on
unprocessed; a clean end of the stream lets it go on unprocessed in any case. A changed body whose content-length header does
not fit is a failure (seen with Envoy 1.40).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc

from demur.proto.envoy import external_processor_pb2 as pb

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
NONE, STREAMED, BUFFERED, PARTIAL = 0, 1, 2, 3
CLEAN_END = object()
Headers = dict[str, str]


@dataclass
class Answer:
    """What upstream says; `chunks` are how a streamed body comes."""

    status: int = 200
    headers: Headers = field(default_factory=dict)
    body: bytes = b""
    chunks: list[bytes] | None = None
    trailers: Headers | None = None
    length: bool = True


@dataclass
class Result:
    """What the client got, and what happened on the way. `status` 0: the connection was reset."""

    status: int
    headers: Headers
    body: bytes
    details: str = "via_upstream"
    upstream_saw: tuple[Headers, bytes] | None = None
    parts: list[str] = field(default_factory=list)
    spurious: int = 0
    failed: str = ""


class Stopped(Exception):
    """The exchange ends with this result."""

    def __init__(self, status: int, headers: Headers, body: bytes, details: str) -> None:
        self.status, self.headers, self.body, self.details = status, headers, body, details


@dataclass
class Envoy:
    """One filter's configuration."""

    address: str
    upstream: Callable[[Headers, bytes], Answer]
    request_body: int = BUFFERED
    response_body: int = BUFFERED
    request_headers: bool = True
    response_headers: bool = True
    trailers: bool = False
    observability_mode: bool = False
    failure_mode_allow: bool = False
    allow_mode_override: bool = False
    message_timeout: float = 5.0  # 0.2 by default; tests about time set it, others run on busy machines
    partial_bytes: int = 1 << 20
    says_modes: bool = True  # older releases send no protocol_config
    metadata: tuple[tuple[str, str], ...] = ()
    credentials: Any = None

    def request(
        self,
        path: str,
        body: bytes = b"",
        headers: Headers | None = None,
        *,
        method: str = "POST",
        chunks: list[bytes] | None = None,
    ) -> Result:
        """One exchange from the client's request to what the client gets."""
        secret = self.credentials
        with (
            grpc.insecure_channel(self.address)
            if secret is None
            else grpc.secure_channel(self.address, secret) as channel
        ):
            return Exchange(self, channel).run(method, path, body, headers or {}, chunks)


class Exchange:
    """One stream."""

    def __init__(self, envoy: Envoy, channel: grpc.Channel) -> None:
        self.envoy = envoy
        self.outbox: queue.Queue[Any] = queue.Queue()
        self.inbox: queue.Queue[Any] = queue.Queue()
        self.done = self.ended = False
        self.first = True
        self.started = False  # the answer's headers are with the client
        self.request_mode, self.response_mode = envoy.request_body, envoy.response_body
        self.response_headers_mode = envoy.response_headers
        self.parts: list[str] = []
        self.spurious = 0
        self.failed = ""
        self.saw: tuple[Headers, bytes] | None = None
        self.call = channel.stream_stream(PROCESS)(iter(self.outbox.get, None), metadata=envoy.metadata)
        threading.Thread(target=self._read, daemon=True).start()

    def run(self, method: str, path: str, body: bytes, headers: Headers, chunks: list[bytes] | None) -> Result:
        try:
            answer, found, content = self._run(method, path, body, headers, chunks)
            result = Result(answer.status, found, content)
        except Stopped as stop:
            result = Result(stop.status, stop.headers, stop.body, stop.details)
        self._close()
        result.upstream_saw, result.parts, result.spurious = self.saw, self.parts, self.spurious
        result.failed = self.failed
        return result

    def _run(
        self, method: str, path: str, body: bytes, headers: Headers, chunks: list[bytes] | None
    ) -> tuple[Answer, Headers, bytes]:
        head = {":method": method, ":path": path, ":authority": "envoy", **headers}
        if body and chunks is None:
            head.setdefault("content-length", str(len(body)))
        pieces = chunks if chunks is not None else [body]
        if self.envoy.request_headers:
            self._part("request_headers", head, end=not any(pieces))
        body = self._body("request_body", head, pieces, self.request_mode, None)
        self.saw = (dict(head), body)
        answer = self.envoy.upstream(head, body)
        found = {":status": str(answer.status), **answer.headers}
        pieces = answer.chunks if answer.chunks is not None else [answer.body]
        if answer.length and answer.chunks is None:
            found.setdefault("content-length", str(len(answer.body)))
        if self.response_headers_mode:
            self._part("response_headers", found, end=not any(pieces) and answer.trailers is None)
        self.started = self.response_mode in (NONE, STREAMED)
        content = self._body("response_body", found, pieces, self.response_mode, answer.trailers)
        if answer.trailers is not None and self.envoy.trailers:
            self._part("response_trailers", answer.trailers)
        answer.status = int(found.pop(":status"))
        return answer, found, content

    def _body(self, part: str, head: Headers, pieces: Iterable[bytes], mode: int, trailers: Headers | None) -> bytes:
        pieces = [p for p in pieces if p]
        whole = b"".join(pieces)
        if self.envoy.observability_mode and mode != NONE:
            mode = STREAMED
        if mode == NONE or not whole or self.done:
            return whole
        with_trailers = trailers is not None and self.envoy.trailers
        if mode == BUFFERED:
            return self._chunk(part, head, whole, end=not with_trailers)
        if mode == PARTIAL:
            shown, rest = whole[: self.envoy.partial_bytes], whole[self.envoy.partial_bytes :]
            return self._chunk(part, head, shown, end=not rest and not with_trailers) + rest
        out = b""
        for place, piece in enumerate(pieces):
            if self.done:
                return out + b"".join(pieces[place:])
            out += self._chunk(part, head, piece, end=place == len(pieces) - 1 and not with_trailers)
        return out

    def _part(self, part: str, head: Headers, *, end: bool = False) -> None:
        if self.done:
            return
        message = pb.ProcessingRequest()
        content = getattr(message, part)
        values = content.trailers if part.endswith("trailers") else content.headers
        content.SetInParent()
        for name, value in head.items():
            values.headers.add(key=name, raw_value=value.encode("latin-1"))
        if not part.endswith("trailers"):
            content.end_of_stream = end
        answer = self._said(part, message)
        if answer is None:
            return
        if part.endswith("trailers"):
            mutate(head, answer.__getattribute__(part).header_mutation)
            return
        mutate(head, getattr(answer, part).response.header_mutation)
        if self.envoy.allow_mode_override and answer.HasField("mode_override"):
            self._override(answer.mode_override)

    def _override(self, mode: pb.ProcessingMode) -> None:
        self.request_mode, self.response_mode = mode.request_body_mode, mode.response_body_mode
        self.response_headers_mode = mode.response_header_mode != pb.ProcessingMode.SKIP

    def _chunk(self, part: str, head: Headers, piece: bytes, *, end: bool) -> bytes:
        message = pb.ProcessingRequest()
        getattr(message, part).body, getattr(message, part).end_of_stream = piece, end
        answer = self._said(part, message)
        if answer is None:
            return piece
        common = getattr(answer, part).response
        if self.started and part == "response_body":
            assert not common.header_mutation.set_headers or self.response_mode == STREAMED
        mutate(head, common.header_mutation)
        which = common.body_mutation.WhichOneof("mutation")
        if which is None:
            return piece
        new = common.body_mutation.body if which == "body" else b""
        if "content-length" in head and head["content-length"] != str(len(new)):
            raise Stopped(500, {}, b"", "mismatch_between_content_length_and_the_length_of_the_mutated_body")
        return new

    def _said(self, part: str, message: pb.ProcessingRequest) -> pb.ProcessingResponse | None:
        """The one answer; None when the exchange goes on unprocessed."""
        if not self.inbox.empty():
            self._unasked()
        if self.done:
            return None
        self.parts.append(part)
        message.observability_mode = self.envoy.observability_mode
        if self.first and self.envoy.says_modes:
            message.protocol_config.request_body_mode = self.envoy.request_body
            message.protocol_config.response_body_mode = self.envoy.response_body
        self.first = False
        self.outbox.put(message.SerializeToString())
        if self.envoy.observability_mode:
            return None
        try:
            found = self.inbox.get(timeout=self.envoy.message_timeout)
        except queue.Empty:
            return self._failure(504, "per-message timeout")
        return self._taken(part, found)

    def _taken(self, part: str, found: Any) -> pb.ProcessingResponse | None:
        if found is CLEAN_END:
            self.done = self.ended = True
            return None
        if isinstance(found, grpc.RpcError):
            self.ended = True
            return self._failure(500, f"ext_proc_error_gRPC_error_{found.code().value[0]}: {found.details()}")
        answer = pb.ProcessingResponse.FromString(found)
        which = answer.WhichOneof("response")
        if which == "immediate_response":
            self._immediate(answer.immediate_response)
        if which != part:
            self.spurious += 1
            return self._failure(500, f"spurious {which} in answer to {part}")
        return answer

    def _unasked(self) -> None:
        found = self.inbox.get()
        if found is CLEAN_END:
            self.done = self.ended = True
        elif isinstance(found, grpc.RpcError):
            self.ended = True
            self._failure(500, f"ext_proc_error_gRPC_error_{found.code().value[0]}: {found.details()}")
        else:
            self.spurious += 1
            self._failure(500, "spurious message")

    def _failure(self, status: int, why: str) -> None:
        self.failed = why
        self.done = True
        if not self.envoy.failure_mode_allow:
            raise Stopped(0 if self.started else status, {}, b"", why)

    def _immediate(self, said: pb.ImmediateResponse) -> None:
        self.done = True
        head: Headers = {}
        mutate(head, said.headers)
        raise Stopped(0 if self.started else said.status.code or 200, head, said.body, said.details)

    def _read(self) -> None:
        try:
            for raw in self.call:
                self.inbox.put(raw)
            self.inbox.put(CLEAN_END)
        except grpc.RpcError as error:
            self.inbox.put(error)

    def _close(self) -> None:
        """Half-close and wait for the server; whatever it still says is spurious."""
        self.outbox.put(None)
        while not self.ended:
            try:
                found = self.inbox.get(timeout=5)
            except queue.Empty:
                self.call.cancel()
                raise AssertionError("the server did not end the stream") from None
            if found is CLEAN_END or isinstance(found, grpc.RpcError):
                self.ended = True
                return
            if not self.failed:  # an answer that came too late is no second one
                self.spurious += 1


def mutate(head: Headers, mutation: pb.HeaderMutation) -> None:
    """Apply it."""
    for option in mutation.set_headers:
        name, value = option.header.key, option.header.raw_value.decode("latin-1")
        assert name == name.lower()
        assert name not in ("host", ":authority", ":method", ":scheme")
        assert not option.header.value, "raw_value is the field that counts"
        assert option.append_action == pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
        assert "\n" not in value
        assert "\r" not in value
        head[name] = value
    for name in mutation.remove_headers:
        head.pop(name, None)
