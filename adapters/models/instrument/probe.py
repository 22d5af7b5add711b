"""Inputs made up for a model, to see what its tensors look like and whether a change to the graph changes its answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from demur.adapters.models.graph import Graph
from demur.adapters.models.graph_file import ModelFile
from demur.monitor.errors import BundleError, ConfigurationError

Feed: TypeAlias = dict[str, NDArray[Any]]
Shapes: TypeAlias = Mapping[str, Sequence[int]]

BATCHES = ((3, 1), (2, 1), (2, 2), (1, 1))  # rows, and by what dynamic axes that are not the batch are divided
PICTURE_SIDES, LENGTHS = (64, 32, 224, 640, 8), (8, 16, 4, 128, 2)
LARGEST_VALUES = 1 << 27


@dataclass(frozen=True, eq=False)
class Probe:
    """A model's inputs, several times: dynamic axes differ between them where the model lets them."""

    file: ModelFile
    feeds: tuple[Feed, ...]
    free: frozenset[tuple[str, int]]  # inputs' dynamic axes

    @staticmethod
    def of(graph: Graph, shapes: Shapes | None = None, seed: int = 0) -> Probe:
        """Random inputs of the right dtype that the model runs on; `shapes` fixes an input's shape.

        Raises: ConfigurationError when an input is no tensor, or no guess for its dynamic axes runs.
        """
        unknown = sorted(set(shapes or ()) - set(graph.inputs))
        if unknown:
            raise ConfigurationError(f"no input is named {unknown[0]!r}; inputs are {', '.join(graph.inputs)}")
        session = graph.file.session()
        last = "it has no inputs"
        for side, length in zip(PICTURE_SIDES, LENGTHS, strict=True):
            kept = []
            for i, (batch, part) in enumerate(BATCHES):
                feed = _feed(
                    graph, shapes or {}, {"": batch, "picture": side // part, "length": length // part}, seed + i
                )
                try:
                    session.run(feed)
                except Exception as error:  # ONNX Runtime has a class for each kind of failure
                    last = str(error)
                else:
                    kept.append(feed)
            if kept:
                return Probe(graph.file, tuple(kept), frozenset(_free(graph)))
        raise ConfigurationError(
            f"{graph.file.name}: runs on no input made up for it ({last.splitlines()[0]}); "
            f"say how large its inputs are, a number for each ?: {_asked(graph)}"
        )

    def values(self, tensors: Sequence[str]) -> dict[str, list[NDArray[Any]]]:
        """What these tensors are, for each of the inputs; [] for one that ONNX Runtime cannot show."""
        model = onnx.ModelProto()
        model.CopyFrom(self.file.model)
        shown = {o.name for o in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=t) for t in dict.fromkeys(tensors) if t not in shown)
        try:
            session = self.file.with_model(model).session()
        except BundleError:
            return self._one_by_one(tensors) if len(tensors) > 1 else {t: [] for t in tensors}
        found = [session.run(feed) for feed in self.feeds]
        return {t: [f[t] for f in found if isinstance(f[t], np.ndarray)] for t in tensors}

    def _one_by_one(self, tensors: Sequence[str]) -> dict[str, list[NDArray[Any]]]:
        return {t: self.values([t])[t] for t in tensors}

    def dimensions(self, arrays: Sequence[NDArray[Any]], batch: str = "N") -> list[int | str]:
        """A tensor's shape as seen over the inputs: numbers where they agree, names where they do not.

        A size that a dynamic axis of an input had every time, because only that one runs or was given, may be that axis: it
        gets a name too.
        """
        sizes = zip(*(a.shape for a in arrays), strict=True)
        return [
            s[0] if len(set(s)) == 1 and not self._is_free(i, s[0]) else f"d{i}" if i else batch
            for i, s in enumerate(sizes)
        ]

    @property
    def batch(self) -> str:
        """What the model calls its batch axis."""
        dims = (v.type.tensor_type.shape.dim for v in self.file.model.graph.input)
        return next((str(d[0].dim_param) for d in dims if d and d[0].dim_param), "N")

    def _is_free(self, axis: int, size: int) -> bool:
        """Whether a dynamic axis of an input had this size in every feed; the batch is looked for in the first axis only."""
        for name, place in self.free:
            seen = {f[name].shape[place] for f in self.feeds}
            if seen == {size} and (place == 0) == (axis == 0):
                return True
        return False

    @cached_property
    def own(self) -> list[dict[str, Any]]:
        """The model's outputs, for each of the inputs."""
        return self.run(self.file.model)

    def twice(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The model's outputs, and its outputs again from the same session: random operators go on from where they were."""
        session = self.file.session()
        return [session.run(feed) for feed in self.feeds], [session.run(feed) for feed in self.feeds]

    def run(self, model: onnx.ModelProto) -> list[dict[str, Any]]:
        """Every output of a variant of the model, for each of the inputs. Raises: BundleError when it does not load."""
        session = self.file.with_model(model).session()
        return [session.run(feed) for feed in self.feeds]


def same_bits(left: Any, right: Any) -> bool:
    """Whether two outputs are equal to the last bit: tensors, or the maps and lists of ai.onnx.ml."""
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        alike = left.dtype == right.dtype and left.shape == right.shape
        return alike and (
            left.tolist() == right.tolist() if left.dtype == object else left.tobytes() == right.tobytes()
        )
    return repr(left) == repr(right)  # NaN is equal to itself here


def same_numbers(left: NDArray[Any], right: NDArray[Any]) -> bool:
    """Equal to the last bit, where one NaN is as good as another: which one comes out depends on the order of operations."""
    return same_bits(
        *(np.where(np.isnan(a), a.dtype.type(np.nan), a) if a.dtype.kind == "f" else a for a in (left, right))
    )


def difference(left: Any, right: Any) -> float:
    """The largest absolute difference between two outputs; infinite when they cannot be compared."""
    if not (isinstance(left, np.ndarray) and isinstance(right, np.ndarray)) or left.shape != right.shape:
        return np.inf
    if left.dtype.kind not in "fiub" or not left.size:
        return np.inf
    with np.errstate(invalid="ignore"):
        apart = np.abs(left.astype(np.float64) - right.astype(np.float64))
    both = np.isnan(left) & np.isnan(right) if left.dtype.kind == "f" else np.zeros(left.shape, np.bool_)
    apart = np.where(both | (left == right), 0.0, apart)
    return float(np.nan_to_num(apart, nan=np.inf).max())


def _asked(graph: Graph) -> str:
    """The options that would give every input's shape."""
    shapes = {n: v.type.tensor_type.shape.dim for n, v in graph.inputs.items()}
    return " ".join(f"--shape {n}={','.join(str(d.dim_value or '?') for d in dims)}" for n, dims in shapes.items())


def _free(graph: Graph) -> Iterator[tuple[str, int]]:
    for name, value in graph.inputs.items():
        for i, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.dim_value:
                yield name, i


def _feed(graph: Graph, shapes: Shapes, sizes: Mapping[str, int], seed: int) -> Feed:
    rng = np.random.default_rng(seed)
    known: dict[str, int] = {}
    return {n: _values(graph, n, _shape(v, shapes.get(n), sizes, known), rng) for n, v in graph.inputs.items()}


def _shape(
    value: onnx.ValueInfoProto, given: Sequence[int] | None, sizes: Mapping[str, int], known: dict[str, int]
) -> tuple[int, ...]:
    if not value.type.HasField("tensor_type"):
        raise ConfigurationError(
            f"input {value.name!r} is no tensor, so nothing can be made up for it; export the model with tensors as inputs"
        )
    if given is not None:
        return tuple(given)
    dims = value.type.tensor_type.shape.dim
    shape = []
    for i, dim in enumerate(dims):
        size = dim.dim_value or known.get(dim.dim_param) or _size(i, len(dims), sizes)
        if dim.dim_param:
            known[dim.dim_param] = size
        shape.append(size)
    return tuple(shape)


def _size(axis: int, rank: int, sizes: Mapping[str, int]) -> int:
    if axis == 0:
        return sizes[""]
    if rank == 4:
        return 3 if axis == 1 else sizes["picture"]
    return sizes["length"]


def _values(graph: Graph, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    if np.prod(shape, dtype=float) > LARGEST_VALUES:
        raise ConfigurationError(
            f"input {name!r} of shape {shape} is beyond {LARGEST_VALUES:,} values; give a smaller --shape"
        )
    kind = graph.inputs[name].type.tensor_type.elem_type
    if kind == onnx.TensorProto.STRING:
        return np.full(shape, "a", object)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    if kind == onnx.TensorProto.BOOL:
        return rng.integers(0, 2, shape).astype(np.bool_)
    if kind == onnx.TensorProto.UINT8:
        return rng.integers(0, 256, shape).astype(np.uint8)
    if dtype.kind in "iu":
        return _integers(graph, name, shape, rng).astype(dtype)
    return rng.normal(size=shape).astype(dtype)


def _integers(graph: Graph, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    """Within the rows of every table that is looked up by them; else 0 and 1, as in masks, the first always 1."""
    rows = [_rows(graph, n) for n in _readers(graph, name) if n.op_type == "Gather" and n.input[0] in graph.weights]
    if rows:
        return rng.integers(0, min(rows), shape)
    values = rng.integers(0, 2, shape)
    if values.ndim:
        values[..., :1] = 1
    return values


def _readers(graph: Graph, name: str) -> Iterator[onnx.NodeProto]:
    """Nodes that read a tensor, casts looked through."""
    for node in graph.consumers[name]:
        if node.op_type in ("Cast", "Identity", "Unsqueeze", "Squeeze", "Reshape", "Flatten"):
            yield from _readers(graph, node.output[0])
        else:
            yield node


def _rows(graph: Graph, node: onnx.NodeProto) -> int:
    dims = graph.weights[node.input[0]].dims
    return max(int(dims[0]), 1) if dims else 1
