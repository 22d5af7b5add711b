"""One ModelInfer call: forwarded, judged, and answered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
from numpy.typing import NDArray

from demur.adapters.servers.oip import messages, splice
from demur.adapters.servers.oip.answer import InferAnswer, ShownAnswer, answered, shown
from demur.adapters.servers.oip.backlog import Backlog
from demur.adapters.servers.oip.judge import Exchange, Judge, Judgement
from demur.adapters.servers.oip.plan import Plan
from demur.adapters.servers.oip.proxied_model import ProxiedModel
from demur.adapters.servers.oip.reading import Answered, Asked, UnreadableOutputError
from demur.adapters.servers.oip.refusal import rejected
from demur.adapters.servers.oip.upstream import Outcome, Upstream, deadline, traceparent
from demur.monitor.errors import DemurError
from demur.monitor.loaded import Loaded

UNALIGNED = "the outputs that the monitor needs cannot be told from the client's in upstream's answer"
REPEATED = "yes"
FIELD_BYTES = 200  # of memory for each field of an answer whose places were looked up
# A server says so before the model runs; anything else may come after it ran, and a sequence must not advance twice.
BEFORE_RUNNING = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)


@dataclass(slots=True)  # not frozen: one is made for every request
class Sent:
    """An answer that goes out before it is judged: `read` as far as it was read, else the bytes that upstream gave."""

    asked: Asked
    read: ShownAnswer | bytes | None
    plan: Plan
    loaded: Loaded
    traceparent: str
    cause: str = ""

    @property
    def size_bytes(self) -> int:
        """About what it holds."""
        read = self.read
        if read is None or isinstance(read, bytes):
            return self.asked.kept_bytes + len(read or b"")
        if isinstance(read, InferAnswer):
            return self.asked.kept_bytes + read.size + FIELD_BYTES * len(read.fields)
        return self.asked.kept_bytes + 2 * (read.size + FIELD_BYTES * len(read.outputs))

    def exchange(self) -> Exchange:
        """What the judge looks at."""
        seen = shown(self.read) if isinstance(self.read, bytes) else self.read
        return Exchange(asked=self.asked, answered=seen, plan=self.plan, cause=self.cause, traceparent=self.traceparent)


@dataclass
class Inference:
    """One request on its way; it is its own exchange's hands. With a `backlog`, its answer may go out before it is judged."""

    upstream: Upstream
    judge: Judge
    method: str
    request: bytes
    context: Any
    backlog: Backlog[Sent] | None = None
    asked: Asked | None = None
    plan: Plan = field(default_factory=Plan)
    seen: ShownAnswer | None = None  # the answer as the monitor sees it
    _kept: bytes | None = None  # the answer as the client gets it, where that is another
    instead: Outcome | None = None
    answered_by: str = ""

    @property
    def kept(self) -> InferAnswer | None:
        """The answer as the client gets it, when it can be read."""
        if self._kept is not None:
            return answered(self._kept)
        return self.seen if isinstance(self.seen, InferAnswer) else None

    def run(self) -> tuple[Outcome, Judgement | None]:
        """How the call ended, its answer being what the client gets, and what is thought of it when there is one already."""
        self.asked = messages.asked(self.request)
        self.plan = self.judge.plan(self.asked)
        outcome = self._called()
        if not outcome.ok:
            self.judge.unanswered(self.plan)
            return outcome, None
        unread = not self.plan.extras
        if unread and self._deferred(outcome.answer):
            return outcome, None
        outcome = self._read(outcome)
        if not outcome.ok or (not unread and self._deferred(outcome.answer)):
            return outcome, None
        judgement = self.judge.judge(self._exchange(self.seen))
        return self._substituted(outcome, judgement), judgement

    def put(self, arrays: Mapping[str, NDArray[Any]]) -> bool:
        """See Hands."""
        kept = self.kept
        if kept is None:
            return False
        here = {name: array for name, array in arrays.items() if name in kept.names}
        answer = splice.put(kept, here) if here else None
        if answer is not None:
            self.instead = Outcome.of(answer)
        return answer is not None

    def ask(self, model: str, version: str) -> bool:
        """See Hands."""
        outcome = self.upstream.forward(self.method, splice.addressed(self.request, model, version), self.context)
        if not outcome.ok or answered(outcome.answer) is None:
            return False
        self.instead, self.answered_by = outcome, model
        return True

    def again(self, inputs: Mapping[str, NDArray[Any]], seconds: float | None) -> InferAnswer:
        """See Again."""
        if messages.in_sequence(self.request):
            raise UnreadableOutputError("a request of a sequence cannot be asked again: the model keeps its state")
        model = self.plan.model
        needed = () if model is None else model.contract(model.engine.loaded).needed
        request = splice.with_inputs(self.request, inputs, needed if self.asked and self.asked.outputs else ())
        outcome = self.upstream.forward(self.method, request, self.context, seconds)
        answer = answered(outcome.answer) if outcome.ok else None
        if answer is None:
            raise UnreadableOutputError(f"a further call of the model failed: {outcome.code.name} {outcome.details}")
        return answer

    def _called(self) -> Outcome:
        if not self.plan.asking:
            return self.upstream.forward(self.method, self.request, self.context)
        request = splice.asking_for(self.request, self.plan.asking)
        outcome = self.upstream.forward(self.method, request, self.context)
        why = "" if outcome.ok else rejected(outcome.code, outcome.details, self.plan.asking)
        if not why:
            return outcome
        if outcome.code not in BEFORE_RUNNING and messages.in_sequence(self.request):
            if not any(
                name.encode() in self.request for name in self.plan.asking
            ):  # else the client may have written it
                self._learn(why)
            return outcome
        return self._plainly(why)

    def _read(self, outcome: Outcome) -> Outcome:
        """The answer as the client gets it."""
        if self.asked is None or not self.plan.extras:
            self.seen = answered(outcome.answer)
            return outcome
        seen = self.seen = shown(outcome.answer)
        if seen is None:
            return outcome
        whole = kept_whole(self.plan, self.asked, seen.names)
        bare = outcome.answer if whole else splice.without(seen, outcome.answer, self.plan.extras)
        if bare is not None:
            self._kept = bare
            return outcome.with_answer(bare)
        if messages.in_sequence(self.request):
            self._learn(UNALIGNED)
            self.plan = Plan(self.plan.model, cause=UNALIGNED)
            return outcome  # whole: the model must not run a second time
        outcome = self._plainly(UNALIGNED)
        self.seen = answered(outcome.answer)
        return outcome

    def _plainly(self, why: str) -> Outcome:
        """The client's own request, after the one with more outputs failed; remembered when that is what helped."""
        outcome = self.upstream.forward(self.method, self.request, self.context)
        if outcome.ok:
            self._learn(why)
        self.plan = Plan(self.plan.model, cause=why)
        return outcome

    def _learn(self, why: str) -> None:
        if self.plan.model is not None and self.asked is not None:
            self.plan.model.rejections.learn(self.asked.version, why)

    def _deferred(self, answer: bytes) -> bool:
        """Whether the backlog took it."""
        asked = self.asked
        loaded = None if self.backlog is None else self.judge.defers(self.plan)
        if self.backlog is None or asked is None or loaded is None:
            return False
        sent = Sent(asked.without_message(), self.seen or answer, self.plan, loaded, traceparent(self.context))
        return self.backlog.put(sent, sent.size_bytes)

    def _exchange(self, seen: ShownAnswer | None) -> Exchange:
        return Exchange(
            asked=self.asked,
            answered=seen,
            plan=self.plan,
            deadline=deadline(self.context),
            traceparent=traceparent(self.context),
            hands=self,
            again=self.again,
        )

    def _substituted(self, outcome: Outcome, judgement: Judgement) -> Outcome:
        """The answer that a remedy prepared, when the verdicts were recorded with it."""
        if not judgement.action or self.instead is None:
            return outcome
        if self.answered_by:
            return self.instead
        return outcome.with_answer(self.instead.answer)


def kept_whole(plan: Plan, asked: Asked, names: Iterable[str]) -> bool:
    """Whether an answer of outputs of these names goes out as it is, as it holds some that nobody asked for: this server sends
    all of them whatever is asked, so a direct call would have got them too.
    """
    known = {output.name for output in asked.outputs} | set(plan.asking)
    if plan.model is None or all(name in known for name in names):
        return False
    plan.model.unfiltered.learn(asked.version, REPEATED)
    return True


def seen_by(model: ProxiedModel | None, seen: Answered | None) -> dict[str, NDArray[Any]]:
    """What a decoder shows beside verdicts: `map`, (B, h, w) float32, the risk of each pixel."""
    maps = getattr(None if model is None else model.adapter, "maps", None)
    if maps is None or model is None or seen is None or model.adapter is None:
        return {}
    limit = model.limits.tensor_bytes
    try:
        return {"map": maps({n: seen.tensor(n).array(limit) for n in model.adapter.outputs})}
    except (UnreadableOutputError, DemurError):
        return {}
