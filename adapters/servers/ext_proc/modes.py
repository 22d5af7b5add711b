"""How Envoy sends bodies in one exchange."""

from __future__ import annotations

from demur.proto.envoy.external_processor_pb2 import ProcessingMode, ProtocolConfiguration

BUFFERED = ProcessingMode.BUFFERED
NONE = ProcessingMode.NONE
OURS_TO_FORWARD = (ProcessingMode.FULL_DUPLEX_STREAMED, ProcessingMode.GRPC)  # Envoy forwards what it gets back
STREAMING = (ProcessingMode.STREAMED, *OURS_TO_FORWARD)


class Modes:
    """`request` and `response` are BodySendModes, None when Envoy did not say; older releases do not."""

    def __init__(self) -> None:
        self.request: int | None = None
        self.response: int | None = None

    def said(self, config: ProtocolConfiguration) -> None:
        """What the filter is configured to do."""
        self.request, self.response = config.request_body_mode, config.response_body_mode

    def asked_for(self, mode: ProcessingMode) -> None:
        """What it was asked to do instead; where bodies are ours to forward it takes no wishes."""
        if self.request not in OURS_TO_FORWARD:
            self.request = mode.request_body_mode
        if self.response not in OURS_TO_FORWARD:
            self.response = mode.response_body_mode

    def of(self, part: str) -> int | None:
        """Of the direction that this part belongs to."""
        return self.request if part.startswith("request") else self.response

    @property
    def forwarding(self) -> bool:
        """Whether some body reaches its receiver through us alone."""
        return self.request in OURS_TO_FORWARD or self.response in OURS_TO_FORWARD

    @property
    def buffered(self) -> bool:
        """Whether both bodies are shown whole before anybody gets them, and so can be changed."""
        return self.request == self.response == BUFFERED
