"""For PyTorch models (extra `torch`): collecting their signals, and serving them with a monitor beside."""

from __future__ import annotations

from demur.adapters.clients.torch_guard import Guarded, mask_refused
from demur.adapters.clients.torch_tap import SignalTap
from demur.adapters.models.collect.table_writer import TableWriter

__all__ = ["Guarded", "SignalTap", "TableWriter", "mask_refused"]
