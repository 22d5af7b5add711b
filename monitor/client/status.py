"""What a served monitor says about itself."""

from __future__ import annotations

from dataclasses import dataclass

from demur.monitor.client.answer import view
from demur.monitor.verdicts import PolicyView
from demur.proto.v1 import monitor_pb2 as pb


@dataclass(frozen=True, slots=True)
class MonitorStatus:
    """One monitor of a server. `signals` maps names to widths; `last_error` says why the newest bundle file was not taken."""

    name: str
    ready: bool
    kind: str
    mode: str
    on_failure: str
    bundle: str
    version: int
    signals: dict[str, int]
    model: dict[str, str]
    policy: PolicyView
    last_error: str


def status(info: pb.MonitorInfo) -> MonitorStatus:
    """From the wire."""
    return MonitorStatus(
        info.monitor,
        info.ready,
        info.kind,
        info.mode,
        info.on_failure,
        info.bundle,
        info.version,
        {s.name: s.width for s in info.signals},
        {k: getattr(info.model, k) for k in ("name", "version", "digest") if getattr(info.model, k)},
        view(info),
        info.last_error,
    )
