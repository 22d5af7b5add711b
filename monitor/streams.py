"""Token streams of one monitor: fixed-size states, steps of concurrent streams scored in one batch."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.detectors.reason import Reason
from demur.monitor.engine import FAILED, LOCAL, Call, Engine
from demur.monitor.errors import InvalidObservation, Overloaded
from demur.monitor.loaded import Loaded
from demur.monitor.observation import Observation
from demur.monitor.scoring import batch_verdicts
from demur.monitor.verdicts import Verdicts, unavailable

LOG = logging.getLogger("demur.streams")
LARGEST_BATCH = 256
INCOMPLETE = "an earlier step of this stream could not be assessed"


@dataclass(eq=False)
class TokenStream:
    """One stream: its state, the bundle it began with, and how many steps were judged. Steps keep their order."""

    pool: StreamPool
    loaded: Loaded
    state: NDArray[np.float32]
    touched: float
    steps: int = 0
    broken: str = ""  # why no later step can be accepted, when the graph's own state does not say so
    closed: bool = False
    waiting: deque[_Step] = field(default_factory=deque)

    def step(self, observation: Observation, deadline: float | None = None, call: Call = LOCAL) -> Future[Verdicts]:
        """Judge the next step, signals (1, width). The answer's verdict is about the whole stream so far.

        Raises: InvalidObservation when the observation has not exactly one row or the stream was closed or expired.
        """
        if observation.rows != 1:
            raise InvalidObservation(f"expected one row, one step of the stream, got {observation.rows}")
        return self.pool.submit(_Step(self, observation, deadline, call))

    def close(self) -> None:
        """Forget the state."""
        self.pool.release(self)


@dataclass(eq=False)
class _Step:
    stream: TokenStream
    observation: Observation
    deadline: float | None
    call: Call
    began: float = field(default_factory=time.perf_counter)
    answer: Future[Verdicts] = field(default_factory=Future)

    def settle(self, verdicts: Verdicts) -> None:
        if self.answer.set_running_or_notify_cancel():
            self.answer.set_result(verdicts)

    def fail(self, error: Exception) -> None:
        if self.answer.set_running_or_notify_cancel():
            self.answer.set_exception(error)


class StreamPool:
    """The live streams of one monitor. Bounded: `capacity` streams, each forgotten after `idle_seconds` without a step."""

    def __init__(self, engine: Engine, *, capacity: int = 1024, idle_seconds: float = 300.0) -> None:
        self.engine = engine
        self._capacity, self._idle = capacity, idle_seconds
        self._streams: dict[int, TokenStream] = {}
        self._ready: deque[TokenStream] = deque()
        self._wake = threading.Condition()
        self._stopped = False
        self._worker = threading.Thread(target=self._run, name="demur-streams", daemon=True)
        self._worker.start()

    @property
    def live(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    def open(self) -> TokenStream:
        """A fresh stream on the current bundle. Raises: Overloaded when `capacity` streams are live."""
        loaded = self.engine.loaded
        with self._wake:
            self._expire(time.monotonic())
            if self._stopped or len(self._streams) >= self._capacity:
                raise Overloaded(
                    f"{self._capacity} token streams are open, which is the limit; end some or raise limits.streams"
                )
            stream = TokenStream(self, loaded, np.zeros(loaded.manifest.state_size, np.float32), time.monotonic())
            self._streams[id(stream)] = stream
        return stream

    def submit(self, step: _Step) -> Future[Verdicts]:
        """Queue a step behind the earlier ones of its stream. Raises: InvalidObservation when the stream has ended."""
        stream = step.stream
        with self._wake:
            if stream.closed:
                raise InvalidObservation("this token stream has ended or was idle for too long; open a new one")
            if not stream.waiting:
                self._ready.append(stream)
            stream.waiting.append(step)
            self._wake.notify()
        return step.answer

    def release(self, stream: TokenStream) -> None:
        """Forget a stream; steps still waiting are answered with an error."""
        with self._wake:
            self._forget(stream)

    def close(self) -> None:
        """Stop the worker and forget every stream."""
        with self._wake:
            self._stopped = True
            for stream in list(self._streams.values()):
                self._forget(stream)
            self._wake.notify()
        self._worker.join(timeout=5)

    def _forget(self, stream: TokenStream) -> None:
        stream.closed = True
        self._streams.pop(id(stream), None)
        while stream.waiting:
            stream.waiting.popleft().fail(InvalidObservation("the token stream was closed before this step was judged"))

    def _expire(self, now: float) -> None:
        for stream in [s for s in self._streams.values() if not s.waiting and now - s.touched > self._idle]:
            self._forget(stream)

    def _run(self) -> None:
        while True:
            with self._wake:
                if not self._ready and not self._stopped:
                    self._wake.wait(timeout=min(self._idle, 1.0))
                self._expire(time.monotonic())
                if self._stopped:
                    return
                batch = sorted(self._take(), key=lambda s: id(s.stream.loaded))
            for _, steps in groupby(batch, key=lambda s: id(s.stream.loaded)):
                self._judge(list(steps))

    def _take(self) -> list[_Step]:
        """The oldest step of each ready stream; a stream with more waits for the next batch, since its state must come first."""
        streams = [self._ready.popleft() for _ in range(min(len(self._ready), LARGEST_BATCH))]
        steps = [s.waiting.popleft() for s in streams if s.waiting]
        self._ready.extend(s for s in streams if s.waiting)
        return steps

    def _judge(self, steps: list[_Step]) -> None:
        """Score one batch of steps and answer each; whatever fails answers, and the worker lives on."""
        loaded, began = steps[0].stream.loaded, time.perf_counter()
        causes = [s.stream.broken or self.engine.cause(loaded, s.observation, s.began, s.deadline) for s in steps]
        try:
            columns = loaded.session.run_columns(_feed(loaded, steps, causes))
        except Exception:
            LOG.exception("monitor %s: the stream graph failed on %d steps", loaded.policy.monitor, len(steps))
            columns, causes = [], [FAILED] * len(steps)
            for step in steps:
                step.stream.broken = INCOMPLETE
        for number, step in enumerate(steps):
            self._answer(step, columns, number, causes[number], began)

    def _answer(self, step: _Step, columns: list[NDArray[Any]], number: int, cause: str, began: float) -> None:
        stream, loaded = step.stream, step.stream.loaded
        stream.touched, stream.steps = time.monotonic(), stream.steps + 1
        try:
            if columns:
                row = [c[number : number + 1].copy() for c in columns]
                stream.state = row[loaded.positions["next_state"]][0]
                verdicts = _judged(loaded, step.observation, row, cause or self.engine.late(step.began, step.deadline))
            else:
                verdicts = unavailable(loaded.policy, 1, cause)
            step.settle(self.engine.finish(loaded, step.observation, verdicts, began, step.call))
        except Exception as error:
            step.fail(error)


def _feed(loaded: Loaded, steps: list[_Step], causes: list[str]) -> dict[str, NDArray[Any]]:
    """States and signals of the batch; a step that cannot be assessed is NaN, so that the graph latches its stream as incomplete."""
    feed: dict[str, NDArray[Any]] = {"state": np.stack([s.stream.state for s in steps])}
    for name, width in loaded.widths.items():
        if name in loaded.unread:
            continue
        hole = np.full((1, width), np.nan, np.float32)
        feed[name] = np.concatenate(
            [hole if c else s.observation.signals[name] for s, c in zip(steps, causes, strict=True)]
        )
    return feed


def _judged(loaded: Loaded, observation: Observation, row: list[NDArray[Any]], cause: str) -> Verdicts:
    verdicts = batch_verdicts(loaded, observation, row)
    if not cause:
        return replace(verdicts, cause=INCOMPLETE)
    bits = (verdicts.reason_bits & ~np.int64(Reason.INVALID)) | np.int64(Reason.UNAVAILABLE)
    return replace(verdicts, reason_bits=bits, accept=np.zeros(1, np.bool_), cause=cause)
