"""Hooks on a PyTorch model: what its modules gave in each forward pass, in float32."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from demur.monitor.config.policy import RESERVED
from demur.monitor.errors import ConfigurationError, InvalidObservation
from demur.monitor.fit.errors import suggestion

LOGITS = "logits"
Place: TypeAlias = str | nn.Module | None


@dataclass(eq=False)
class Frame:
    """One forward pass under way: what each place gave on each device, the last call counts; what went wrong first."""

    seen: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    fault: Exception | None = None


class Watch:
    """Hooks that fill the open frame; with none open they do nothing. Thread-safe: a frame belongs to its thread.

    Worker threads of DataParallel have none of their own and fill the open one, when there is only one.
    """

    def __init__(self, model: nn.Module, features: Place, logits: Place, more: Mapping[str, Place]) -> None:
        """Raises: ConfigurationError for a module that the model does not have, or a signal that cannot be named so."""
        if taken := sorted(RESERVED & set(more)):
            raise ConfigurationError(f"{', '.join(taken)} means something else in a table; choose another name")
        self.model, self._parallel = unwrapped(model)
        self._local, self._open, self._lock = threading.local(), list[Frame](), threading.Lock()
        head = last_linear(self.model) if features is None else None
        self._handles = [] if head is None else [head.register_forward_pre_hook(self._hook("features", _first))]
        places = {**({} if features is None else {"features": features}), **more}
        if logits is not None:
            places[LOGITS] = logits
        self.names = tuple(dict.fromkeys(["features", *places, LOGITS]))
        self._own_logits = logits is None
        try:
            for name, place in places.items():
                self._handles.append(self._module(name, place).register_forward_hook(self._hook(name, _last)))
        except BaseException:
            self.remove()
            raise

    def open(self) -> Frame:
        """A frame for the pass that begins; one that a failed pass of this thread left open is dropped."""
        self.drop(getattr(self._local, "frame", None))
        frame = Frame()
        self._local.frame = frame
        with self._lock:
            self._open.append(frame)
        return frame

    def drop(self, frame: Frame | None) -> None:
        """Nothing more goes into this frame."""
        self._local.frame = None
        with self._lock:
            self._open = [other for other in self._open if other is not frame]

    def signals(self, frame: Frame, output: Any) -> dict[str, NDArray[np.float32]]:
        """What the frame and the model's output show: each signal (N, width) float32.

        Raises: InvalidObservation when a place was not reached, or gave no (N, width) floats; what failed in a hook.
        """
        if frame.fault is not None:
            raise frame.fault
        found = {name: _joined(name, parts) for name, parts in frame.seen.items()}
        if self._own_logits:
            found[LOGITS] = _rows(LOGITS, tensor_of(output, LOGITS).detach().clone())  # the script may go on in place
        if missing := [name for name in self.names if name not in found]:
            raise InvalidObservation(
                f"{missing[0]}: its module was not called in this forward pass; name a module that is, and if the model was "
                "compiled, make the tap before the compiled model is called for the first time"
            )
        return {name: found[name] for name in self.names}

    def remove(self) -> None:
        """Take every hook away."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _module(self, name: str, place: Place) -> nn.Module:
        if isinstance(place, nn.Module):
            return place
        known = dict(self.model.named_modules())
        if place not in known:
            hint = suggestion(str(place), [n for n in known if n])
            raise ConfigurationError(
                f"{name}: the model has no module {place}{hint}; print(dict(model.named_modules()).keys()) lists them"
            )
        return known[place]

    def _hook(self, name: str, choose: Callable[..., Any]) -> Callable[..., None]:
        def hook(_module: nn.Module, *given: Any) -> None:
            frame = self._frame()
            if frame is None:
                return
            try:
                # A copy: the next module may work in place, as ReLU(inplace=True) does.
                tensor = tensor_of(choose(given), name).detach().clone()
                frame.seen.setdefault(name, {})[tensor.get_device()] = tensor
            except Exception as fault:  # INVARIANT: a hook never fails the pass that it watches
                frame.fault = frame.fault or fault

        return untraced(hook)

    def _frame(self) -> Frame | None:
        frame: Frame | None = getattr(self._local, "frame", None)
        # Only there: a call that another thread makes past the tap must not end up in somebody's frame.
        if frame is None and self._parallel and len(self._open) == 1:
            return self._open[0]
        return frame


def untraced(hook: Callable[..., None]) -> Callable[..., None]:
    """The hook as a clean break in a compiled graph."""
    kept: Callable[..., None] = torch.compiler.disable(hook)
    return kept


def unwrapped(model: nn.Module) -> tuple[nn.Module, bool]:
    """The model inside torch.compile, DataParallel and DistributedDataParallel; whether DataParallel was there."""
    parallel = False
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod  # noqa: SLF001  torch.compile's name for what it wraps
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            parallel = parallel or isinstance(model, nn.DataParallel)
            model = model.module
        else:
            return model, parallel


def last_linear(model: nn.Module) -> nn.Linear:
    """The last linear layer in the order in which modules were defined. Raises: ConfigurationError when there is none."""
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ConfigurationError(
            "the model has no Linear layer whose inputs could be its features; say where they are: features=NAME or a module"
        )
    return linear[-1]


def tensor_of(output: Any, name: str) -> Tensor:
    """The tensor in what a module gave: itself, its `.logits` or ["logits"], or the first in a tuple.

    Raises: InvalidObservation.
    """
    if isinstance(output, Tensor):
        return output
    inner = output.get(LOGITS) if isinstance(output, Mapping) else getattr(output, LOGITS, None)
    if isinstance(inner, Tensor):
        return inner
    first = (
        next((part for part in output if isinstance(part, Tensor)), None) if isinstance(output, tuple | list) else None
    )
    if first is None:
        raise InvalidObservation(
            f"{name}: expected a tensor, got {type(output).__name__}; name the module that gives it"
        )
    return first


def _first(given: tuple[Any, ...]) -> Any:
    """What a pre-hook was given: the module's first argument."""
    return given[0]


def _last(given: tuple[Any, ...]) -> Any:
    """What a hook was given: the module's output."""
    return given[-1]


def _joined(name: str, parts: Mapping[int, Tensor]) -> NDArray[np.float32]:
    """The parts of a batch in the order of their devices, as DataParallel cut it."""
    return np.concatenate([_rows(name, parts[device]) for device in sorted(parts)])


def _rows(name: str, tensor: Tensor) -> NDArray[np.float32]:
    """(N, width) float32: axes of size 1 behind the first are dropped, one number an input becomes a width of 1."""
    wide = [size for size in tensor.shape[1:] if size != 1]
    if tensor.ndim == 0 or len(wide) > 1 or not tensor.is_floating_point():
        raise InvalidObservation(
            f"{name}: expected (N, width) floats, got {tuple(tensor.shape)} {tensor.dtype}; name a module after pooling"
        )
    found: NDArray[np.float32] = tensor.detach().float().reshape(len(tensor), math.prod(wide)).cpu().numpy()
    return found
