"""The five methods of `demur.v1.MonitorService`: each a few lines, all errors answered in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import grpc

from demur.monitor.errors import InvalidObservation
from demur.monitor.event import RefusalEvent
from demur.monitor.service import labels
from demur.monitor.service.assessor import Arrival, Assessor
from demur.monitor.service.description import describe
from demur.monitor.service.malformed import Malformed
from demur.monitor.service.observer import Observers
from demur.monitor.service.status import Refusal, refusal
from demur.monitor.service.stream import StreamCall
from demur.proto.v1 import monitor_pb2 as pb

A = TypeVar("A")


class Servicer:
    """Knows the transport and nothing of scoring."""

    def __init__(self, assessor: Assessor, observers: Observers, sink: labels.LabelSink | None = None) -> None:
        self._assessor, self._observers, self._sink = assessor, observers, sink

    def assess(self, request: pb.AssessRequest, context: grpc.ServicerContext) -> pb.AssessResponse:
        return self._assessor.assess(request, Arrival.of(context))

    def assess_stream(
        self, frames: Iterator[pb.AssessFrame | Malformed], context: grpc.ServicerContext
    ) -> Iterator[pb.AssessAnswer]:
        try:
            with self._assessor.admission.stream():
                yield from StreamCall(self._assessor, self.refuse, Arrival.of(context)).answers(frames, context)
        except Exception as error:
            self._abort(self.refuse(error, ""), context)

    def label(self, request: pb.LabelRequest, _context: grpc.ServicerContext) -> pb.LabelResponse:
        served = self._assessor.registry.get(request.monitor)
        label = labels.read(request, served.name)
        if self._sink is None:
            raise labels.refuse()
        return pb.LabelResponse(sequence=self._sink.label(label))

    def list_monitors(
        self, _request: pb.ListMonitorsRequest, _context: grpc.ServicerContext
    ) -> pb.ListMonitorsResponse:
        return pb.ListMonitorsResponse(monitors=[describe(s) for s in self._assessor.registry])

    def get_monitor(self, request: pb.GetMonitorRequest, _context: grpc.ServicerContext) -> pb.MonitorInfo:
        return describe(self._assessor.registry.get(request.monitor))

    def answered(self, method: Callable[[Any, grpc.ServicerContext], A]) -> Callable[[Any, grpc.ServicerContext], A]:
        """The method with every error turned into its status."""

        def answer(request: Any, context: grpc.ServicerContext) -> A:
            try:
                if isinstance(request, Malformed):
                    raise InvalidObservation(request.message)  # noqa: TRY301
                return method(request, context)
            except Exception as error:
                self._abort(self.refuse(error, getattr(request, "monitor", "")), context)

        return answer

    def refuse(self, error: Exception, monitor: str) -> Refusal:
        """What the caller is told; counted under the monitor's name when that is one of ours, so that names stay few."""
        refused = refusal(error)
        known = monitor if any(s.name == monitor for s in self._assessor.registry) else ""
        self._observers.refused(RefusalEvent(known, refused.kind))
        return refused

    @staticmethod
    def _abort(refused: Refusal, context: grpc.ServicerContext) -> NoReturn:
        context.set_trailing_metadata(refused.metadata)
        context.abort(refused.code, refused.message)
        raise AssertionError(refused.message)  # abort raises
