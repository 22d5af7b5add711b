"""Wire messages to observations and verdicts to wire messages. Everything a caller can get wrong is refused here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from demur.monitor.errors import InvalidObservation
from demur.monitor.loaded import Loaded
from demur.monitor.observation import Observation, observe
from demur.monitor.verdicts import Verdicts
from demur.proto.v1 import monitor_pb2 as pb

BF16: Final = "BF16"
DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "FP32": np.dtype("<f4"),
    "FP16": np.dtype("<f2"),
    "FP64": np.dtype("<f8"),
    BF16: np.dtype("<u2"),
    "INT64": np.dtype("<i8"),
}
DIMENSIONS = 8
LONGEST_NAME = 256


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may hold: rows of a batch (and groups), bytes of one tensor."""

    rows: int = 65536
    tensor_bytes: int = 64 << 20


DEFAULT_LIMITS = Limits()


def decode(request: pb.AssessRequest, loaded: Loaded, limits: Limits = DEFAULT_LIMITS) -> Observation:
    """The observation of a request; raw tensors are not copied.

    Sizes are compared with the bytes that came before anything is allocated.
    Raises: InvalidObservation for a malformed tensor, a limit passed, or whatever `observe` refuses.
    """
    signals: dict[str, NDArray[Any]] = {}
    for tensor in request.signals:
        if tensor.name in signals:
            raise InvalidObservation(f"{tensor.name[:LONGEST_NAME]}: sent twice in one request; send each signal once")
        signals[tensor.name] = array(tensor, limits)
    about: dict[str, Any] = {"request": request.request_id}
    if request.HasField("model"):
        model = request.model
        about["model"] = {n: getattr(model, n) for n in ("name", "version", "digest", "decoding")}
    if request.ids:
        about["ids"] = request.ids
    group_id, groups = _groups(request, limits)
    observation = observe(loaded.widths, signals, group_id=group_id, groups=groups, **about)
    if request.ids and len(request.ids) != observation.rows:
        raise InvalidObservation(f"ids: expected {observation.rows}, one for each row, or none; got {len(request.ids)}")
    return observation


def array(tensor: pb.Tensor, limits: Limits = DEFAULT_LIMITS) -> NDArray[Any]:
    """The array of one tensor: a read-only view of `raw`, or a float32 copy of `fp32`.

    Raises: InvalidObservation when dtype, shape and bytes do not agree, or a limit is passed.
    """
    name, shape = tensor.name[:LONGEST_NAME], tuple(tensor.shape)
    dtype = DTYPES.get(tensor.datatype)
    if dtype is None:
        raise InvalidObservation(f"{name}: expected a datatype of {', '.join(DTYPES)}, got {tensor.datatype[:32]!r}")
    if not shape or len(shape) > DIMENSIONS or min(shape) < 0:
        raise InvalidObservation(f"{name}: expected a shape of 1 to {DIMENSIONS} sizes >= 0, got {list(shape[:16])}")
    count = math.prod(shape)
    # A size of 0 makes a tensor empty, and no array takes it beside a size that is too large.
    _within(name, shape, math.prod(size or 1 for size in shape) * dtype.itemsize, limits)
    if tensor.raw or not tensor.fp32:
        return _from_raw(tensor, name, shape, dtype, count)
    return _from_fp32(tensor, name, shape, count)


def _within(name: str, shape: tuple[int, ...], size: int, limits: Limits) -> None:
    if shape[0] > limits.rows:
        raise InvalidObservation(
            f"{name}: {shape[0]} rows are more than this server's limit of {limits.rows}; send smaller batches"
        )
    if size > limits.tensor_bytes:
        raise InvalidObservation(
            f"{name}: shape {list(shape)} is {size} bytes, more than this server's limit of {limits.tensor_bytes}; send smaller batches"
        )


def _from_raw(tensor: pb.Tensor, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    raw = tensor.raw
    if len(raw) != count * dtype.itemsize:
        raise InvalidObservation(
            f"{name}: {tensor.datatype} {list(shape)} takes {count * dtype.itemsize} bytes of raw contents, got {len(raw)}; "
            "send every row, little-endian and row-major"
        )
    values: NDArray[Any] = np.frombuffer(raw, dtype, count).reshape(shape) if count else np.empty(shape, dtype)
    if tensor.datatype != BF16:
        return values
    return (values.astype(np.uint32) << 16).view(np.float32)


def _from_fp32(tensor: pb.Tensor, name: str, shape: tuple[int, ...], count: int) -> NDArray[np.float32]:
    if tensor.datatype != "FP32":
        raise InvalidObservation(f"{name}: repeated fp32 contents are FP32, got {tensor.datatype}; send raw contents")
    if len(tensor.fp32) != count:
        raise InvalidObservation(f"{name}: shape {list(shape)} takes {count} numbers, got {len(tensor.fp32)}")
    return np.array(tensor.fp32, np.float32).reshape(shape)


def _groups(request: pb.AssessRequest, limits: Limits) -> tuple[NDArray[Any] | None, NDArray[np.int64] | None]:
    if len(request.groups) > limits.rows:
        raise InvalidObservation(f"groups: {len(request.groups)} are more than this server's limit of {limits.rows}")
    groups = np.array(request.groups, np.int64) if request.groups else None
    if request.HasField("group_id"):
        return array(request.group_id, limits), groups
    return (None, None) if groups is None else (np.zeros(0, np.int64), groups)


def encode(verdicts: Verdicts, request_id: str = "") -> pb.AssessResponse:
    """The columnar answer."""
    policy = verdicts.policy
    response = pb.AssessResponse(
        monitor=policy.monitor,
        request_id=request_id,
        bundle=policy.bundle,
        sequence=verdicts.sequence,
        rows=_columns(verdicts),
        cause=verdicts.cause,
        mode=verdicts.mode,
        audited=verdicts.audited,
    )
    if verdicts.groups is not None:
        response.groups.CopyFrom(_columns(verdicts.groups))
    if verdicts.group_ids is not None:
        response.group_ids.extend(verdicts.group_ids.tolist())
    return response


def _columns(verdicts: Verdicts) -> pb.Verdicts:
    message = pb.Verdicts(
        count=len(verdicts),
        accept=verdicts.accept.tobytes(),
        reasons=verdicts.reason_bits.tolist(),
        scores=_floats(verdicts.scores),
        p_values=_floats(verdicts.p_values),
        columns=verdicts.columns,
    )
    if verdicts.rule_hits.any():  # columns of zeros stay empty on the wire
        message.rule_hits.extend(verdicts.rule_hits.tolist())
        if verdicts.pooled.any():
            message.pooled.extend(verdicts.pooled.tolist())
    if verdicts.actions is not None:
        message.actions = verdicts.actions.tobytes()
    return message


def _floats(values: NDArray[np.float32]) -> bytes:
    return values.astype("<f4", copy=False).tobytes()
