"""One AssessStream call: pipelined batches and the steps of many token streams, answered in the order they came."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import grpc

from demur.monitor.errors import InvalidObservation, Overloaded
from demur.monitor.service.assessor import Arrival, Assessor
from demur.monitor.service.codec import decode, encode
from demur.monitor.service.malformed import Malformed
from demur.monitor.service.pipeline import Pipeline
from demur.monitor.service.status import Refusal
from demur.monitor.streams import TokenStream
from demur.monitor.verdicts import Verdicts
from demur.proto.v1 import monitor_pb2 as pb

LOG = logging.getLogger("demur.service")
IN_FLIGHT = 64
STREAMS_PER_CALL = 4096
LONGEST_ID = 128

Refuse = Callable[[Exception, str], Refusal]


@dataclass(eq=False)
class OpenStream:
    """A token stream of this call, and its latest step."""

    monitor: str
    stream: TokenStream
    steps: int = 0
    last: Future[Verdicts] | None = None

    def close_after_last(self) -> None:
        """Forget the state once every step that was sent has been judged."""
        if self.last is None:
            self.stream.close()
        else:
            self.last.add_done_callback(lambda _: self.stream.close())


@dataclass(frozen=True, slots=True)
class Pending:
    """An answer, perhaps not there yet. Only the writing thread waits for it."""

    frame: pb.AssessFrame
    outcome: pb.AssessResponse | Future[Verdicts] | Refusal | None
    step: int = 0

    def answer(self, refuse: Refuse) -> pb.AssessAnswer:
        answer = pb.AssessAnswer(sequence=self.frame.sequence, stream_id=self.frame.stream_id, step=self.step)
        outcome = self.outcome
        if isinstance(outcome, Future):
            try:
                outcome = encode(outcome.result(), self.frame.request.request_id)
            except Exception as error:
                outcome = refuse(error, self.frame.request.monitor)
        if isinstance(outcome, Refusal):
            answer.error.code, answer.error.message = outcome.code.value[0], outcome.message
        elif outcome is not None:
            answer.response.CopyFrom(outcome)
        return answer


class StreamCall:
    """Reads in a thread of its own, so that later frames are judged while earlier answers are under way."""

    def __init__(self, assessor: Assessor, refuse: Refuse, arrival: Arrival) -> None:
        self._assessor, self._refuse, self._arrival = assessor, refuse, arrival
        self._line: Pipeline[Pending] = Pipeline(IN_FLIGHT)
        self._open: dict[str, OpenStream] = {}
        self._lock = threading.Lock()

    def answers(
        self, frames: Iterator[pb.AssessFrame | Malformed], context: grpc.ServicerContext
    ) -> Iterator[pb.AssessAnswer]:
        """Answers until the caller has no more frames, or is gone."""
        if not context.add_callback(self.close):
            return
        threading.Thread(target=self._read, args=(frames,), name="demur-frames", daemon=True).start()
        try:
            for pending in self._line:
                yield pending.answer(self._refuse)
        finally:
            self.close()

    def close(self) -> None:
        """End every token stream of this call."""
        self._line.close()
        with self._lock:
            opened = list(self._open.values())
            self._open.clear()
        for each in opened:
            each.stream.close()

    def _read(self, frames: Iterator[pb.AssessFrame | Malformed]) -> None:
        try:
            for frame in frames:
                if not self._line.put(self._pending(frame)):
                    return
        except Exception as error:
            LOG.debug("a stream call ended early: %r", error)
            self.close()
        finally:
            self._line.finish()

    def _pending(self, frame: pb.AssessFrame | Malformed) -> Pending:
        if isinstance(frame, Malformed):
            return Pending(pb.AssessFrame(), self._refuse(InvalidObservation(frame.message), ""))
        try:
            if frame.stream_id:
                return self._step(frame)
            place = self._assessor.admission.frame()
            return Pending(frame, self._assessor.assess(frame.request, self._arrival.next(), place=place))
        except Exception as error:
            return Pending(frame, self._refuse(error, frame.request.monitor))

    def _step(self, frame: pb.AssessFrame) -> Pending:
        opened = self._find(frame)
        try:
            if frame.end and not frame.request.signals:
                return Pending(frame, None, opened.steps)
            return Pending(frame, self._submit(opened, frame), opened.steps)
        finally:
            if frame.end:
                self._end(frame.stream_id, opened)

    def _submit(self, opened: OpenStream, frame: pb.AssessFrame) -> Future[Verdicts]:
        arrival = self._arrival.next()
        arrival.check()
        observation = decode(frame.request, opened.stream.loaded, self._assessor.limits)
        opened.last = opened.stream.step(observation, arrival.deadline, arrival.call())
        opened.steps += 1
        return opened.last

    def _find(self, frame: pb.AssessFrame) -> OpenStream:
        known, name = self._open.get(frame.stream_id), frame.request.monitor
        if known is None:
            return self._begin(frame.stream_id, name)
        if name and name != known.monitor:
            raise InvalidObservation(
                f"stream_id {frame.stream_id!r} belongs to monitor {known.monitor!r}, got {name[:128]!r}; use another id"
            )
        return known

    def _begin(self, stream_id: str, name: str) -> OpenStream:
        if len(stream_id) > LONGEST_ID:
            raise InvalidObservation(f"stream_id: expected at most {LONGEST_ID} characters, got {len(stream_id)}")
        if len(self._open) >= STREAMS_PER_CALL:
            raise Overloaded(f"{STREAMS_PER_CALL} token streams in one call is the limit; end some with `end: true`")
        self._assessor.admission.check_open()
        served = self._assessor.registry.get(name)
        opened = OpenStream(served.name, served.pool().open())
        with self._lock:
            self._open[stream_id] = opened
        if self._line.closed:
            self.close()
        return opened

    def _end(self, stream_id: str, opened: OpenStream) -> None:
        with self._lock:
            self._open.pop(stream_id, None)
        opened.close_after_last()
