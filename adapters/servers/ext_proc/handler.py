"""The public service path, served without its stubs; each of its calls is one conversation."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from demur.adapters.servers.ext_proc.conversation import Conversation
from demur.adapters.servers.ext_proc.order import ProtocolError
from demur.adapters.servers.ext_proc.patience import Patience, Waiting
from demur.adapters.servers.ext_proc.service import Service
from demur.proto.envoy.external_processor_pb2 import ProcessingRequest

LOG = logging.getLogger("demur.ext_proc")
SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
PROCESS = f"/{SERVICE}/Process"


class ExtProcHandler(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio ships no types
    """A conversation that cannot go on ends with an error when some monitor must hold answers back, and cleanly when none
    does: to Envoy an error is a failure, and a clean end means "go on without me". Exchanges that stand still are given up
    in the first case alone, because from outside its thread a call can only be ended with an error.
    """

    def __init__(self, service: Service, streams: int, patience: Patience) -> None:
        self._service, self._streams, self._patience = service, streams, patience
        self._free = threading.BoundedSemaphore(streams)

    def service(self, handler_call_details: Any) -> Any:
        """The handler of one method; None, which gRPC answers with UNIMPLEMENTED, for other services."""
        if handler_call_details.method != PROCESS:
            return None
        return grpc.stream_stream_rpc_method_handler(self._process)

    def _process(self, messages: Iterator[bytes], context: Any) -> Iterator[bytes]:
        if not self._free.acquire(blocking=False):
            said = f"{self._streams} exchanges are under way, which is the limit; raise ext_proc.streams"
            self._give_up(context, "overloaded", grpc.StatusCode.RESOURCE_EXHAUSTED, said)
            return
        try:
            with self._patience.over(context, self._service.patience(of_client=False)) as waiting:
                yield from self._conversation(messages, context, waiting)
        finally:
            self._free.release()

    def _conversation(self, messages: Iterator[bytes], context: Any, waiting: Waiting) -> Iterator[bytes]:
        conversation, cleanly = Conversation(self._service, _traceparent(context)), False
        try:
            for raw in messages:
                try:
                    answer = conversation.take(ProcessingRequest.FromString(raw))
                except (DecodeError, ProtocolError) as error:
                    said = str(error) if isinstance(error, ProtocolError) else "bytes that are no ProcessingRequest"
                    self._give_up(context, "invalid", grpc.StatusCode.INVALID_ARGUMENT, said)
                    return
                if answer is not None:
                    yield answer.SerializeToString()
                waiting.wait(self._service.patience(of_client=conversation.awaits_client))
                if conversation.over:
                    break
            cleanly = True
        except grpc.RpcError:
            LOG.debug("a stream was given up")
        finally:
            if waiting.given_up:  # what was cancelled ends with an error or without one
                self._service.tell("", "deadline")
                LOG.warning("an exchange was given up: nothing more of it came in time")
            self._end(conversation, cleanly=cleanly and not waiting.given_up and context.is_active())

    def _give_up(self, context: Any, kind: str, code: grpc.StatusCode, said: str) -> None:
        self._service.tell("", kind)
        LOG.warning("a stream of Envoy's was ended: %s", said)
        if self._service.enforcing:
            context.abort(code, f"demur: {said}")

    def _end(self, conversation: Conversation, *, cleanly: bool) -> None:
        try:
            conversation.end(cleanly=cleanly)
        except Exception:
            LOG.exception("the end of a stream could not be recorded")
            self._service.tell("", "internal")


def _traceparent(context: Any) -> str:
    return next((str(value)[:64] for key, value in context.invocation_metadata() if key == "traceparent"), "")
