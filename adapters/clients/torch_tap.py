"""Collecting signals inside a training or validation script."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from demur.adapters.clients.torch_watch import LOGITS, Place, Watch, untraced
from demur.monitor.errors import ConfigurationError, InvalidObservation

HEAD_TOLERANCE = 2e-2  # of the largest logit: bfloat16 keeps 8 bits
CHECKED_ROWS = 64


class SignalTap:
    """Collects what a model shows in every forward pass while the block lasts; hooks are gone afterwards.

    `features`: a module or its name, whose output is taken; None takes what goes into the last Linear layer. `logits`:
    None takes the model's output. Further names are further signals: `SignalTap(model, early="layer2")`. Tensors are
    copied, detached, and turned into float32 whatever the model computes in (AMP, bfloat16). Whether the model trains,
    and under which grad mode, stays the script's business. A module called twice in a pass counts the last time.

    Works with torch.compile when the tap is made before the compiled model's first call (each hook breaks the graph, so
    not with fullgraph=True); made later, `rows` says so. With DataParallel too; under DistributedDataParallel every
    process has a tap and a table of its own.

    >>> with SignalTap(model, "backbone.avgpool") as tap, TableWriter("reference.npz") as table:  # doctest: +SKIP
    ...     for images, labels in loader:
    ...         model(images)
    ...         table.append(tap.rows(labels=labels))
    ...     table.head(tap.head())
    """

    def __init__(self, model: nn.Module, features: Place = None, logits: Place = None, **more: Place) -> None:
        """Raises: ConfigurationError for a module that the model does not have."""
        self._watch = Watch(model, features, logits, more)
        self._pending: list[dict[str, NDArray[np.float32]]] = []
        self._last: dict[str, NDArray[np.float32]] = {}
        self._fault: Exception | None = None
        self._lock = threading.Lock()
        self._frames = threading.local()
        self._handles = [
            model.register_forward_pre_hook(untraced(self._begin)),
            model.register_forward_hook(untraced(self._end)),
        ]

    def rows(self, labels: Any = None, **columns: Any) -> dict[str, NDArray[Any]]:
        """The rows of the forward passes since the last call: signals (N, width), `prediction`, `label`, other columns.

        `columns`: id, group_id, slice, weight, (N,) tensors or arrays. Raises: InvalidObservation when there was no pass,
        a module was not reached or gave no rows, or a column has another number of them.
        """
        with self._lock:
            pending, fault = self._pending, self._fault
            self._pending, self._fault = [], None
        if fault is not None:
            raise fault
        if not pending:
            raise InvalidObservation(
                "expected a forward pass since the last call of rows(), got none; call the model first"
            )
        found: dict[str, NDArray[Any]] = {name: np.concatenate([p[name] for p in pending]) for name in pending[0]}
        self._last = {name: array[-CHECKED_ROWS:] for name, array in found.items()}
        logits = found[LOGITS]
        if logits.shape[1] > 1:
            found["prediction"] = np.argmax(logits, axis=1)
        given = {**({} if labels is None else {"label": labels}), **columns}
        return {**found, **{name: _column(name, value, len(logits)) for name, value in given.items()}}

    def head(self) -> dict[str, NDArray[np.float32]]:
        """head_weight (C, D) and head_bias (C,): the last Linear layer that turns the features of `rows` into the logits.

        Raises: ConfigurationError when no layer does, InvalidObservation before the first `rows`.
        """
        if not self._last:
            raise InvalidObservation("expected rows() before head(): the head is recognised by what it computes")
        features, logits = self._last["features"], self._last[LOGITS]
        for module in reversed(list(self._watch.model.modules())):
            if isinstance(module, nn.Linear) and _fits(module, features, logits):
                return {"head_weight": _numbers(module.weight), "head_bias": _bias(module)}
        raise ConfigurationError(
            f"no Linear layer turns these features (N, {features.shape[1]}) into these logits (N, {logits.shape[1]}); "
            "take features right before the last layer, or write no head: fit recovers one where it exists"
        )

    def close(self) -> None:
        """Take every hook away."""
        self._watch.remove()
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self, *_: Any) -> None:
        self._frames.now = self._watch.open()

    def _end(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        frame = self._frames.now
        self._watch.drop(frame)
        try:
            signals = self._watch.signals(frame, output)
        except Exception as fault:  # raised by rows(), not in the middle of somebody's training step
            with self._lock:
                self._fault = self._fault or fault
            return
        with self._lock:
            self._pending.append(signals)


def _column(name: str, value: Any, rows: int) -> NDArray[Any]:
    found = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if len(found) != rows:
        raise InvalidObservation(
            f"{name}: expected {rows} rows, as many as the model was called on since the last rows(), got {len(found)}"
        )
    return found


def _fits(layer: nn.Linear, features: NDArray[np.float32], logits: NDArray[np.float32]) -> bool:
    if (layer.in_features, layer.out_features) != (features.shape[1], logits.shape[1]):
        return False
    made = features.astype(np.float64) @ _numbers(layer.weight).T.astype(np.float64) + _bias(layer)
    finite = np.isfinite(made).all(axis=1) & np.isfinite(logits).all(axis=1)
    scale = float(np.abs(logits[finite]).max(initial=0.0)) or 1.0
    return bool(finite.any() and np.abs(made[finite] - logits[finite]).max() <= HEAD_TOLERANCE * scale)


def _numbers(parameter: Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = parameter.detach().float().cpu().numpy().copy()
    return found


def _bias(layer: nn.Linear) -> NDArray[np.float32]:
    return np.zeros(layer.out_features, np.float32) if layer.bias is None else _numbers(layer.bias)
