"""Method names to servicer methods. Written by hand because generated handlers answer malformed bytes with INTERNAL."""

from __future__ import annotations

from typing import Any

import grpc

from demur.monitor.service.malformed import reader
from demur.monitor.service.servicer import Servicer
from demur.proto.v1 import monitor_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["MonitorService"].full_name


def handlers(servicer: Servicer) -> dict[str, grpc.RpcMethodHandler]:
    """Every method of the service."""
    return {
        "Assess": _unary(servicer, servicer.assess, pb.AssessRequest),
        "AssessStream": grpc.stream_stream_rpc_method_handler(
            servicer.assess_stream, reader(pb.AssessFrame), pb.AssessAnswer.SerializeToString
        ),
        "Label": _unary(servicer, servicer.label, pb.LabelRequest),
        "ListMonitors": _unary(servicer, servicer.list_monitors, pb.ListMonitorsRequest),
        "GetMonitor": _unary(servicer, servicer.get_monitor, pb.GetMonitorRequest),
    }


def register(server: grpc.Server, servicer: Servicer) -> None:
    """Serve it."""
    found = handlers(servicer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, found),))
    server.add_registered_method_handlers(SERVICE, found)


def _unary(servicer: Servicer, method: Any, request: Any) -> grpc.RpcMethodHandler:
    return grpc.unary_unary_rpc_method_handler(
        servicer.answered(method), reader(request), lambda answer: answer.SerializeToString()
    )
