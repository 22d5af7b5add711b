"""A small one-stage detector: trained here, exported in YOLOv8's output layout.

`python -m tests.vision.tiny_detector OUT.onnx` writes the committed fixture.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as f

from tests.vision.scenes import KNOWN, SIDE, Scenes, known

STRIDES = (8, 16)
WIDTHS = (12, 24, 40)
SMALL = 28  # pixels; larger objects belong to the second scale


def cells() -> tuple[np.ndarray, np.ndarray]:
    """Centres (2, A) x, y in pixels, and strides (A,), scale by scale, row by row."""
    centres, strides = [], []
    for stride in STRIDES:
        side = np.arange(SIDE // stride)
        centres.append((np.stack(np.meshgrid(side, side)).reshape(2, -1) + 0.5) * stride)
        strides.append(np.full(centres[-1].shape[1], stride))
    return np.concatenate(centres, axis=1).astype(np.float32), np.concatenate(strides).astype(np.float32)


def layer(before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.SiLU())


class TinyDetector(nn.Module):
    """Anchor-free, two scales. Returns (B, 4 + C, A): centre x, y, width, height in pixels, class probabilities."""

    def __init__(self) -> None:
        super().__init__()
        a, b, c = WIDTHS
        self.fine = nn.Sequential(layer(3, a, 2), layer(a, b, 2), layer(b, c, 2), layer(c, c, 1), layer(c, c, 1))
        self.coarse = layer(c, c, 2)
        self.classes = nn.ModuleList(nn.Conv2d(c, KNOWN, 1) for _ in STRIDES)
        self.sides = nn.ModuleList(nn.Conv2d(c, 4, 1) for _ in STRIDES)
        for head in self.classes:
            nn.init.constant_(head.bias, -4.0)
        centres, strides = cells()
        self.register_buffer("centres", torch.from_numpy(centres)[None])
        self.register_buffer("strides", torch.from_numpy(strides)[None, None])

    def raw(self, pixels):
        """Class logits (B, C, A), distances left, top, right, bottom in pixels (B, 4, A)."""
        fine = self.fine(pixels)
        maps = (fine, self.coarse(fine))
        logits = torch.cat([head(seen).flatten(2) for head, seen in zip(self.classes, maps, strict=True)], 2)
        sides = torch.cat([head(seen).flatten(2) for head, seen in zip(self.sides, maps, strict=True)], 2)
        return logits, f.softplus(sides) * self.strides

    def forward(self, pixels):
        logits, sides = self.raw(pixels)
        low, high = self.centres - sides[:, :2], self.centres + sides[:, 2:]
        return torch.cat([(low + high) / 2, high - low, logits.sigmoid()], 1)


def targets(scenes: Scenes):
    """(B, A) label of each cell, -1 where there is none, and distances (B, 4, A): cells near an object's centre are its."""
    centre, strides = cells()
    labels = np.full((len(scenes.objects), len(strides)), -1)
    sides = np.zeros((len(scenes.objects), 4, len(strides)), np.float32)
    for number, objects in enumerate(scenes.objects):
        for box, label in zip(objects.boxes, objects.labels, strict=True):
            near = np.abs(centre - (box[:2] + box[2:])[:, None] / 2) < 0.8 * strides
            mine = near.all(axis=0) & (strides == STRIDES[int(max(box[2:] - box[:2]) >= SMALL)])
            labels[number, mine] = label
            sides[number][:, mine] = np.concatenate([centre - box[:2, None], box[2:, None] - centre])[:, mine]
    return torch.from_numpy(labels), torch.from_numpy(sides)


def train(images: int = 4000, epochs: int = 10, seed: int = 0) -> TinyDetector:
    """Trained on the training part alone, on the CPU."""
    torch.manual_seed(seed)
    scenes = known("train", images, seed)
    pixels, (labels, sides) = torch.from_numpy(scenes.pixels), targets(scenes)
    model, batch = TinyDetector(), 32
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=1e-3)
    steps = epochs * (images // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 8e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(images)[: images // batch * batch].split(batch):
            optimiser.zero_grad()
            loss(model, pixels[rows], labels[rows], sides[rows]).backward()
            optimiser.step()
            schedule.step()
    return model.eval()


def loss(model, pixels, labels, sides):
    """Focal loss of the classes, and 1 - IoU of the boxes."""
    logits, found = model.raw(pixels)
    wanted = f.one_hot(labels + 1, KNOWN + 1)[..., 1:].transpose(1, 2).float()
    mine = labels >= 0
    p = logits.sigmoid()
    focus = (wanted - p).abs() ** 2 * torch.where(wanted > 0, 0.75, 0.25)
    classes = (f.binary_cross_entropy_with_logits(logits, wanted, reduction="none") * focus).sum() / mine.sum()
    a, b = found.transpose(1, 2)[mine], sides.transpose(1, 2)[mine]
    shared = torch.minimum(a, b)
    both = (shared[:, 0] + shared[:, 2]) * (shared[:, 1] + shared[:, 3])
    area = [(x[:, 0] + x[:, 2]) * (x[:, 1] + x[:, 3]) for x in (a, b)]
    return 4 * classes + (1 - both / (area[0] + area[1] - both)).mean()


def exported(model: TinyDetector) -> bytes:
    """ONNX: images (B, 3, 96, 96) in; output0 (B, 4 + C, A) out."""
    made = io.BytesIO()
    axes = {name: {0: "batch"} for name in ("images", "output0")}
    torch.onnx.export(
        model,
        (torch.zeros(2, 3, SIDE, SIDE),),
        made,
        input_names=["images"],
        output_names=["output0"],
        dynamic_axes=axes,
        opset_version=18,
        dynamo=False,
    )
    return made.getvalue()


if __name__ == "__main__":
    torch.set_num_threads(1)
    Path(sys.argv[1]).write_bytes(exported(train()))
