"""The Open Inference Protocol over HTTP: one call of a model's `infer`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from demur.adapters.servers.ext_proc import refusal
from demur.adapters.servers.ext_proc.body import TRUNCATED, Body
from demur.adapters.servers.ext_proc.exchange import PROTOCOL, Change, Circumstances, Judged
from demur.adapters.servers.ext_proc.route import Route
from demur.adapters.servers.failing import broken, holds_back
from demur.adapters.servers.oip.judge import Exchange, Judge
from demur.adapters.servers.oip.plan import Plan
from demur.adapters.servers.oip.reading import Asked
from demur.adapters.servers.oip.refusal import LONGEST, names
from demur.adapters.servers.oip.rest import call as calls
from demur.adapters.servers.oip.rest import coding
from demur.adapters.servers.oip.rest.body import body as parts
from demur.adapters.servers.oip.rest.call import Handled, Sent
from demur.adapters.servers.oip.rest.document import MalformedError
from demur.adapters.servers.oip.rest.headers import BODYS_OWN, Headers, value
from demur.adapters.servers.oip.rest.inference import NAMING
from demur.adapters.servers.oip.rest.reply import RefusedError, Reply
from demur.adapters.servers.oip.rest.request import InferRequest
from demur.adapters.servers.oip.withheld import Withheld, blocked
from demur.monitor.engine import Engine
from demur.monitor.verdicts import blocks

JSON_LENGTH = "inference-header-content-length"
OF_THE_BODY = tuple(sorted(name.decode() for name in BODYS_OWN))
BESIDE = "answers of this path are in no form that demur can judge; use infer"
UNCHANGEABLE = "the monitor needs outputs that the client did not ask for, and the request cannot be changed here; set both bodies to BUFFERED"
RAW = "a raw request cannot name the outputs that the monitor needs"


class InferExchange:
    """See JudgedExchange. `plan` must have a model: what stands behind the path."""

    def __init__(self, judge: Judge, route: Route, asking: Mapping[str, str], largest_bytes: int) -> None:
        self._judge, self._headers, self._largest = judge, asking, largest_bytes
        self._asked = Asked(model=route.model, version=route.version)
        self._plan: Plan = replace(judge.plan(self._asked), asking=(), extras=())  # until the request was read
        self._answer_headers: Mapping[str, str] = {}
        self._mentioned: set[str] = (
            set()
        )  # outputs whose names the client wrote itself: an error may be about those words
        self.hopeless = BESIDE if route.kind == "beside" else ""

    @property
    def known(self) -> bool:
        return self._plan.model is not None

    @property
    def model(self) -> str:
        return self._asked.model

    @property
    def monitor(self) -> str:
        return self._engine.loaded.policy.monitor

    @property
    def enforcing(self) -> bool:
        return holds_back(self._engine)

    @property
    def curious(self) -> bool:
        return bool(self._plan.asking)

    @property
    def _engine(self) -> Engine:
        assert self._plan.model is not None  # noqa: S101  exchanges are made for mapped models
        return self._plan.model.engine

    def ask(self, body: Body, *, changeable: bool) -> Callable[[], Change]:
        if self.hopeless:
            return Change
        if body.cause:
            return lambda: self._unread(f"the request cannot be read: {body.cause}")
        try:
            content = parts(bytes(body.data), self._headers.get(JSON_LENGTH))
            request = InferRequest(self._asked.model, self._asked.version, content)
            asked = request.asked()
        except MalformedError as error:
            why = str(error) if body.ended else TRUNCATED
            return lambda: self._unread(f"the request cannot be read: {why}")
        plan, change = self._judge.plan(asked), Change()
        if plan.asking:
            cause = RAW if request.body.raw else "" if changeable else UNCHANGEABLE
            plan = replace(plan, asking=(), extras=(), cause=cause) if cause else plan
            change = Change() if cause else self._asking(request, plan, body)
        mentioned = {n for n in plan.asking if request.mentions(n)}
        return lambda: self._read(asked, plan, change, mentioned)

    def unread(self, cause: str) -> None:
        self._plan = replace(self._plan, asking=(), extras=(), cause=cause)

    def begin(self, headers: Mapping[str, str]) -> None:
        self._answer_headers = headers

    def progress(self, body: Body) -> int:  # noqa: ARG002  nothing is complete before the end
        return 0

    def judge(self, body: Body, about: Circumstances) -> Judged:
        length = self._answer_headers.get(JSON_LENGTH)
        fields: Headers = [] if length is None else [(JSON_LENGTH.encode(), length.encode("latin-1", "replace"))]
        reply, seen, cause = Reply(200, fields, bytes(body.data)), None, about.cause or self.hopeless
        if not cause:
            seen, cause = calls.answered(reply, self._largest)
        sent = Sent(target=b"", asked=self._asked, plan=self._plan, own=([], b""), headers=[], content=b"")
        bare = calls.without_extras(sent, reply, seen)
        handled = Handled(sent, bare, _no_further, self._largest)
        exchange = Exchange(
            asked=self._asked,
            answered=seen,
            plan=self._plan,
            cause=cause,
            deadline=about.deadline,
            traceparent=about.traceparent,
            protocol=PROTOCOL,
            hands=handled if about.changeable and not about.watching else None,
            watching=about.watching,
        )
        judgement = self._judge.judge(exchange)
        final = handled.prepared if judgement.action else bare
        change = Change() if final is reply else self._instead(final, body)
        return Judged(judgement.verdicts, judgement.withheld, change)

    def unjudged(self, cause: str) -> Judged:
        verdicts = broken(self._engine, cause)
        return Judged(verdicts, blocked(verdicts) if blocks(verdicts) else None)

    def failed(self, status: int, body: Body) -> None:
        text, model = bytes(body.data).decode("utf-8", "replace"), self._plan.model
        added = [n for n in self._plan.asking if n not in self._mentioned]
        name = next((n for n in added if status in NAMING and names(text, n)), None)
        if name is not None and model is not None:
            model.rejections.learn(self._asked.version, f"upstream rejected output {name} ({text[:LONGEST]})")

    def refusal(self, withheld: Withheld) -> bytes:
        return refusal.inference_error(withheld)

    def _read(self, asked: Asked, plan: Plan, change: Change, mentioned: set[str]) -> Change:
        self._asked, self._plan, self._mentioned = asked, plan, mentioned
        return change

    def _unread(self, cause: str) -> Change:
        self.unread(cause)
        return Change()

    def _asking(self, request: InferRequest, plan: Plan, body: Body) -> Change:
        """The request with more outputs; it goes on uncompressed."""
        content, length = request.asking_for(plan.asking).encoded()
        gone = (*OF_THE_BODY, *(("content-encoding",) if body.coding else ()))
        put = {} if length is None else {JSON_LENGTH: str(length)}
        return Change(content, put, tuple(n for n in gone if n in self._headers))

    def _instead(self, final: Reply, body: Body) -> Change:
        """The changed answer, coded as it came."""
        length, known = value(final.headers, JSON_LENGTH.encode()), self._answer_headers
        gone = (*OF_THE_BODY, *((JSON_LENGTH,) if length is None else ()))
        content = coding.encoded(final.content, body.coding)
        put = {} if length is None else {JSON_LENGTH: length}
        return Change(content, put, tuple(n for n in gone if n in known))


def _no_further(*_: object) -> Reply:
    raise RefusedError(501, "Envoy's filter cannot call the model again")
