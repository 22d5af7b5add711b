"""One ModelStreamInfer call: every message passes in its order, and every answer is judged before it goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
from numpy.typing import NDArray

from demur.adapters.servers.oip import annotation, messages, splice
from demur.adapters.servers.oip.answer import InferAnswer, answered
from demur.adapters.servers.oip.backlog import Backlog
from demur.adapters.servers.oip.judge import Exchange, Judge, Judgement
from demur.adapters.servers.oip.part import Part, part, refusal
from demur.adapters.servers.oip.pending import Pending, Waiting
from demur.adapters.servers.oip.plan import Plan
from demur.adapters.servers.oip.proxied_model import ProxiedModel
from demur.adapters.servers.oip.reading import Asked
from demur.adapters.servers.oip.refusal import explained, rejected
from demur.adapters.servers.oip.unary import UNALIGNED, Sent, kept_whole, seen_by
from demur.adapters.servers.oip.upstream import Upstream, deadline, passed_on, traceparent
from demur.adapters.servers.oip.withheld import Withheld

LOG = logging.getLogger("demur.oip")
NOT_RUN = "unexpected inference output"  # Triton's words, before the model runs
CROWDED = "too many requests of this stream await answers for their outputs to be added to"


class InferStream:
    """Backpressure is gRPC's: a message is read from one side when the other has taken the one before.

    In `enforce` mode a blocked part becomes an error part of Triton's layout; MLServer's has none, so there the call ends
    with the status. A fallback model cannot answer here: its part is withheld.
    """

    def __init__(
        self,
        upstream: Upstream,
        judge: Judge,
        method: str,
        context: Any,
        backlog: Backlog[Sent] | None,
        *,
        annotate: str,
        message_bytes: int,
    ) -> None:
        self._upstream, self._judge, self._method, self._context = upstream, judge, method, context
        self._backlog = backlog
        self._annotate, self._message_bytes = annotate, message_bytes
        self._pending = Pending(most_bytes=message_bytes)
        self._proven: set[tuple[str, str]] = set()  # models of this stream whose extra outputs have come
        self._too_large = 0
        self._call: Any = None
        self._trace = traceparent(context)

    def run(self, incoming: Iterator[bytes]) -> Iterator[bytes]:
        """What the client hears; ends its call as upstream ended ours."""
        context = self._context
        call = self._call = self._upstream.stream(self._method, self._outgoing(incoming), context)
        try:
            if self._too_large:  # it came before there was a call to end
                self._end()
            context.send_initial_metadata(passed_on(call.initial_metadata()))
            for raw in call:
                yield from self._answer(raw)
        except grpc.RpcError:
            if self._too_large:
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, too_large(self._too_large, self._message_bytes))
            self._judge.tell("", "upstream")
            context.set_trailing_metadata(passed_on(call.trailing_metadata()))
            text = explained(
                call.code(), self._upstream.words(call), self._upstream.target, self._upstream.message_bytes
            )
            context.abort(call.code(), text)
        finally:
            call.cancel()
        context.set_trailing_metadata(passed_on(call.trailing_metadata()))

    def _outgoing(self, incoming: Iterator[bytes]) -> Iterator[bytes]:
        """Runs in a thread of gRPC's own."""
        try:
            for request in incoming:
                if len(request) > self._message_bytes:
                    self._too_large = len(request)
                    self._end()  # `run` says why
                    return
                yield self._planned(request)
        except Exception:
            LOG.debug("a client left its stream", exc_info=True)

    def _end(self) -> None:
        if self._call is not None:
            self._call.cancel()

    def _planned(self, request: bytes) -> bytes:
        asked = messages.asked(request)
        plan = self._judge.plan(asked)
        if asked is None:
            self._pending.add(Waiting(None, plan))
            return request
        light = asked.without_message()
        read = plan.model is not None and plan.model.gather is not None  # signals may be the request's own inputs
        unsure = plan.asking and (asked.model, asked.version) not in self._proven
        if self._pending.add(Waiting(asked if read else light, plan, request if read or unsure else b"")):
            return splice.asking_for(request, plan.asking) if plan.asking else request
        self._pending.add(Waiting(light, Plan(plan.model, cause=CROWDED)))
        return request

    def _answer(self, raw: bytes) -> Iterator[bytes]:
        found = part(raw)
        waiting = self._pending.answered(found.id, final=found.final)
        if found.error and found.answer is None:
            again = self._rejected(found, waiting)
            yield from (raw,) if again is None else self._once_more(again)
        else:
            yield self._judged(found, waiting or self._unasked(found))

    def _unasked(self, found: Part) -> Waiting:
        """What is known of an answer whose request is not: the model that it names."""
        if found.head is None:
            return Waiting(None, Plan())
        asked = Asked(model=found.head.model_name, version=found.head.model_version, id=found.id)
        return Waiting(asked, Plan(self._judge.model(asked.model)))

    def _rejected(self, found: Part, waiting: Waiting | None) -> Waiting | None:
        """The request to be sent again as the client wrote it, when the error is about an output that demur added."""
        if waiting is None or waiting.asked is None or waiting.plan.model is None or not waiting.request:
            return None
        why = rejected(grpc.StatusCode.INVALID_ARGUMENT, found.error, waiting.plan.asking)
        if not why:
            return None
        if messages.in_sequence(waiting.request) and NOT_RUN not in found.error:
            if not any(name.encode() in waiting.request for name in waiting.plan.asking):
                waiting.plan.model.rejections.learn(waiting.asked.version, why)  # else the client may have written it
            return None  # the model may have run, and a sequence must not advance twice
        return Waiting(waiting.asked, Plan(waiting.plan.model, cause=why), waiting.request)

    def _once_more(self, waiting: Waiting) -> Iterator[bytes]:
        """On a call of its own, so that the client's stream stays in order."""
        for raw in self._upstream.stream(self._method, iter((waiting.request,)), self._context):
            found = part(raw)
            if found.error and found.answer is None:
                yield raw
                continue
            if waiting.plan.model is not None and waiting.asked is not None:  # this proves what the error was about
                waiting.plan.model.rejections.learn(waiting.asked.version, waiting.plan.cause)
            yield self._judged(found, waiting)

    def _judged(self, found: Part, waiting: Waiting) -> bytes:
        plan, asked, seen = waiting.plan, waiting.asked, found.answer
        kept = seen
        if seen is not None and asked is not None and plan.extras:
            whole = kept_whole(plan, asked, seen.names)
            bare = seen.raw if whole else splice.without(seen, seen.raw, plan.extras)
            if bare is None and plan.model is not None:
                plan.model.rejections.learn(asked.version, UNALIGNED)
            kept = seen if bare is None or bare is seen.raw else answered(bare)
            self._prove(asked, seen, plan)
        hands = _Hands(kept)
        judgement = Judgement() if self._deferred(found, waiting) else self._judgement(found, waiting, hands)
        if judgement.withheld is not None:
            return self._withheld(found, judgement, judgement.withheld)
        if kept is None:
            return found.raw
        return self._told(
            found, kept.raw if hands.answer is None or not judgement.action else hands.answer, judgement, plan.model
        )

    def _deferred(self, found: Part, waiting: Waiting) -> bool:
        """Whether the backlog took it."""
        loaded = None if self._backlog is None else self._judge.defers(waiting.plan)
        if self._backlog is None or waiting.asked is None or loaded is None:
            return False
        sent = Sent(waiting.asked, found.answer, waiting.plan, loaded, self._trace, found.cause)
        return self._backlog.put(sent, sent.size_bytes)

    def _judgement(self, found: Part, waiting: Waiting, hands: _Hands) -> Judgement:
        return self._judge.judge(
            Exchange(
                asked=waiting.asked,
                answered=found.answer,
                plan=waiting.plan,
                cause=found.cause,
                deadline=deadline(self._context),
                traceparent=self._trace,
                hands=hands,
            )
        )

    def _prove(self, asked: Asked, seen: InferAnswer, plan: Plan) -> None:
        if len(self._proven) < 64 and set(plan.extras) <= set(seen.names):  # bounded: versions come from clients
            self._proven.add((asked.model, asked.version))

    def _told(self, found: Part, answer: bytes, judgement: Judgement, model: ProxiedModel | None) -> bytes:
        if judgement.verdicts is not None and (self._annotate != "off" or judgement.action):
            tensors = seen_by(model, found.answer) if self._annotate == "outputs" else None
            answer = splice.annotated(answer, judgement.verdicts, self._message_bytes, tensors=tensors)
        return found.raw if found.answer is None or answer is found.answer.raw else found.holding(answer)

    def _withheld(self, found: Part, judgement: Judgement, withheld: Withheld) -> bytes:
        if not found.wrapped:
            self._context.set_trailing_metadata(withheld.metadata)
            self._context.abort(withheld.status, withheld.details)
        verdicts = judgement.verdicts
        return refusal(found, withheld.details, {} if verdicts is None else annotation.parameters(verdicts))


class _Hands:
    """Replaces outputs of one part."""

    def __init__(self, kept: InferAnswer | None) -> None:
        self._kept = kept
        self.answer: bytes | None = None

    def put(self, arrays: Mapping[str, NDArray[Any]]) -> bool:
        here = {} if self._kept is None else {n: a for n, a in arrays.items() if n in self._kept.names}
        self.answer = splice.put(self._kept, here) if here and self._kept is not None else None
        return self.answer is not None

    def ask(self, model: str, version: str) -> bool:  # noqa: ARG002  the stream keeps no request to send elsewhere
        return False


def too_large(size: int, limit: int) -> str:
    """What a client is told whose message is too large for demur."""
    return (
        f"demur: a request of {size} bytes is larger than limits.message_bytes = {limit} in demur.yaml; raise it, or send "
        "smaller batches"
    )
