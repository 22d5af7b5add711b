"""A transparent proxy for the Open Inference Protocol over HTTP: JSON, and Triton's binary extension."""

from demur.adapters.servers.oip.rest.proxy import RestProxy

__all__ = ["RestProxy"]
