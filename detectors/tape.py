"""The tape a score is traced on: symbols whose arithmetic records ONNX nodes, fitted arrays as named initializers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


class Sym:
    """A traced tensor. Arithmetic records nodes.

    `width` is the static last dimension K of (N, K). 0 marks a per-row value, logically (N,): it is held as (N, 1), so
    that scores stack with one Concat and no Unsqueeze. `parts` is P of folded rows (N, P, K), 0 of plain ones.
    """

    __array_ufunc__ = None  # NumPy defers to the reflected operators below
    __slots__ = ("fixed", "ops", "parts", "value", "width")

    def __init__(self, value: ir.Value, ops: Tape, width: int, *, parts: int = 0, fixed: bool = False) -> None:
        self.value, self.ops, self.width, self.parts, self.fixed = value, ops, width, parts, fixed

    def __add__(self, other: Any) -> Sym:
        return self.ops.plus(self, other)

    def __radd__(self, other: Any) -> Sym:
        return self.ops.plus(other, self)

    def __sub__(self, other: Any) -> Sym:
        return self.ops.node("Sub", self, other)

    def __rsub__(self, other: Any) -> Sym:
        return self.ops.node("Sub", other, self)

    def __mul__(self, other: Any) -> Sym:
        return self.ops.node("Mul", self, other)

    def __rmul__(self, other: Any) -> Sym:
        return self.ops.node("Mul", other, self)

    def __truediv__(self, other: Any) -> Sym:
        return self.ops.node("Div", self, other)

    def __rtruediv__(self, other: Any) -> Sym:
        return self.ops.node("Div", other, self)

    def __matmul__(self, other: Any) -> Sym:
        return self.ops.node("MatMul", self, other, width=other.width, parts=self.parts)

    def __neg__(self) -> Sym:
        return self.ops.negative(self)


class Tape:
    """Nodes and initializers in the order they were asked for; equal nodes are recorded once.

    `scope` prefixes node names, so that a graph viewer shows which score a node belongs to.
    """

    def __init__(self) -> None:
        self.scope = ""
        self.nodes: list[ir.Node] = []
        self.initializers: dict[str, ir.Value] = {}
        self._arrays: dict[str, NDArray[Any]] = {}
        self._recorded: dict[tuple[Any, ...], list[ir.Value]] = {}

    def node(self, op: str, *inputs: Any, width: int | None = None, parts: int | None = None, **attributes: Any) -> Sym:
        return self.nodes_out(op, 1, *inputs, width=width, parts=parts, **attributes)[0]

    def nodes_out(
        self,
        op: str,
        count: int,
        *inputs: Any,
        width: int | None = None,
        parts: int | None = None,
        **attributes: Any,
    ) -> list[Sym]:
        """Record one operator, or return the recorded one: scores share what they have in common."""
        symbols = [self._symbol(x) for x in inputs]
        key = (op, *(id(s.value) for s in symbols), *sorted((k, str(v)) for k, v in attributes.items()))
        if key not in self._recorded:
            name = f"{self.scope}/{op}_{len(self.nodes)}"
            outputs = [ir.Value(name=f"{name}:{i}") for i in range(count)]
            converted = ir.convenience.convert_attributes(attributes)
            self.nodes.append(ir.Node("", op, [s.value for s in symbols], converted, outputs=outputs, name=name))
            self._recorded[key] = outputs
        width = _broadcast(symbols) if width is None else width
        parts = _broadcast_parts(op, symbols) if parts is None else parts
        return [Sym(o, self, width, parts=parts) for o in self._recorded[key]]

    def _symbol(self, x: Any) -> Sym:
        if isinstance(x, Sym):
            return x
        if np.ndim(x):
            raise TypeError(f"{self.scope}: an array of shape {np.shape(x)} has no name; make it a field of the score")
        return self.constant(f"const.{np.float32(x)}", np.float32(x))

    def constant(self, name: str, value: Any) -> Sym:
        """A named initializer, made once.

        Raises: ValueError when the name already holds something else.
        """
        array = np.asarray(value)
        if name not in self.initializers:
            self.initializers[name] = ir.Value(name=name, const_value=ir.tensor(array, name=name))
            self._arrays[name] = array
        elif not np.array_equal(self._arrays[name], array, equal_nan=array.dtype.kind == "f"):
            raise ValueError(f"two different arrays are named {name!r} in the graph; rename a score")
        return Sym(self.initializers[name], self, array.shape[-1] if array.ndim else 0, fixed=True)

    def integers(self, *values: int) -> Sym:
        """A small int64 vector, named by its contents."""
        return self.constant("int." + "_".join(map(str, values)), np.array(values, np.int64))

    def plus(self, a: Any, b: Any) -> Sym:
        """A + b; of a negated term, the difference, which is the same number: a node costs 0.25 to 0.5 µs at N = 1."""
        for one, other in ((a, b), (b, a)):
            maker = other.value.producer() if isinstance(other, Sym) else None
            if maker is not None and maker.op_type == "Neg" and maker.inputs[0] is not None:
                return self.node("Sub", one, Sym(maker.inputs[0], self, other.width, parts=other.parts))
        return self.node("Add", a, b)

    def negative(self, x: Sym) -> Sym:
        """-x; of a difference, the difference the other way round."""
        maker = x.value.producer()
        if maker is not None and maker.op_type == "Sub":
            left, right = (Sym(v, self, x.width) for v in maker.inputs if v is not None)
            return self.node("Sub", right, left, width=x.width)
        return self.node("Neg", x)


def _broadcast(symbols: Sequence[Sym]) -> int:
    """The width of an elementwise result. A constant of width 1 does not turn a per-row value into a matrix."""
    return max((s.width for s in symbols if not (s.fixed and s.width == 1)), default=0)


def _broadcast_parts(op: str, symbols: Sequence[Sym]) -> int:
    """Parts of a result: a folded row (N, 1, K) against a table (P, K), entry by entry, has P."""
    parts = max((s.parts for s in symbols), default=0)
    if parts != 1 or op not in ("Add", "Sub", "Mul", "Div", "Max", "Min"):
        return parts
    held = [s.value.const_value for s in symbols if s.fixed]
    return max(parts, *(v.shape.numpy()[0] for v in held if v is not None and len(v.shape) == 2), 1)
