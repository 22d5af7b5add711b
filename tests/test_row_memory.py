"""What a graph holds for one row: scores of nearest classes must not hold every class's difference, (N, C, D)."""

from __future__ import annotations

from math import prod

import onnx
import pytest

from tests.contract.entries import entries
from tests.contract.world import C, D


@pytest.mark.parametrize(
    "name", ["flow", "class_gmm", "mahalanobis", "relative_mahalanobis", "gmm_tied", "kl_matching", "core", "nci"]
)
def test_no_row_holds_every_classs_difference(name):
    graph = onnx.shape_inference.infer_shapes(entries()[name].model).graph
    shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.value_info]
    assert shapes
    assert max(prod(s[1:]) for s in shapes if s) < C * D
