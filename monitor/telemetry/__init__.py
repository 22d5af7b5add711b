"""Telemetry: what the monitor tells about itself. Importing this imports no exporter and no OpenTelemetry."""

from demur.monitor.telemetry.config import TelemetryConfig
from demur.monitor.telemetry.telemetry import Listener, NoTelemetry, Telemetry

__all__ = ["Listener", "NoTelemetry", "Telemetry", "TelemetryConfig"]
