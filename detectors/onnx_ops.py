"""The vocabulary in ONNX.

Every choice of operator is made here, with its measured reason. Times are ONNX Runtime 1.31/1.32 on one CPU thread.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from demur.detectors.inline import inline_nodes
from demur.detectors.numpy_ops import TINY
from demur.detectors.tape import Sym, Tape

OPSET, IR_VERSION = 18, 9  # the oldest supported runtime is ONNX Runtime 1.19; newer IR versions are refused by it
WIDE = 256  # from this width on, a row is summed for NaN in two nodes, and its largest value is found by TopK


class OnnxOps(Tape):
    """The vocabulary, recorded on a tape."""

    def sum(self, x: Sym, *, keepdims: bool = False) -> Sym:
        # Not ReduceSum: when K is no multiple of 16, its order of additions follows the memory alignment of the row, so
        # the last bit depends on the row's place in the batch (K=7: 320 of 2100 sums). MatMul by ones gave the same
        # bits at every batch size tried, at the same speed.
        ones = self.constant(f"ones.{x.width}", np.ones((x.width, 1), np.float32))
        return self._reduced(self.node("MatMul", x, ones, width=int(keepdims)), keepdims=keepdims)

    def _reduced(self, x: Sym, *, keepdims: bool) -> Sym:
        """(N, P, 1) of folded rows as (N, P)."""
        if not x.parts or keepdims:
            return x
        return self.node("Reshape", x, self.integers(0, x.parts), width=x.parts, parts=0)

    def count(self, flags: Sym, dtype: ir.DataType = ir.DataType.FLOAT) -> Sym:
        """How many flags of the last axis are set, (..., K) bool -> (...); in float32 exact up to 2^24, in any order."""
        return self.node("ReduceSum", self.node("Cast", flags, to=int(dtype)), self.integers(-1), width=0, keepdims=0)

    def fold(self, x: Sym, parts: int) -> Sym:
        each = x.width // parts
        return self.node("Reshape", x, self.integers(0, parts, each), width=each, parts=parts)

    def swap(self, x: Sym) -> Sym:
        return self.node("Transpose", x, width=x.parts, parts=x.width, perm=[0, 2, 1])

    def one_part(self, x: Sym) -> Sym:
        return self.node("Unsqueeze", x, self.integers(1), width=x.width, parts=1)

    def sum_parts(self, x: Sym, parts: int) -> Sym:
        return self.sum(self.fold(x, parts))

    def mean(self, x: Sym, *, keepdims: bool = False) -> Sym:
        return self.sum(x, keepdims=keepdims) / float(x.width)

    def max(self, x: Sym, *, keepdims: bool = False) -> Sym:
        found = self.node("ReduceMax", x, self.integers(-1), width=int(keepdims), keepdims=1)
        return self._reduced(found, keepdims=keepdims)

    def min(self, x: Sym, *, keepdims: bool = False) -> Sym:
        found = self.node("ReduceMin", x, self.integers(-1), width=int(keepdims), keepdims=1)
        return self._reduced(found, keepdims=keepdims)

    def zero(self, x: Sym) -> Sym:
        # 0 * NaN and 0 * inf are NaN, whatever the order of additions. One MatMul does both steps, but its sum over a
        # row is one chain: at K = 1000 it takes 0.7 µs and two plain nodes 0.45.
        if x.width >= WIDE:
            zeros = self.node("ReduceSum", x * 0.0, self.integers(-1), width=0, keepdims=1)
            return self._reduced(zeros, keepdims=False)
        # Not at width 1: there NumPy's product skips a factor of 0, in onnx's reference evaluator.
        if x.width == 1 and not x.parts:
            return self.column(x * 0.0)
        zeros = self.constant(f"zeros.{x.width}", np.zeros((x.width, 1), np.float32))
        return self._reduced(self.node("MatMul", x, zeros, width=0), keepdims=False)

    def logsumexp(self, x: Sym) -> Sym:
        # lse(x) = max x - max log_softmax(x). ReduceLogSumExp takes 484 µs against 49 µs (C=1000, N=64) and is less
        # exact: error 2e-4 against 1e-5 at C=128,256.
        return self.max(x) - self.max(self.log_softmax(x))

    def norm(self, x: Sym) -> Sym:
        # Not ReduceL2: twice as slow, six times the rounding error (onnxruntime#3236), and it overflows at 1e20.
        scale = self._scale(x)
        scaled = x / scale
        return self._reduced(self.column(scale), keepdims=False) * self.sqrt(self.sum(scaled * scaled))

    def _scale(self, x: Sym) -> Sym:
        return self.maximum(self.max(self.abs(x), keepdims=True), TINY)

    def argkth_smallest(self, x: Sym, k: int) -> Sym:
        if k == 1:
            return self._place(x, "ArgMin", largest=0)
        _, positions = self.nodes_out("TopK", 2, x, self.integers(k), axis=-1, largest=0)
        last = self.constant(f"index.{k - 1}", np.int64(k - 1))
        return self.node("Gather", positions, last, width=0, axis=-1)

    def log_softmax(self, x: Sym) -> Sym:
        return self.node("LogSoftmax", x, axis=-1)

    def unit(self, x: Sym) -> Sym:
        # Not LpNormalization: it divides by a norm that overflows at 1e20 and is NaN for the zero vector.
        y = x / self._scale(x)
        return y / self.maximum(self.sqrt(self.sum(y * y, keepdims=True)), TINY)

    def linear(self, x: Sym, weight: Any, bias: Any = None, *, scale: float = 1.0) -> Sym:
        # Gemm keeps tables as (rows, D), so that `take` gathers whole rows of the same initializer.
        inputs = (x, weight) if bias is None else (x, weight, bias)
        made_by = weight.value.producer()
        held = weight.value if made_by is None else made_by.inputs[0]  # of `wide`, the table it was stored as
        rows = held.const_value.shape[0]
        return self.node("Gemm", *inputs, width=rows, alpha=float(scale), transB=1)

    def argmax(self, x: Sym) -> Sym:
        return self._place(x, "ArgMax", largest=1)

    def _place(self, x: Sym, kind: str, *, largest: int) -> Sym:
        # A TopK of one takes 0.3 ns a value, ArgMax 0.6; at 100 values and fewer they are alike.
        if x.width < WIDE:
            return self.node(kind, x, width=0, axis=-1, keepdims=0)
        _, places = self.nodes_out("TopK", 2, x, self.integers(1), axis=-1, largest=largest)
        return self.node("Squeeze", places, self.integers(-1), width=0)

    def top(self, x: Sym, k: int, *, ordered: bool = True) -> Sym:
        # Unordered takes half the time at K=512, k=180, and 5/6 of it at K=1000, k=100.
        how = {} if ordered else {"sorted": 0}
        return self.nodes_out("TopK", 2, x, self.integers(k), width=k, axis=-1, **how)[0]

    def bottom(self, x: Sym, k: int) -> tuple[Sym, Sym]:
        values, places = self.nodes_out("TopK", 2, x, self.integers(k), width=k, axis=-1, largest=0)
        return values, places

    def take(self, rows: Any, index: Sym) -> Sym:
        if len(rows.value.const_value.shape) > 1:
            return self.node("Gather", rows, index, width=rows.width, parts=index.width, axis=0)
        found = self.node("Gather", rows, index, width=index.width, parts=0, axis=0)
        return found if index.width else self.node("Unsqueeze", found, self.integers(-1), width=0)

    def take_each(self, columns: Any, index: Sym) -> Sym:
        # 0.6 ns an entry; Gather, which copies each entry as a block of its own, takes 2.7.
        return self.node("GatherElements", columns, index, width=index.width, parts=0, axis=0)

    def pick(self, x: Sym, index: Sym) -> Sym:
        places = index if index.width else self.node("Unsqueeze", index, self.integers(-1), width=0)
        # axis 1, not -1: onnx's reference evaluator refuses more picks than entries otherwise.
        return self.node("GatherElements", x, places, width=index.width, axis=1)

    def index(self, x: Sym) -> Sym:
        whole = self.node("Cast", x, to=int(ir.DataType.INT64))
        return whole if x.width else self.node("Squeeze", whole, self.integers(-1), width=0)

    def rank(self, x: Sym, points: Any, *, equal: bool = False) -> Sym:
        each = self.node("Unsqueeze", x, self.integers(-1), width=1)
        found = self.count(self.node("LessOrEqual" if equal else "Less", points, each))
        return Sym(found.value, self, x.width)

    def greater(self, a: Sym, b: Any) -> Sym:
        return self.node("Greater", a, b)

    def where(self, condition: Sym, a: Any, b: Any) -> Sym:
        return self.node("Where", condition, a, b)

    def flags(self, condition: Sym) -> Sym:
        return self.node("Cast", condition, to=int(ir.DataType.INT32))

    def wide(self, stored: Sym) -> Sym:
        # Of a whole table, ONNX Runtime folds the Cast when it loads the graph: the file is smaller, the memory is not.
        return self.node("Cast", stored, to=int(ir.DataType.FLOAT))

    def minimum(self, a: Sym, b: Any) -> Sym:
        return self.node("Min", a, b)

    def maximum(self, a: Sym, b: Any) -> Sym:
        return self.node("Max", a, b)

    def exp(self, x: Sym) -> Sym:
        return self.node("Exp", x)

    def log(self, x: Sym) -> Sym:
        # ONNX Runtime's Log rounds differently in its vector loop and in the rest of the batch; copies of each row, to a
        # multiple of 16 values, leave no rest, so the bits do not depend on the batch size (K = 7: 61 of 448 differed).
        if not x.width:
            copies = self.node("Mul", x, self.constant("ones.row16", np.ones(16, np.float32)), width=16)
            return self.max(self.node("Log", copies))
        times = 16 // math.gcd(16, x.width)
        if times == 1:
            return self.node("Log", x)
        logs = self.node("Log", self.node("Concat", *[x] * times, width=times * x.width, axis=-1))
        ends = (self.integers(0), self.integers(x.width), self.integers(-1))
        return self.node("Slice", logs, *ends, width=x.width)

    def abs(self, x: Sym) -> Sym:
        return self.node("Abs", x)

    def floor(self, x: Sym) -> Sym:
        return self.node("Floor", x)

    def sqrt(self, x: Sym) -> Sym:
        return self.node("Sqrt", x)

    def tanh(self, x: Sym) -> Sym:
        return self.node("Tanh", x)

    def tan(self, x: Sym) -> Sym:
        return self.node("Tan", x)

    def column(self, x: Sym) -> Sym:
        return Sym(x.value, self, 0, parts=x.parts)

    def inline(self, model: bytes, signals: Mapping[str, Sym], *, width: int = 0) -> Sym:
        inputs = {name: s.value for name, s in signals.items()}
        nodes, initializers, output = inline_nodes(model, inputs, self.scope)
        self.nodes.extend(nodes)
        self.initializers |= initializers
        return self.node("Reshape", Sym(output, self, width), self.integers(-1, width or 1), width=width)

    def concat(self, columns: Sequence[Sym]) -> Sym:
        """Per-row values and matrices side by side: (N, S)."""
        width = sum(max(c.width, 1) for c in columns)
        if len(columns) == 1:
            return Sym(columns[0].value, self, width)
        return self.node("Concat", *columns, width=width, axis=1)
