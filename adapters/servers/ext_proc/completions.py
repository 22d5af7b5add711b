"""OpenAI's completions: one request for an answer, whole or as server-sent events."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import grpc

from demur.adapters.servers.ext_proc import headers, refusal
from demur.adapters.servers.ext_proc.body import TRUNCATED, Body
from demur.adapters.servers.ext_proc.exchange import PROTOCOL, Change, Circumstances, Judged
from demur.adapters.servers.ext_proc.route import Route
from demur.adapters.servers.failing import broken
from demur.adapters.servers.oip.rest import coding
from demur.adapters.servers.oip.rest.document import Document, Edit, MalformedError
from demur.adapters.servers.oip.withheld import Withheld
from demur.adapters.servers.openai import bare
from demur.adapters.servers.openai.completion import CUT, Completion
from demur.adapters.servers.openai.events import Events
from demur.adapters.servers.openai.judge import Answer, CompletionJudge, CompletionModel, withheld

UNKNOWN = "no model can be told from the request or its answer"
EVENTS = "text/event-stream"


class CompletionExchange:
    """See JudgedExchange."""

    hopeless = ""
    curious = False

    def __init__(self, judge: CompletionJudge, route: Route, asking: Mapping[str, str]) -> None:
        self._judge, self._route, self._headers = judge, route, asking
        self._name = self._cause = ""
        self._asked = self._taking_out = False
        self._events: Events | None = None
        self._completion = Completion(0)
        self._answer_headers: Mapping[str, str] = {}
        self._model: CompletionModel | None = None

    @property
    def known(self) -> bool:
        return self._model is not None or not self._asked

    @property
    def model(self) -> str:
        return self._name

    @property
    def monitor(self) -> str:
        return "" if self._model is None else self._model.engine.loaded.policy.monitor

    @property
    def enforcing(self) -> bool:
        return self._judge.enforcing if self._model is None else self._model.enforcing

    def ask(self, body: Body, *, changeable: bool) -> Callable[[], Change]:
        if body.cause:
            return lambda: self._unread(f"the request cannot be read: {body.cause}")
        text = bytes(body.data).decode("utf-8", "surrogateescape")
        try:
            document = Document(text)
            name = _model_of(document)
        except MalformedError as error:
            why = str(error) if body.ended else TRUNCATED
            return lambda: self._unread(f"the request cannot be read: {why}")
        model, change = self._judge.model(name), Change()
        if model is not None and model.config.request_logprobs and changeable:
            change = self._asking(document, model, body)
        return lambda: self._read(name, model, change)

    def unread(self, cause: str) -> None:
        self._cause = cause

    def begin(self, headers_: Mapping[str, str]) -> None:
        self._answer_headers = headers_
        self._events = Events() if headers.media(headers_) == EVENTS else None
        self._completion = Completion(self._most)

    def progress(self, body: Body) -> int:
        if self._events is None or self._taking_out:  # what is to be changed is kept, and read at its end
            return 0
        self._feed(self._events, body)
        body.data = b""
        return self._events.size + self._completion.size

    def judge(self, body: Body, about: Circumstances) -> Judged:
        self._end(body, about.cause)
        model = self._model or self._judge.model(self._completion.model)
        if model is None:
            self._judge.tell("", "invalid", PROTOCOL)
            return self._unknown(about.cause or self._cause or UNKNOWN)
        answer = Answer(
            model=self._name or self._completion.model,
            completion=self._completion,
            cause=about.cause or self._cause or (TRUNCATED if self._cut and not body.ended else ""),
            request=about.request,
            deadline=about.deadline,
            traceparent=about.traceparent,
            protocol=PROTOCOL,
            watching=about.watching,
        )
        found, held = self._judge.judge(model, answer)
        worst = next((v for v in found if not v.accept.all()), found[0])
        return Judged(worst, held, self._without_logprobs(body))

    def unjudged(self, cause: str) -> Judged:
        if self._model is None:
            return self._unknown(cause)
        found = [broken(self._model.engine, cause)]
        return Judged(found[0], withheld(found))

    def failed(self, status: int, body: Body) -> None:
        """Nothing is learnt from errors."""

    def refusal(self, withheld: Withheld) -> bytes:
        return refusal.openai_error(withheld)

    @property
    def _most(self) -> int:
        return 0 if self._model is None else self._model.most

    @property
    def _cut(self) -> bool:
        return self._completion.cause == CUT

    def _end(self, body: Body, cause: str) -> None:
        if cause or self._cause:
            return
        if self._events is None:
            self._completion.take(bytes(body.data))
        else:
            if self._taking_out:
                self._feed(self._events, body)
            for data in self._events.rest():
                self._completion.event(data)

    def _feed(self, events: Events, body: Body) -> None:
        for data in events.feed(bytes(body.data)):
            self._completion.event(data)

    def _unknown(self, cause: str) -> Judged:
        if not self._judge.enforcing:
            return Judged()
        reasons = (("demur-verdict", "ABSTAIN"), ("demur-action", "BLOCK"), ("demur-reasons", "UNAVAILABLE"))
        return Judged(
            withheld=Withheld(grpc.StatusCode.UNAVAILABLE, f"demur: the answer is withheld: {cause}", reasons)
        )

    def _read(self, name: str, model: CompletionModel | None, change: Change) -> Change:
        self._name, self._model, self._asked = name, model, True
        self._taking_out = change.body is not None
        if model is None:
            self._judge.tell("", "unmapped", PROTOCOL)
        return change

    def _unread(self, cause: str) -> Change:
        self.unread(cause)
        return Change()

    def _asking(self, document: Document, model: CompletionModel, body: Body) -> Change:
        """The request for log-probabilities, when the client asked for none."""
        if self._route.kind != "chat" or document.get("logprobs"):
            return Change()
        wanted = {"logprobs": "true"} | ({"top_logprobs": str(model.most)} if model.most else {})
        edit, new = Edit(), [f'"{key}":{text}' for key, text in wanted.items() if key not in document.members]
        for key, text in wanted.items():
            if (said := document.members.get(key)) is not None:
                edit.replace(said.start, said.end, text)
        if new:
            edit.replace(document.last, document.last, ("," if document.members else "") + ",".join(new))
        gone = ("content-encoding",) if body.coding else ()
        return Change(edit.of(document.text).encode("utf-8", "surrogateescape"), {}, gone)

    def _without_logprobs(self, body: Body) -> Change:
        """The answer as the client asked for it."""
        if not self._taking_out:
            return Change()
        text = bytes(body.data).decode("utf-8", "surrogateescape")
        try:
            text = bare.whole(text) if self._events is None else bare.events(text)
        except MalformedError:
            return Change()
        return Change(coding.encoded(text.encode("utf-8", "surrogateescape"), body.coding))


def _model_of(document: Document) -> str:
    name = document.get("model")
    if not isinstance(name, str):
        raise MalformedError("it names no model")
    return name
