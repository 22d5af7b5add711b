"""One graph that answers as the model does, and says whether to rely on it."""

from demur.adapters.models.fuse.fused import Fused, fuse

__all__ = ["Fused", "fuse"]
