"""What a server does about an answer that could not be judged: the verdict, and what the operator chose to do about it."""

from __future__ import annotations

from dataclasses import replace

from demur.monitor.engine import Engine
from demur.monitor.loaded import Loaded
from demur.monitor.verdicts import Verdicts, act, unavailable


def holds_back(engine: Engine) -> bool:
    """Whether an answer that cannot be judged must not reach the client."""
    return engine.conduct.mode == "enforce" and _on_failure(engine, engine.loaded) == "block"


def broken(engine: Engine, cause: str, loaded: Loaded | None = None) -> Verdicts:
    """ABSTAIN(UNAVAILABLE, cause), one unit, with the action that the operator chose. `loaded`: the bundle that the request
    began with. Nothing is recorded.
    """
    loaded, mode = loaded or engine.loaded, engine.conduct.mode
    verdicts = unavailable(loaded.policy, 1, cause)
    return replace(verdicts, actions=act(verdicts.reason_bits, mode, _on_failure(engine, loaded)), mode=mode)


def _on_failure(engine: Engine, loaded: Loaded) -> str:
    return engine.conduct.on_failure or loaded.manifest.on_failure
