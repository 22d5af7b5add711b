"""What can be wrong with an evaluation."""

from __future__ import annotations

from demur.monitor.errors import DemurError


class EvaluationError(DemurError, ValueError):
    """Data that a metric, or an evaluation, is not defined on. Says what was expected, what came, and the next step."""
