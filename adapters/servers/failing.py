"""What a server does about an answer that could not be judged: the verdict, and what the operator chose to do about it."""

from __future__ import annotations

from dataclasses import replace

from demur.monitor.engine import Engine
from demur.monitor.verdicts import Verdicts, act, unavailable


def holds_back(engine: Engine) -> bool:
    """Whether an answer that cannot be judged must not reach the client."""
    return engine.conduct.mode == "enforce" and _on_failure(engine) == "block"


def broken(engine: Engine, cause: str) -> Verdicts:
    """ABSTAIN(UNAVAILABLE, cause), one unit, with the action that the operator chose. Nothing is recorded."""
    verdicts, mode = unavailable(engine.loaded.policy, 1, cause), engine.conduct.mode
    return replace(verdicts, actions=act(verdicts.reason_bits, mode, _on_failure(engine)), mode=mode)


def _on_failure(engine: Engine) -> str:
    return engine.conduct.on_failure or engine.loaded.manifest.on_failure
