"""Anybody's ONNX model as a score."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import onnx

from demur.detectors.inline import model_inputs, prepare
from demur.detectors.numpy_ops import Array, NumpyOps
from demur.detectors.score import EXACT_MERGE, Reference, Scaling
from demur.detectors.tensor import Ops, Signal, Signals, T

MOST_BYTES = 512 * 2**20


@dataclass(frozen=True, eq=False)
class OnnxScore:
    """The output of an ONNX model: a trained head, a flow, an auto-encoder, a network of one's own.

    The model is inlined into the monitor's graph (opset 18, default domain, no control flow, weights inside); its
    inputs are named like signals. Its reference in NumPy is `onnx.reference.ReferenceEvaluator`.
    Shapes: the model's inputs, (N, width) float32 each -> (N,) or (N, 1). Range: the model's.
    Higher is less trustworthy: give a model whose output already is a risk.
    Raises: ValueError in fit, saying what cannot be inlined, which input is no signal, or that rows are not independent.
    Source: the model's authors; the name is recorded with the file's digest in the bundle.
    """

    model: bytes
    reads: tuple[str, ...]
    scales: ClassVar[Scaling] = EXACT_MERGE
    source: ClassVar[str] = "an ONNX model given by the operator"

    @property
    def inputs(self) -> tuple[Signal, ...]:
        return self.reads

    @classmethod
    def fit(cls, reference: Reference, *, path: str) -> Self:
        return cls.of(onnx_file("onnx_score", path), reference)

    @classmethod
    def of(cls, model: bytes, reference: Reference) -> Self:
        """From the bytes of a model, tried on a few reference rows.

        Raises: ValueError as `fit`.
        """
        try:
            parsed = onnx.load_model_from_string(model)
        except Exception as error:  # protobuf's DecodeError, whose module moves between versions
            raise ValueError(f"onnx_score: not an ONNX model: {error}") from error
        prepared = prepare(parsed)
        reads = tuple(v.name for v in model_inputs(prepared))
        score = cls(prepared.SerializeToString(deterministic=True), reads)
        score._try_out(next(reference.batches(*reads, size=4)).signals)
        return score

    def _try_out(self, signals: Signals[Array]) -> None:
        whole = self(NumpyOps(), signals)
        count = len(next(iter(signals.values())))
        if whole.shape != (count,) or whole.dtype != np.float32:
            raise ValueError(
                f"onnx_score: expected float32 ({count},) for {count} rows, got {whole.dtype} {whole.shape}"
            )
        alone = [self(NumpyOps(), {s: x[i : i + 1] for s, x in signals.items()})[0] for i in range(count)]
        if not np.allclose(whole, alone, rtol=1e-4, atol=1e-5, equal_nan=True):
            raise ValueError("onnx_score: a row's score depends on the other rows of the batch")

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        return xp.inline(self.model, {s: signals[s] for s in self.reads})


def onnx_file(score: str, path: str) -> bytes:
    """The bytes of a model's file. Raises: ValueError naming `score` when there is none, or it is too large."""
    file = Path(str(path))
    if not file.is_file() or file.stat().st_size > MOST_BYTES:
        raise ValueError(f"{score}: {path!r} is not a file of at most {MOST_BYTES} bytes")
    return file.read_bytes()
