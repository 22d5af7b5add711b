"""Which part of an exchange may come when."""

from __future__ import annotations

from demur.proto.envoy.external_processor_pb2 import ProcessingRequest

AFTER = {  # what must have come before a part
    "request_headers": "",
    "request_body": "request_headers",
    "request_trailers": "request_headers",
    "response_headers": "request_headers",
    "response_body": "response_headers",
    "response_trailers": "response_headers",
}
CHUNKED = ("request_body", "response_body")


class ProtocolError(Exception):
    """Messages that no ext_proc filter sends: the stream is ended with an error, which Envoy does not take for "go on"."""


class Order:
    """What has come so far. `watching`: the filter is in observability mode, and listens to no answer."""

    def __init__(self) -> None:
        self.watching = False
        self._seen: set[str] = set()
        self._ended: set[str] = set()

    def __contains__(self, part: str) -> bool:
        return part in self._seen

    def next(self, message: ProcessingRequest) -> str:
        """The part that has come. Raises: ProtocolError when it may not come now."""
        part: str | None = message.WhichOneof("request")
        if part is None:
            raise ProtocolError("expected a message with one of the six parts of an exchange, got one without")
        if self._seen and message.observability_mode is not self.watching:
            raise ProtocolError("observability_mode changed within an exchange")
        before, direction = AFTER[part], part.partition("_")[0]
        if before and before not in self._seen:
            raise ProtocolError(
                f"{part} came before {before}; set processing_mode.{before.removesuffix('s')}_mode: SEND"
            )
        if part in self._seen and part not in CHUNKED:
            raise ProtocolError(f"{part} came twice")
        if direction in self._ended:
            raise ProtocolError(f"{part} came after its end")
        self.watching = message.observability_mode
        self._seen.add(part)
        if part.endswith("trailers") or getattr(message, part).end_of_stream:
            self._ended.add(direction)
        return part
