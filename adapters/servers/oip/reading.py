"""What the judge reads of an exchange, whatever protocol carried it: the contract between it and each protocol's messages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Protocol

from numpy.typing import NDArray

KEPT = 16  # shapes, and dimensions of each
KEPT_BYTES = 4096


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
        try:
            return self.flat().reshape(self.shape)
        except ValueError as error:  # of no elements, and yet larger than any array
            raise UnreadableOutputError(f"output {self.name}: shape {self.shape} is that of no array") from error


@dataclass(slots=True)  # not frozen: made for every request
class AskedOutput:
    """An output that the client named; `unreadable` says why demur cannot read it in the way it was asked for, or ""."""

    name: str
    unreadable: str = ""


@dataclass(slots=True, kw_only=True)  # not frozen: one is made for every request
class Asked:
    """A readable request: `outputs` as the client named them, in order, () for "all"; `size` of the message in bytes.

    `shapes()` are those of its inputs, `inputs()` its input tensors by name: both are read only when somebody needs them.
    `light`: `shapes` keeps at most KEPT_BYTES alive.
    """

    model: str
    version: str = ""
    id: str = ""
    outputs: tuple[AskedOutput, ...] = ()
    size: int = 0
    shapes: Callable[[], Iterable[Sequence[int]]] = tuple
    inputs: Callable[[], Mapping[str, Tensor]] = dict
    light: bool = False

    def without_message(self) -> Asked:
        """What is remembered of a request: it does not keep the tensors alive that came with it, has no inputs, and of
        shapes only as much as says how many rows there were.
        """
        shapes = self.shapes if self.light else partial(list, [tuple(s[:KEPT]) for s in islice(self.shapes(), KEPT)])
        return Asked(
            model=self.model,
            version=self.version,
            id=self.id,
            outputs=self.outputs,
            size=self.size,
            shapes=shapes,
            light=True,
        )

    @property
    def kept_bytes(self) -> int:
        """About what is held of it `without_message`, with what stands around an exchange."""
        return KEPT_BYTES + len(self.id) + sum(KEPT_BYTES // 16 + len(output.name) for output in self.outputs)


def place_of(name: str, names: Sequence[str]) -> int:
    """Where among an answer's outputs the one of this name stands. Raises: UnreadableOutputError when none or several do."""
    places = [i for i, known in enumerate(names) if known == name]
    if not places:
        raise UnreadableOutputError(
            f"upstream's answer has no output {name}; check the mapping and default_outputs of this model"
        )
    if len(places) > 1:
        raise UnreadableOutputError(f"upstream's answer has {len(places)} outputs named {name}")
    return places[0]


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
