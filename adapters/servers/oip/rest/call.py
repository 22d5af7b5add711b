"""What one judged call sends upstream, and what its answer becomes on the way back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from numpy.typing import NDArray

from demur.adapters.servers.oip.judge import Judge
from demur.adapters.servers.oip.plan import Plan
from demur.adapters.servers.oip.reading import Answered, Asked, UnreadableOutputError
from demur.adapters.servers.oip.rest import coding, headers
from demur.adapters.servers.oip.rest.answer import InferAnswer
from demur.adapters.servers.oip.rest.body import Body, body
from demur.adapters.servers.oip.rest.client import HttpClient
from demur.adapters.servers.oip.rest.coding import CodingError, TooLargeError
from demur.adapters.servers.oip.rest.document import MalformedError
from demur.adapters.servers.oip.rest.headers import BODYS_OWN, JSON_LENGTH, Headers
from demur.adapters.servers.oip.rest.path import Target
from demur.adapters.servers.oip.rest.reply import RefusedError, Reply
from demur.adapters.servers.oip.rest.request import InferRequest

ERROR_BYTES = 1 << 18
Again = Callable[
    [bytes, Headers, bytes, float | None], Reply
]  # target, headers, content, seconds: another call upstream


@dataclass(frozen=True, kw_only=True)
class Sent:
    """One call: the client's `own` headers and content, and those that go upstream, which ask for more outputs."""

    target: bytes
    asked: Asked
    plan: Plan
    own: tuple[Headers, bytes]
    headers: Headers
    content: bytes
    request: InferRequest | None = None

    def unchanged(self, why: str) -> Sent:
        """The client's own request, whose answer cannot be judged because of `why`."""
        plan = replace(self.plan, asking=(), extras=(), cause=why)
        return replace(self, plan=plan, headers=self.own[0], content=self.own[1])


def sent(client: HttpClient, target: Target, content: bytes, judge: Judge, largest_bytes: int) -> Sent:
    """What to send for this request. Raises: RefusedError 413 when its body unfolds beyond the limit."""
    own = headers.passed_on(client.headers, headers.REQUESTS_OWN)
    own = headers.changed(own, {b"content-length": str(len(content))})
    if (accepts := headers.value(own, b"accept-encoding")) is not None:
        own = headers.changed(own, {b"accept-encoding": coding.acceptable(accepts)})
    request, asked, cause = None, Asked(model=target.model, version=target.version, size=len(content)), ""
    try:
        request = InferRequest(target.model, target.version, _plain(own, content, largest_bytes))
        asked = request.asked()
    except (CodingError, MalformedError) as error:
        request, cause = None, f"the request cannot be read: {error}"
    except TooLargeError as error:
        raise RefusedError(413, str(error), "invalid") from error
    plan = judge.plan(asked)
    if plan.asking and request is not None and request.body.raw:
        cause = "a raw request cannot name the outputs that the monitor needs"
    call = Sent(
        target=client.target, asked=asked, plan=plan, own=(own, content), headers=own, content=content, request=request
    )
    if cause or plan.cause:
        return call.unchanged(cause or plan.cause)
    return _asking(call, request) if plan.asking and request is not None else call


def answered(reply: Reply, largest_bytes: int) -> tuple[InferAnswer | None, str]:
    """The answer, or why it cannot be read."""
    try:
        return InferAnswer(_plain(reply.headers, reply.content, largest_bytes)), ""
    except (CodingError, MalformedError, TooLargeError) as error:
        return None, f"upstream's answer cannot be read: {error}"


def text(reply: Reply) -> str:
    """What an error says, "" when it is longer than errors are: it is read between other calls."""
    try:
        name = coding.coding(headers.value(reply.headers, b"content-encoding") or "")
        said = coding.decoded(reply.content, name, ERROR_BYTES)
        return said.decode("utf-8", "replace") if len(said) <= ERROR_BYTES else ""
    except (CodingError, TooLargeError):
        return ""


def resent(reply: Reply, new: Body) -> Reply:
    """The answer with another body, coded as the first was."""
    content, length = new.encoded()
    content = coding.encoded(content, coding.coding(headers.value(reply.headers, b"content-encoding") or ""))
    values: dict[bytes, str | None] = dict.fromkeys(BODYS_OWN)
    values |= {b"content-length": str(len(content)), JSON_LENGTH: None if length is None else str(length)}
    return Reply(reply.status, headers.changed(reply.headers, values), content)


def without_extras(call: Sent, reply: Reply, seen: InferAnswer | None) -> Reply:
    """The answer as a direct call would have got it: without the outputs that only the monitor needed.

    An answer that holds outputs which nobody asked for stays whole, and that is remembered: this server sends all of them
    whatever is asked, so a direct call would have got them too.
    """
    if seen is None or not call.plan.extras:
        return reply
    known = {output.name for output in call.asked.outputs} | set(call.plan.asking)
    if call.plan.model is not None and any(name not in known for name in seen.names):
        call.plan.model.unfiltered.learn(call.asked.version, "yes")
        return reply
    return resent(reply, seen.without(call.plan.extras))


class Handled:
    """Another answer in place of a blocked one, as Hands has it: `prepared` is what the client gets then."""

    def __init__(self, call: Sent, reply: Reply, again: Again, largest_bytes: int) -> None:
        self._call, self._again, self._largest = call, again, largest_bytes
        self.prepared, self.answered_by = reply, ""

    def put(self, arrays: Mapping[str, NDArray[Any]]) -> bool:
        """Put these arrays in place of the answer's outputs of the same names."""
        answer, _ = answered(self.prepared, self._largest)
        here = {} if answer is None else {n: a for n, a in arrays.items() if n in answer.names}
        if answer is None or not here:
            return False
        self.prepared = resent(self.prepared, answer.put(here))
        return True

    def ask(self, model: str, version: str) -> bool:
        """Send the client's own request to another model of the same server."""
        _, _, query = self._call.target.partition(b"?")
        path = f"/v2/models/{quote(model, safe='')}"
        if version:
            path += f"/versions/{quote(version, safe='')}"
        target = f"{path}/infer".encode() + (b"?" + query if query else b"")
        try:
            found = self._again(target, *self._call.own, None)
        except RefusedError:
            return False
        if found.status != 200 or answered(found, self._largest)[0] is None:
            return False
        self.prepared, self.answered_by = found, model
        return True


def further_calls(call: Sent, again: Again, largest_bytes: int) -> Callable[..., Answered] | None:
    """The same request with other inputs; None for one that could not be read."""
    request = call.request
    if request is None or request.body.raw:
        return None

    def answer(inputs: Mapping[str, NDArray[Any]], seconds: float | None) -> Answered:
        if request.of_sequence:
            raise UnreadableOutputError("a request of a sequence cannot be asked again: the model keeps its state")
        try:
            whole = replace(request, body=request.asking_for(call.plan.asking)) if call.plan.asking else request
            fields, content = _encoded(call.own[0], whole.with_inputs(inputs))
            reply = again(call.target, fields, content, seconds)
        except (RefusedError, MalformedError, TimeoutError) as error:
            raise UnreadableOutputError(f"a further call of the model failed: {str(error) or 'not in time'}") from error
        found, cause = answered(reply, largest_bytes)
        if found is None or reply.status != 200:
            raise UnreadableOutputError(f"a further call of the model failed: status {reply.status} {cause}".rstrip())
        return found

    return answer


def _asking(call: Sent, request: InferRequest) -> Sent:
    fields, content = _encoded(call.own[0], request.asking_for(call.plan.asking))
    return replace(call, headers=fields, content=content)


def _encoded(own: Headers, new: Body) -> tuple[Headers, bytes]:
    """Headers and content of a changed request; it goes out uncoded."""
    content, length = new.encoded()
    values: dict[bytes, str | None] = dict.fromkeys((*BODYS_OWN, b"content-encoding"))
    values |= {b"content-length": str(len(content)), JSON_LENGTH: None if length is None else str(length)}
    return headers.changed(own, values), content


def _plain(fields: Headers, content: bytes, largest_bytes: int) -> Body:
    name = coding.coding(headers.value(fields, b"content-encoding") or "")
    return body(coding.decoded(content, name, largest_bytes), headers.value(fields, JSON_LENGTH))
