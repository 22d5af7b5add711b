"""The graph that scores pixels: rows of logits, or queries, to one risk a pixel."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from demur.detectors.columns import RowColumns
from demur.detectors.compile import FLOAT, INT64, Kinds, model_of, serialize
from demur.detectors.evaluate import poison
from demur.detectors.onnx_ops import OnnxOps
from demur.detectors.policy import Column
from demur.detectors.score import Score
from demur.detectors.tape import Sym
from demur.monitor.config.segmentation import SegmentationConfig


def pixel_graph(config: SegmentationConfig, score: Score, channels: int) -> bytes:
    """The compiled score of N pixels.

    Inputs: dense `logits` (N, C); queries `masks` (Q, N) and `classes` (Q, K + 1), `channels` = K + 1. Outputs: `risk`
    (N, 1) float32, NaN for a pixel with any value that is not finite; with a void class `void` (N, 1), its logit less the
    largest of the others; with boundaries `predicted` (N,) int64.
    """
    xp = OnnxOps()
    if config.kind == "dense":
        inputs = {"logits": ir.val("logits", FLOAT, ["N", channels])}
        given = Sym(inputs["logits"], xp, channels)
        rows = _without_void(xp, given, config.void)
        zero = poison(xp, {"logits": given}, ("logits",))
    else:
        inputs = {
            "masks": ir.val("masks", FLOAT, ["Q", "N"]),
            "classes": ir.val("classes", FLOAT, ["Q", channels]),
        }
        rows, zero = _evidence(xp, inputs, channels)
    signals = {"logits": rows, "evidence": rows}
    risk = RowColumns(xp, {"pixel": score}, [Column("pixel", "pixel")], signals, 0, {}, {}).score_rows()
    outputs, kinds = {"risk": risk + zero}, Kinds({"risk": (FLOAT, ["N", 1])})
    if config.void is not None:
        own = xp.node("Gather", given, xp.integers(config.void), width=1, axis=1)
        outputs["void"], kinds["void"] = own - xp.max(rows, keepdims=True), (FLOAT, ["N", 1])
    if config.boundary:
        outputs["predicted"], kinds["predicted"] = xp.argmax(rows), (INT64, ["N"])
    return serialize(model_of(xp, inputs, outputs, kinds))


def _without_void(xp: OnnxOps, logits: Sym, void: int | None) -> Sym:
    if void is None:
        return logits
    kept = [c for c in range(logits.width) if c != void]
    return xp.node("Gather", logits, xp.integers(*kept), width=len(kept), axis=1)


def _evidence(xp: OnnxOps, inputs: dict[str, ir.Value], channels: int) -> tuple[Sym, Sym]:
    """L_k = sum_q softmax(classes)_qk sigmoid(masks)_q without the last class, (N, K); 0, or NaN where a query is not finite.

    Sigmoid and softmax make ordinary numbers of infinities, so what they read is poisoned, not what they give.
    """
    xp.scope = "evidence"
    masks, classes = Sym(inputs["masks"], xp, 0), Sym(inputs["classes"], xp, channels)
    shares = xp.node("Softmax", classes, width=channels, axis=-1)
    ends = (xp.integers(0), xp.integers(channels - 1), xp.integers(1))
    known = xp.node("Slice", shares, *ends, width=channels - 1)
    inside = xp.node("Transpose", xp.node("Sigmoid", masks), width=1, perm=[1, 0])
    evidence = xp.node("MatMul", inside, known, width=channels - 1)
    # Zeros of one row: (N, Q) times (Q, 1) of zeros would need Q; a product with every query's own zero needs none.
    of_classes = xp.node("MatMul", classes, xp.constant("zeros", np.zeros((channels, 1), np.float32)), width=1)
    of_masks = xp.node("Transpose", xp.node("Mul", masks, 0.0), width=1, perm=[1, 0])
    ones = of_classes + 1.0
    return evidence, xp.node("MatMul", of_masks, ones, width=1)
