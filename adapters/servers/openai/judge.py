"""Completions judged: each choice is one token stream, and the answer is withheld when one of them is blocked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from demur.adapters.servers.failing import broken, holds_back
from demur.adapters.servers.oip.remedy import nothing
from demur.adapters.servers.oip.withheld import Withheld, blocked, unaudited
from demur.adapters.servers.openai.completion import Completion
from demur.adapters.servers.openai.tokens import SIGNALS, Tokens
from demur.monitor.config.ext_proc import CompletionModelConfig
from demur.monitor.engine import Call, Engine
from demur.monitor.errors import AuditUnavailable, ConfigurationError
from demur.monitor.event import RefusalEvent
from demur.monitor.loaded import Loaded
from demur.monitor.observation import Observation
from demur.monitor.sequence import assess_sequence
from demur.monitor.verdicts import Verdicts, blocks

LOG = logging.getLogger("demur.openai")
ANY = "*"


@dataclass(frozen=True, eq=False)
class CompletionModel:
    """One model and the stream monitor behind it; `most` alternatives of each token are signals."""

    engine: Engine
    config: CompletionModelConfig

    @property
    def most(self) -> int:
        """Alternatives of each token that the monitor reads."""
        widths = self.engine.loaded.widths
        return widths.get("topk_logprobs") or widths.get("topk_mask") or 0

    @property
    def enforcing(self) -> bool:
        """Whether an answer that cannot be judged must not reach the client."""
        return holds_back(self.engine)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is judged, and what stands around it; `watching`: nobody can act on the verdict."""

    model: str
    completion: Completion
    cause: str = ""
    request: str = ""
    deadline: float | None = None
    traceparent: str = ""
    protocol: str = "openai"
    watching: bool = False


class CompletionJudge:
    """Judges completions with the engines of this process. Never raises; in `observe` mode never withholds."""

    def __init__(self, models: Mapping[str, CompletionModel], on_refusal: Callable[[RefusalEvent], None]) -> None:
        self._models, self._on_refusal = models, on_refusal

    def model(self, name: str) -> CompletionModel | None:
        """The model of this name, else the one configured for any."""
        return self._models.get(name) or self._models.get(ANY)

    @property
    def enforcing(self) -> bool:
        """Whether an answer of some model must not pass when it cannot be judged."""
        return any(m.enforcing for m in self._models.values())

    def judge(self, model: CompletionModel, answer: Answer) -> tuple[list[Verdicts], Withheld | None]:
        """One verdict for each choice, recorded, or one for the answer when it cannot be judged; and what goes out instead
        of the answer.
        """
        engine, loaded = model.engine, model.engine.loaded
        try:
            found = [self._assessed(engine, loaded, answer, o) for o in _observations(loaded, answer)]
        except AuditUnavailable:
            self.tell(loaded.policy.monitor, "audit", answer.protocol)
            found = [broken(engine, "the audit log cannot take the record and the operator chose to block", loaded)]
            return found, unaudited(found[0]) if found[0].mode == "enforce" else None
        except Exception:  # INVARIANT: a judge that fails abstains; it never takes the model's answer down with it
            LOG.exception("monitor %s: judging an answer failed", loaded.policy.monitor)
            self.tell(loaded.policy.monitor, "internal", answer.protocol)
            found = [broken(engine, "the monitor failed on this answer; the server's log has the details", loaded)]
        return found, withheld(found)

    def tell(self, monitor: str, kind: str, protocol: str) -> None:
        """Count an exchange that no verdict stands for."""
        try:
            self._on_refusal(RefusalEvent(monitor, kind, protocol))
        except Exception:  # INVARIANT: telemetry never changes an answer
            LOG.exception("a refusal listener failed")

    def _assessed(self, engine: Engine, loaded: Loaded, answer: Answer, observation: Observation) -> Verdicts:
        call = Call(answer.protocol, 0.0, answer.traceparent)
        remedy = nothing if answer.watching else None
        return assess_sequence(engine, observation, loaded=loaded, deadline=answer.deadline, call=call, remedy=remedy)


def withheld(found: list[Verdicts]) -> Withheld | None:
    """The refusal of the first choice that is to be blocked, None when none is."""
    for place, verdicts in enumerate(found):
        if blocks(verdicts):
            choice = f"choice {place}" if len(found) > 1 else "the answer"
            return replace(blocked(verdicts), details=f"demur: {choice} is withheld: {'; '.join(verdicts.reasons[0])}")
    return None


def completion_models(
    models: Mapping[str, CompletionModelConfig], engines: Mapping[str, Engine]
) -> dict[str, CompletionModel]:
    """The models of a configuration by name.

    Raises: ConfigurationError when a monitor is not served here, judges rows, or has signals that completions do not carry.
    """
    return {name: _model(name, config, engines) for name, config in models.items()}


def _model(name: str, config: CompletionModelConfig, engines: Mapping[str, Engine]) -> CompletionModel:
    where = f"completions model {name}"
    engine = engines.get(config.monitor)
    if engine is None:
        raise ConfigurationError(f"{where}: no monitor {config.monitor!r} is served here; add it under monitors")
    loaded = engine.loaded
    if loaded.manifest.kind != "stream":
        raise ConfigurationError(f"{where}: monitor {config.monitor} judges rows; an answer is one token stream")
    unknown = sorted(set(loaded.widths) - SIGNALS - set(loaded.unread))
    if unknown:
        raise ConfigurationError(
            f"{where}: completions carry {', '.join(sorted(SIGNALS))}; monitor {config.monitor} reads {', '.join(unknown)}"
        )
    return CompletionModel(engine, config)


def _observations(loaded: Loaded, answer: Answer) -> list[Observation]:
    cause = answer.cause or answer.completion.cause or _bare(loaded, answer.completion)
    about: dict[str, Any] = {"request": answer.request, "model": {"name": answer.model}}
    if cause:
        return [Observation({}, 1, cause=cause, **about)]
    return [_observation(loaded, tokens, about) for tokens in answer.completion.choices]


def _bare(loaded: Loaded, completion: Completion) -> str:
    """Why a monitor that reads alternatives cannot judge an answer without any, or ""."""
    wanted = loaded.widths.get("topk_logprobs", 0) if "topk_logprobs" not in loaded.unread else 0
    return (
        f"no top_logprobs: ask for top_logprobs: {wanted}" if wanted and any(t.bare for t in completion.choices) else ""
    )


def _observation(loaded: Loaded, tokens: Tokens, about: dict[str, Any]) -> Observation:
    signals = tokens.signals(loaded.widths)
    wrong = {n for n, a in signals.items() if a.shape[1] != loaded.widths[n]}
    missing = tuple(n for n in loaded.widths if n not in signals or n in wrong)
    return Observation({n: a for n, a in signals.items() if n not in wrong}, len(tokens), missing=missing, **about)
