"""One stream of Envoy's, which is one HTTP exchange: each message gets its one answer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

from demur.adapters.servers.ext_proc import annotation, headers, refusal, reply
from demur.adapters.servers.ext_proc.body import TRUNCATED, UnreadableBodyError
from demur.adapters.servers.ext_proc.exchange import Change, Circumstances, Judged, JudgedExchange
from demur.adapters.servers.ext_proc.scoring import NotInTimeError
from demur.adapters.servers.ext_proc.service import Service
from demur.adapters.servers.oip.rest import coding
from demur.monitor.errors import Overloaded
from demur.proto.envoy.external_processor_pb2 import (
    HttpBody,
    HttpHeaders,
    ProcessingMode,
    ProcessingRequest,
    ProcessingResponse,
    ProtocolConfiguration,
)

LOG = logging.getLogger("demur.ext_proc")
T = TypeVar("T")
AFTER = {  # what must have come before a part
    "request_headers": "",
    "request_body": "request_headers",
    "request_trailers": "request_headers",
    "response_headers": "request_headers",
    "response_body": "response_headers",
    "response_trailers": "response_headers",
}
ONCE = frozenset(AFTER) - {"request_body", "response_body"}
OURS_TO_FORWARD = (ProcessingMode.FULL_DUPLEX_STREAMED, ProcessingMode.GRPC)  # Envoy forwards what it gets back
STREAMING = (ProcessingMode.STREAMED, *OURS_TO_FORWARD)
ADVICE = "set processing_mode.response_body_mode: BUFFERED"
STREAMED = f"Envoy streams the answer to the client before it can be judged; {ADVICE}"
NONE = f"Envoy sends no bodies of answers; {ADVICE}"
NOT_TAKEN = "Envoy did not take the processing mode it was asked for; set allow_mode_override: true"
NEVER_CAME = "Envoy ended the exchange without the body of the answer"
INLINE_BYTES = 1 << 16  # larger requests are read by the scoring threads, so that the answer to Envoy cannot be late


class ProtocolError(Exception):
    """Messages that no ext_proc filter sends: the stream is ended with an error, which Envoy does not take for "go on"."""


class Conversation:
    """The state of one exchange. `over` is set when the stream may end after the answer: nothing more is to be said.

    Not thread-safe; one thread brings the messages in their order.
    """

    def __init__(self, service: Service, traceparent: str = "") -> None:
        self.over = False
        self._service, self._traceparent = service, traceparent
        self._exchange: JudgedExchange | None = None
        self._seen: set[str] = set()
        self._modes: ProtocolConfiguration | None = None
        self._request_id = ""
        self._asked, self._answered = service.body(""), service.body("")
        self._asked_headers: Mapping[str, str] = {}
        self._answer_headers: Mapping[str, str] = {}
        self._read = self._judged = self._passing = self._watching = self._failing = False
        self._arrived = 0.0

    @property
    def enforcing(self) -> bool:
        """Whether an answer that was not judged must not pass."""
        return self._service.enforcing if self._exchange is None else self._exchange.enforcing

    def take(self, message: ProcessingRequest) -> ProcessingResponse | None:
        """The one answer to a message, None in observability mode. Raises: ProtocolError."""
        self._arrived = perf_counter()
        part = message.WhichOneof("request")
        if self._seen and message.observability_mode is not self._watching:
            raise ProtocolError("observability_mode changed within an exchange")
        self._watching = message.observability_mode
        self._check(part)
        if message.HasField("protocol_config"):
            self._modes = message.protocol_config
        assert part is not None  # noqa: S101  _check refuses it
        if self._passing:
            self._check_nothing_more(part, message)
        answer = reply.proceed(part) if self._passing else self._handled(part, message)
        if self._watching:
            return None
        if part in reply.BODIES and answer.HasField(part) and self._mode(part) in OURS_TO_FORWARD:
            reply.echo(part, answer, getattr(message, part))
        return answer

    def end(self, *, cleanly: bool) -> None:
        """Envoy said all it has to say. What it only showed is judged now; what it should have shown is recorded."""
        self._arrived = perf_counter()
        try:
            if self._exchange is not None and "response_headers" in self._seen and not (self._judged or self._passing):
                if self._watching:
                    self._watched()
                elif cleanly:
                    self._judge(NEVER_CAME)
        finally:
            self._asked.forget()
            self._answered.forget()

    def _check(self, part: str | None) -> None:
        if part is None:
            raise ProtocolError("expected a message with one of the six parts of an exchange, got one without")
        before = AFTER[part]
        if before and before not in self._seen:
            raise ProtocolError(
                f"{part} came before {before}; set processing_mode.{before.removesuffix('s')}_mode: SEND"
            )
        if part in ONCE and part in self._seen:
            raise ProtocolError(f"{part} came twice")
        if part in reply.BODIES:
            body = self._asked if part == "request_body" else self._answered
            if body.ended or part.replace("body", "trailers") in self._seen:
                raise ProtocolError(f"{part} came after its end")
        self._seen.add(part)

    def _check_nothing_more(self, part: str, message: ProcessingRequest) -> None:
        """Bytes behind an answer that was judged as a whole would be an answer that was not judged."""
        whole = self._judged and not self._watching and self._mode("response") not in STREAMING
        if part == "response_body" and whole and self.enforcing and message.response_body.body:
            raise ProtocolError("response_body goes on after the answer was judged")

    def _handled(self, part: str, message: ProcessingRequest) -> ProcessingResponse:
        content = getattr(message, part)
        handle: Callable[[Any], ProcessingResponse] = getattr(self, f"_on_{part}")
        try:
            return handle(content)
        except ProtocolError:
            raise
        except Exception:  # INVARIANT: what fails here is an abstention, and the operator chose what to do about those
            LOG.exception("handling %s failed", part)
            self._service.tell("", "internal")
            return self._broken(part, "the monitor failed on this exchange; the server's log has the details")

    def _on_request_headers(self, content: HttpHeaders) -> ProcessingResponse:
        found = self._asked_headers = headers.read(content.headers)
        self._exchange = self._service.exchange(found)
        if self._exchange is None:
            return self._pass("request_headers")
        self._request_id = found.get("x-request-id", "")[:128]
        self._traceparent = found.get("traceparent", "")[:64] or self._traceparent
        self._asked = self._service.body(found.get("content-encoding", ""))
        if content.end_of_stream:
            self._asked.end()
            self._ask(self._exchange, changeable=False)
        put = {} if self._watching else self._readable(found)
        return reply.proceed("request_headers", put=put, mode=self._service.wanted)

    @staticmethod
    def _readable(found: Mapping[str, str]) -> dict[str, str]:
        """Asks upstream only for codings that can be read here."""
        said = found.get("accept-encoding")
        wanted = None if said is None else coding.acceptable(said)
        return {} if wanted is None or wanted == said else {"accept-encoding": wanted}

    def _on_request_body(self, content: HttpBody) -> ProcessingResponse:
        exchange = self._known_exchange()
        self._asked.feed(content.body)
        if content.end_of_stream:
            self._asked.end()
        elif self._watching or self._mode("request") in STREAMING:
            return reply.proceed("request_body")
        buffered = self._mode("request") == self._mode("response") == ProcessingMode.BUFFERED
        change = self._ask(exchange, changeable=buffered and not self._watching)
        return self._changed("request_body", change) if exchange.known else self._pass("request_body")

    def _on_request_trailers(self, _: Any) -> ProcessingResponse:
        exchange = self._known_exchange()
        if not self._read:
            self._asked.end()
            self._ask(exchange, changeable=False)
        return reply.proceed("request_trailers") if exchange.known else self._pass("request_trailers")

    def _ask(self, exchange: JudgedExchange, *, changeable: bool) -> Change:
        """Read the request once all of it is there."""
        self._read, change = True, Change()
        try:
            work = partial(exchange.ask, self._asked, changeable=changeable)
            change = self._in_time(work, len(self._asked.data))()
        except (NotInTimeError, Overloaded) as error:
            exchange.unread(f"the request could not be read: {error}")
        self._asked.forget()
        return change

    def _on_response_headers(self, content: HttpHeaders) -> ProcessingResponse:
        exchange = self._known_exchange()
        found = self._answer_headers = headers.read(content.headers)
        remove = headers.forged(found) if self._service.annotate else []
        self._answered = self._service.body(found.get("content-encoding", ""))
        if not 200 <= headers.status(found) < 300:
            self._failing = exchange.curious and not content.end_of_stream
            self._passing = not self._failing
            return reply.proceed("response_headers", remove=remove)
        exchange.begin(found)
        if content.end_of_stream:
            self._answered.end()
            return self._settled("response_headers", self._judge(""))
        cause = exchange.hopeless or ("" if self._watching else self._unreachable(exchange))
        if cause:
            return self._settled("response_headers", self._judge(cause))
        return reply.proceed("response_headers", remove=remove)

    def _unreachable(self, exchange: JudgedExchange) -> str:
        """Why the body will not come in time to withhold the answer, or ""."""
        mode = self._mode("response")
        if mode == ProcessingMode.NONE:
            return NONE
        if self._service.wanted is not None and "request_body" not in self._seen and not self._asked.ended:
            return NOT_TAKEN
        return STREAMED if mode in STREAMING and exchange.enforcing else ""

    def _on_response_body(self, content: HttpBody) -> ProcessingResponse:
        exchange = self._known_exchange()
        self._answered.feed(content.body)
        if content.end_of_stream:
            self._answered.end()
        if self._failing:
            exchange.failed(headers.status(self._answer_headers), self._answered)
            return self._finished("response_body")
        try:
            if not self._answered.cause:
                self._answered.hold(exchange.progress(self._answered))
        except UnreadableBodyError as error:
            self._answered.spoil(str(error))
        streamed = self._watching or self._mode("response") in STREAMING
        if streamed and not content.end_of_stream:
            return reply.proceed("response_body")
        return self._settled("response_body", self._judge("" if self._complete() else TRUNCATED))

    def _on_response_trailers(self, _: Any) -> ProcessingResponse:
        self._answered.end()
        return self._settled("response_trailers", self._judge(""))

    def _complete(self) -> bool:
        """Whether all of the body came, as far as its length says. BUFFERED bodies end later when trailers follow."""
        if self._answered.ended or self._mode("response") == ProcessingMode.BUFFERED:
            if not self._answered.ended:
                self._answered.end()
            return True
        said = self._answer_headers.get("content-length", "")
        return said.isascii() and said.isdigit() and int(said) == self._answered.raw_size

    def _watched(self) -> None:
        if not self._answered.ended:
            self._answered.end()
        self._judge("")

    def _judge(self, cause: str) -> Judged:
        exchange, self._judged, self._passing = self._known_exchange(), True, True
        deadline = None if self._watching else self._arrived + self._service.budget_seconds
        about = Circumstances(
            deadline=None if deadline is None else deadline - self._service.margin_seconds,
            watching=self._watching,
            changeable=self._mode("response") in (ProcessingMode.BUFFERED, None),
            cause=cause or self._answered.cause,
            traceparent=self._traceparent,
            request=self._request_id,
        )
        try:
            return self._service.scoring.run(partial(exchange.judge, self._answered, about), deadline)
        except NotInTimeError as error:
            self._service.tell("", "deadline")
            return exchange.unjudged(str(error))
        except Overloaded as error:
            self._service.tell("", "overloaded")
            return exchange.unjudged(str(error))

    def _in_time(self, work: Callable[[], T], size: int) -> T:
        if size < INLINE_BYTES:
            return work()
        deadline = None if self._watching else self._arrived + self._service.budget_seconds
        return self._service.scoring.run(work, deadline)

    def _settled(self, part: str, judged: Judged) -> ProcessingResponse:
        """The answer once the verdict is there."""
        if judged.withheld is not None and not self._watching:
            return self._instead(judged)
        answer = self._changed(part, judged.change, judged)
        self._answered.forget()
        return answer

    def _instead(self, judged: Judged) -> ProcessingResponse:
        assert judged.withheld is not None  # noqa: S101  the caller looked
        self.over = True
        body = self._known_exchange().refusal(judged.withheld)
        return refusal.instead(judged.withheld, self._service.blocked_status, body)

    def _changed(self, part: str, change: Change, judged: Judged | None = None) -> ProcessingResponse:
        put, remove = dict(change.headers), list(change.remove)
        known = self._asked_headers if part.startswith("request") else self._answer_headers
        if change.body is not None and "content-length" in known:
            put["content-length"] = str(len(change.body))  # Envoy answers 500 when they differ
        if self._service.annotate and part.startswith("response") and part not in reply.TRAILERS:
            if judged is not None and judged.verdicts is not None:
                put |= annotation.headers(judged.verdicts)
            remove += [n for n in headers.forged(self._answer_headers) if n not in put]
        return reply.proceed(part, put=put, remove=remove, body=change.body)

    def _pass(self, part: str) -> ProcessingResponse:
        """Nothing here is judged. The stream may end: to Envoy a clean end means that the exchange goes on without us,
        except for bodies that are ours to forward.
        """
        forwards = {self._mode("request"), self._mode("response")} & set(OURS_TO_FORWARD)
        self._passing, self.over = True, not forwards
        return reply.proceed(part)

    def _finished(self, part: str) -> ProcessingResponse:
        self._passing = True
        self._answered.forget()
        return reply.proceed(part)

    def _broken(self, part: str, cause: str) -> ProcessingResponse:
        self._passing = self._judged = True
        if self._exchange is None or self._watching:
            return reply.proceed(part)
        return self._settled(part, self._exchange.unjudged(cause))

    def _mode(self, direction: str) -> int | None:
        """How bodies of the request or response come; None when Envoy did not say."""
        said = None if self._modes is None else getattr(self._modes, f"{direction.removesuffix('_body')}_body_mode")
        if self._service.wanted is None or self._exchange is None or said in OURS_TO_FORWARD:
            return said
        return ProcessingMode.BUFFERED

    def _known_exchange(self) -> JudgedExchange:
        assert self._exchange is not None  # noqa: S101  otherwise everything passes
        return self._exchange
