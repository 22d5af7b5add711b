"""One stream of Envoy's, which is one HTTP exchange: each message gets its one answer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

from demur.adapters.servers.ext_proc import annotation, causes, headers, refusal, reply
from demur.adapters.servers.ext_proc.body import TRUNCATED
from demur.adapters.servers.ext_proc.exchange import Change, Circumstances, Judged, JudgedExchange
from demur.adapters.servers.ext_proc.modes import BUFFERED, NONE, OURS_TO_FORWARD, STREAMING, Modes
from demur.adapters.servers.ext_proc.order import Order, ProtocolError
from demur.adapters.servers.ext_proc.scoring import NotInTimeError
from demur.adapters.servers.ext_proc.service import Service
from demur.adapters.servers.oip.withheld import Withheld
from demur.monitor.errors import Overloaded
from demur.proto.envoy.external_processor_pb2 import HttpBody, HttpHeaders, ProcessingRequest, ProcessingResponse

LOG = logging.getLogger("demur.ext_proc")
INLINE_BYTES = 1 << 16  # larger requests are read by the scoring threads, so that the answer to Envoy cannot be late


class Conversation:
    """The state of one exchange. `over` is set when the stream may end after the answer: nothing more is to be said.

    Not thread-safe; one thread brings the messages in their order.
    """

    def __init__(self, service: Service, traceparent: str = "") -> None:
        self.over = False
        self._service, self._traceparent = service, traceparent
        self._order, self._modes = Order(), Modes()
        self._exchange: JudgedExchange | None = None
        self._asked, self._answered = service.message({}), service.message({})
        self._read = self._judged = self._passing = self._failing = False
        self._arrived = 0.0

    def take(self, message: ProcessingRequest) -> ProcessingResponse | None:
        """The one answer to a message, None in observability mode. Raises: ProtocolError."""
        self._arrived = perf_counter()
        part = self._order.next(message)
        if message.HasField("protocol_config"):
            self._modes.said(message.protocol_config)
        if self._passing:
            self._check_nothing_more(part, message)
        answer = reply.proceed(part) if self._passing else self._handled(part, message)
        if self._order.watching:
            return None
        if part in reply.BODIES and answer.HasField(part) and self._modes.of(part) in OURS_TO_FORWARD:
            reply.echo(part, answer, getattr(message, part))
        return answer

    @property
    def awaits_client(self) -> bool:
        """Whether the rest of a request is to come, which takes as long as its client likes."""
        begun = self._exchange is not None and not self._passing
        return begun and not self._read and self._modes.request != NONE and "response_headers" not in self._order

    def end(self, *, cleanly: bool) -> None:
        """Envoy said all it has to say. What it only showed is judged now; what it should have shown is recorded."""
        self._arrived = perf_counter()
        try:
            if self._exchange is None or "response_headers" not in self._order or self._judged or self._passing:
                return
            if self._order.watching:
                self._answered.end()
                self._judge("")
            elif cleanly:
                self._judge(causes.NEVER_CAME)
        finally:
            self._asked.body.forget()
            self._answered.body.forget()

    def _check_nothing_more(self, part: str, message: ProcessingRequest) -> None:
        """Bytes behind an answer that was judged as a whole would be an answer that was not judged."""
        whole = self._judged and not self._order.watching and self._modes.response not in STREAMING
        if part == "response_body" and whole and self._known.enforcing and message.response_body.body:
            raise ProtocolError("response_body goes on after the answer was judged")

    def _handled(self, part: str, message: ProcessingRequest) -> ProcessingResponse:
        handle: Callable[[Any], ProcessingResponse] = getattr(self, f"_on_{part}")
        try:
            return handle(getattr(message, part))
        except ProtocolError:
            raise
        except Exception:  # INVARIANT: what fails here is an abstention, and the operator chose what to do about those
            LOG.exception("handling %s failed", part)
            self._service.tell("" if self._exchange is None else self._exchange.monitor, "internal")
            self._passing = self._judged = True
            if self._exchange is None or self._order.watching:
                return reply.proceed(part)
            cause = "the monitor failed on this exchange; the server's log has the details"
            return self._settled(part, self._exchange.unjudged(cause))

    def _on_request_headers(self, content: HttpHeaders) -> ProcessingResponse:
        self._asked = self._service.message(found := headers.read(content.headers))
        if self._service.enforcing and not (found.get(":path") and found.get(":method")):
            raise ProtocolError(
                "request_headers came without :path and :method; let the filter's forward_rules send them"
            )
        exchange = self._service.exchange(found)
        if exchange is None or isinstance(exchange, Withheld):
            return self._pass("request_headers", exchange)
        self._exchange = exchange
        self._traceparent = found.get("traceparent", "")[:64] or self._traceparent
        if content.end_of_stream:
            self._ask(changeable=False)
        if self._order.watching:
            return reply.proceed("request_headers")
        if self._service.wanted is not None:
            self._modes.asked_for(self._service.wanted)
        return reply.proceed("request_headers", put=headers.readable(found), mode=self._service.wanted)

    def _on_request_body(self, content: HttpBody) -> ProcessingResponse:
        self._asked.body.feed(content.body)
        streamed = self._order.watching or self._modes.request in STREAMING
        if streamed and not content.end_of_stream:
            return reply.proceed("request_body")
        change = self._ask(changeable=self._modes.buffered and not self._order.watching, ended=content.end_of_stream)
        return self._changed("request_body", change) if self._known.known else self._unmapped("request_body")

    def _on_request_trailers(self, _: Any) -> ProcessingResponse:
        if not self._read:
            self._ask(changeable=False)
        return reply.proceed("request_trailers") if self._known.known else self._unmapped("request_trailers")

    def _ask(self, *, changeable: bool, ended: bool = True) -> Change:
        """Read the request once all of it is there."""
        self._read, change = True, Change()
        if ended:
            self._asked.body.end()
        work: Callable[[], Callable[[], Change]] = partial(self._known.ask, self._asked.body, changeable=changeable)
        try:
            small = len(self._asked.body.data) < INLINE_BYTES
            change = (work() if small else self._service.scoring.run(work, self._deadline))()
        except (NotInTimeError, Overloaded) as error:
            self._known.unread(f"the request could not be read: {error}")
        self._asked.body.forget()
        return change

    def _on_response_headers(self, content: HttpHeaders) -> ProcessingResponse:
        exchange = self._known
        answer = self._answered = self._service.message(headers.read(content.headers))
        remove = headers.forged(answer.headers) if self._service.annotate else []
        if answer.status >= 300:
            self._failing = exchange.curious and not content.end_of_stream
            self._passing = not self._failing
            return reply.proceed("response_headers", remove=remove)
        exchange.begin(answer.headers)
        if content.end_of_stream:
            answer.body.end()
            return self._settled("response_headers", self._judge(""))
        if cause := exchange.hopeless or self._unreachable():
            return self._settled("response_headers", self._judge(cause))
        return reply.proceed("response_headers", remove=remove)

    def _unreachable(self) -> str:
        """Why the body will not come in time to withhold the answer, or ""."""
        if self._order.watching:
            return ""
        if self._modes.response == NONE:
            return causes.NOT_SENT
        if self._service.wanted is not None and "request_body" not in self._order and not self._asked.body.ended:
            return causes.NOT_TAKEN
        return causes.STREAMED if self._modes.response in STREAMING and self._known.enforcing else ""

    def _on_response_body(self, content: HttpBody) -> ProcessingResponse:
        answer = self._answered
        answer.body.feed(content.body)
        if content.end_of_stream:
            answer.body.end()
        if self._failing:
            self._known.failed(answer.status, answer.body)
            self._passing = True
            return reply.proceed("response_body")
        answer.read_by(self._known)
        streamed = self._order.watching or self._modes.response in STREAMING
        if streamed and not content.end_of_stream:
            return reply.proceed("response_body")
        if self._modes.response == BUFFERED:
            answer.end()  # also where it ends later, because trailers follow
        return self._settled("response_body", self._judge("" if answer.whole else TRUNCATED))

    def _on_response_trailers(self, _: Any) -> ProcessingResponse:
        self._answered.body.end()
        return self._settled("response_trailers", self._judge(""))

    @property
    def _deadline(self) -> float | None:
        return None if self._order.watching else self._arrived + self._service.budget_seconds

    def _judge(self, cause: str) -> Judged:
        exchange, deadline, self._judged, self._passing = self._known, self._deadline, True, True
        about = Circumstances(
            deadline=None if deadline is None else deadline - self._service.margin_seconds,
            watching=self._order.watching,
            changeable=self._modes.response in (BUFFERED, None),
            cause=cause or self._answered.body.cause,
            traceparent=self._traceparent,
            request=self._asked.headers.get("x-request-id", "")[:128],
        )
        try:
            return self._service.scoring.run(partial(exchange.judge, self._answered.body, about), deadline)
        except (NotInTimeError, Overloaded) as error:
            self._service.tell(exchange.monitor, "overloaded" if isinstance(error, Overloaded) else "deadline")
            return exchange.unjudged(str(error))

    def _settled(self, part: str, judged: Judged) -> ProcessingResponse:
        """The answer once the verdict is there."""
        if judged.withheld is not None and not self._order.watching:
            return self._instead(judged.withheld)
        answer = self._changed(part, judged.change, judged)
        self._answered.body.forget()
        return answer

    def _instead(self, withheld: Withheld) -> ProcessingResponse:
        self.over = True
        body = refusal.inference_error(withheld) if self._exchange is None else self._exchange.refusal(withheld)
        return refusal.instead(withheld, self._service.blocked_status, body)

    def _changed(self, part: str, change: Change, judged: Judged | None = None) -> ProcessingResponse:
        put, remove = dict(change.headers), list(change.remove)
        known = self._asked.headers if part.startswith("request") else self._answered.headers
        if change.body is not None and "content-length" in known:
            put["content-length"] = str(len(change.body))  # Envoy answers 500 when they differ
        if self._service.annotate and part in ("response_headers", "response_body"):
            if judged is not None and judged.verdicts is not None:
                put |= annotation.headers(judged.verdicts)
            remove += [n for n in headers.forged(self._answered.headers) if n not in put]
        return reply.proceed(part, put=put, remove=remove, body=change.body)

    def _unmapped(self, part: str) -> ProcessingResponse:
        return self._pass(part, self._service.unmapped(self._known.model))

    def _pass(self, part: str, withheld: Withheld | None) -> ProcessingResponse:
        """Nothing here is judged. The stream may end: to Envoy a clean end means that the exchange goes on without us,
        except for bodies that are ours to forward.
        """
        if withheld is not None and not self._order.watching:
            return self._instead(withheld)
        self._passing, self.over = True, not self._modes.forwarding
        return reply.proceed(part)

    @property
    def _known(self) -> JudgedExchange:
        assert self._exchange is not None  # noqa: S101  otherwise everything passes
        return self._exchange
