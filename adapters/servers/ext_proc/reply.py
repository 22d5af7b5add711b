"""Answers to Envoy: continue, with or without changes, or an answer to the client."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from demur.adapters.servers.ext_proc import headers
from demur.proto.envoy.external_processor_pb2 import HttpBody, ProcessingMode, ProcessingResponse

HEADERS, BODIES = ("request_headers", "response_headers"), ("request_body", "response_body")
TRAILERS = ("request_trailers", "response_trailers")
BUFFERING = ProcessingMode(
    request_header_mode=ProcessingMode.SEND,
    response_header_mode=ProcessingMode.SEND,
    request_body_mode=ProcessingMode.BUFFERED,
    response_body_mode=ProcessingMode.BUFFERED,
    request_trailer_mode=ProcessingMode.SKIP,
    response_trailer_mode=ProcessingMode.SKIP,
)
LONGEST_DETAILS = 200


def proceed(
    part: str,
    *,
    put: Mapping[str, str] | None = None,
    remove: Iterable[str] = (),
    body: bytes | None = None,
    mode: ProcessingMode | None = None,
) -> ProcessingResponse:
    """Continue, in answer to a message of this part, with these changes of headers or, in answer to a body, of the body."""
    answer = ProcessingResponse()
    getattr(answer, part).SetInParent()
    if part in TRAILERS:
        return answer
    common = getattr(answer, part).response
    remove = list(remove)
    if put or remove:
        headers.change(common.header_mutation, put or {}, remove)
    if body is not None:
        common.body_mutation.body = body
    if mode is not None:
        answer.mode_override.CopyFrom(mode)
    return answer


def echo(part: str, answer: ProcessingResponse, content: HttpBody) -> None:
    """Send a chunk on as it came, where Envoy forwards nothing by itself (FULL_DUPLEX_STREAMED, GRPC)."""
    streamed = getattr(answer, part).response.body_mutation.streamed_response
    streamed.body, streamed.end_of_stream = content.body, content.end_of_stream
    streamed.end_of_stream_without_message = content.end_of_stream_without_message
    streamed.grpc_message_compressed = content.grpc_message_compressed


def instead(status: int, put: Mapping[str, str], body: bytes, details: str) -> ProcessingResponse:
    """An answer to the client instead of the server's. `details` is what %RESPONSE_CODE_DETAILS% says in access logs."""
    answer = ProcessingResponse()
    immediate = answer.immediate_response
    immediate.status.code, immediate.body = status, body
    immediate.details = headers.printable(details)[:LONGEST_DETAILS].replace(" ", "_")
    headers.change(immediate.headers, put)
    return answer
