"""Ask a sidecar, and always get verdicts."""
