"""The vocabulary in NumPy: the reference every compiled graph must match."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx.reference
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float32]
TINY = float(np.finfo(np.float32).tiny)


@functools.lru_cache(maxsize=8)
def _evaluator(model: bytes) -> onnx.reference.ReferenceEvaluator:
    return onnx.reference.ReferenceEvaluator(onnx.load_model_from_string(model))


def _f32(x: Any) -> Any:
    return np.asarray(x, np.float32)


class NumpyOps:
    """Shapes and meanings are those of `tensor.Ops`; arrays are float32 and never written to."""

    def sum(self, x: Array, *, keepdims: bool = False) -> Array:
        return np.asarray(np.sum(x, axis=-1, keepdims=keepdims))

    def mean(self, x: Array, *, keepdims: bool = False) -> Array:
        return np.asarray(np.mean(x, axis=-1, keepdims=keepdims))

    def max(self, x: Array, *, keepdims: bool = False) -> Array:
        return np.asarray(np.max(x, axis=-1, keepdims=keepdims))

    def min(self, x: Array, *, keepdims: bool = False) -> Array:
        return np.asarray(np.min(x, axis=-1, keepdims=keepdims))

    def zero(self, x: Array) -> Array:
        return self.sum(x * _f32(0))

    def logsumexp(self, x: Array) -> Array:
        return self.max(x) - self.max(self.log_softmax(x))

    def norm(self, x: Array) -> Array:
        scale = self._scale(x)
        return np.asarray(scale[..., 0] * np.sqrt(self.sum((x / scale) * (x / scale))))

    def argkth_smallest(self, x: Array, k: int) -> Any:
        return np.argmin(x, axis=-1) if k == 1 else np.argsort(x, axis=-1, kind="stable")[..., k - 1]

    def argmax(self, x: Array) -> Any:
        return np.argmax(x, axis=-1)

    def top(self, x: Array, k: int, *, ordered: bool = True) -> Array:  # noqa: ARG002 - in order is an order too
        return -np.sort(-x, axis=-1)[..., :k]

    def bottom(self, x: Array, k: int) -> tuple[Array, Any]:
        places = np.argsort(x, axis=-1, kind="stable")[..., :k]
        return np.take_along_axis(x, places, axis=-1), places

    def log_softmax(self, x: Array) -> Array:
        shifted = x - self.max(x, keepdims=True)
        return np.asarray(shifted - np.log(self.sum(np.exp(shifted), keepdims=True)))

    def unit(self, x: Array) -> Array:
        y = x / self._scale(x)
        return np.asarray(y / np.maximum(np.sqrt(self.sum(y * y, keepdims=True)), _f32(TINY)))

    def _scale(self, x: Array) -> Array:
        return np.asarray(np.maximum(self.max(np.abs(x), keepdims=True), _f32(TINY)))

    def linear(self, x: Array, weight: Any, bias: Any = None, *, scale: float = 1.0) -> Array:
        product = _f32(scale) * (x @ weight.T)
        return np.asarray(product if bias is None else product + bias)

    def take(self, rows: Any, index: Any) -> Array:
        return np.asarray(rows[index])

    def take_each(self, columns: Any, index: Any) -> Array:
        return np.take_along_axis(columns, index, axis=0)

    def pick(self, x: Array, index: Any) -> Array:
        if index.ndim == 1:
            return np.asarray(np.take_along_axis(x, index[:, None], axis=-1)[:, 0])
        return np.take_along_axis(x, index, axis=-1)

    def index(self, x: Array) -> Any:
        return np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0).astype(np.int64)

    def rank(self, x: Array, points: Any, *, equal: bool = False) -> Array:
        below = np.less_equal if equal else np.less
        return _f32(below(points, x[..., None]).sum(axis=-1))  # type: ignore[no-any-return]

    def fold(self, x: Array, parts: int) -> Array:
        return x.reshape(x.shape[0], parts, x.shape[1] // parts)

    def swap(self, x: Array) -> Array:
        return np.ascontiguousarray(x.transpose(0, 2, 1))

    def one_part(self, x: Array) -> Array:
        return x[:, None, :]

    def sum_parts(self, x: Array, parts: int) -> Array:
        return self.sum(self.fold(x, parts))

    def greater(self, a: Array, b: Any) -> Any:
        return np.greater(a, _f32(b))

    def where(self, condition: Any, a: Any, b: Any) -> Array:
        return np.asarray(np.where(condition, _f32(a), _f32(b)))

    def flags(self, condition: Any) -> Any:
        return np.asarray(condition, np.int32)

    def wide(self, stored: Any) -> Array:
        return np.asarray(stored, np.float32)

    def minimum(self, a: Array, b: Any) -> Array:
        return np.asarray(np.minimum(a, _f32(b)))

    def maximum(self, a: Array, b: Any) -> Array:
        return np.asarray(np.maximum(a, _f32(b)))

    def exp(self, x: Array) -> Array:
        return np.exp(x)

    def log(self, x: Array) -> Array:
        return np.log(x)

    def abs(self, x: Array) -> Array:
        return np.abs(x)

    def floor(self, x: Array) -> Array:
        return np.floor(x)

    def sqrt(self, x: Array) -> Array:
        return np.sqrt(x)

    def tanh(self, x: Array) -> Array:
        return np.tanh(x)

    def tan(self, x: Array) -> Array:
        return np.tan(x)

    def concat(self, parts: Sequence[Array]) -> Array:
        return np.concatenate([p if p.ndim == 2 else p[:, None] for p in parts], axis=1)

    def column(self, x: Array) -> Array:
        return x[:, 0]

    def inline(self, model: bytes, signals: Mapping[str, Array], *, width: int = 0) -> Array:
        (result,) = _evaluator(model).run(None, dict(signals))
        return np.asarray(result) if width else np.asarray(result).reshape(-1)
