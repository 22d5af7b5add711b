"""One batch from wire to wire: find the monitor, get a place, decode, judge, encode."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from time import perf_counter

import grpc

from demur.monitor.engine import Call, Engine
from demur.monitor.service.admission import Admission
from demur.monitor.service.codec import Limits, decode, encode
from demur.monitor.service.registry import Registry
from demur.monitor.service.status import DeadlinePassed
from demur.proto.v1 import monitor_pb2 as pb


@dataclass(frozen=True, slots=True)
class Arrival:
    """When a request came, when its caller stops waiting (both on `perf_counter`'s clock), and its trace."""

    at: float
    deadline: float | None
    traceparent: str = ""

    @staticmethod
    def of(context: grpc.ServicerContext) -> Arrival:
        """Read once from a call."""
        now = perf_counter()
        remaining = context.time_remaining()
        deadline = None if remaining is None else now + remaining
        return Arrival(now, deadline, traceparent(context))

    def next(self) -> Arrival:
        """The arrival of one more frame of the same call."""
        return Arrival(perf_counter(), self.deadline, self.traceparent)

    def limit(self, engine: Engine) -> float | None:
        """Deadline or budget, whichever ends first; the budget runs from the arrival, so waiting for a place counts."""
        budget = engine.conduct.budget_seconds
        if budget is None:
            return self.deadline
        return self.at + budget if self.deadline is None else min(self.deadline, self.at + budget)

    def check(self) -> None:
        """Raises: DeadlinePassed."""
        if self.deadline is not None and perf_counter() >= self.deadline:
            raise DeadlinePassed("the caller's deadline has passed; give it more time, or send smaller batches")

    def call(self) -> Call:
        """For telemetry, once decoded."""
        return Call("grpc", perf_counter() - self.at, self.traceparent)


def traceparent(context: grpc.ServicerContext) -> str:
    """The W3C trace parent among the call's metadata, or ""."""
    for key, value in context.invocation_metadata() or ():
        if key == "traceparent" and isinstance(value, str):
            return value[:64]
    return ""


@dataclass(frozen=True)
class Assessor:
    """What it takes to judge a batch; shared by unary calls and frames of streams."""

    registry: Registry
    admission: Admission
    limits: Limits

    def assess(
        self, request: pb.AssessRequest, arrival: Arrival, *, place: AbstractContextManager[None] | None = None
    ) -> pb.AssessResponse:
        """The answer to one batch; `place` replaces the bounded queue. Raises: DemurError, see `status.STATUS`."""
        engine, loaded = self.registry.get(request.monitor).rows()
        arrival.check()
        limit = arrival.limit(engine)
        with place or self.admission.request(limit):
            arrival.check()
            observation = decode(request, loaded, self.limits)
            verdicts = engine.assess(observation, loaded=loaded, deadline=limit, call=arrival.call())
        arrival.check()
        return encode(verdicts, request.request_id)
