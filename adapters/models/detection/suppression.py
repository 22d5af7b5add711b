"""Of boxes that overlap the one with the highest score, class by class, by ONNX Runtime's NonMaxSuppression."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.adapters.models.detection.tensors import Array, Places
from demur.monitor.session import Session

ROOM = 1e-4  # overlaps this close to the limit count as above it where a box is taken out: roundings differ


def suppressed(boxes: Array, score: Array, label: Places, iou: float, most: int) -> Places:
    """Which of n boxes remain, by falling score, the first among equals; at most `most` of a class.

    boxes (n, 4) finite x1, y1, x2, y2, score (n,) at least 0, label (n,): boxes of different labels do not meet. A box
    is suppressed when its overlap with a remaining box of a higher score is strictly above `iou`. -> (kept,) int64.
    """
    if not len(boxes):
        return np.empty(0, np.int64)
    present, index = np.unique(label, return_inverse=True)
    scores = np.full((1, len(present), len(boxes)), -1.0, np.float32)
    scores[0, index, np.arange(len(boxes))] = score
    feed: dict[str, NDArray[Any]] = {
        "boxes": np.ascontiguousarray(boxes[None]),
        "scores": scores,
        "most": np.array([most], np.int64),
        "iou": np.array([iou], np.float32),
        "floor": np.array([-0.5], np.float32),
    }
    (kept,) = _session().run_columns(feed)
    places = np.sort(kept[:, 2])
    order: Places = places[np.argsort(-score[places], kind="stable")]
    return order


def cluster(boxes: Array, label: Places, place: int, iou: float, class_wise: bool) -> NDArray[np.bool_]:
    """(A,) whether a candidate would take the box's place once it is gone: itself, and what it suppresses."""
    mine = np.flatnonzero(label == label[place]) if class_wise else np.arange(len(label))
    near, one = boxes[mine], boxes[place]
    with np.errstate(invalid="ignore", over="ignore"):
        low, high = np.maximum(near[:, :2], one[:2]), np.minimum(near[:, 2:], one[2:])
        shared = np.maximum(high - low, 0).prod(axis=1, dtype=np.float64)
        area = (near[:, 2:] - near[:, :2]).prod(axis=1, dtype=np.float64)
        own = (one[2:] - one[:2]).prod(dtype=np.float64)
        meets = shared > (iou - ROOM) * (area + own - shared)
    found = np.zeros(len(label), np.bool_)
    found[mine[meets]] = found[place] = True
    return found


@cache
def _session() -> Session:
    from onnx import TensorProto, helper

    sizes: dict[str, tuple[int, list[int | None]]] = {
        "boxes": (TensorProto.FLOAT, [1, None, 4]),
        "scores": (TensorProto.FLOAT, [1, None, None]),
        "most": (TensorProto.INT64, [1]),
        "iou": (TensorProto.FLOAT, [1]),
        "floor": (TensorProto.FLOAT, [1]),
    }
    inputs = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in sizes.items()]
    output = helper.make_tensor_value_info("kept", TensorProto.INT64, [None, 3])
    node = helper.make_node("NonMaxSuppression", list(sizes), ["kept"])
    graph = helper.make_graph([node], "suppression", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return Session(model.SerializeToString(), whole=True)
