"""The monitor as a sidecar: gRPC in, verdicts out."""
