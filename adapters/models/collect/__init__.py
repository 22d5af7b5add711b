"""From a model and a dataset to signals tables."""

from __future__ import annotations

from demur.adapters.models.collect.run import collect

__all__ = ["collect"]
