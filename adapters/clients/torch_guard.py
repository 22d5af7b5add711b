"""A PyTorch model with its monitor beside it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from demur.adapters.clients.torch_watch import LOGITS, Place, Watch, tensor_of
from demur.monitor.errors import InvalidObservation
from demur.monitor.monitor import Monitor
from demur.monitor.observation import Observation
from demur.monitor.verdicts import PolicyView, Verdicts, unavailable

if TYPE_CHECKING:
    from demur.monitor.client.client import Client

LOG = logging.getLogger("demur.torch")


class Guarded:
    """Calls a model and asks its monitor: `output, verdicts = guarded(images)`.

    `monitor` is a `demur.Monitor`, in this process, or a `demur.Client`; `name` is the monitor's at the client's server.
    Places as for `SignalTap`. The output is the model's own, untouched; what to do about a refused row is the caller's
    choice (`mask_refused` is one). Only the model's own errors are raised: whatever happens to the monitor, every row is
    ABSTAIN(UNAVAILABLE) with the cause. Thread-safe, as far as the model is.
    """

    def __init__(
        self,
        model: nn.Module,
        monitor: Monitor | Client,
        features: Place = None,
        logits: Place = None,
        *,
        name: str = "",
        **more: Place,
    ) -> None:
        """Raises: ConfigurationError for a module that the model does not have."""
        self.model, self.monitor, self._name = model, monitor, name
        self._watch = Watch(model, features, logits, more)

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, Verdicts]:
        """The model's output, and a verdict on each of its N rows."""
        frame = self._watch.open()
        try:
            output = self.model(*args, **kwargs)
        finally:
            self._watch.drop(frame)
        try:
            return output, self._assess(self._watch.signals(frame, output))
        except Exception as error:  # INVARIANT: a monitor that fails never takes the model's answer with it
            LOG.warning("not assessed: %s", error)
            return output, self._unassessed(_count(output), f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Take every hook away. The monitor stays open: it may be shared."""
        self._watch.remove()

    def _assess(self, signals: dict[str, NDArray[np.float32]]) -> Verdicts:
        if isinstance(self.monitor, Monitor):
            known = self.monitor.engine.loaded.widths
            chosen: dict[str, Any] = {name: array for name, array in signals.items() if name in known}
            return self.monitor.assess(**chosen)
        named: dict[str, Any] = {**signals}
        return self.monitor.assess(monitor=self._name, **named)

    def _unassessed(self, rows: int, cause: str) -> Verdicts:
        """Every row UNAVAILABLE; in process the engine says so itself, so that it is recorded and acted on."""
        if isinstance(self.monitor, Monitor):
            try:
                return self.monitor.engine.assess(Observation({}, rows, cause=cause))
            except Exception:  # the log is away too, and the operator chose to block
                LOG.exception("a failure could not be recorded")
                return unavailable(self.monitor.engine.loaded.policy, rows, cause)
        return unavailable(PolicyView(self._name, "", 0, (), (), ()), rows, cause)


def mask_refused(output: Tensor, verdicts: Verdicts, fill: float = float("nan")) -> Tensor:
    """A copy of the output (N, ...) in which every refused row is `fill`.

    Raises: InvalidObservation when there is not one verdict a row, or `fill` is NaN and the output holds integers.
    """
    if len(output) != len(verdicts):
        raise InvalidObservation(f"expected one verdict for each of {len(output)} rows, got {len(verdicts)}")
    if fill != fill and not output.is_floating_point():  # noqa: PLR0124  NaN is not itself
        raise InvalidObservation(f"expected fill=NUMBER for an output of {output.dtype}, which has no NaN")
    refused = torch.from_numpy(~verdicts.accept).to(output.device)
    return output.masked_fill(refused.reshape(-1, *[1] * (output.ndim - 1)), fill)


def _count(output: Any) -> int:
    """Rows of an output, 1 when it does not show."""
    try:
        return max(len(tensor_of(output, LOGITS)), 1)
    except (InvalidObservation, TypeError):
        return 1
