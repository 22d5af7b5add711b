"""The public service path, served without its stubs: every unary method passes through, ModelInfer is judged."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any, NoReturn

import grpc

from demur.adapters.servers.oip.annotation import annotated
from demur.adapters.servers.oip.judge import Exchange, Judge
from demur.adapters.servers.oip.upstream import Upstream, passed_on, seconds_left
from demur.adapters.servers.oip.withheld import Withheld

SERVICE = "/inference.GRPCInferenceService/"
INFER = f"{SERVICE}ModelInfer"
STREAM_INFER = f"{SERVICE}ModelStreamInfer"


class OipHandler(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio ships no types
    """Forwards bytes. What upstream says, in messages, metadata and status, is what the client hears, unless the judge
    withholds an answer.
    """

    def __init__(self, upstream: Upstream, judge: Judge, *, annotate: bool, message_bytes: int) -> None:
        self._upstream, self._judge = upstream, judge
        self._annotate, self._message_bytes = annotate, message_bytes

    def service(self, handler_call_details: Any) -> Any:
        """The handler of one method; None, which gRPC answers with UNIMPLEMENTED, for other services."""
        method: str = handler_call_details.method
        if not method.startswith(SERVICE):
            return None
        if method == STREAM_INFER:
            return grpc.stream_stream_rpc_method_handler(_no_streams)
        behaviour: Callable[..., bytes] = self._infer if method == INFER else self._pass
        return grpc.unary_unary_rpc_method_handler(functools.partial(behaviour, method))

    def _pass(self, method: str, request: bytes, context: Any) -> bytes:
        return self._answer(self._upstream.forward(method, request, context), context)

    def _infer(self, method: str, request: bytes, context: Any) -> bytes:
        call = self._upstream.forward(method, request, context)
        if call.code() is not grpc.StatusCode.OK:
            _relay(call, context)
        answer: bytes = call.result()
        judgement = self._judge.judge(Exchange(request, answer, _deadline(context), _traceparent(context)))
        if judgement.withheld is not None:
            _withhold(judgement.withheld, context)
        answer = self._answer(call, context)
        if not self._annotate or judgement.verdicts is None or not judgement.readable:
            return answer
        return annotated(answer, judgement.verdicts, self._message_bytes)

    def _answer(self, call: Any, context: Any) -> bytes:
        if call.code() is not grpc.StatusCode.OK:
            _relay(call, context)
        context.send_initial_metadata(passed_on(call.initial_metadata()))
        context.set_trailing_metadata(passed_on(call.trailing_metadata()))
        answer: bytes = call.result()
        return answer


def _relay(call: Any, context: Any) -> NoReturn:
    """End the client's call as upstream ended ours."""
    initial = passed_on(call.initial_metadata())
    if initial:
        context.send_initial_metadata(initial)
    context.set_trailing_metadata(passed_on(call.trailing_metadata()))
    context.abort(call.code(), call.details() or "")
    raise AssertionError("abort raises")


def _withhold(withheld: Withheld, context: Any) -> NoReturn:
    context.set_trailing_metadata(withheld.metadata)
    context.abort(withheld.status, withheld.details)
    raise AssertionError("abort raises")


def _no_streams(_requests: Iterator[bytes], context: Any) -> NoReturn:
    context.abort(
        grpc.StatusCode.UNIMPLEMENTED, "demur: ModelStreamInfer cannot be judged by this version; use ModelInfer"
    )
    raise AssertionError("abort raises")


def _deadline(context: Any) -> float | None:
    left = seconds_left(context)
    return None if left is None else perf_counter() + left


def _traceparent(context: Any) -> str:
    return next((str(value) for key, value in context.invocation_metadata() if key == "traceparent"), "")
