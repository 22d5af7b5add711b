"""A whole token stream judged at once: the same graph and states as step by step, one verdict and one record."""

from __future__ import annotations

import logging
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.monitor.engine import FAILED, LOCAL, Call, Engine, Remedy
from demur.monitor.errors import InvalidObservation
from demur.monitor.loaded import Loaded
from demur.monitor.observation import Observation
from demur.monitor.scoring import batch_verdicts
from demur.monitor.streams import INCOMPLETE
from demur.monitor.verdicts import Verdicts, unavailable

LOG = logging.getLogger("demur.streams")
LOOK_EVERY, STRIDE = 32, 512  # steps between two looks at the clock; steps of one run where the graph can be unrolled


def assess_sequence(
    engine: Engine,
    observation: Observation,
    *,
    loaded: Loaded | None = None,
    deadline: float | None = None,
    call: Call = LOCAL,
    remedy: Remedy | None = None,
) -> Verdicts:
    """The verdict, one unit, about a stream whose steps are the rows of `observation`, signals (L, width) in their order.

    It equals the verdict of the last of L single steps. `deadline` is on `time.perf_counter`'s clock; past it, or past the
    monitor's budget, the stream is UNAVAILABLE, and so it is when the observation says a cause.
    Raises: InvalidObservation for a monitor of rows, AuditUnavailable when the log cannot take the record and the operator
    chose to block.
    """
    loaded, began = loaded or engine.loaded, perf_counter()
    if loaded.manifest.kind != "stream":
        raise InvalidObservation(f"monitor {loaded.policy.monitor} judges rows; a token stream needs a stream monitor")
    cause = engine.cause(loaded, observation, began, deadline)
    columns: list[NDArray[Any]] = []
    if not cause:
        columns, cause = _walked(engine, loaded, observation, began, deadline)
    verdicts = unavailable(loaded.policy, 1, cause) if cause else batch_verdicts(loaded, observation, columns)
    if not cause:
        verdicts.cause = INCOMPLETE
    return engine.finish(loaded, observation, verdicts, began, call, remedy)


def _walked(
    engine: Engine, loaded: Loaded, observation: Observation, began: float, deadline: float | None
) -> tuple[list[NDArray[Any]], str]:
    """The graph's outputs after the last step, or why there are none."""
    signals = {n: a for n, a in observation.signals.items() if n not in loaded.unread}
    state = np.zeros((1, loaded.manifest.state_size), np.float32)
    columns: list[NDArray[Any]] = []
    try:
        whole = loaded.unrolled if observation.rows > LOOK_EVERY else None
        step, last = 0, observation.rows - 1
        while whole is not None and step < last:
            if cause := engine.late(began, deadline):
                return [], cause
            after = min(step + STRIDE, last)
            state = whole.state_after(state, {n: a[step:after] for n, a in signals.items()})
            step = after
        for one in range(step, observation.rows):
            if one % LOOK_EVERY == 0 and (cause := engine.late(began, deadline)):
                return [], cause
            columns = loaded.session.run_columns({"state": state} | {n: a[one : one + 1] for n, a in signals.items()})
            state = columns[loaded.positions["next_state"]]
    except Exception:
        LOG.exception("monitor %s: the stream graph failed on %d steps", loaded.policy.monitor, observation.rows)
        return [], FAILED
    return columns, engine.late(began, deadline) if columns else "the stream has no steps"
