"""The public service path, served without its stubs: every method passes through, inferences are judged."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import grpc

from demur.adapters.servers.oip import splice
from demur.adapters.servers.oip.backlog import Backlog
from demur.adapters.servers.oip.judge import Judge, Judgement
from demur.adapters.servers.oip.refusal import explained
from demur.adapters.servers.oip.stream import InferStream, too_large
from demur.adapters.servers.oip.unary import Inference, Sent, seen_by
from demur.adapters.servers.oip.upstream import Outcome, Upstream
from demur.adapters.servers.oip.withheld import Withheld

SERVICE = "/inference.GRPCInferenceService/"
INFER = f"{SERVICE}ModelInfer"
STREAM_INFER = f"{SERVICE}ModelStreamInfer"


class OipHandler(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio ships no types
    """Forwards bytes. What upstream says, in messages, metadata and status, is what the client hears, unless the judge
    withholds an answer.
    """

    def __init__(
        self,
        upstream: Upstream,
        judge: Judge,
        backlog: Backlog[Sent],
        *,
        annotate: str,
        message_bytes: int,
        streams: int,
    ) -> None:
        self._upstream, self._judge = upstream, judge
        self._backlog = backlog if annotate == "off" else None
        self._annotate, self._message_bytes = annotate, message_bytes
        self._streams, self._open = streams, threading.BoundedSemaphore(streams)

    def service(self, handler_call_details: Any) -> Any:
        """The handler of one method; None, which gRPC answers with UNIMPLEMENTED, for other services."""
        method: str = handler_call_details.method
        if not method.startswith(SERVICE):
            return None
        if method == STREAM_INFER:
            return grpc.stream_stream_rpc_method_handler(self._stream)
        behaviour: Callable[..., bytes] = self._infer if method == INFER else self._pass
        return grpc.unary_unary_rpc_method_handler(functools.partial(behaviour, method))

    def _pass(self, method: str, request: bytes, context: Any) -> bytes:
        outcome = self._upstream.forward(method, self._admitted(request, context), context)
        return self._relayed(outcome, context)

    def _infer(self, method: str, request: bytes, context: Any) -> bytes:
        request = self._admitted(request, context)
        call = Inference(self._upstream, self._judge, method, request, context, self._backlog)
        outcome, judgement = call.run()
        if judgement is not None and judgement.withheld is not None:
            _withhold(judgement.withheld, context)
        answer = self._relayed(outcome, context)
        return answer if judgement is None else self._annotated(answer, judgement, call)

    def _stream(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        if not self._open.acquire(blocking=False):
            context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"demur: {self._streams} ModelStreamInfer calls are open already; raise proxy.streams in demur.yaml",
            )
        try:
            call = InferStream(
                self._upstream,
                self._judge,
                STREAM_INFER,
                context,
                self._backlog,
                annotate=self._annotate,
                message_bytes=self._message_bytes,
            )
            yield from call.run(requests)
        finally:
            self._open.release()

    def _annotated(self, answer: bytes, judgement: Judgement, call: Inference) -> bytes:
        silent = self._annotate == "off" and not judgement.action
        if silent or judgement.verdicts is None or call.kept is None:
            return answer
        tensors = seen_by(call.plan.model, call.seen) if self._annotate == "outputs" else None
        more = {"answered_by": call.answered_by} if call.answered_by else {}
        return splice.annotated(answer, judgement.verdicts, self._message_bytes, tensors=tensors, **more)

    def _admitted(self, request: bytes, context: Any) -> bytes:
        """GRPC itself measures a message as it comes; a compressed one is measured here, unpacked."""
        if len(request) > self._message_bytes:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, too_large(len(request), self._message_bytes))
        return request

    def _relayed(self, outcome: Outcome, context: Any) -> bytes:
        """The answer, or the end of the client's call as upstream ended ours."""
        if outcome.initial:  # without any, gRPC sends the headers with the message: one write less, 0.1 ms of CPU
            context.send_initial_metadata(outcome.initial)
        if outcome.trailing:
            context.set_trailing_metadata(outcome.trailing)
        if not outcome.ok:
            limit = self._upstream.message_bytes
            context.abort(outcome.code, explained(outcome.code, outcome.details, self._upstream.target, limit))
        return outcome.answer


def _withhold(withheld: Withheld, context: Any) -> NoReturn:
    context.set_trailing_metadata(withheld.metadata)
    context.abort(withheld.status, withheld.details)
    raise AssertionError("abort raises")
