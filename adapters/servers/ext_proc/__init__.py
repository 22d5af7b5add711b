"""Envoy's external processor: answers of models behind an Envoy are judged on their way to the client."""

from demur.adapters.servers.ext_proc.server import ExtProcServer

__all__ = ["ExtProcServer"]
