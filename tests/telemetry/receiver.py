"""A real OTLP gRPC receiver on a free port."""

from __future__ import annotations

import threading
import time
from concurrent import futures

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc as logs_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_grpc


class Receiver(metrics_grpc.MetricsServiceServicer):
    def __init__(self, port: int = 0) -> None:
        self.exports: list = []
        self.metadata: list[dict] = []
        self._changed = threading.Condition()
        self._server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        metrics_grpc.add_MetricsServiceServicer_to_server(
            _Answer(self, metrics.ExportMetricsServiceResponse), self._server
        )
        trace_grpc.add_TraceServiceServicer_to_server(_Answer(self, trace.ExportTraceServiceResponse), self._server)
        logs_grpc.add_LogsServiceServicer_to_server(_Answer(self, logs.ExportLogsServiceResponse), self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._server.start()

    def take(self, request, context) -> None:
        with self._changed:
            self.exports.append(request)
            self.metadata.append(dict(context.invocation_metadata()))
            self._changed.notify_all()

    def wait(self, ready, seconds: float = 10.0) -> None:
        deadline = time.monotonic() + seconds
        with self._changed:
            while not ready(self):
                left = deadline - time.monotonic()
                assert left > 0, f"nothing of the kind among {len(self.exports)} exports"
                self._changed.wait(left)

    @property
    def spans(self) -> list:
        found = [
            s for e in self.exports if hasattr(e, "resource_spans") for r in e.resource_spans for s in r.scope_spans
        ]
        return [span for scope in found for span in scope.spans]

    @property
    def logs(self) -> list:
        found = [s for e in self.exports if hasattr(e, "resource_logs") for r in e.resource_logs for s in r.scope_logs]
        return [record for scope in found for record in scope.log_records]

    @property
    def metrics(self) -> dict:
        """The newest export, by metric name."""
        newest = [e for e in self.exports if hasattr(e, "resource_metrics")][-1]
        return {m.name: m for r in newest.resource_metrics for s in r.scope_metrics for m in s.metrics}

    @property
    def resource(self) -> dict:
        newest = [e for e in self.exports if hasattr(e, "resource_metrics")][-1]
        return plain(newest.resource_metrics[0].resource.attributes)

    def close(self) -> None:
        self._server.stop(0).wait()


class _Answer:
    def __init__(self, receiver: Receiver, answer) -> None:
        self._receiver, self._answer = receiver, answer

    def Export(self, request, context):  # noqa: N802
        self._receiver.take(request, context)
        return self._answer()


def plain(attributes) -> dict:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in attributes}


def numbers(metric) -> dict:
    data = getattr(metric, metric.WhichOneof("data"))
    return {tuple(plain(p.attributes).values()): getattr(p, p.WhichOneof("value")) for p in data.data_points}
