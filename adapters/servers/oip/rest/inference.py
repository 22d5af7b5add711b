"""A judged call from its first byte to its answer: ask for what the monitor needs, judge, take it out again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

from numpy.typing import NDArray

from demur.adapters.servers.failing import broken
from demur.adapters.servers.oip import refusal
from demur.adapters.servers.oip.backlog import Backlog
from demur.adapters.servers.oip.judge import Exchange, Judge, Judgement
from demur.adapters.servers.oip.plan import Plan
from demur.adapters.servers.oip.reading import Asked
from demur.adapters.servers.oip.rest import call as calls
from demur.adapters.servers.oip.rest import headers
from demur.adapters.servers.oip.rest.answer import annotated
from demur.adapters.servers.oip.rest.call import Handled, Sent
from demur.adapters.servers.oip.rest.client import HttpClient
from demur.adapters.servers.oip.rest.headers import Headers
from demur.adapters.servers.oip.rest.path import Target
from demur.adapters.servers.oip.rest.reply import RefusedError, Reply, withheld
from demur.adapters.servers.oip.rest.upstream import HttpUpstream
from demur.adapters.servers.oip.unary import seen_by
from demur.adapters.servers.oip.withheld import blocked
from demur.monitor.loaded import Loaded
from demur.monitor.verdicts import blocks

LOG = logging.getLogger("demur.oip")
PROTOCOL = "oip-rest"
# A server that knows no such output says so with one of these: MLServer and KServe 400, FastAPI's own checks 422,
# Triton 400 or 404, runtimes that raise on their own 500.
NAMING = frozenset((400, 404, 422, 500))
AFTER_RUNNING = 500  # may come after the model ran, and a sequence must not advance twice
SMALL_BYTES = 16 << 10  # a request so small is read on the spot, in less time than a thread takes to begin
T = TypeVar("T")
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that goes out before it is read and judged."""

    asked: Asked
    plan: Plan
    loaded: Loaded
    reply: Reply
    traceparent: str
    largest_bytes: int

    def exchange(self) -> Exchange:
        """What the judge looks at."""
        seen, cause = calls.answered(self.reply, self.largest_bytes)
        return Exchange(
            asked=self.asked,
            answered=seen,
            plan=self.plan,
            cause=cause,
            traceparent=self.traceparent,
            protocol=PROTOCOL,
        )


class Inference:
    """Judged calls. Parsing and scoring run in `pool`, so that no large body holds the others up; in `asking`, what may ask
    upstream again and wait for it.
    """

    def __init__(
        self,
        upstream: HttpUpstream,
        judge: Judge,
        pool: Executor,
        asking: Executor,
        backlog: Backlog[Answer],
        *,
        annotate: str,
        message_bytes: int,
    ) -> None:
        self._upstream, self._judge, self._pool, self._asking = upstream, judge, pool, asking
        self._backlog = backlog if annotate == "off" else None
        self._annotate, self._largest = annotate, message_bytes

    async def reply(self, client: HttpClient, target: Target) -> Reply:
        """The answer to a call of a model's `infer`. Raises: RefusedError, GoneError."""
        content = await client.whole()
        read = partial(calls.sent, client, target, content, self._judge, self._largest)
        packed = headers.value(client.headers, b"content-encoding")
        call = read() if len(content) <= SMALL_BYTES and not packed else await self._in_pool(read)
        call, reply = await self._called(client.method, call)
        if not 200 <= reply.status < 300:
            self._judge.unanswered(call.plan, PROTOCOL)
            return reply
        if self._deferred(client, call, reply):
            return reply
        judged = partial(self._judged, client, call, reply, asyncio.get_running_loop())
        try:
            return await self._in_pool(judged, self._asking if _asks_again(call) else self._pool)
        except Exception:  # INVARIANT: what fails here is an abstention, and the operator chose what to do about those
            LOG.exception("judging an answer failed")
            return self._failed(call, reply)

    def _deferred(self, client: HttpClient, call: Sent, reply: Reply) -> bool:
        """Whether the backlog took the answer. One that extras must be taken out of is read now, and judged with that."""
        loaded = None if self._backlog is None or call.plan.extras else self._judge.defers(call.plan)
        if self._backlog is None or loaded is None:
            return False
        answer = Answer(call.asked.without_message(), call.plan, loaded, reply, _traceparent(client), self._largest)
        return self._backlog.put(answer, len(reply.content) + answer.asked.kept_bytes)

    async def beside(self, client: HttpClient, target: Target) -> Reply | None:
        """The refusal of an answer that has no form demur could judge; None lets it pass."""
        asked = Asked(model=target.model, version=target.version)
        cause = "answers of this path are in no form that demur can judge; use infer"
        judgement = await self._in_pool(partial(self._unjudged, asked, cause, client))
        return None if judgement.withheld is None else withheld(judgement.withheld)

    async def _called(self, method: str, call: Sent) -> tuple[Sent, Reply]:
        """Upstream's answer; when it refused an output that the client did not name, its answer to the client's own request."""
        reply = await self._sent(method, call)
        why = _rejected(reply, call) if call.plan.asking else ""
        if not why:
            return call, reply
        request = call.request
        if request is not None and request.of_sequence and reply.status == AFTER_RUNNING:
            proven = not any(map(request.mentions, call.plan.asking))
        else:
            call = call.unchanged(why)
            reply = await self._sent(method, call)
            proven = reply.status == 200
        if proven and call.plan.model is not None:
            call.plan.model.rejections.learn(call.asked.version, why)
        return call, reply

    async def _sent(self, method: str, call: Sent) -> Reply:
        reply = await self._upstream.whole(method, call.target, call.headers, call.content)
        return Reply(reply.status, headers.passed_on(reply.headers), reply.content)

    def _judged(self, client: HttpClient, call: Sent, reply: Reply, loop: asyncio.AbstractEventLoop) -> Reply:
        seen, cause = calls.answered(reply, self._largest)
        reply = calls.without_extras(call, reply, seen)
        again = partial(self._again, loop)
        handled = Handled(call, reply, again, self._largest)
        exchange = Exchange(
            asked=call.asked,
            answered=seen,
            plan=call.plan,
            cause=cause,
            traceparent=_traceparent(client),
            protocol=PROTOCOL,
            hands=handled,
            again=calls.further_calls(call, again, self._largest),
        )
        judgement = self._judge.judge(exchange)
        if judgement.withheld is not None:
            return withheld(judgement.withheld)
        shown = seen_by(call.plan.model, cast("Any", seen)) if self._annotate == "outputs" else None
        if not judgement.action:
            return self._annotated(reply, judgement, shown)
        return self._annotated(handled.prepared, judgement, shown, handled.answered_by)

    def _failed(self, call: Sent, reply: Reply) -> Reply:
        if call.plan.model is None:
            raise RefusedError(500, "judging this answer failed; the server's log has the details", "internal")
        engine = call.plan.model.engine
        self._judge.tell(engine.loaded.policy.monitor, "internal", PROTOCOL)
        verdicts = broken(engine, "the monitor failed on this answer; the server's log has the details")
        return withheld(blocked(verdicts)) if blocks(verdicts) else reply

    def _annotated(self, reply: Reply, judgement: Judgement, shown: Arrays | None, answered_by: str = "") -> Reply:
        if judgement.verdicts is None or (self._annotate == "off" and not judgement.action):
            return reply
        answer, _ = calls.answered(reply, self._largest)
        if answer is None:
            return reply
        more = {"demur.answered_by": answered_by} if answered_by else {}
        return calls.resent(reply, annotated(answer, judgement.verdicts, self._largest, tensors=shown, more=more))

    def _unjudged(self, asked: Asked, cause: str, client: HttpClient) -> Judgement:
        exchange = Exchange(
            asked=asked,
            answered=None,
            plan=self._judge.plan(asked),
            cause=cause,
            traceparent=_traceparent(client),
            protocol=PROTOCOL,
        )
        return self._judge.judge(exchange)

    def _again(
        self, loop: asyncio.AbstractEventLoop, target: bytes, fields: Headers, content: bytes, seconds: float | None
    ) -> Reply:
        """Another call, from a thread of the pool. Raises: RefusedError, TimeoutError."""
        work = asyncio.run_coroutine_threadsafe(self._upstream.whole("POST", target, fields, content), loop)
        try:
            found = work.result(seconds)
        except TimeoutError:
            work.cancel()
            raise
        return Reply(found.status, headers.passed_on(found.headers), found.content)

    async def _in_pool(self, work: Callable[[], T], pool: Executor | None = None) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool or self._pool, work)


def _asks_again(call: Sent) -> bool:
    model = call.plan.model
    return model is not None and (model.gather is not None or model.config.on_abstain == "fallback")


def _rejected(reply: Reply, call: Sent) -> str:
    """Why upstream rejected an output that demur asked for, or "" when this is no such answer."""
    if reply.status not in NAMING:
        return ""
    text = calls.text(reply)
    name = next((n for n in call.plan.asking if refusal.names(text, n)), None)
    return "" if name is None else f"upstream rejected output {name} ({text[: refusal.LONGEST]})"


def _traceparent(client: HttpClient) -> str:
    return headers.value(client.headers, b"traceparent") or ""
