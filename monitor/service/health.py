"""`grpc.health.v1`, for probes and balancers: what is said is what is true."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from demur.monitor.service.handlers import SERVICE

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """`liveness`: the process works. `readiness` and "": every configured monitor passed its self-test.
    `demur.v1.MonitorService`: at least one did. The last three turn NOT_SERVING before the server drains, for good.
    """

    def __init__(self) -> None:
        self.servicer = health.HealthServicer(experimental_non_blocking=True)
        self._draining = False
        self._ready = False
        self._others: list[str] = []
        self.servicer.set("liveness", SERVING)
        self.tell(ready=False, working=False)

    def tell(self, *, ready: bool, working: bool) -> None:
        """What the registry says now; ignored once draining."""
        if self._draining:
            return
        self._ready = ready
        for name in ("", "readiness", *self._others):
            self.servicer.set(name, SERVING if ready else NOT_SERVING)
        self.servicer.set(SERVICE, SERVING if working else NOT_SERVING)

    def also(self, name: str) -> None:
        """Answer for another service of this process, which is as ready as everything is."""
        self._others.append(name)
        self.servicer.set(name, SERVING if self._ready and not self._draining else NOT_SERVING)

    def drain(self) -> None:
        """Say that no new work is taken."""
        self.tell(ready=False, working=False)
        self._draining = True

    def register(self, server: grpc.Server) -> None:
        """Serve it."""
        health_pb2_grpc.add_HealthServicer_to_server(self.servicer, server)
