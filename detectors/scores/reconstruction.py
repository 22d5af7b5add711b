"""What somebody's ONNX network cannot rebuild of its input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import onnx

from demur.detectors.hyper import one_of, whole
from demur.detectors.inline import model_inputs, prepare
from demur.detectors.numpy_ops import Array, NumpyOps
from demur.detectors.sample import sample_rows
from demur.detectors.score import Reference, Scaling, sample
from demur.detectors.scores.onnx_score import onnx_file
from demur.detectors.tensor import Ops, Signal, Signals, T

SAMPLE_ROWS = 2_000
BATCH_ROWS = 256


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """Mean or largest of (x - net(x))^2 / s_c^2 over the steps and channels of a window.

    s_c is the root mean square of x - net(x) of channel c over a seeded sample of at most 2,000 reference rows and all steps;
    1 for a channel that they rebuild exactly. The network is inlined into the monitor's graph, as by `onnx_score`; its one
    input is named like a signal.
    Shapes: its input (N, T * C), step after step, each of `channels` values -> (N,). Range: [0, inf), 1 on average over the
    reference for by: mean. Higher is less trustworthy.
    Raises: ValueError in fit for a network that cannot be inlined, that gives another shape than it takes, or whose rows are
    not independent.
    Source: reconstruction error; Hawkins et al. 2002, Outlier detection using replicator neural networks, eq. 3.
    """

    model: bytes
    root: Array  # (T * C,), 1 / s_c
    reads: str
    width: int
    by: str
    scales: ClassVar[Scaling] = sample(SAMPLE_ROWS)
    source: ClassVar[str] = "reconstruction error (Hawkins et al. 2002, eq. 3) of an ONNX model given by the operator"

    @property
    def inputs(self) -> tuple[Signal, ...]:
        return (self.reads,)

    @classmethod
    def fit(cls, reference: Reference, *, path: str, channels: int = 1, by: str = "mean", seed: int = 0) -> Self:
        return cls.of(onnx_file("reconstruction", path), reference, channels=channels, by=by, seed=seed)

    @classmethod
    def of(cls, model: bytes, reference: Reference, *, channels: int = 1, by: str = "mean", seed: int = 0) -> Self:
        """From the bytes of a network. Raises: ValueError as `fit`."""
        one_of("reconstruction", "by", by, ("mean", "max"))
        whole("reconstruction", "channels", channels)
        prepared, reads = _prepared(model)
        rows = sample_rows(reference, reads, SAMPLE_ROWS, seed).astype(np.float32)
        width = rows.shape[1]
        if width % channels:
            raise ValueError(f"reconstruction: {channels} channels do not divide {reads} of width {width}")
        off = rows.astype(np.float64) - _rebuilt(prepared, reads, rows)
        square = (off.reshape(-1, channels) ** 2).mean(axis=0)
        root = np.tile(1 / np.sqrt(np.where(square > 0, square, 1.0)), width // channels)
        if not np.isfinite(square).all():
            raise ValueError("reconstruction: the network is not finite on reference rows; drop those rows, or mend it")
        return cls(prepared, root.astype(np.float32), reads, width, by)

    def __call__(self, xp: Ops[T], signals: Signals[T]) -> T:
        x = signals[self.reads]
        off = (x - xp.inline(self.model, {self.reads: x}, width=self.width)) * self.root
        return xp.max(off * off) if self.by == "max" else xp.mean(off * off)


def _prepared(model: bytes) -> tuple[bytes, Signal]:
    try:
        parsed = prepare(onnx.load_model_from_string(model))
    except ValueError as refusal:
        raise ValueError(str(refusal).replace("onnx_score", "reconstruction", 1)) from refusal
    except Exception as error:  # protobuf's DecodeError, whose module moves between versions
        raise ValueError(f"reconstruction: not an ONNX model: {error}") from error
    names = [v.name for v in model_inputs(parsed)]
    if len(names) != 1:
        raise ValueError(f"reconstruction: expected one input, the window, got {names}")
    return parsed.SerializeToString(deterministic=True), names[0]


def _rebuilt(model: bytes, reads: Signal, rows: Array) -> Array:
    """net(rows), (N, T * C). Raises: ValueError for another shape, or rows that depend on each other."""
    xp, width = NumpyOps(), rows.shape[1]

    def run(part: Array) -> Array:
        try:
            found = xp.inline(model, {reads: part}, width=width)
        except Exception as error:  # whatever an operator of somebody's network raises
            raise ValueError(f"reconstruction: the network fails on reference rows: {error}") from error
        if found.shape != part.shape or found.dtype != np.float32:
            raise ValueError(
                f"reconstruction: expected float32 {part.shape} as it went in, got {found.dtype} {found.shape}"
            )
        return found

    found = np.concatenate([run(rows[i : i + BATCH_ROWS]) for i in range(0, len(rows), BATCH_ROWS)])
    alone = np.concatenate([run(rows[i : i + 1]) for i in range(min(4, len(rows)))])
    if not np.allclose(found[: len(alone)], alone, rtol=1e-4, atol=1e-5, equal_nan=True):
        raise ValueError("reconstruction: a row's reconstruction depends on the other rows of the batch")
    return found
