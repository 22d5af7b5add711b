"""One monitor at work: take the bundle once, score, record, tell telemetry, answer."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Literal, Protocol

from demur.monitor.contract import out_of_range, why_not
from demur.monitor.event import DecisionEvent
from demur.monitor.loaded import Loaded
from demur.monitor.observation import Observation
from demur.monitor.scoring import Scored, batch_verdicts, run, run_together
from demur.monitor.verdicts import Action, Verdicts, act, blocks, remedied, unavailable

LOG = logging.getLogger("demur.engine")
RANGE_EVERY = 64  # signals are compared with their calibration ranges on every 64th request: two reductions cost as much as the graph at N = 1

FAILED = "the graph failed on this batch; the server's log has the details"

Listener = Callable[[DecisionEvent], None]
Remedy = Callable[[Observation, Verdicts], Action]  # what was done instead of blocking; BLOCK when nothing could be


class Recorder(Protocol):
    """Where verdicts are recorded before they are answered."""

    @property
    def gates(self) -> bool:
        """Whether an answer must wait for its record, because it is on disk first or may be refused for want of it."""
        ...

    def record(self, loaded: Loaded, observation: Observation, verdicts: Verdicts) -> tuple[int, bool]:
        """The record's sequence number and whether it is in, or on its way to, the log (False: lost, and counted).

        Raises: AuditUnavailable when the operator chose to block.
        """
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """How a request came in, for telemetry."""

    protocol: str = "python"
    decode_seconds: float = 0.0
    traceparent: str = ""


LOCAL = Call()


@dataclass(frozen=True)
class Conduct:
    """What an operator chooses for one monitor; none of it changes a verdict."""

    mode: Literal["observe", "enforce"] = "observe"
    on_failure: Literal["block", "pass"] | None = None  # None: the bundle's
    budget_seconds: float | None = None


class Engine:
    """Assesses observations with the current bundle. Thread-safe; `activate` swaps the bundle between requests."""

    def __init__(
        self,
        loaded: Loaded,
        *,
        conduct: Conduct | None = None,
        recorder: Recorder | None = None,
        listeners: Sequence[Listener] = (),
    ) -> None:
        self._loaded = loaded
        self.conduct = conduct or Conduct()
        self._recorder = recorder
        self._listeners = tuple(listeners)
        self._swap = threading.Lock()
        self._turn = 0

    @property
    def loaded(self) -> Loaded:
        """The bundle that the next request will use."""
        return self._loaded

    def activate(self, loaded: Loaded) -> Loaded:
        """Serve another bundle from now on; returns the one it replaces. Requests under way keep theirs."""
        with self._swap:
            before, self._loaded = self._loaded, loaded
        return before

    def assess(
        self,
        observation: Observation,
        *,
        loaded: Loaded | None = None,
        deadline: float | None = None,
        call: Call = LOCAL,
        remedy: Remedy | None = None,
        scored: Scored | None = None,
    ) -> Verdicts:
        """Verdicts for every row, and every group when the policy has group rules. Never raises for what the values are.

        `deadline` is on `time.perf_counter`'s clock; past it, or past the monitor's budget, every row is UNAVAILABLE.
        `remedy` is called when something is to be blocked, before the verdicts are recorded: the record says what it did.
        `scored` is what `score_together` found for this observation with the same bundle.
        Raises: AuditUnavailable when the log cannot take the record and the operator chose to block.
        """
        loaded = loaded or self._loaded
        began = perf_counter() - (0.0 if scored is None else scored.seconds)
        verdicts = self._judge(loaded, observation, began, deadline, scored)
        return self.finish(loaded, observation, verdicts, began, call, remedy)

    def finish(
        self,
        loaded: Loaded,
        observation: Observation,
        verdicts: Verdicts,
        began: float,
        call: Call,
        remedy: Remedy | None = None,
    ) -> Verdicts:
        """Say what to do, record it, tell telemetry: the same for batches and for steps of streams.

        Raises: AuditUnavailable when the log cannot take the record and the operator chose to block.
        """
        scored = perf_counter()
        self._act(loaded, verdicts)
        if remedy is not None and blocks(verdicts):
            remedied(verdicts, _tried(remedy, observation, verdicts))
        if self._recorder is not None:
            verdicts.sequence, verdicts.audited = self._recorder.record(loaded, observation, verdicts)
        if self._listeners:
            ended = perf_counter()
            stages = {"decode": call.decode_seconds, "score": scored - began, "audit": ended - scored}
            self._tell(loaded, observation, verdicts, ended - began + call.decode_seconds, stages, call)
        return verdicts

    @property
    def awaited(self) -> bool:
        """Whether an answer must wait for its verdict: somebody acts on it, a record gates it, or it must come in time."""
        gated = self._recorder is not None and self._recorder.gates
        return gated or self.conduct.mode != "observe" or self.conduct.budget_seconds is not None

    def score_together(self, loaded: Loaded, observations: Sequence[Observation]) -> list[Scored | None]:
        """What one run of the graph finds for each of several observations, bit for bit what runs of their own would; None
        for those that `assess` must look at alone. Never raises.
        """
        several = [not why_not(loaded, o) for o in observations]
        if loaded.grouped or sum(several) < 2:
            return [None] * len(observations)
        try:
            found = iter(run_together(loaded, [o for o, good in zip(observations, several, strict=True) if good]))
        except Exception:
            LOG.exception(
                "monitor %s: scoring several requests together failed; each is tried alone", loaded.policy.monitor
            )
            return [None] * len(observations)
        return [next(found) if good else None for good in several]

    def cause(self, loaded: Loaded, observation: Observation, began: float, deadline: float | None) -> str:
        """Why this observation cannot be assessed now, or ""."""
        return why_not(loaded, observation) or self.late(began, deadline)

    def late(self, began: float, deadline: float | None) -> str:
        """Why an answer would come too late now, or ""."""
        return _late(self._limit(began, deadline))

    def _judge(
        self,
        loaded: Loaded,
        observation: Observation,
        began: float,
        deadline: float | None,
        scored: Scored | None,
    ) -> Verdicts:
        cause = self.cause(loaded, observation, began, deadline)
        if not cause:
            try:
                columns = scored.columns if scored is not None else run(loaded, observation)
            except Exception:
                LOG.exception("monitor %s: the graph failed on %d rows", loaded.policy.monitor, observation.rows)
                cause = FAILED
            else:
                cause = self.late(began, deadline)
        return _none(loaded, observation, cause) if cause else batch_verdicts(loaded, observation, columns)

    def _limit(self, began: float, deadline: float | None) -> float | None:
        budget = self.conduct.budget_seconds
        if budget is None:
            return deadline
        return began + budget if deadline is None else min(deadline, began + budget)

    def _act(self, loaded: Loaded, verdicts: Verdicts) -> None:
        """Fill in what the caller is told to do."""
        mode, on_failure = self.conduct.mode, self.conduct.on_failure or loaded.manifest.on_failure
        for judged in (verdicts, verdicts.groups):
            if judged is not None:
                judged.actions, judged.mode = act(judged.reason_bits, mode, on_failure), mode

    def _tell(
        self,
        loaded: Loaded,
        observation: Observation,
        verdicts: Verdicts,
        seconds: float,
        stages: dict[str, float],
        call: Call,
    ) -> None:
        self._turn += 1
        looked = self._turn % RANGE_EVERY == 0 and not (observation.missing or observation.cause)
        strange, checked = (out_of_range(loaded, observation), observation.rows) if looked else (0, 0)
        policy = loaded.policy
        event = DecisionEvent(
            policy.monitor, policy.bundle, verdicts, seconds, stages, strange, checked, call.protocol, call.traceparent
        )
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:  # INVARIANT: telemetry never changes an answer
                LOG.exception("a telemetry listener failed")


def _tried(remedy: Remedy, observation: Observation, verdicts: Verdicts) -> Action:
    try:
        return remedy(observation, verdicts)
    except Exception:  # INVARIANT: a remedy that fails leaves the block in place
        LOG.exception("monitor %s: the remedy for a blocked answer failed", verdicts.policy.monitor)
        return Action.BLOCK


def _late(limit: float | None) -> str:
    if limit is None:
        return ""
    now = perf_counter()
    return f"not in time: {(now - limit) * 1e3:.1f} ms past the budget or deadline" if now >= limit else ""


def _none(loaded: Loaded, observation: Observation, cause: str) -> Verdicts:
    names = observation.grouping.names if loaded.grouped and observation.grouping is not None else None
    return unavailable(loaded.policy, observation.rows, cause, names)
