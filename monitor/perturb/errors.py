"""What cannot be perturbed as asked."""

from __future__ import annotations

from demur.monitor.errors import DemurError


class PerturbationError(DemurError, ValueError):
    """An unknown perturbation, or an array it cannot be applied to."""
