"""Token streams of a client, all over one AssessStream call."""

from __future__ import annotations

import itertools
import queue
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from time import monotonic
from types import TracebackType
from typing import Any, Self

import grpc

from demur.monitor.client import request as wire
from demur.monitor.client.answer import BadAnswer, decode
from demur.monitor.client.failure import BAD_ANSWER, CODES, STREAM_LOST, Failure, failure
from demur.monitor.client.policies import Policies
from demur.monitor.client.unanswered import Unanswered
from demur.monitor.observation import Observation
from demur.monitor.verdicts import Verdicts
from demur.proto.v1 import monitor_pb2 as pb
from demur.proto.v1.monitor_pb2_grpc import MonitorServiceStub

Answer = pb.AssessAnswer | Failure
STATUSES = {code.value[0]: name for code, name in CODES.items()}


class StreamCall:
    """One AssessStream call: frames out, answers matched by sequence number."""

    def __init__(self, stub: MonitorServiceStub, metadata: tuple[tuple[str, str], ...]) -> None:
        self._frames: queue.SimpleQueue[pb.AssessFrame | None] = queue.SimpleQueue()
        self._waiting: dict[int, Future[Answer]] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self.lost: Failure | None = None
        self._answers = stub.AssessStream(self._outgoing(), metadata=metadata)
        threading.Thread(target=self._read, name="demur-answers", daemon=True).start()

    def send(self, frame: pb.AssessFrame) -> Future[Answer]:
        """The answer to come."""
        answer: Future[Answer] = Future()
        with self._lock:
            if self.lost is not None:
                answer.set_result(self.lost)
                return answer
            frame.sequence = next(self._numbers)
            self._waiting[frame.sequence] = answer
            self._frames.put(frame)
        return answer

    def close(self) -> None:
        self._lose(Failure("closed", "the client was closed"))
        self._answers.cancel()

    def _outgoing(self) -> Iterator[pb.AssessFrame]:
        while (frame := self._frames.get()) is not None:
            yield frame

    def _read(self) -> None:
        try:
            for answer in self._answers:
                with self._lock:
                    waiting = self._waiting.pop(answer.sequence, None)
                if waiting is not None:
                    waiting.set_result(answer)
        except grpc.RpcError as error:
            self._lose(failure(error))
        else:
            self._lose(Failure(STREAM_LOST, "the server ended the call"))

    def _lose(self, failed: Failure) -> None:
        with self._lock:
            self.lost = self.lost or failed
            waiting, self._waiting = list(self._waiting.values()), {}
        self._frames.put(None)
        for each in waiting:
            each.set_result(failed)


class StreamCalls:
    """The current call; a lost one is replaced for the streams that are opened next."""

    def __init__(
        self,
        stub: MonitorServiceStub,
        metadata: tuple[tuple[str, str], ...],
        policies: Policies,
        unanswered: Unanswered,
        timeout_seconds: float,
    ) -> None:
        self.policies, self.unanswered, self.timeout_seconds = policies, unanswered, timeout_seconds
        self._stub, self._metadata = stub, metadata
        self._call: StreamCall | None = None
        self._lock = threading.Lock()

    def open(self, monitor: str) -> ClientStream:
        with self._lock:
            if self._call is None or self._call.lost is not None:
                self._call = StreamCall(self._stub, self._metadata)
            return ClientStream(self, self._call, monitor)

    def close(self) -> None:
        with self._lock:
            if self._call is not None:
                self._call.close()


class ClientStream:
    """One token stream. A step that was not answered leaves a hole, so every later step abstains as UNAVAILABLE too."""

    def __init__(self, calls: StreamCalls, call: StreamCall, monitor: str) -> None:
        self._calls, self._call, self._monitor = calls, call, monitor
        self._id = uuid.uuid4().hex
        self._broken: Failure | None = None
        self.steps = 0

    def step(self, *, timeout_seconds: float | None = None, **signals: Any) -> Verdicts:
        """The verdict on the stream so far, signals (1, width). Raises: InvalidObservation as `Client.assess`."""
        observation = wire.check(signals)
        until = monotonic() + (self._calls.timeout_seconds if timeout_seconds is None else timeout_seconds)
        answer = self._broken or self._wait(observation, until)
        if isinstance(answer, Failure):
            return self._lost(observation, answer)
        if answer.HasField("error"):
            code = STATUSES.get(answer.error.code, "refused")
            return self._lost(observation, Failure(code, answer.error.message))
        self.steps = answer.step
        try:
            policy = self._calls.policies.of(answer.response, self._monitor, until - monotonic())
            return decode(answer.response, observation, policy)
        except BadAnswer as error:
            return self._lost(observation, Failure(BAD_ANSWER, f"bad answer: {error}"))

    def close(self) -> None:
        """End the stream; the server forgets its state."""
        self._broken = self._broken or Failure(STREAM_LOST, "this stream was closed")
        self._call.send(pb.AssessFrame(stream_id=self._id, end=True, request=pb.AssessRequest(monitor=self._monitor)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait(self, observation: Observation, until: float) -> Answer:
        frame = pb.AssessFrame(stream_id=self._id, request=wire.encode(observation, monitor=self._monitor))
        try:
            return self._call.send(frame).result(max(0.0, until - monotonic()))
        except FutureTimeout:
            return Failure("deadline", "no answer to this step in time")

    def _lost(self, observation: Observation, failed: Failure) -> Verdicts:
        self._broken = self._broken or Failure(STREAM_LOST, f"an earlier step was not answered ({failed.cause})")
        return self._calls.unanswered.verdicts(self._monitor, observation, failed)
