"""A transparent proxy for the Open Inference Protocol over gRPC: clients speak to it as to their server."""

from demur.adapters.servers.oip.proxy import OipProxy

__all__ = ["OipProxy"]
