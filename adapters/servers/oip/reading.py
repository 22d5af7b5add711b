"""What the judge reads of an exchange, whatever protocol carried it: the contract between it and each protocol's messages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from numpy.typing import NDArray


class UnreadableOutputError(Exception):
    """An output that cannot serve as a signal; the message becomes the verdict's cause."""


@dataclass(slots=True)  # not frozen: one is made for every request
class Tensor:
    """One tensor of a message. `flat()` gives its elements, 1-D and of the datatype's own dtype (BF16 widened to float32,
    BYTES as an object array), and raises UnreadableOutputError when they are not as many as `shape` says.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    flat: Callable[[], NDArray[Any]]

    def array(self, largest_bytes: int) -> NDArray[Any]:
        """The elements in their shape. Raises: UnreadableOutputError, before anything is allocated when they claim too much."""
        if any(d < 0 for d in self.shape) or math.prod(self.shape) * 4 > largest_bytes:
            raise UnreadableOutputError(
                f"output {self.name}: shape {self.shape} exceeds tensor_bytes = {largest_bytes}"
            )
        return self.flat().reshape(self.shape)


@dataclass(frozen=True, slots=True)
class AskedOutput:
    """An output that the client named; `unreadable` says why demur cannot read it in the way it was asked for, or ""."""

    name: str
    unreadable: str = ""


@dataclass(slots=True, kw_only=True)  # not frozen: one is made for every request
class Asked:
    """A readable request: `outputs` as the client named them, in order, () for "all"; `size` of the message in bytes.

    `shapes()` are those of its inputs, `inputs()` its input tensors by name: both are read only when somebody needs them.
    """

    model: str
    version: str = ""
    id: str = ""
    outputs: tuple[AskedOutput, ...] = ()
    size: int = 0
    shapes: Callable[[], Iterable[Sequence[int]]] = tuple
    inputs: Callable[[], Mapping[str, Tensor]] = dict

    def without_message(self) -> Asked:
        """What is remembered of a request: it does not keep the tensors alive that came with it, and has no inputs."""
        shapes = [tuple(shape) for shape in self.shapes()]
        return replace(self, shapes=lambda: shapes, inputs=dict)


class Answered(Protocol):
    """A readable answer."""

    @property
    def size(self) -> int:
        """Of the message, in bytes."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """Of its outputs, in order."""
        ...

    def tensor(self, name: str) -> Tensor:
        """Raises: UnreadableOutputError when the output is absent, ambiguous, or somewhere else (shared memory)."""
        ...

    def shapes(self) -> Iterable[Sequence[int]]:
        """What its outputs claim to be."""
        ...


class Hands(Protocol):
    """What a protocol can do for `on_abstain`; each says whether it could, and the protocol then sends what it prepared."""

    def put(self, arrays: Mapping[str, NDArray[Any]]) -> bool:
        """Put these arrays in place of the answer's outputs of the same names, shapes and datatypes."""
        ...

    def ask(self, model: str, version: str) -> bool:
        """Send the client's request to another model of the same server; its answer is what the client gets."""
        ...


class Again(Protocol):
    """Calls the model again, for monitors that look at several views of one input."""

    def __call__(self, inputs: Mapping[str, NDArray[Any]], seconds: float | None) -> Answered:
        """The answer to the same request with these inputs in place of its own, within `seconds`.

        Raises: UnreadableOutputError when there is none.
        """
        ...
