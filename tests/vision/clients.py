"""What a client does with a detector's tensors by itself: decoding and suppression in plain loops, written from the layouts'
published shapes, independent of what is tested. They show boxes of the floor itself, as YOLOX's does and TensorFlow's."""

from __future__ import annotations

import math


def overlap(a, b):
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h)


def around(cx, cy, w, h):
    return (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)


def suppress(found, iou, class_wise=True):
    """found: (score, class, box, place); the greedy kept ones, by falling score."""
    kept = []
    for one in sorted(found, key=lambda f: (-f[0], f[3])):
        if all(overlap(one[2], k[2]) <= iou or (class_wise and k[1] != one[1]) for k in kept):
            kept.append(one)
    return kept


def yolov8(output, floor, iou, class_wise=True):
    """(4 + C, A): no objectness."""
    found = []
    for place in range(output.shape[1]):
        column = [float(v) for v in output[:, place]]
        score = max(column[4:])
        if score >= floor:
            found.append((score, column[4:].index(score), around(*column[:4]), place))
    return suppress(found, iou, class_wise)


def yolov5(output, floor, iou):
    """(A, 5 + C): objectness times the best class."""
    found = []
    for place, row in enumerate(output.tolist()):
        best = max(row[5:])
        if row[4] * best >= floor:
            found.append((row[4] * best, row[5:].index(best), around(*row[:4]), place))
    return suppress(found, iou)


def yolox(output, floor, iou, side):
    """(A, 5 + C) with cells of strides 8, 16, 32 to be decoded."""
    cells = [(x, y, s) for s in (8, 16, 32) for y in range(side // s) for x in range(side // s)]
    rows = output.tolist()
    assert len(rows) == len(cells)
    found = []
    for place, ((x, y, s), row) in enumerate(zip(cells, rows, strict=True)):
        best = max(row[5:])
        if row[4] * best >= floor:
            box = around((row[0] + x) * s, (row[1] + y) * s, math.exp(row[2]) * s, math.exp(row[3]) * s)
            found.append((row[4] * best, row[5:].index(best), box, place))
    return suppress(found, iou)


def softmax(row):
    top = max(row)
    e = [math.exp(v - top) for v in row]
    return [v / sum(e) for v in e]


def detr(logits, boxes, floor, height, width):
    found = []
    for place, (row, box) in enumerate(zip(logits.tolist(), boxes.tolist(), strict=True)):
        p = softmax(row)[:-1]
        if max(p) >= floor:
            x1, y1, x2, y2 = around(*box)
            found.append((max(p), p.index(max(p)), (x1 * width, y1 * height, x2 * width, y2 * height), place))
    return sorted(found, key=lambda f: (-f[0], f[3]))


def rt_detr(logits, boxes, floor, height, width, classes):
    found = []
    for place, (row, box) in enumerate(zip(logits.tolist(), boxes.tolist(), strict=True)):
        p = [1 / (1 + math.exp(-v)) if v > -700 else 0.0 for v in row[:classes]]
        if max(p) >= floor:
            x1, y1, x2, y2 = around(*box)
            found.append((max(p), p.index(max(p)), (x1 * width, y1 * height, x2 * width, y2 * height), place))
    return sorted(found, key=lambda f: (-f[0], f[3]))
