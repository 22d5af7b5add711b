"""The public service path, served without its stubs; each of its calls is one conversation."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from demur.adapters.servers.ext_proc.conversation import Conversation
from demur.adapters.servers.ext_proc.order import ProtocolError
from demur.adapters.servers.ext_proc.service import Service
from demur.proto.envoy.external_processor_pb2 import ProcessingRequest, ProcessingResponse

LOG = logging.getLogger("demur.ext_proc")
SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
PROCESS = f"/{SERVICE}/Process"


class ExtProcHandler(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio ships no types
    """A conversation that cannot go on ends with an error, never cleanly: to Envoy a clean end means "go on without me"."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def service(self, handler_call_details: Any) -> Any:
        """The handler of one method; None, which gRPC answers with UNIMPLEMENTED, for other services."""
        if handler_call_details.method != PROCESS:
            return None
        return grpc.stream_stream_rpc_method_handler(self._process)

    def _process(self, messages: Iterator[bytes], context: Any) -> Iterator[bytes]:
        conversation, cleanly = Conversation(self._service, _traceparent(context)), False
        try:
            for raw in messages:
                answer = self._answer(conversation, raw, context)
                if answer is not None:
                    yield answer.SerializeToString()
                if conversation.over:
                    break
            cleanly = True
        except grpc.RpcError:
            LOG.debug("Envoy gave a stream up")
        finally:
            self._end(conversation, cleanly=cleanly and context.is_active())

    def _answer(self, conversation: Conversation, raw: bytes, context: Any) -> ProcessingResponse | None:
        try:
            return conversation.take(ProcessingRequest.FromString(raw))
        except DecodeError:
            cause = "expected a ProcessingRequest, got bytes that do not parse as one"
        except ProtocolError as error:
            cause = str(error)
        self._service.tell("", "invalid")
        LOG.warning("a stream was ended with an error: %s", cause)
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"demur: {cause}")
        raise AssertionError("abort raises")

    def _end(self, conversation: Conversation, *, cleanly: bool) -> None:
        try:
            conversation.end(cleanly=cleanly)
        except Exception:
            LOG.exception("the end of a stream could not be recorded")
            self._service.tell("", "internal")


def _traceparent(context: Any) -> str:
    return next((str(value)[:64] for key, value in context.invocation_metadata() if key == "traceparent"), "")
