"""Box features: what a model's feature maps hold inside each box, by ONNX Runtime's RoiAlign."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.adapters.models.detection.tensors import Array, Places, Tensors, float32, room, tensor
from demur.monitor.config.detection import RegionsConfig
from demur.monitor.errors import InvalidObservation
from demur.monitor.session import Session

CANONICAL_PIXELS, CANONICAL_LEVEL = 224.0, 4.0  # Lin et al. 2017, arXiv:1612.03144, eq. 1


def box_features(
    config: RegionsConfig, size: tuple[int, int], tensors: Tensors, boxes: Array, image: Places, images: int
) -> Array:
    """(N, D) features of N finite boxes (N, 4), x1, y1, x2, y2 in pixels of an image of `size` height, width; image (N,) below `images`.

    A box is cut to the image, then each map is read by RoiAlign (He et al. 2017, arXiv:1703.06870; average, bilinear,
    as many samples as cells of the map, not aligned by half a pixel: at least one cell of the map is read). D is the sum
    of the maps' channels (times cells^2 unless pooled); with join "level" every map has the same channels and a box reads
    the one whose stride is nearest 2^(4 + floor(log2(sqrt(area) / 224))).
    Raises: InvalidObservation when a map is absent, its size does not follow from the image's and its stride, or it has so
    many channels that the features of these boxes would not fit.
    """
    height, width = size
    limits = np.array([width, height, width, height], np.float32)
    inside = np.clip(boxes, np.float32(0), limits)
    maps = [(stride, _map(tensors, name, stride, size, images)) for name, stride in config.maps.items()]
    if config.join == "concatenate":
        return np.concatenate([_read(config, m, inside / np.float32(s), image) for s, m in maps], axis=1)
    if len({m.shape[1] for _, m in maps}) > 1:
        raise InvalidObservation("feature maps: join: level expects equally many channels in each; use concatenate")
    chosen = _strides(inside, np.array(sorted(s for s, _ in maps)))
    found = np.zeros((len(boxes), _width(config, maps[0][1])), np.float32)
    for stride, values in maps:
        rows = chosen == stride
        found[rows] = _read(config, values, inside[rows] / np.float32(stride), image[rows])
    return found


def _map(tensors: Tensors, name: str, stride: int, size: tuple[int, int], images: int) -> Array:
    found = float32(tensor(tensors, name, (None, None, None, None), "a feature map (B, D, H, W)"))
    wanted = tuple(-(-side // stride) for side in size)
    if len(found) != images:
        raise InvalidObservation(
            f"{name}: expected the maps of {images} images, as many as there are boxes of, got {found.shape}"
        )
    if found.shape[2:] != wanted or not found.shape[1]:
        raise InvalidObservation(
            f"{name}: expected (B, D, {wanted[0]}, {wanted[1]}) for stride {stride} and image {size}, got {found.shape}; "
            "check detection.regions.maps"
        )
    return np.ascontiguousarray(found)


def _strides(boxes: Array, strides: Places) -> Places:
    """(N,) which of the ascending strides each box reads."""
    side = np.sqrt(np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1.0))
    level = np.floor(CANONICAL_LEVEL + np.log2(side / CANONICAL_PIXELS))
    near: Places = strides[np.abs(np.log2(strides)[None] - level[:, None]).argmin(axis=1)]
    return near


def _width(config: RegionsConfig, values: Array) -> int:
    return int(values.shape[1]) * (1 if config.pool else config.cells**2)


def _read(config: RegionsConfig, values: Array, boxes: Array, image: Places) -> Array:
    if not len(boxes):
        return np.zeros((0, _width(config, values)), np.float32)
    room("box_features", len(boxes), values.shape[1] * config.cells**2)
    feed: dict[str, NDArray[Any]] = {"map": values, "boxes": np.ascontiguousarray(boxes, np.float32), "image": image}
    (cells,) = _session(config.cells).run_columns(feed)
    flat = cells.reshape(len(boxes), values.shape[1], -1)
    return np.asarray(flat.mean(axis=2) if config.pool else flat.reshape(len(boxes), -1), np.float32)


@cache
def _session(cells: int) -> Session:
    from onnx import TensorProto, helper

    inputs = [
        helper.make_tensor_value_info("map", TensorProto.FLOAT, [None, None, None, None]),
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [None, 4]),
        helper.make_tensor_value_info("image", TensorProto.INT64, [None]),
    ]
    output = helper.make_tensor_value_info("cells", TensorProto.FLOAT, [None, None, cells, cells])
    node = helper.make_node(
        "RoiAlign",
        ["map", "boxes", "image"],
        ["cells"],
        coordinate_transformation_mode="output_half_pixel",
        output_height=cells,
        output_width=cells,
        sampling_ratio=0,
    )
    graph = helper.make_graph([node], "regions", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return Session(model.SerializeToString(), whole=True)
