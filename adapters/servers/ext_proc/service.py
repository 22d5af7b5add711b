"""What all exchanges share: the models and their judges, limits, and where numbers go."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import grpc

from demur.adapters.servers.ext_proc.body import Body, Memory
from demur.adapters.servers.ext_proc.completions import CompletionExchange
from demur.adapters.servers.ext_proc.exchange import PROTOCOL, JudgedExchange
from demur.adapters.servers.ext_proc.infer import InferExchange
from demur.adapters.servers.ext_proc.message import Message
from demur.adapters.servers.ext_proc.reply import BUFFERING
from demur.adapters.servers.ext_proc.route import route
from demur.adapters.servers.ext_proc.scoring import Scoring
from demur.adapters.servers.failing import holds_back
from demur.adapters.servers.oip.judge import Judge
from demur.adapters.servers.oip.mapping import proxied
from demur.adapters.servers.oip.withheld import Withheld
from demur.adapters.servers.openai.judge import CompletionJudge, completion_models
from demur.monitor.config.ext_proc import ExtProcConfig
from demur.monitor.config.server import LimitsConfig
from demur.monitor.engine import Engine
from demur.monitor.event import RefusalEvent

MARGIN = 0.1  # of the budget, kept for recording and answering


class Service:
    """Made once for each server. Raises: ConfigurationError when models and monitors do not fit."""

    def __init__(
        self,
        config: ExtProcConfig,
        engines: Mapping[str, Engine],
        limits: LimitsConfig,
        on_refusal: Callable[[RefusalEvent], None],
    ) -> None:
        self._config, self._on_refusal = config, on_refusal
        self._models = proxied(config.infer, engines, limits)
        self._infer = Judge(self._models, on_refusal)
        self._completions = CompletionJudge(completion_models(config.completions, engines), on_refusal)
        self._enforced = [m.engine for m in self._models.values()]
        self.scoring = Scoring(limits.threads, limits.queue)
        self.memory = Memory(config.buffer_bytes)
        self.annotate, self.blocked_status = config.annotate, config.blocked_status
        self.budget_seconds = config.budget_ms / 1e3
        self.margin_seconds = self.budget_seconds * MARGIN
        self.wanted = BUFFERING if config.mode_override else None

    @property
    def enforcing(self) -> bool:
        """Whether an answer of some model must not pass when it cannot be judged."""
        return self._completions.enforcing or any(holds_back(e) for e in self._enforced)

    def patience(self, *, of_client: bool) -> float:
        """Seconds until an exchange is given up of which nothing more comes, from its client or from the server."""
        if not self.enforcing:
            return math.inf
        return self._config.client_seconds if of_client else self._config.idle_seconds

    def exchange(self, headers: Mapping[str, str]) -> JudgedExchange | Withheld | None:
        """For a request with these headers; None when nothing judges its answer, a refusal when it shall not pass then."""
        found = route(headers.get(":method", ""), headers.get(":path", ""))
        if found is None:
            return None
        if found.kind in ("chat", "text"):
            return CompletionExchange(self._completions, found, headers) if self._config.completions else None
        if found.model not in self._models:
            self.tell("", "unmapped")
            return self.unmapped(found.model)
        return InferExchange(self._infer, found, headers, self._config.body_bytes)

    def unmapped(self, model: str) -> Withheld | None:
        """What the client of a model without a monitor gets; None lets it pass."""
        if self._config.unmapped == "pass":
            return None
        said = f"demur: no monitor is mapped to model {model[:128]!r} and ext_proc.unmapped is block"
        reasons = (("demur-verdict", "ABSTAIN"), ("demur-action", "BLOCK"), ("demur-reasons", "UNAVAILABLE"))
        return Withheld(grpc.StatusCode.FAILED_PRECONDITION, said, reasons)

    def message(self, headers: Mapping[str, str]) -> Message:
        """One whose body is still to come, within the limits."""
        return Message(Body(headers.get("content-encoding", ""), self._config.body_bytes, self.memory), headers)

    def tell(self, monitor: str, kind: str) -> None:
        """Count an exchange that no verdict stands for."""
        self._infer.tell(monitor, kind, PROTOCOL)
