"""From a request and its answer, as some protocol carried them, to a recorded verdict."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Protocol, TypeAlias

from demur.adapters.servers.failing import broken
from demur.adapters.servers.oip import remedy
from demur.adapters.servers.oip.annotation import unjudged
from demur.adapters.servers.oip.plan import Plan
from demur.adapters.servers.oip.proxied_model import ProxiedModel
from demur.adapters.servers.oip.reading import Again, Answered, Asked, Hands
from demur.adapters.servers.oip.withheld import UNREADABLE, Withheld, blocked, unaudited, unmapped
from demur.monitor.engine import Call
from demur.monitor.errors import AuditUnavailable
from demur.monitor.event import RefusalEvent
from demur.monitor.loaded import Loaded
from demur.monitor.observation import Observation
from demur.monitor.scoring import Scored
from demur.monitor.verdicts import Action, Verdicts, blocks

LOG = logging.getLogger("demur.oip")
UNPLANNED = Plan()
TOGETHER_BYTES = (
    32 << 20
)  # of answers unpacked: a JSON one takes several times its size in memory, and packed ones a hundred times


@dataclass(slots=True)  # not frozen: one is made for every request
class Judgement:
    """`verdicts` is None when the request cannot be read, so that no monitor can be told from it. `withheld` goes out in
    place of the answer. `action` is REPLACE or ROUTE when the exchange's hands prepared another answer: send that one.
    """

    verdicts: Verdicts | None = None
    withheld: Withheld | None = None
    action: Action = Action.NONE


@dataclass(slots=True, kw_only=True)  # not frozen: one is made for every request
class Exchange:
    """One inference call: what was asked (None: unreadable), what was answered (None: unreadable), and what stands around it.

    `plan` as `Judge.plan` made it. `deadline` on `time.perf_counter`'s clock, None when the client set none. `cause` why
    this answer cannot be judged, when the protocol knows. `hands` prepare other answers (None: a blocked answer is withheld);
    `again` calls the model again. `watching`: nobody can act on the verdict, so that no action is recorded.
    """

    asked: Asked | None
    answered: Answered | None
    plan: Plan = UNPLANNED
    cause: str = ""
    deadline: float | None = None
    traceparent: str = ""
    protocol: str = "oip"
    hands: Hands | None = None
    again: Again | None = None
    watching: bool = False


@dataclass(slots=True)  # not frozen: one is made for every request
class Read:
    """What an answer shows of a model, how long reading it took, and its scores where several were scored together."""

    observation: Observation
    seconds: float
    scored: Scored | None = None


Opened: TypeAlias = dict[tuple[ProxiedModel, Loaded], list[tuple[Asked, Exchange]]]


class Gone(Protocol):
    """An answer that went out before it was judged."""

    @property
    def asked(self) -> Asked:
        """The request, without its message."""
        ...

    @property
    def plan(self) -> Plan:
        """As for Exchange, of a mapped model."""
        ...

    @property
    def loaded(self) -> Loaded:
        """The bundle that was served when it went out."""
        ...

    def exchange(self) -> Exchange:
        """The whole, its answer read now."""
        ...


class Judge:
    """Judges answers with the engines of this process. Never raises; in `observe` mode never withholds."""

    def __init__(
        self,
        models: Mapping[str, ProxiedModel],
        on_refusal: Callable[[RefusalEvent], None],
        *,
        block_unmapped: bool = False,
    ) -> None:
        self._models = models
        self._on_refusal = on_refusal
        self._block_unmapped = block_unmapped

    def plan(self, asked: Asked | None) -> Plan:
        """What to ask of upstream for this request."""
        model = None if asked is None else self._models.get(asked.model)
        return Plan() if model is None or asked is None else model.plan(asked)

    def model(self, name: str) -> ProxiedModel | None:
        """The mapped model of this name."""
        return self._models.get(name)

    def defers(self, plan: Plan) -> Loaded | None:
        """The bundle to judge an answer with that may go out before: nobody acts on the verdict or waits for its record, and it
        takes no further call. None when the answer must wait.
        """
        model = plan.model
        return None if model is None or model.gather is not None or model.engine.awaited else model.engine.loaded

    def judge(self, exchange: Exchange) -> Judgement:
        """The verdicts on one answer, recorded and told to telemetry."""
        asked, model = exchange.asked, exchange.plan.model
        if asked is None:
            self.tell("", "invalid", exchange.protocol)
            return Judgement(withheld=UNREADABLE if self._enforcing else None)
        if model is None:
            self.tell("", "unmapped", exchange.protocol)
            verdicts = unjudged(1, f"no monitor is mapped to model {asked.model!r}")
            return Judgement(verdicts, unmapped(asked.model) if self._block_unmapped else None)
        return self._judged(model, asked, exchange, model.engine.loaded)

    def judge_together(self, gone: Iterable[Gone]) -> None:
        """As `judge`, for answers of mapped models that have gone out, whose verdicts nobody waits for: those of one model are
        scored in one run, as many as TOGETHER_BYTES hold once they are unpacked.
        """
        opened: Opened = {}
        size = 0
        for answer in gone:
            model = answer.plan.model
            if model is None:
                continue
            try:
                exchange = answer.exchange()
            except Exception:  # INVARIANT: an answer that cannot be read takes no other verdict with it
                LOG.exception("monitor %s: reading an answer failed", answer.loaded.policy.monitor)
                self.tell(answer.loaded.policy.monitor, "internal")
                continue
            opened.setdefault((model, answer.loaded), []).append((answer.asked, exchange))
            size += 0 if exchange.answered is None else exchange.answered.size
            if size > TOGETHER_BYTES:
                self._judge_opened(opened)
                opened, size = {}, 0
        self._judge_opened(opened)

    def _judge_opened(self, opened: Opened) -> None:
        for (model, loaded), ours in opened.items():
            for (asked, exchange), read in zip(ours, self._read_together(model, ours, loaded), strict=True):
                self._judged(model, asked, exchange, loaded, read)

    def _read_together(
        self, model: ProxiedModel, ours: Sequence[tuple[Asked, Exchange]], loaded: Loaded
    ) -> Sequence[Read | None]:
        """None for all of them when one cannot be read: each then fails alone."""
        try:
            reads = [self._read(model, asked, exchange, loaded) for asked, exchange in ours]
        except Exception:
            LOG.exception("monitor %s: reading several answers failed; each is read alone", loaded.policy.monitor)
            return [None] * len(ours)
        for read, scored in zip(
            reads, model.engine.score_together(loaded, [r.observation for r in reads]), strict=True
        ):
            read.scored = scored
        return reads

    def _judged(
        self, model: ProxiedModel, asked: Asked, exchange: Exchange, loaded: Loaded, read: Read | None = None
    ) -> Judgement:
        engine = model.engine
        try:
            verdicts = self._assessed(model, exchange, loaded, read or self._read(model, asked, exchange, loaded))
        except AuditUnavailable:
            self.tell(loaded.policy.monitor, "audit", exchange.protocol)
            verdicts = broken(engine, "the audit log cannot take the record and the operator chose to block", loaded)
            return Judgement(verdicts, unaudited(verdicts) if verdicts.mode == "enforce" else None)
        except Exception:  # INVARIANT: a judge that fails abstains; it never takes the model's answer down with it
            LOG.exception("monitor %s: judging an answer failed", loaded.policy.monitor)
            self.tell(loaded.policy.monitor, "internal", exchange.protocol)
            verdicts = broken(engine, "the monitor failed on this answer; the server's log has the details", loaded)
        if verdicts.mode != "enforce":
            return Judgement(verdicts)
        return Judgement(verdicts, blocked(verdicts) if blocks(verdicts) else None, remedy.done(verdicts))

    def _read(self, model: ProxiedModel, asked: Asked, exchange: Exchange, loaded: Loaded) -> Read:
        began = perf_counter()
        observation = model.observe(
            loaded,
            asked,
            exchange.answered,
            cause=exchange.plan.cause or exchange.cause,
            again=exchange.again,
            seconds=None if exchange.deadline is None else exchange.deadline - began,
        )
        return Read(observation, perf_counter() - began)

    def _assessed(self, model: ProxiedModel, exchange: Exchange, loaded: Loaded, read: Read) -> Verdicts:
        call = Call(exchange.protocol, read.seconds, exchange.traceparent)
        cure = remedy.nothing if exchange.watching else None
        if exchange.hands is not None and model.config.on_abstain != "error":
            cure = partial(remedy.tried, model, exchange.answered, exchange.hands)
        return model.engine.assess(
            read.observation, loaded=loaded, deadline=exchange.deadline, call=call, remedy=cure, scored=read.scored
        )

    @property
    def _enforcing(self) -> bool:
        modes = any(model.engine.conduct.mode == "enforce" for model in self._models.values())
        return modes or self._block_unmapped

    def unanswered(self, plan: Plan, protocol: str = "oip") -> None:
        """Count a request to a mapped model that upstream gave no answer to judge."""
        if plan.model is not None:
            self.tell("", "upstream", protocol)

    def tell(self, monitor: str, kind: str, protocol: str = "oip") -> None:
        """Count an exchange that no verdict stands for."""
        try:
            self._on_refusal(RefusalEvent(monitor, kind, protocol))
        except Exception:  # INVARIANT: telemetry never changes an answer
            LOG.exception("a refusal listener failed")
