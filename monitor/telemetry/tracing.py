"""Spans of sampled requests, and log events: verdicts about streams, copies of audit checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from threading import Thread

from opentelemetry._logs import SeverityNumber
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from demur.monitor.event import DecisionEvent
from demur.monitor.telemetry.attributes import Attributes, checkpoint_attributes, evaluations, span_attributes
from demur.monitor.telemetry.names import CHECKPOINT, EVALUATION, OTHER, SCOPE, SPAN, STAGES
from demur.monitor.telemetry.sampling import ROOT, Parent

Failed = Callable[[str], None]
_QUEUE = 2048
_DELAY_MILLISECONDS = 1000


class CountedSpans(OTLPSpanExporter):
    """The OTLP exporter, with failures counted."""

    failed: Failed

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        if result is not SpanExportResult.SUCCESS:
            self.failed("traces")
        return result


class CountedLogs(OTLPLogExporter):
    """The OTLP exporter, with failures counted."""

    failed: Failed

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        result = super().export(batch)
        if result is not LogRecordExportResult.SUCCESS:
            self.failed("logs")
        return result


class Tracing:
    """Makes spans and log records after the fact, from events. Queues hold 2,048 of each and drop beyond."""

    def __init__(self, spans: CountedSpans, logs: CountedLogs, resource: Resource) -> None:
        self._aborts = (spans.shutdown, logs.shutdown)
        self._spans = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)
        self._spans.add_span_processor(BatchSpanProcessor(spans, _QUEUE, _DELAY_MILLISECONDS))
        self._logs = LoggerProvider(resource, shutdown_on_exit=False)
        self._logs.add_log_record_processor(
            BatchLogRecordProcessor(logs, schedule_delay_millis=_DELAY_MILLISECONDS, max_queue_size=_QUEUE)
        )
        self._tracer = self._spans.get_tracer(SCOPE)
        self._logger = self._logs.get_logger(SCOPE)

    def record(self, event: DecisionEvent, parent: Parent) -> Context:
        """One `demur.assess` span that ends now, its stages laid one after the other from its start."""
        end = time.time_ns()
        start = end - int(event.seconds * 1e9)
        span = self._tracer.start_span(
            SPAN, parent_context(parent), attributes=span_attributes(event), start_time=start
        )
        inside = set_span_in_context(span, Context())
        at = start
        for stage, seconds in event.stages.items():
            name = stage if stage in STAGES else OTHER
            child = self._tracer.start_span(f"{SPAN}.{name}", inside, start_time=at)
            at += int(seconds * 1e9)
            child.end(at)
        span.end(end)
        return inside

    def evaluate(self, event: DecisionEvent, context: Context, response_id: str) -> None:
        """`gen_ai.evaluation.result` log events for the verdicts of an event."""
        for attributes in evaluations(event, response_id):
            self._emit(EVALUATION, None, attributes, context)

    def checkpoint(self, note: str) -> None:
        self._emit(CHECKPOINT, note, checkpoint_attributes(note), Context())

    def close(self, timeout_seconds: float) -> None:
        """Send what is queued, given up after `timeout_seconds`."""
        flushing = [Thread(target=stop, daemon=True) for stop in (self._spans.shutdown, self._logs.shutdown)]
        deadline = time.monotonic() + timeout_seconds
        for thread in flushing:
            thread.start()
        for thread, abort in zip(flushing, self._aborts, strict=True):
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                abort()

    def _emit(self, name: str, body: str | None, attributes: Attributes, context: Context) -> None:
        self._logger.emit(
            timestamp=time.time_ns(),
            context=context,
            severity_number=SeverityNumber.INFO,
            body=body,
            attributes=attributes,
            event_name=name,
        )


def parent_context(parent: Parent) -> Context:
    """The caller's span as the SDK wants it; an empty context for ROOT, whatever this thread traces itself."""
    if parent is ROOT:
        return Context()
    remote = SpanContext(parent.trace_id, parent.span_id, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    return set_span_in_context(NonRecordingSpan(remote), Context())
