"""From the bytes of a request and its answer to a recorded verdict."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TypeVar

from google.protobuf.message import DecodeError

from demur.adapters.servers.oip.annotation import blocks
from demur.adapters.servers.oip.mapping import ProxiedModel
from demur.adapters.servers.oip.withheld import UNREADABLE, Withheld, blocked, unaudited
from demur.monitor.engine import Call, Engine
from demur.monitor.errors import AuditUnavailable
from demur.monitor.event import RefusalEvent
from demur.monitor.loaded import Loaded
from demur.monitor.verdicts import Verdicts, act, unavailable
from demur.proto.oip.inference_pb2 import ModelInferRequest, ModelInferResponse

LOG = logging.getLogger("demur.oip")
M = TypeVar("M", ModelInferRequest, ModelInferResponse)


@dataclass(frozen=True, slots=True)
class Judgement:
    """`verdicts` is None when no monitor stands behind the request; `withheld` replaces the answer in `enforce` mode."""

    verdicts: Verdicts | None = None
    withheld: Withheld | None = None
    readable: bool = False  # the answer parses, so it can be annotated


@dataclass(frozen=True, slots=True)
class Exchange:
    """One ModelInfer call: the request's bytes, the answer's, and what the call's context says.

    `deadline` on `time.perf_counter`'s clock, None when the client set none.
    """

    request: bytes
    answer: bytes
    deadline: float | None = None
    traceparent: str = ""


class Judge:
    """Judges answers with the engines of this process. Never raises; in `observe` mode never withholds."""

    def __init__(self, models: Mapping[str, ProxiedModel], on_refusal: Callable[[RefusalEvent], None]) -> None:
        self._models = models
        self._on_refusal = on_refusal

    def judge(self, exchange: Exchange) -> Judgement:
        """The verdicts on one answer, recorded and told to telemetry."""
        began = perf_counter()
        request = _parsed(ModelInferRequest, exchange.request)
        if request is None:
            self._tell("", "invalid")
            return Judgement(withheld=UNREADABLE if self._enforcing else None)
        model = self._models.get(request.model_name)
        if model is None:
            self._tell("", "unmapped")
            return Judgement()
        answer = _parsed(ModelInferResponse, exchange.answer)
        return replace(self._judged(model, request, answer, exchange, began), readable=answer is not None)

    def _judged(
        self,
        model: ProxiedModel,
        request: ModelInferRequest,
        answer: ModelInferResponse | None,
        exchange: Exchange,
        began: float,
    ) -> Judgement:
        engine, loaded = model.engine, model.engine.loaded
        try:
            observation = model.observe(loaded, request, answer)
            call = Call("oip", perf_counter() - began, exchange.traceparent)
            verdicts = engine.assess(observation, loaded=loaded, deadline=exchange.deadline, call=call)
        except AuditUnavailable:
            self._tell(loaded.policy.monitor, "audit")
            verdicts = _broken(engine, loaded, "the audit log cannot take the record and the operator chose to block")
            return Judgement(verdicts, unaudited(verdicts) if verdicts.mode == "enforce" else None)
        except Exception:  # INVARIANT: a judge that fails abstains; it never takes the model's answer down with it
            LOG.exception("monitor %s: judging an answer failed", loaded.policy.monitor)
            self._tell(loaded.policy.monitor, "internal")
            verdicts = _broken(engine, loaded, "the monitor failed on this answer; the server's log has the details")
        return Judgement(verdicts, blocked(verdicts) if blocks(verdicts) else None)

    @property
    def _enforcing(self) -> bool:
        return any(model.engine.conduct.mode == "enforce" for model in self._models.values())

    def _tell(self, monitor: str, kind: str) -> None:
        try:
            self._on_refusal(RefusalEvent(monitor, kind, "oip"))
        except Exception:  # INVARIANT: telemetry never changes an answer
            LOG.exception("a refusal listener failed")


def _parsed(kind: type[M], raw: bytes) -> M | None:
    try:
        return kind.FromString(raw)
    except DecodeError:
        return None


def _broken(engine: Engine, loaded: Loaded, cause: str) -> Verdicts:
    verdicts = unavailable(loaded.policy, 1, cause)
    mode, on_failure = engine.conduct.mode, engine.conduct.on_failure or loaded.manifest.on_failure
    return replace(verdicts, actions=act(verdicts.reason_bits, mode, on_failure), mode=mode)
