"""Arrays to a request. What the caller got wrong is said here, before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.monitor.errors import InvalidObservation
from demur.monitor.observation import Observation, observe
from demur.proto.v1 import monitor_pb2 as pb


def check(signals: Mapping[str, Any], group_id: Any = None, groups: Any = None, ids: Sequence[str] = ()) -> Observation:
    """The signals as an observation; widths are the server's to check. Raises: InvalidObservation."""
    arrays = {n: value if isinstance(value, np.ndarray) else np.asarray(value) for n, value in signals.items()}
    widths = {name: array.shape[1] if array.ndim == 2 else -1 for name, array in arrays.items()}
    flat = next((n for n, width in widths.items() if width < 0), None)
    if flat is not None:
        raise InvalidObservation(
            f"{flat}: expected (N, width) float32, got {arrays[flat].shape} {arrays[flat].dtype}; a single input is one row, shape (1, width)"
        )
    observation = observe(widths, arrays, group_id=group_id, groups=groups, ids=ids)
    if ids and len(ids) != observation.rows:
        raise InvalidObservation(f"ids: expected {observation.rows}, one for each row, got {len(ids)}")
    return observation


def encode(
    observation: Observation, *, monitor: str, request_id: str = "", model: Mapping[str, str] | None = None
) -> pb.AssessRequest:
    """The request of an observation, tensors as raw bytes."""
    request = pb.AssessRequest(
        monitor=monitor,
        request_id=request_id,
        signals=[
            pb.Tensor(name=n, datatype="FP32", shape=a.shape, raw=a.astype("<f4", copy=False).tobytes())
            for n, a in observation.signals.items()
        ],
        ids=observation.ids,
    )
    if observation.grouping is not None:
        _add_groups(request, observation.grouping.names, observation.grouping.index)
    if model is not None:
        request.model.CopyFrom(pb.ModelIdentity(**_identity(model)))
    return request


def _add_groups(request: pb.AssessRequest, names: NDArray[np.int64], index: NDArray[np.int64]) -> None:
    ids = names[index].astype("<i8", copy=False)
    request.group_id.CopyFrom(pb.Tensor(name="group_id", datatype="INT64", shape=ids.shape, raw=ids.tobytes()))
    request.groups.extend(names.tolist())


def _identity(model: Mapping[str, str]) -> dict[str, str]:
    odd = sorted(set(model) - {"name", "version", "digest", "decoding"})
    if odd:
        raise InvalidObservation(f"model: expected name, version, digest or decoding, got {', '.join(odd)}")
    return {key: str(value) for key, value in model.items()}
